"""msgpack in plain Python, for stubs whose environment has numpy and nothing else.

As much of the format as messages use: nil, booleans, integers of 64 bits, doubles, str, bin, arrays and maps. Reads
what the ``msgpack`` package writes and the other way round. Text that is no UTF-8 passes as with the error handlers of
``wire``. Written for speed: one function each way, the commonest kinds first, and short texts and small integers
within arrays without a call.
"""

import struct
from typing import Any, Callable, List, Tuple

__all__ = ["Packer", "unpackb"]

_HEADS = [bytes((tag,)) for tag in range(256)]
_NIL, _FALSE, _TRUE = _HEADS[0xC0], _HEADS[0xC2], _HEADS[0xC3]
_HEAD_8 = struct.Struct(">BB").pack
_HEAD_16 = struct.Struct(">BH").pack
_HEAD_32 = struct.Struct(">BI").pack
_HEAD_64 = struct.Struct(">BQ").pack
_NEGATIVE = struct.Struct(">Bq").pack
_DOUBLE = struct.Struct(">Bd").pack

# By tag: how what follows is read (integers and floats), or how long the length is (texts, bytes, arrays, maps).
_NUMBERS = {
    tag: struct.Struct(">" + code)
    for tag, code in zip(range(0xCA, 0xD4), ("f", "d", "B", "H", "I", "Q", "b", "h", "i", "q"))
}
_LENGTHS = {
    tag: struct.Struct(">" + code)
    for tags, code in (((0xC4, 0xD9), "B"), ((0xC5, 0xDA, 0xDC, 0xDE), "H"), ((0xC6, 0xDB, 0xDD, 0xDF), "I"))
    for tag in tags
}


class Packer:
    """As ``msgpack.Packer(use_bin_type=True)``. ``unicode_errors`` names the handler for text that is no UTF-8."""

    def __init__(self, unicode_errors: str = "strict") -> None:
        self._unicode_errors = unicode_errors

    def pack(self, value: Any) -> bytes:
        """Raises TypeError for what has no form, OverflowError for an integer beyond 64 bits."""
        parts: List[bytes] = []
        _pack(value, parts.append, self._unicode_errors)
        return b"".join(parts)


def _pack(value: Any, write: Callable[[Any], None], errors: str) -> None:
    kind = type(value)
    if kind is int:
        if 0 <= value < 0x80:
            write(_HEADS[value])
        else:
            write(_integer(value))
    elif kind is str:
        data = value.encode("utf-8", errors)
        nbytes = len(data)
        if nbytes < 32:
            write(_HEADS[0xA0 + nbytes])
        else:
            write(_head(nbytes, 0xD9, 0xDA, 0xDB))
        write(data)
    elif kind is list or kind is tuple:
        if len(value) < 16:
            write(_HEADS[0x90 + len(value)])
        else:
            write(_head(len(value), 0, 0xDC, 0xDD))
        for item in value:
            _pack(item, write, errors)
    elif value is None:
        write(_NIL)
    elif kind is bytes:
        write(_head(len(value), 0xC4, 0xC5, 0xC6))
        write(value)
    elif kind is bool:
        write(_TRUE if value else _FALSE)
    elif kind is float:
        write(_DOUBLE(0xCB, value))
    elif kind is dict:
        if len(value) < 16:
            write(_HEADS[0x80 + len(value)])
        else:
            write(_head(len(value), 0, 0xDE, 0xDF))
        for key, item in value.items():
            _pack(key, write, errors)
            _pack(item, write, errors)
    else:
        _pack(_plain(value), write, errors)


def _integer(value: int) -> bytes:
    if value >= 0:
        if value < 0x100:
            return _HEAD_8(0xCC, value)
        if value < 0x10000:
            return _HEAD_16(0xCD, value)
        if value < 0x100000000:
            return _HEAD_32(0xCE, value)
        if value < 0x10000000000000000:
            return _HEAD_64(0xCF, value)
    elif value >= -32:
        return _HEADS[value & 0xFF]
    elif value >= -0x8000000000000000:
        return _NEGATIVE(0xD3, value)
    raise OverflowError("Integer value out of range")


def _head(length: int, tag_8: int, tag_16: int, tag_32: int) -> bytes:
    """In front of ``length`` bytes or items; ``tag_8`` 0 where there is no such form."""
    if tag_8 and length < 0x100:
        return _HEAD_8(tag_8, length)
    return _HEAD_16(tag_16, length) if length < 0x10000 else _HEAD_32(tag_32, length)


def _plain(value: Any) -> Any:
    """Subclasses of what has a form (an enum's member, a numpy float) and buffers, as what they are."""
    kinds: Tuple[Callable[[Any], Any], ...] = (int, float, str, bytes, list, dict)
    for plain in kinds:
        if isinstance(value, plain):  # type: ignore[arg-type]
            return plain(value)
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"can not serialize {type(value).__name__!r} object")


def unpackb(data: bytes, *, strict_map_key: bool = True, unicode_errors: str = "strict") -> Any:
    """The one object in ``data``. Raises ValueError where there is none, or more.

    ``strict_map_key`` is the package's; here keys may always be of any kind that a dict takes.
    """
    try:
        value, end = _unpack(data, 0, unicode_errors)
    except (IndexError, struct.error):
        raise ValueError("Unpack failed: incomplete input") from None
    if end > len(data):
        raise ValueError("Unpack failed: incomplete input")
    if end < len(data):
        raise ValueError(f"unpack(b) received extra data: {len(data) - end} bytes")
    return value


def _unpack(data: bytes, at: int, errors: str) -> Tuple[Any, int]:
    """The object at ``at``, and where the next one begins."""
    tag = data[at]
    at += 1
    if tag < 0x80:
        return tag, at
    if tag >= 0xE0:
        return tag - 0x100, at
    if tag < 0x90:
        return _unpack_map(data, at, tag & 0x0F, errors)
    if tag < 0xA0:
        return _unpack_array(data, at, tag & 0x0F, errors)
    if tag < 0xC0:
        end = at + (tag & 0x1F)
        return data[at:end].decode("utf-8", errors), end
    if tag == 0xC0:
        return None, at
    if tag == 0xC2 or tag == 0xC3:
        return tag == 0xC3, at
    number = _NUMBERS.get(tag)
    if number is not None:
        return number.unpack_from(data, at)[0], at + number.size
    lengths = _LENGTHS.get(tag)
    if lengths is None:
        raise ValueError(f"Unpack failed: unknown tag {tag:#x}")
    (length,) = lengths.unpack_from(data, at)
    at += lengths.size
    end = at + length
    if tag <= 0xC6:
        return data[at:end], end
    if tag <= 0xDB:
        return data[at:end].decode("utf-8", errors), end
    return (_unpack_array if tag <= 0xDD else _unpack_map)(data, at, length, errors)


def _unpack_array(data: bytes, at: int, count: int, errors: str) -> Tuple[List[Any], int]:
    items: List[Any] = []
    append = items.append
    for _ in range(count):
        tag = data[at]
        if tag < 0x80:
            append(tag)
            at += 1
        elif 0xA0 <= tag < 0xC0:
            end = at + 1 + (tag & 0x1F)
            append(data[at + 1 : end].decode("utf-8", errors))
            at = end
        else:
            item, at = _unpack(data, at, errors)
            append(item)
    return items, at


def _unpack_map(data: bytes, at: int, count: int, errors: str) -> Tuple[Any, int]:
    items = {}
    for _ in range(count):
        key, at = _unpack(data, at, errors)
        items[key], at = _unpack(data, at, errors)
    return items, at
