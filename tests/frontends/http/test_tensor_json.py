"""Tensor data between JSON and the packed form."""

import math
import struct
from typing import Any

import numpy as np
import orjson
import pytest
from atoll.errors import ServerError
from atoll.frontends.http.json_reader import read_json
from atoll.frontends.http.tensor_json import data_to_bytes, strings_in, tensor_to_json
from atoll_ipc.dtypes import BY_NAME
from hypothesis import given, settings
from hypothesis import strategies as st

SIGNED = "Unable to parse 'data': attempt to access JSON non-signed-integer as signed-integer"
UNSIGNED = "Unable to parse 'data': attempt to access JSON non-unsigned-integer as unsigned-integer"
DOUBLE = "Unable to parse 'data': attempt to access JSON non-number as double"
BOOLEAN = "Unable to parse 'data': attempt to access JSON non-boolean as boolean"
STRING = "Unable to parse JSON bytes array: attempt to access JSON non-string as string"
ARRAY = "Unable to parse 'data': attempt to access JSON non-array as array"
SHAPE = "Unable to parse 'data': Shape does not match true shape of 'data' field"


def values(datatype: str, data: list[Any], count: int | None = None) -> list[Any]:
    """What a tensor holds after JSON ``data`` was packed."""
    packed = data_to_bytes(datatype, data, len(data) if count is None else count)
    return np.frombuffer(packed, BY_NAME[datatype].numpy_name).tolist()  # type: ignore[no-any-return]


def refusal(datatype: str, data: object, count: int = 1) -> str:
    with pytest.raises(ServerError) as raised:
        data_to_bytes(datatype, data, count)
    return raised.value.message


@pytest.mark.spec("server:29", "server:31")
@pytest.mark.parametrize(
    ("datatype", "data", "expected"),
    [
        ("BOOL", [True, False], [True, False]),
        ("UINT8", [0, 255, 256, 300], [0, 255, 0, 44]),
        ("UINT16", [65536], [0]),
        ("UINT32", [2**32 + 1], [1]),
        ("UINT64", [2**64 - 1], [2**64 - 1]),
        ("INT8", [-128, 127, 128], [-128, 127, -128]),
        ("INT16", [32768], [-32768]),
        ("INT32", [2**32, 2], [0, 2]),
        ("INT64", [-(2**63), 2**63 - 1], [-(2**63), 2**63 - 1]),
        ("FP32", [1, 2.5, 1e39, -1e39], [1.0, 2.5, math.inf, -math.inf]),
        ("FP32", [2**64 - 1], [float(2**64)]),
        ("FP64", [0.1, 5e-324, 2**53 + 1], [0.1, 5e-324, float(2**53)]),
    ],
)
def test_accepted(datatype: str, data: list[Any], expected: list[Any]) -> None:
    assert values(datatype, data) == expected


@pytest.mark.spec("server:31", "server:53")
@pytest.mark.parametrize(
    ("datatype", "data", "message"),
    [
        ("FP32", 5, ARRAY),
        ("BYTES", "a", ARRAY),
        ("FP32", ["a"], DOUBLE),
        ("FP32", [None], DOUBLE),
        ("FP64", [True], DOUBLE),
        ("FP64", [{}], DOUBLE),
        ("INT32", [1.5], SIGNED),
        ("INT32", [1.0], SIGNED),
        ("INT32", [True], SIGNED),
        ("INT64", [2**63], SIGNED),
        ("INT32", orjson.loads("[18446744073709551616]"), SIGNED),
        ("UINT8", [-1], UNSIGNED),
        ("UINT64", [-1], UNSIGNED),
        ("UINT64", [2**64], UNSIGNED),
        ("BOOL", [1], BOOLEAN),
        ("BYTES", [5], STRING),
        ("FP32", [1, 2], SHAPE),
        ("FP32", [], SHAPE),
        ("BOOL", [True, True], SHAPE),
    ],
)
def test_refused(datatype: str, data: object, message: str) -> None:
    assert refusal(datatype, data) == message


@pytest.mark.spec("server:28")
@pytest.mark.parametrize("data", [[[[1, 2], [3, 4]]], [[1], [2], [3], [4]], [1, [2, [3]], 4], [[], [[1, 2, 3], 4]]])
def test_any_nesting_is_flattened_in_order(data: list[Any]) -> None:
    assert values("INT32", data, 4) == [1, 2, 3, 4]


def nested(depth: int, *beside: object) -> Any:
    data: list[Any] = [1]
    for _ in range(depth - 1):
        data = [data, *beside]
    return data


@pytest.mark.spec("server:59")
def test_nesting_limit() -> None:
    text = "JSON nesting depth exceeds maximum allowed limit (100)"
    assert values("INT32", nested(99), 1) == [1]
    assert len(values("INT32", nested(99, 1), 99)) == 99
    assert refusal("INT32", nested(100)) == f"Unable to parse 'data': {text}"
    assert refusal("INT32", nested(100, 1)) == f"Unable to parse 'data': {text}"
    assert refusal("BYTES", nested(100)) == text


def test_strings_are_packed_as_utf8_or_as_the_bytes_that_came() -> None:
    data = read_json(b'["a\\u0000b","\xc3\xa9","\xff"]')
    assert strings_in(data_to_bytes("BYTES", data, 3)) == [b"a\0b", "é".encode(), b"\xff"]


@pytest.mark.spec("server:63", "server:64")
@pytest.mark.parametrize("copies", [1, 1000])
def test_floats_as_the_original_spells_them(copies: int) -> None:
    packed = struct.pack("<5f", 0.1, math.nan, math.inf, -math.inf, 1e20) * copies
    row = b"0.10000000149011612,NaN,Infinity,-Infinity,"
    text = tensor_to_json("FP32", packed)
    assert text.startswith(b"[" + row)
    assert text.count(row) == copies
    assert text.count(b",") == 5 * copies - 1
    whole = tensor_to_json("FP64", struct.pack("<2d", 1.0, -3.0) * copies)
    assert whole.startswith(b"[1.0,-3.0")


@pytest.mark.spec("server:65")
def test_strings_that_are_not_utf8_go_out_as_they_are() -> None:
    packed = data_to_bytes("BYTES", ["\udcff\udcfe", 'quote " back \\ nul \0', "é"], 3)
    assert tensor_to_json("BYTES", packed) == b'["\xff\xfe","quote \\" back \\\\ nul \\u0000","\xc3\xa9"]'


@pytest.mark.spec("server:72")
@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_floats_have_no_json_form(datatype: str) -> None:
    with pytest.raises(ServerError) as raised:
        tensor_to_json(datatype, b"\0\0")
    assert raised.value.message == (
        f"sending {datatype} data via JSON is not supported. Please use the binary data format for output"
    )


def _elements(datatype: str) -> st.SearchStrategy[Any]:
    if datatype == "BOOL":
        return st.booleans()
    if datatype == "BYTES":
        return st.text(st.characters(exclude_categories=["Cs"]))
    if datatype.startswith("FP"):
        return st.floats(width=32 if datatype == "FP32" else 64)
    info = np.iinfo(BY_NAME[datatype].numpy_name)  # type: ignore[arg-type]
    return st.integers(int(info.min), int(info.max))


@pytest.mark.spec("server:29")
@pytest.mark.parametrize("datatype", sorted(BY_NAME.keys() - {"FP16", "BF16"}))
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_round_trip(datatype: str, data: st.DataObject) -> None:
    elements = data.draw(st.lists(_elements(datatype)))
    copies = data.draw(st.sampled_from([1, 1100]))
    packed = data_to_bytes(datatype, elements, len(elements)) * copies
    returned = read_json(tensor_to_json(datatype, packed))
    assert repr(returned) == repr(elements * copies)
