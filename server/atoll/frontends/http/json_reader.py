"""Reads a JSON document the way the protocol's clients expect: orjson first, and what orjson refuses a second time.

The original's parser takes more than the standard allows (bare ``NaN`` and infinities, a byte order mark, invalid
UTF-8 inside strings, anything after a NUL) and words its refusals with a byte offset. Only a document that orjson
refuses pays for that: :func:`_end_of_document` walks it, raises in the original's words where the original would
refuse it, and what passes is read by the standard library.

Where a key appears twice the last one counts (the original takes the first).
"""

import json
import math
import re
from typing import NoReturn

import orjson

from atoll.errors import Code, ServerError

__all__ = ["JsonBuffer", "MAX_NESTING", "nesting_error", "read_json"]

JsonBuffer = bytes | bytearray | memoryview

MAX_NESTING = 100
"""Levels of lists at which a tensor's ``data`` is refused."""

# A whole document may nest a little deeper, since ``data`` sits a few levels down. This only guards the recursion of
# the standard library's parser.
_MAX_DOCUMENT_NESTING = MAX_NESTING + 28

_BOM = b"\xef\xbb\xbf"
_ARRAY, _OBJECT = ord("["), ord("{")
_CLOSING = {_ARRAY: b"]", _OBJECT: b"}"}
_MISSING_COMMA = {
    _ARRAY: "Missing a comma or ']' after an array element",
    _OBJECT: "Missing a comma or '}' after an object member",
}

_SPACE = re.compile(rb"[ \t\r\n]*")
_PLAIN_TEXT = re.compile(rb'[^"\\\x00-\x1f]*')
_HEX4 = re.compile(rb"[0-9A-Fa-f]{4}")
_INTEGER = re.compile(rb"0|[1-9][0-9]*")
_DIGITS = re.compile(rb"[0-9]+")

# Array elements that need no closer look, with the comma behind them, many at a time: what makes the walk of a large
# tensor affordable. Bounded, because the regex engine remembers every repetition.
_PLAIN_ELEMENTS = re.compile(
    rb"""(?:
        (?: -?(?:0|[1-9][0-9]{0,30}) (?:\.[0-9]{1,40})? (?:[eE][-+]?[0-9]{1,2})?
          | "[^"\\\x00-\x1f]*"
          | true | false | null | NaN | -?Infinity
        ) [ \t\r\n]* , [ \t\r\n]*
    ){1,1000}""",
    re.VERBOSE,
)

_SPELT_DIFFERENTLY = re.compile(rb"-NaN|Inf(?!inity)")
_STRING_OR_BARE_WORD = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|-?NaN|-?Inf(?:inity)?', re.DOTALL)


def read_json(text: JsonBuffer) -> object:
    """The document in ``text``; bytes of strings that are not UTF-8 become surrogates (``surrogateescape``)."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return _read_leniently(bytes(text))


def nesting_error(prefix: str = "") -> ServerError:
    return ServerError(Code.INVALID_ARG, f"{prefix}JSON nesting depth exceeds maximum allowed limit ({MAX_NESTING})")


def _read_leniently(text: bytes) -> object:
    text = text[: _end_of_document(text)].removeprefix(_BOM)
    if _SPELT_DIFFERENTLY.search(text):
        text = _STRING_OR_BARE_WORD.sub(_as_the_standard_library_spells_it, text)
    document: object = json.loads(text.decode("utf-8", "surrogateescape"))
    return document


def _as_the_standard_library_spells_it(match: re.Match[bytes]) -> bytes:
    token = match.group()
    if token.startswith(b'"'):
        return token
    if token.endswith(b"NaN"):
        return b"NaN"
    return b"-Infinity" if token.startswith(b"-") else b"Infinity"


def _fail(reason: str, offset: int) -> NoReturn:
    raise ServerError(Code.INVALID_ARG, f"failed to parse the request JSON buffer: {reason}. at {offset}")


def _end_of_document(text: bytes) -> int:
    """Where the document ends; raises ServerError where the original would refuse it.

    A walk with a stack of its own: no document, however deep, can exhaust the interpreter's.
    """
    position = _skip_space(text, len(_BOM) if text.startswith(_BOM) else 0)
    if _at(text, position) in (b"", b"\0"):
        _fail("The document is empty", position)
    nesting = bytearray()
    while True:
        # A value begins here.
        first = _at(text, position)
        if first == b"[":
            nesting.append(_ARRAY)
            position = _skip_space(text, position + 1)
            if _at(text, position) != b"]":
                position = _skip_plain_elements(text, position)
                _check_nesting(nesting)
                continue
        elif first == b"{":
            nesting.append(_OBJECT)
            position = _skip_space(text, position + 1)
            if _at(text, position) != b"}":
                position = _skip_name(text, position)
                _check_nesting(nesting)
                continue
        elif first == b'"':
            position = _skip_string(text, position)
        else:
            position = _skip_scalar(text, position)
        # A value, or the opening of an empty container, ends here: close all that ends with it.
        while nesting:
            container = nesting[-1]
            position = _skip_space(text, position)
            following = _at(text, position)
            if following == b",":
                position = _skip_space(text, position + 1)
                skip = _skip_name if container == _OBJECT else _skip_plain_elements
                position = skip(text, position)
                break
            if following != _CLOSING[container]:
                _fail(_MISSING_COMMA[container], position)
            nesting.pop()
            position += 1
        else:
            after = _skip_space(text, position)
            if _at(text, after) not in (b"", b"\0"):
                _fail("The document root must not be followed by other values", after)
            return position


def _at(text: bytes, position: int) -> bytes:
    return text[position : position + 1]


def _check_nesting(nesting: bytearray) -> None:
    if len(nesting) > _MAX_DOCUMENT_NESTING:
        raise nesting_error()


def _skip(pattern: re.Pattern[bytes], text: bytes, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def _skip_space(text: bytes, position: int) -> int:
    return _skip(_SPACE, text, position)


def _skip_plain_elements(text: bytes, position: int) -> int:
    while match := _PLAIN_ELEMENTS.match(text, position):
        position = match.end()
    return position


def _skip_name(text: bytes, position: int) -> int:
    """Past ``"name" :`` of an object member, up to its value."""
    if _at(text, position) != b'"':
        _fail("Missing a name for object member", position)
    position = _skip_space(text, _skip_string(text, position))
    if _at(text, position) != b":":
        _fail("Missing a colon after a name of object member", position)
    return _skip_space(text, position + 1)


def _skip_string(text: bytes, position: int) -> int:
    position += 1
    while True:
        position = _skip(_PLAIN_TEXT, text, position)
        stop = _at(text, position)
        if stop == b'"':
            return position + 1
        if stop in (b"", b"\0"):
            _fail("Missing a closing quotation mark in string", position)
        if stop != b"\\":
            _fail("Invalid escape character in string", position)
        position = _skip_escape(text, position)


def _skip_escape(text: bytes, position: int) -> int:
    kind = _at(text, position + 1)
    if kind == b"u":
        code = _hex4(text, position + 2, position)
        if 0xD800 <= code <= 0xDFFF:
            paired = code <= 0xDBFF and text[position + 6 : position + 8] == b"\\u"
            if not (paired and 0xDC00 <= _hex4(text, position + 8, position) <= 0xDFFF):
                _fail("The surrogate pair in string is invalid", position)
            return position + 12
        return position + 6
    if not kind or kind not in b'"\\/bfnrt':
        _fail("Invalid escape character in string", position)
    return position + 2


def _hex4(text: bytes, position: int, escape: int) -> int:
    match = _HEX4.match(text, position)
    if match is None:
        _fail("Incorrect hex digit after \\u escape in string", escape)
    return int(match.group(), 16)


def _skip_scalar(text: bytes, position: int) -> int:
    for word in (b"null", b"true", b"false"):
        if _at(text, position) == word[:1]:
            return _skip_word(text, position, word)
    start = position
    if _at(text, position) == b"-":
        position += 1
    if _at(text, position) == b"N":
        return _skip_word(text, position, b"NaN")
    if _at(text, position) == b"I":
        position = _skip_word(text, position, b"Inf")
        return _skip_word(text, position, b"inity") if _at(text, position) == b"i" else position
    return _skip_number(text, start, position)


def _skip_word(text: bytes, position: int, word: bytes) -> int:
    for expected in word:
        if text[position : position + 1] != bytes((expected,)):
            _fail("Invalid value", position)
        position += 1
    return position


def _skip_number(text: bytes, start: int, position: int) -> int:
    digits = _INTEGER.match(text, position)
    if digits is None:
        _fail("Invalid value", position)
    position = digits.end()
    if _at(text, position) == b".":
        position = _skip_digits(text, position + 1, "Miss fraction part in number")
    if _at(text, position) in (b"e", b"E"):
        signed = text[position + 1 : position + 2] in (b"+", b"-")
        position = _skip_digits(text, position + 1 + signed, "Miss exponent in number")
    if math.isinf(float(text[start:position])):
        _fail("Number too big to be stored in double", start)
    return position


def _skip_digits(text: bytes, position: int, otherwise: str) -> int:
    digits = _DIGITS.match(text, position)
    if digits is None:
        _fail(otherwise, position)
    return digits.end()
