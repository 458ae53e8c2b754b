"""Between numpy's types, strings and lists, and the server's."""

from __future__ import annotations

from typing import Any

import numpy as np
from atoll_ipc import strings

from tritonserver._api._dlpack import DLDeviceType
from tritonserver._c.enums import TRITONSERVER_DataType as DataType
from tritonserver._c.enums import TRITONSERVER_MemoryType as MemoryType
from tritonserver._c.errors import InvalidArgumentError

__all__ = ["NUMPY_TYPES", "bytes_from", "data_type_of", "elements_of", "parse_memory_type"]

NUMPY_TYPES: dict[DataType, str] = {
    DataType.BOOL: "bool",
    DataType.UINT8: "uint8",
    DataType.UINT16: "uint16",
    DataType.UINT32: "uint32",
    DataType.UINT64: "uint64",
    DataType.INT8: "int8",
    DataType.INT16: "int16",
    DataType.INT32: "int32",
    DataType.INT64: "int64",
    DataType.FP16: "float16",
    DataType.FP32: "float32",
    DataType.FP64: "float64",
    DataType.BF16: "uint16",  # which it lacks: the bits
}
_BY_NUMPY = {np.dtype(name): kind for kind, name in NUMPY_TYPES.items() if kind is not DataType.BF16}
_BY_DEVICE: dict[int, MemoryType] = {
    DLDeviceType.kDLCPU: MemoryType.CPU,
    DLDeviceType.kDLCUDA: MemoryType.GPU,
    DLDeviceType.kDLCUDAHost: MemoryType.CPU_PINNED,
}


def data_type_of(dtype: np.dtype[Any]) -> DataType:
    """Raises InvalidArgumentError."""
    known = _BY_NUMPY.get(dtype)
    if known is not None:
        return known
    if dtype.kind in "OSU":
        return DataType.BYTES
    known = _BY_NUMPY.get(dtype.newbyteorder("="))
    if known is not None:
        return known
    raise InvalidArgumentError(f"Unsupported Numpy data type. Can't convert {dtype.type} to Triton server data type")


def bytes_from(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The byte form of an array of strings, bytes, or objects that have a text."""
    encoded = [item if type(item) is bytes else str(item).encode() for item in array.ravel(order="C").tolist()]
    return np.frombuffer(bytearray(strings.encode(encoded)), np.uint8)


def elements_of(data: memoryview | np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """The other way: an array of ``bytes`` objects."""
    elements = strings.decode(data)
    array = np.empty(len(elements), dtype=np.object_)
    array[:] = elements
    return array.reshape(shape)


def parse_memory_type(given: Any) -> tuple[MemoryType, int]:
    """Of ``"cpu"``, ``"gpu:1"``, a MemoryType, or a pair of a MemoryType or DLDeviceType and an id.

    Raises InvalidArgumentError.
    """
    if isinstance(given, MemoryType):
        return given, 0
    if isinstance(given, str):
        return _parse_text(given)
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], int):
        kind, number = given
        if isinstance(kind, MemoryType):
            return kind, number
        code = kind.value if isinstance(kind, DLDeviceType) else kind
        if code in _BY_DEVICE:
            return _BY_DEVICE[code], number
    raise InvalidArgumentError(f"Invalid memory type {given}")


def _parse_text(text: str) -> tuple[MemoryType, int]:
    name, *numbers = text.split(":")
    if len(numbers) > 1 or (numbers and not numbers[0].isdecimal()):
        raise InvalidArgumentError(f"Invalid memory type string {text}")
    kind = MemoryType.__members__.get(name.upper())
    if kind is None:
        raise InvalidArgumentError(
            f"Unsupported Memory Type String. Can't convert {name.upper()} to Triton server memory type"
        )
    return kind, int(numbers[0]) if numbers else 0
