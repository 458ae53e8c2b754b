"""Documents that the original's parser takes or refuses, and the words and offsets of its refusals."""

import math
import re
from typing import Any

import pytest
from atoll.errors import Code, ServerError
from atoll.frontends.http.json_reader import read_json
from hypothesis import given
from hypothesis import strategies as st

PREFIX = "failed to parse the request JSON buffer: "


def refusal(text: bytes) -> str:
    with pytest.raises(ServerError) as raised:
        read_json(text)
    assert raised.value.code is Code.INVALID_ARG
    return raised.value.message


@pytest.mark.spec("server:51", "server:52")
@pytest.mark.parametrize(
    ("text", "reason", "offset"),
    [
        (b"", "The document is empty", 0),
        (b" \n", "The document is empty", 2),
        (b"hello", "Invalid value", 0),
        (b'{"inputs":[', "Invalid value", 11),
        (b'{"inputs":', "Invalid value", 10),
        (b'{"a":nul}', "Invalid value", 8),
        (b'{"a":-}', "Invalid value", 6),
        (b"[1,]", "Invalid value", 3),
        (b'{"inputs":[],}', "Missing a name for object member", 13),
        (b"{/* comment */}", "Missing a name for object member", 1),
        (b"{'id':'x'}", "Missing a name for object member", 1),
        (b'{"id" 5}', "Missing a colon after a name of object member", 6),
        (b'{"id":5 "a":6}', "Missing a comma or '}' after an object member", 8),
        (b'{"inputs":[1 2]}', "Missing a comma or ']' after an array element", 13),
        (b'{"a":[1.0,2.0,1e400]}', "Number too big to be stored in double", 14),
        (b"[1." + b"0" * 60 + b"e400]", "Number too big to be stored in double", 1),
        (b"[" + b"9" * 400 + b"]", "Number too big to be stored in double", 1),
        (b"[1.]", "Miss fraction part in number", 3),
        (b"[1e+]", "Miss exponent in number", 4),
        (b'{"inputs":[]}xx', "The document root must not be followed by other values", 13),
        (b"01", "The document root must not be followed by other values", 1),
        (b'{"id":"\\q"}', "Invalid escape character in string", 7),
        (b'{"id":"\x01"}', "Invalid escape character in string", 7),
        (b'{"id":"\\u12', "Incorrect hex digit after \\u escape in string", 7),
        (b'{"id":"abc', "Missing a closing quotation mark in string", 10),
        (b'{"id":"\\ud800"}', "The surrogate pair in string is invalid", 7),
        (b'{"id":"\\ud800\\u0041"}', "The surrogate pair in string is invalid", 7),
        (b'{"id":"\\udc00"}', "The surrogate pair in string is invalid", 7),
    ],
)
def test_reason_and_offset(text: bytes, reason: str, offset: int) -> None:
    assert refusal(text) == f"{PREFIX}{reason}. at {offset}"


@pytest.mark.spec("server:32")
def test_bare_words_are_numbers() -> None:
    values: Any = read_json(b'{"data":[NaN,Inf, Infinity ,-Inf,-Infinity,-NaN,1.5],"text":"Inf -Inf \\" NaN"}')
    assert values["text"] == 'Inf -Inf " NaN'
    assert values["data"][1:5] == [math.inf, math.inf, -math.inf, -math.inf]
    assert math.isnan(values["data"][0])
    assert math.isnan(values["data"][5])
    assert values["data"][6] == 1.5


def test_byte_order_mark_is_skipped() -> None:
    assert read_json(b'\xef\xbb\xbf{"a":1}') == {"a": 1}


def test_a_nul_ends_the_document() -> None:
    assert read_json(b'{"a":1}\0\0\x80\x3f') == {"a": 1}


def test_bytes_that_are_not_utf8_survive() -> None:
    assert read_json(b'["\xff\xfe"]') == ["\udcff\udcfe"]


def test_escapes_survive_the_second_reading() -> None:
    assert read_json(b'[NaN,"\\ud83d\\ude00\\n"]')[1] == "\U0001f600\n"  # type: ignore[index]


@pytest.mark.spec("server:59")
@pytest.mark.parametrize("unit", [b"[", b'{"a":', b'[{"a":', b"[NaN,["])
def test_no_depth_exhausts_the_stack(unit: bytes) -> None:
    assert refusal(unit * 200_000) == "JSON nesting depth exceeds maximum allowed limit (100)"


def test_a_long_list_that_breaks_late() -> None:
    text = b"[" + b"1.25, " * 100_000
    assert refusal(text) == f"{PREFIX}Invalid value. at {len(text)}"


_FRAGMENTS = st.sampled_from([
    "{", "}", "[", "]", ",", ":", " ", '"a"', '"b":', '"é"', '"\\ud83d\\ude00"', "1", "-", "0", "1.5", "1e5", "null",
    "true", "NaN", "Inf", "-Inf", "Infinity", "-NaN", "01", ".5", "1.", "1e", "1E+", "1e400", "Infi", "nul", "fals",
    "\0", "xx", "é", '"x', '"\\u12', '"\\ud800"', '"\\q"', '"\\',
])  # fmt: skip


@given(st.lists(_FRAGMENTS, max_size=8).map("".join))
def test_agrees_with_rapidjson(text: str) -> None:
    rapidjson = pytest.importorskip("rapidjson")
    encoded = text.encode()
    try:
        expected = rapidjson.loads(encoded)
    except rapidjson.JSONDecodeError as error:
        match = re.fullmatch(r"Parse error at offset (\d+): (.*)", str(error))
        assert match is not None
        assert refusal(encoded) == f"{PREFIX}{match[2]} at {match[1]}"
    else:
        assert repr(read_json(encoded)) == repr(expected)
