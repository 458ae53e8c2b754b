"""Tensor elements between JSON and the packed form: little-endian, row-major, BYTES with a 4-byte length before each.

Owns what a JSON number may become in each data type and how a packed element is spelt. Works on whole lists, with
``array`` and ``memoryview`` casts rather than numpy where few elements make numpy's fixed cost the larger one.
"""

from __future__ import annotations

import re
import struct
from array import array
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import orjson

from atoll.errors import Code, ServerError
from atoll.frontends.classification import pack_bytes
from atoll.frontends.http.json_reader import MAX_NESTING, nesting_error

__all__ = ["data_to_bytes", "strings_in", "tensor_to_json"]

_LARGE_NBYTES = 4096
"""From here on numpy's serialisation beats a list's."""

_DATA = "Unable to parse 'data': "
_BYTES_ARRAY = "Unable to parse JSON bytes array: "

_LENGTH = struct.Struct("<I")


class _Kind(NamedTuple):
    """How the elements of one data type look in JSON and in memory."""

    types: frozenset[type]
    """Python types that JSON elements may have."""
    complaint: str
    typecode: str
    """Of ``array`` and ``memoryview``."""
    wide: str = ""
    """For integers: the typecode of the 64 bits that the original reads before it cuts to the width."""


_INT = frozenset({int})
_UNSIGNED = "non-unsigned-integer as unsigned-integer"
_SIGNED = "non-signed-integer as signed-integer"
_NUMBER = frozenset({int, float})

_KINDS = {
    "BOOL": _Kind(frozenset({bool}), "non-boolean as boolean", "?"),
    "UINT8": _Kind(_INT, _UNSIGNED, "B", "Q"),
    "UINT16": _Kind(_INT, _UNSIGNED, "H", "Q"),
    "UINT32": _Kind(_INT, _UNSIGNED, "I", "Q"),
    "UINT64": _Kind(_INT, _UNSIGNED, "Q", "Q"),
    "INT8": _Kind(_INT, _SIGNED, "b", "q"),
    "INT16": _Kind(_INT, _SIGNED, "h", "q"),
    "INT32": _Kind(_INT, _SIGNED, "i", "q"),
    "INT64": _Kind(_INT, _SIGNED, "q", "q"),
    "FP32": _Kind(_NUMBER, "non-number as double", "f"),
    "FP64": _Kind(_NUMBER, "non-number as double", "d"),
}

_TO_ESCAPE = re.compile(rb'["\\\x00-\x1f]')
_ESCAPES = {bytes((code,)): b"\\u%04x" % code for code in range(0x20)} | {b'"': b'\\"', b"\\": b"\\\\"}


def data_to_bytes(datatype: str, data: object, count: int) -> bytes:
    """The packed form of a JSON ``data`` member, nested in any way, that should hold ``count`` elements.

    The elements of BYTES are not counted: the core does that, with a text of its own. ``datatype`` is none of FP16
    and BF16, which have no JSON form.
    """
    if type(data) is not list:
        raise _wrong_type(_DATA, "non-array as array")
    if datatype == "BYTES":
        elements, types = _flatten(data, "")
        if not types <= {str}:
            raise _wrong_type(_BYTES_ARRAY, "non-string as string")
        return pack_bytes(element.encode("utf-8", "surrogateescape") for element in elements)
    elements, types = _flatten(data, _DATA)
    kind = _KINDS[datatype]
    if not types <= kind.types:
        raise _wrong_type(_DATA, kind.complaint)
    packed = bytes(elements) if datatype == "BOOL" else _pack(elements, kind)
    if len(elements) != count:
        raise ServerError(Code.INVALID_ARG, f"{_DATA}Shape does not match true shape of 'data' field")
    return packed


def strings_in(packed: bytes | bytearray | memoryview) -> list[bytes]:
    """The elements of a packed BYTES tensor."""
    packed = bytes(packed)
    elements = []
    position = 0
    while position < len(packed):
        start = position + 4
        position = start + _LENGTH.unpack_from(packed, position)[0]
        elements.append(packed[start:position])
    return elements


def tensor_to_json(datatype: str, packed: bytes | bytearray | memoryview) -> bytes:
    """A packed tensor as a flat JSON list: doubles as short as they round-trip, bare words where not finite."""
    if datatype == "BYTES":
        return _strings_to_json(strings_in(packed))
    kind = _KINDS.get(datatype)
    if kind is None:
        raise ServerError(
            Code.INVALID_ARG,
            f"sending {datatype} data via JSON is not supported. Please use the binary data format for output",
        )
    if len(packed) < _LARGE_NBYTES or datatype == "BOOL":
        text = orjson.dumps(memoryview(packed).cast(kind.typecode).tolist())  # type: ignore[call-overload]
    else:
        values = np.frombuffer(packed, kind.typecode)
        # An FP32 is printed as the double it widens to, as the original does.
        values = values.astype(np.float64) if datatype == "FP32" else values
        text = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
    # orjson says null for what is not finite.
    return _with_bare_words(text, np.frombuffer(packed, kind.typecode)) if b"n" in text else text


def _wrong_type(prefix: str, complaint: str) -> ServerError:
    return ServerError(Code.INVALID_ARG, f"{prefix}attempt to access JSON {complaint}")


def _flatten(data: list[Any], prefix: str) -> tuple[list[Any], set[type]]:
    """The leaves of nested lists in order, and the set of their types."""
    types = set(map(type, data))
    depth = 1
    while types == {list}:
        depth += 1
        _check_depth(depth, prefix)
        data = list(chain.from_iterable(data))
        types = set(map(type, data))
    if list in types:
        data = _leaves(data, depth, prefix)
        types = set(map(type, data))
    return data, types


def _leaves(data: list[Any], depth: int, prefix: str) -> list[Any]:
    """The leaves of lists that hold both leaves and lists; linear in their number, however deep they lie."""
    leaves: list[Any] = []
    pending = [iter(data)]
    while pending:
        for item in pending[-1]:
            if type(item) is list:
                pending.append(iter(item))
                _check_depth(depth + len(pending) - 1, prefix)
                break
            leaves.append(item)
        else:
            pending.pop()
    return leaves


def _check_depth(depth: int, prefix: str) -> None:
    if depth >= MAX_NESTING:
        raise nesting_error(prefix)


def _pack(elements: list[Any], kind: _Kind) -> bytes:
    try:
        return array(kind.typecode, elements).tobytes()
    except OverflowError:
        return _pack_truncated(elements, kind)


def _pack_truncated(elements: list[Any], kind: _Kind) -> bytes:
    """Integers cut to their width, as in C; only 64 bits may be written in JSON."""
    try:
        wide = array(kind.wide, elements)
    except OverflowError:
        raise _wrong_type(_DATA, kind.complaint) from None
    return np.frombuffer(wide, kind.wide).astype(kind.typecode).tobytes()


def _strings_to_json(elements: list[bytes]) -> bytes:
    try:
        return orjson.dumps([element.decode() for element in elements])
    except UnicodeDecodeError:
        # What is not UTF-8 goes out as it is; the client asked for a text form of bytes that are no text.
        return b"[" + b",".join(map(_string_to_json, elements)) + b"]"


def _string_to_json(element: bytes) -> bytes:
    return b'"' + _TO_ESCAPE.sub(lambda match: _ESCAPES[match.group()], element) + b'"'


def _with_bare_words(text: bytes, values: np.ndarray[Any, Any]) -> bytes:
    """``text`` with each ``null`` replaced by the word for the value that orjson could not spell."""
    words = map(_bare_word, values[~np.isfinite(values)].tolist())
    parts = text.split(b"null")
    return b"".join(chain.from_iterable(zip(parts, [*words, b""], strict=True)))


def _bare_word(value: float) -> bytes:
    if value != value:
        return b"NaN"
    return b"Infinity" if value > 0 else b"-Infinity"
