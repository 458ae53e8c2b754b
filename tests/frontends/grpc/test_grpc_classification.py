"""The classification extension's ranking and texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from atoll.errors import Code, ServerError
from atoll.frontends.classification import MAX_ELEMENTS, classify
from atoll.inference import Tensor


def tensor(values: Any, datatype: str, dtype: str) -> Tensor:
    array = np.array(values, dtype)
    return Tensor("OUT", datatype, list(array.shape), array.tobytes())


def texts(result: Tensor) -> list[str]:
    assert result.datatype == "BYTES"
    assert result.name == "OUT"
    data, found = bytes(result.buffer()), []
    while data:
        size = int.from_bytes(data[:4], "little")
        found.append(data[4 : 4 + size].decode())
        data = data[4 + size :]
    return found


@pytest.mark.spec("server:74")
def test_batched_rows_split_on_the_first_dimension() -> None:
    result = classify(tensor([[[1, 2], [3, 4]], [[8, 7], [6, 5]]], "FP32", "<f4"), 2, True)
    assert list(result.shape) == [2, 2]
    assert texts(result) == ["4.000000:3", "3.000000:2", "8.000000:0", "7.000000:1"]


@pytest.mark.spec("server:74")
def test_unbatched_with_too_few_labels() -> None:
    values = tensor([0.1, 0.9, 0.5, 0.7], "FP64", "<f8")
    result = classify(values, 9, False, ["cat", "dog", "bird"])
    assert list(result.shape) == [4]
    assert texts(result) == ["0.900000:1:dog", "0.700000:3", "0.500000:2:bird", "0.100000:0:cat"]


@pytest.mark.spec("server:74")
def test_integers_are_plain_and_ties_keep_their_order() -> None:
    assert texts(classify(tensor([5, -3, 5, 7], "INT8", "i1"), 3, False)) == ["7:3", "5:0", "5:2"]
    assert texts(classify(tensor([0, 2**64 - 1], "UINT64", "<u8"), 1, False)) == [f"{2**64 - 1}:1"]


def test_nan_comes_last_and_empty_rows_have_no_classes() -> None:
    assert texts(classify(tensor([np.nan, 1.0], "FP32", "<f4"), 2, False)) == ["1.000000:1", "nan:0"]
    result = classify(tensor(np.zeros((2, 0)), "FP32", "<f4"), 3, True)
    assert (list(result.shape), result.data) == ([2, 0], b"")


@pytest.mark.spec("server:77")
@pytest.mark.parametrize("datatype", ["BYTES", "BOOL", "FP16", "BF16"])
def test_unsupported_types(datatype: str) -> None:
    with pytest.raises(ServerError) as caught:
        classify(Tensor("OUT", datatype, [1], b"\0\0"), 1, False)
    assert caught.value.code is Code.INVALID_ARG
    assert caught.value.message == f"class result not available for output due to unsupported type '{datatype}'"


@pytest.mark.spec("server:77")
def test_too_large() -> None:
    with pytest.raises(ServerError, match="classification output tensor too large"):
        classify(Tensor("OUT", "UINT8", [MAX_ELEMENTS + 1], bytes(MAX_ELEMENTS + 1)), 1, False)
