"""A ``Tensor`` made of another library's memory by DLPack: what is shared, who keeps it alive, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from atoll_ipc.dtypes import BF16, BY_CODE, BY_NAME
from capsules import Producer
from dlpack_types import IMPORTS_BOOL, NUMERIC, TYPES, SharingStore, exporter
from triton_python_backend_utils import Tensor, TritonModelException, _dlpack
from triton_python_backend_utils._dlpack_abi import capsule_name

__all__ = ["exporter"]


@pytest.mark.spec("python_backend:C157")
@pytest.mark.spec("python_backend:Q110")
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("as_capsule", [True, False])
def test_every_type_makes_a_round_trip(exporter: str, name: str, as_capsule: bool) -> None:
    dtype = BY_NAME[name]
    data = bytes([0, 1] * 3 * dtype.itemsize)[: 6 * dtype.itemsize]
    source = Tensor._received("A", dtype.code, [2, 3], data)
    made = Tensor.from_dlpack("B", source.to_dlpack() if as_capsule else source)
    assert (made.name(), made.triton_dtype(), made.shape()) == ("B", dtype.code, [2, 3])
    assert made._transmit(SharingStore())[3] == data


@pytest.mark.spec("python_backend:C157")
@pytest.mark.parametrize("name", [name for name in NUMERIC if name != "BOOL" or IMPORTS_BOOL])
def test_arrays_are_imported(name: str) -> None:
    array = np.array([[0, 1], [1, 0]]).astype(BY_NAME[name].numpy_name)
    tensor = Tensor.from_dlpack("A", array)
    assert tensor.triton_dtype() == BY_NAME[name].code
    assert tensor.as_numpy().dtype == array.dtype
    assert (tensor.as_numpy() == array).all()


@pytest.mark.spec("python_backend:C149")
def test_an_imported_bf16_tensor_has_no_array() -> None:
    tensor = Tensor.from_dlpack("A", Producer(b"\1\2\3\4", (2,), type=(4, 16, 1)))
    assert tensor.triton_dtype() == BF16.code
    with pytest.raises(TritonModelException, match=r"^Tensor dtype is BF16 and cannot be converted to NumPy\. Use "):
        tensor.as_numpy()
    assert tensor._transmit(SharingStore()) == ["A", BF16.code, [2], b"\1\2\3\4"]


def test_a_producer_is_asked_without_a_stream_and_gets_its_memory_back_with_the_tensor() -> None:
    producer = Producer(b"\1\2\3\4", (2, 2), byte_offset=0)
    tensor = Tensor.from_dlpack("A", producer)
    assert (producer.streams, producer.lent) == ([None], 1)
    producer.memory[0] = b"\7"
    assert tensor._live().tolist() == [7, 2, 3, 4]
    del tensor
    assert producer.lent == 0


def test_memory_begins_at_its_offset() -> None:
    assert Tensor.from_dlpack("A", Producer(b"\1\2\3\4", (2,), byte_offset=2)).as_numpy().tolist() == [3, 4]


def test_a_producer_gets_its_memory_back_once_the_tensor_is_sent() -> None:
    producer = Producer(b"\1\2\3\4", (4,))
    tensor = Tensor.from_dlpack("A", producer)
    tensor._transmit(SharingStore())
    assert producer.lent == 0
    assert tensor.as_numpy().tolist() == [1, 2, 3, 4]


def test_empty_memory_is_given_back_at_once() -> None:
    producer = Producer(b"", (2, 0))
    tensor = Tensor.from_dlpack("A", producer)
    assert producer.lent == 0
    assert (tensor.shape(), tensor._transmit(SharingStore())[3]) == ([2, 0], b"")


@pytest.mark.spec("python_backend:C154")
def test_a_capsule_is_consumed_once() -> None:
    producer = Producer(b"\1", (1,))
    capsule = producer.capsule()
    tensor = Tensor.from_dlpack("A", capsule)
    assert capsule_name(capsule) == b"used_dltensor"
    with pytest.raises(TritonModelException, match="consumed before"):
        Tensor.from_dlpack("B", capsule)
    assert producer.lent == 1
    del tensor
    assert producer.lent == 0


@pytest.mark.spec("python_backend:C156")
@pytest.mark.spec("python_backend:Q34")
def test_a_name_is_checked_before_the_object() -> None:
    for producer in (None, np.zeros(1)):
        with pytest.raises(TritonModelException, match=r"^Tensor name cannot be an empty string\.$"):
            Tensor.from_dlpack("", producer)
    with pytest.raises(TypeError):
        Tensor.from_dlpack(None, np.zeros(1))  # type: ignore[arg-type]
    assert Tensor.from_dlpack(b"A", np.zeros(1)).name() == "A"  # type: ignore[arg-type]


class Halfway:
    def __dlpack__(self, stream: Any = None) -> Any:
        raise AssertionError("not to be asked")


class NoCapsule:
    def __dlpack__(self, stream: Any = None) -> Any:
        return 7

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


@pytest.mark.spec("python_backend:C156")
@pytest.mark.parametrize("wrong", [None, [1.0], b"x", Halfway(), NoCapsule(), Producer(b"", (0,)).capsule(None)])
def test_what_exports_nothing_is_refused(wrong: Any) -> None:
    with pytest.raises(TritonModelException) as caught:
        Tensor.from_dlpack("x", wrong)
    assert str(caught.value).startswith("Provided tensor is not supported. Tensor must be a DLPack capsule")


NOT_CONTIGUOUS = (
    "DLPack tensor is not contiguous. Only contiguous DLPack tensors that are stored in C-Order are supported."
)


@pytest.mark.spec("python_backend:C159")
@pytest.mark.spec("python_backend:Q111")
@pytest.mark.parametrize("view", ["x[::2]", "x.T", "x[:, :2]", "x[::-1]", "x[:, 1]"])
def test_memory_that_is_not_in_c_order_is_refused(view: str) -> None:
    with pytest.raises(TritonModelException) as caught:
        Tensor.from_dlpack("A", eval(view, {"x": np.zeros((4, 3), np.float32)}))
    assert str(caught.value) == NOT_CONTIGUOUS


@pytest.mark.spec("python_backend:C160")
@pytest.mark.parametrize(
    ("shape", "strides"),
    [((1, 3), (99, 1)), ((3, 1), (1, 99)), ((1, 1), (5, 7)), ((0, 3), (9, 9)), ((1, 3, 1), (0, 1, 0)), ((), ())],
)
def test_strides_that_no_step_follows_do_not_matter(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    tensor = Tensor.from_dlpack("A", Producer(b"\1\2\3", shape, strides=strides))
    assert tensor.shape() == list(shape)


@pytest.mark.spec("python_backend:C161")
@pytest.mark.parametrize(
    ("type", "text"),
    [
        ((5, 64, 1), "Dtype is invalid."),
        ((0, 8, 4), "Dtype is invalid."),
        ((2, 128, 1), "Dtype is invalid."),
        ((2, 8, 1), "Dtype is invalid."),
        ((1, 1, 1), "Dtype is invalid."),
        ((4, 16, 2), "Dtype is invalid."),
        ((4, 32, 1), "Expected BF16 tensor to have 16 bits, but had: 32"),
    ],
)
def test_types_that_the_protocol_lacks_are_refused(type: tuple[int, int, int], text: str) -> None:
    producer = Producer(bytes(64), (1,), type=type)
    capsule = producer.capsule()
    with pytest.raises(TritonModelException) as caught:
        Tensor.from_dlpack("A", capsule)
    assert str(caught.value) == text
    assert (capsule_name(capsule), producer.lent) == (b"dltensor", 1)


@pytest.mark.spec("python_backend:C161")
@pytest.mark.parametrize("device", [4, 7, 8, 10, 13])
def test_other_devices_are_refused(device: int) -> None:
    with pytest.raises(TritonModelException) as caught:
        Tensor.from_dlpack("A", Producer(b"\1", (1,), device=(device, 0)))
    assert str(caught.value) == f"DLDevice type {device} is not support by Python backend."


@pytest.mark.spec("python_backend:C276")
def test_memory_of_a_gpu_is_refused() -> None:
    with pytest.raises(TritonModelException) as caught:
        Tensor.from_dlpack("A", Producer(b"\1", (1,), device=(2, 1)))
    assert str(caught.value).startswith("DLPack capsule passed pointer to memory allocated on GPU device,")


def test_every_numeric_type_has_one_in_dlpack() -> None:
    assert {name: _dlpack._TYPES[dtype.code] for name, dtype in BY_NAME.items() if name != "BYTES"} == TYPES
    assert len(BY_CODE) == len(TYPES) + 1
