"""DLPack: reading what a capsule describes, and numpy's capsules for memory that is known by its address.

A capsule that is only read stays unconsumed: its destructor lets go of what it described, so nothing lingers.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numpy as np

from tritonserver._c.enums import TRITONSERVER_DataType as DataType
from tritonserver._c.enums import TRITONSERVER_MemoryType as MemoryType
from tritonserver._c.errors import InvalidArgumentError

__all__ = ["DLDeviceType", "Described", "describe", "export"]


class DLDeviceType(ctypes.c_int):
    """Kinds of devices, as plain integers."""

    kDLCPU = 1
    kDLCUDA = 2
    kDLCUDAHost = 3
    kDLOpenCL = 4
    kDLVulkan = 7
    kDLMetal = 8
    kDLVPI = 9
    kDLROCM = 10
    kDLROCMHost = 11
    kDLExtDev = 12
    kDLCUDAManaged = 13
    kDLOneAPI = 14
    kDLWebGPU = 15
    kDLHexagon = 16


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


_OLD, _VERSIONED = b"dltensor", b"dltensor_versioned"
_OFFSETS = {_OLD: 0, _VERSIONED: 32}  # behind version, context, deleter and flags
_BFLOAT = 4
_TYPES: dict[tuple[int, int], DataType] = {
    **{(0, bits): DataType[f"INT{bits}"] for bits in (8, 16, 32, 64)},
    **{(1, bits): DataType[f"UINT{bits}"] for bits in (8, 16, 32, 64)},
    **{(2, bits): DataType[f"FP{bits}"] for bits in (16, 32, 64)},
    (_BFLOAT, 16): DataType.BF16,
    (6, 8): DataType.BOOL,
}
_MEMORY = {
    DLDeviceType.kDLCPU: MemoryType.CPU,
    DLDeviceType.kDLCUDAHost: MemoryType.CPU_PINNED,
    DLDeviceType.kDLCUDA: MemoryType.GPU,
}

_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_get_name = ctypes.pythonapi.PyCapsule_GetName
_get_name.restype, _get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]


class Described(NamedTuple):
    """What a capsule says of its memory, which is contiguous."""

    address: int
    nbytes: int
    memory_type: MemoryType
    memory_type_id: int
    data_type: DataType
    shape: tuple[int, ...]


def describe(source: Any) -> Described:
    """Of an object with ``__dlpack__``. Raises InvalidArgumentError."""
    if not hasattr(source, "__dlpack__"):
        raise InvalidArgumentError("Object does not support DLpack protocol")
    try:
        capsule = source.__dlpack__()
        tensor = _tensor_in(capsule)
    except Exception as error:
        raise InvalidArgumentError(f"Object does not support DLPack protocol: {error}") from None
    shape = tuple(tensor.shape[: tensor.ndim])
    if tensor.strides and not _is_contiguous(shape, tensor.strides[: tensor.ndim]):
        raise InvalidArgumentError("Only contiguous memory is supported")
    data_type = _TYPES.get((tensor.code, tensor.bits))
    if data_type is None:
        raise InvalidArgumentError(
            f"Unsupported DLPack data type. Can't convert {(tensor.code, tensor.bits)} to Triton server data type"
        )
    memory_type = _MEMORY.get(tensor.device_type)
    if memory_type is None:
        raise InvalidArgumentError(
            f"Unsupported DLPack device type. Can't convert {tensor.device_type} to Triton server memory type"
        )
    nbytes = tensor.bits // 8
    for size in shape:
        nbytes *= size
    address = (tensor.data or 0) + tensor.byte_offset
    return Described(address, nbytes, memory_type, tensor.device_id, data_type, shape)


def export(array: np.ndarray[Any, Any], data_type: DataType, keywords: dict[str, Any]) -> Any:
    """numpy's capsule for ``array``; with BF16, which numpy lacks, the array is of 16-bit integers.

    Memory that must not be written goes as it is to those who understand that (DLPack 1.0); others get a copy.
    """
    max_version = keywords.get("max_version")
    if not array.flags.writeable and (max_version is None or max_version[0] < 1):
        array = array.copy()
    given = {name: value for name, value in keywords.items() if value is not None}
    capsule = array.__dlpack__(**given)
    if data_type is DataType.BF16:
        _tensor_in(capsule).code = _BFLOAT
    return capsule


def _tensor_in(capsule: Any) -> _DLTensor:
    name = _get_name(capsule)
    return _DLTensor.from_address(_get_pointer(capsule, name) + _OFFSETS[name])


def _is_contiguous(shape: tuple[int, ...], strides: list[int]) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return 0 in shape
        expected *= size
    return True
