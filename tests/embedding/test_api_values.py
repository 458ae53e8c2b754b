"""What needs no server: exceptions, enumerations, options, tensors."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import gc
import inspect
import sys
from typing import Any

import numpy as np
import pytest
import tritonserver
from tritonserver import DataType, DLDeviceType, MemoryBuffer, MemoryType, Options, Tensor, _c

EXPORTED = """
DLDeviceType MemoryBuffer MemoryType Model ModelBatchFlag ModelTxnPropertyFlag InferenceRequest InferenceResponse
InstanceGroupKind LogFormat Metric MetricFamily MetricFormat MetricKind ModelControlMode Options RateLimiterResource
RateLimitMode Server DataType Tensor TritonError UnknownError InternalError NotFoundError InvalidArgumentError
UnavailableError UnsupportedError AlreadyExistsError MemoryAllocator default_memory_allocators
"""


@pytest.mark.spec("inprocess:1")
def test_everything_can_be_imported() -> None:
    assert [name for name in EXPORTED.split() if not hasattr(tritonserver, name)] == []
    assert tritonserver.__all__ == []
    assert tritonserver.__version__


@pytest.mark.spec("inprocess:2")
def test_private_paths_that_are_in_use() -> None:
    from tritonserver._api._logging import LogLevel, LogMessage
    from tritonserver._api._response import AsyncResponseIterator, ResponseIterator
    from tritonserver._api._server import LogLevel as SameLevel
    from tritonserver._api._server import ModelDictionary, ModelLoadDeviceLimit
    from tritonserver._c.triton_bindings import TRITONSERVER_DataType

    assert TRITONSERVER_DataType is DataType
    assert LogLevel is SameLevel
    assert all((LogMessage, AsyncResponseIterator, ResponseIterator, ModelDictionary, ModelLoadDeviceLimit))


@pytest.mark.spec("inprocess:3")
@pytest.mark.parametrize(
    "name",
    ["UnknownError", "InternalError", "NotFoundError", "InvalidArgumentError", "UnavailableError", "UnsupportedError"],
)
def test_exceptions(name: str) -> None:
    kind = getattr(tritonserver, name)
    with pytest.raises(kind, match="Error message") as caught:
        raise kind("Error message")
    assert isinstance(caught.value, tritonserver.TritonError)
    assert (kind.__module__, str(caught.value)) == ("tritonserver", "Error message")


@pytest.mark.spec("inprocess:4")
def test_enumerations() -> None:
    assert repr(DataType.BOOL) == "<TRITONSERVER_DataType.BOOL: 1>"
    assert str(DataType.BF16) == "TRITONSERVER_DataType.BF16"
    assert tritonserver.ModelBatchFlag(2) is tritonserver.ModelBatchFlag.FIRST_DIM
    assert {kind: int(kind) for kind in MemoryType} == {0: 0, 1: 1, 2: 2}
    names = " ".join(kind.name for kind in DataType)
    assert names == "INVALID BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 BYTES BF16"
    final = _c.TRITONSERVER_ResponseCompleteFlag.FINAL
    assert final == int(final) == 1


@pytest.mark.spec("inprocess:5")
def test_device_types_are_integers_and_name_devices() -> None:
    assert (DLDeviceType.kDLCPU, DLDeviceType.kDLCUDA, DLDeviceType.kDLHexagon) == (1, 2, 16)
    tensor = Tensor.from_dlpack(np.zeros(2, np.float32))
    assert tensor.to_device((DLDeviceType.kDLCPU, 0)) is tensor
    assert tensor.to_device((DLDeviceType(DLDeviceType.kDLCPU), 0)) is tensor


@pytest.mark.spec("inprocess:6")
@pytest.mark.spec("inprocess:7")
def test_options_have_the_fields_of_the_original() -> None:
    names = [field.name for field in dataclasses.fields(Options)]
    assert len(names) == 37
    assert names[:5] == [
        "model_repository",
        "server_id",
        "model_control_mode",
        "startup_models",
        "strict_model_config",
    ]
    assert names[-1] == "log_callback"
    options = Options("here", "me")
    other = copy.copy(options)
    other.server_id = "other"
    assert (options.server_id, options.exit_timeout, options.metrics_interval) == ("me", 30, 2000)
    assert not hasattr(options, "__dict__")
    assert "server_id='me'" in repr(options)


@pytest.mark.spec("inprocess:9")
@pytest.mark.parametrize(
    ("given", "expected"),
    [({"log_verbose": 1}, (True, True, True)), ({"log_info": True}, (True, True, True))]
    + [({"log_warn": True}, (False, True, True)), ({"log_error": True}, (False, False, True)), ({}, (False,) * 3)],
)
def test_log_levels_cascade(given: dict[str, Any], expected: tuple[bool, ...]) -> None:
    options = Options(**given)
    options._cascade_log_levels()
    assert (options.log_info, options.log_warn, options.log_error) == expected


ARRAYS = [
    np.array([True, False]),
    *(
        np.arange(6, dtype=name).reshape(2, 3)
        for name in ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
    ),
    *(np.arange(6, dtype=name) for name in ["float16", "float32", "float64"]),
]


@pytest.mark.spec("inprocess:29")
@pytest.mark.spec("inprocess:30")
@pytest.mark.spec("inprocess:32")
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: str(array.dtype))
def test_arrays_are_shared_and_come_back(array: np.ndarray[Any, Any]) -> None:
    tensor = Tensor.from_dlpack(array)
    assert tensor.data_ptr == array.ctypes.data
    assert tensor.size == array.nbytes
    back = np.from_dlpack(tensor)
    assert back.ctypes.data == array.ctypes.data
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.spec("inprocess:29")
@pytest.mark.spec("inprocess:55")
def test_references_are_counted() -> None:
    array = np.ones((4, 6), np.float32)
    before = sys.getrefcount(array)
    tensor = Tensor.from_dlpack(array)
    assert sys.getrefcount(array) == before + 1
    tensors = sys.getrefcount(tensor)
    first = np.from_dlpack(tensor)
    assert sys.getrefcount(tensor) == tensors + 1
    tensor.shape = (24,)
    assert (first.shape, np.from_dlpack(tensor).shape) == ((4, 6), (24,))
    del first
    assert sys.getrefcount(tensor) == tensors
    del tensor
    assert sys.getrefcount(array) == before


@pytest.mark.spec("inprocess:55")
def test_no_tensor_stays_in_many_tasks() -> None:
    async def use() -> None:
        array = np.ones(1 << 16, np.int8)
        tensor = Tensor.from_dlpack(array)
        await asyncio.sleep(0)
        assert np.from_dlpack(tensor).sum() == 1 << 16

    async def all_of_them() -> None:
        await asyncio.gather(*(use() for _ in range(100)))

    def living() -> int:
        gc.collect()
        return sum(isinstance(found, Tensor) for found in gc.get_objects())

    before = living()
    asyncio.run(all_of_them())
    assert living() == before


@pytest.mark.spec("inprocess:32")
def test_bfloat16_passes_through_dlpack() -> None:
    bits = np.arange(4, dtype=np.uint16)
    buffer = MemoryBuffer(bits.ctypes.data, MemoryType.CPU, 0, bits.nbytes, bits)
    again = Tensor.from_dlpack(Tensor(DataType.BF16, (4,), buffer))
    assert (again.data_type, again.data_ptr) == (DataType.BF16, bits.ctypes.data)


@pytest.mark.spec("inprocess:31")
@pytest.mark.parametrize(
    "given",
    [["a", "", "äöü"], [b"a\0b", b"\0", b""], np.array([["x", "yy"]]), np.array([b"a", b"bb"]), [["hello world!"]]],
    ids=repr,
)
def test_strings_come_back(given: Any) -> None:
    tensor = Tensor.from_bytes_array(given)
    assert tensor.data_type is DataType.BYTES
    wanted = np.array(given, dtype=object)
    encoded = [item if isinstance(item, bytes) else item.encode() for item in wanted.ravel()]
    assert tensor.size == sum(4 + len(item) for item in encoded)
    assert tensor.to_bytes_array().shape == wanted.shape
    assert tensor.to_bytes_array().ravel().tolist() == encoded
    texts = Tensor.from_string_array(["ä", "b"]).to_string_array()
    assert texts.tolist() == ["ä", "b"]


@pytest.mark.spec("inprocess:34")
def test_what_is_not_contiguous_is_copied_and_scalars_are_taken() -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    np.testing.assert_array_equal(np.from_dlpack(Tensor._from_object(array.T)), array.T)
    assert Tensor._from_object(np.float32(1)).shape == ()
    big = np.arange(3, dtype=">i4")
    np.testing.assert_array_equal(np.from_dlpack(Tensor._from_object(big)), big)


@pytest.mark.spec("inprocess:10")
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Tensor.from_dlpack(1), "Object does not support DLpack protocol"),
        (lambda: MemoryBuffer.from_dlpack(np.ones((4, 4))[::2]), "Only contiguous memory is supported"),
        (lambda: Tensor.from_bytes_array([1]), "Unsupported conversion from [1] to Triton BYTES Tensor. Got "),
        (lambda: Tensor._from_object([[1], [2, 3]]), "Conversion from [[1], [2, 3]] to tensor not supported."),
        (lambda: Tensor._from_object("text"), "Input type <class 'str'> not supported. Must be one of <class 'list'>"),
        (
            lambda: Tensor._from_object(np.array([1j])),
            "Unsupported Numpy data type. Can't convert <class 'numpy.complex128'> to Triton server data type",
        ),
        (
            lambda: Tensor.from_dlpack(np.ones(1)).to_bytes_array(),
            "Tensor has data type TRITONSERVER_DataType.FP64 not <TRITONSERVER_DataType.BYTES: 13>",
        ),
    ],
)
def test_what_cannot_be_converted(make: Any, text: str) -> None:
    with pytest.raises(tritonserver.InvalidArgumentError) as caught:
        make()
    assert str(caught.value).startswith(text)


@pytest.mark.spec("inprocess:33")
@pytest.mark.parametrize(
    ("device", "text"),
    [
        ("unsupported", "Unsupported Memory Type String. Can't convert UNSUPPORTED to Triton server memory type"),
        ("gpu:x", "Invalid memory type string gpu:x"),
        ((1, 2, 3), "Invalid memory type (1, 2, 3)"),
    ],
)
def test_devices_that_make_no_sense(device: Any, text: str) -> None:
    with pytest.raises(tritonserver.InvalidArgumentError) as caught:
        Tensor.from_dlpack(np.ones(1)).to_device(device)
    assert str(caught.value) == text


@pytest.mark.spec("inprocess:33")
def test_devices_that_are_not_here() -> None:
    tensor = Tensor.from_dlpack(np.ones(1))
    assert tensor.to_device("CPU") is tensor.to_host() is tensor
    with pytest.raises(tritonserver.UnsupportedError, match=r"Conversion from .* to .* not supported\.$"):
        tensor.to_device("cpu_pinned")
    with pytest.raises(tritonserver.UnsupportedError, match="DLPack stream synchronization on memory type"):
        tensor.__dlpack__(stream=7)


@pytest.mark.spec("inprocess:21")
def test_signatures() -> None:
    names = " ".join(inspect.signature(tritonserver.InferenceRequest).parameters)
    assert names == (
        "model request_id flags correlation_id priority timeout inputs parameters output_memory_type response_queue "
        "output_memory_allocator"
    )
