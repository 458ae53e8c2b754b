"""``Tensor``: a data type, a shape, and memory that somebody owns; what it is made from and what it turns into."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from atoll_ipc.memory import view_memory

from tritonserver._api._datautils import NUMPY_TYPES, bytes_from, data_type_of, elements_of, parse_memory_type
from tritonserver._api._dlpack import DLDeviceType, describe, export
from tritonserver._api._memorybuffer import MemoryBuffer
from tritonserver._c.enums import TRITONSERVER_DataType as DataType
from tritonserver._c.enums import TRITONSERVER_MemoryType as MemoryType
from tritonserver._c.errors import InvalidArgumentError, UnsupportedError

__all__ = ["Tensor"]

Array = np.ndarray[Any, Any]


@dataclass
class Tensor:
    """``shape`` may be set anew; the memory stays where it is."""

    data_type: DataType
    shape: Sequence[int]
    memory_buffer: MemoryBuffer

    @property
    def data_ptr(self) -> int:
        return self.memory_buffer.data_ptr

    @property
    def memory_type(self) -> MemoryType:
        return self.memory_buffer.memory_type

    @property
    def memory_type_id(self) -> int:
        return self.memory_buffer.memory_type_id

    @property
    def size(self) -> int:
        """In bytes."""
        return self.memory_buffer.size

    # -- from

    @staticmethod
    def from_dlpack(obj: Any) -> Tensor:
        """Share the memory of an object with ``__dlpack__``. Raises InvalidArgumentError."""
        if isinstance(obj, np.ndarray) and obj.flags.c_contiguous and obj.dtype.kind not in "OSU":
            return Tensor._from_array(obj)  # also one that is read-only, which numpy does not export
        described = describe(obj)
        buffer = MemoryBuffer(described.address, described.memory_type, described.memory_type_id, described.nbytes, obj)
        return Tensor(described.data_type, described.shape, buffer)

    @staticmethod
    def from_bytes_array(bytes_array: Any) -> Tensor:
        """From a list or array of str or bytes. Raises InvalidArgumentError for what is neither."""
        array = _array_of(bytes_array)
        data_type = data_type_of(array.dtype)
        if data_type is not DataType.BYTES:
            raise InvalidArgumentError(
                f"Unsupported conversion from {bytes_array} to Triton BYTES Tensor. Got {data_type}"
            )
        return Tensor._from_array(array)

    @staticmethod
    def from_string_array(string_array: Any) -> Tensor:
        """The same."""
        return Tensor.from_bytes_array(string_array)

    @staticmethod
    def _from_object(obj: Any) -> Tensor:
        """What a request's input may be. Raises InvalidArgumentError."""
        if isinstance(obj, Tensor):
            return obj
        if isinstance(obj, np.ndarray | np.generic):
            return Tensor._from_array(np.asarray(obj))
        if isinstance(obj, list):
            return Tensor._from_array(_array_of(obj))
        if hasattr(obj, "__dlpack__"):
            return Tensor.from_dlpack(obj)
        raise InvalidArgumentError(
            f"Input type {type(obj)} not supported. Must be one of {list} or the type must support __dlpack__"
        )

    @staticmethod
    def _from_array(array: Array) -> Tensor:
        data_type = data_type_of(array.dtype)
        if data_type is DataType.BYTES:
            return Tensor(data_type, array.shape, MemoryBuffer._of_array(bytes_from(array)))
        if not array.flags.c_contiguous or not array.dtype.isnative:
            array = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)
        return Tensor(data_type, array.shape, MemoryBuffer._of_array(array))

    # -- to

    def __dlpack__(self, *, stream: Any = None, **keywords: Any) -> Any:
        """A capsule that keeps this tensor alive; ``max_version``, ``dl_device`` and ``copy`` as numpy knows them."""
        if self.memory_type is MemoryType.GPU:
            return _cupy(self).__dlpack__(stream=stream)
        if stream not in (None, 0):
            raise UnsupportedError(
                f"DLPack stream synchronization on memory type {self.memory_type} and stream {stream} not supported"
            )
        if self.data_type not in NUMPY_TYPES:
            raise InvalidArgumentError(
                f"Unsupported Triton server data type. Can't convert {self.data_type} to DLPack data type"
            )
        return export(self._array(), self.data_type, keywords)

    def __dlpack_device__(self) -> tuple[int, int]:
        if self.memory_type is MemoryType.GPU:
            return DLDeviceType.kDLCUDA, self.memory_type_id
        return DLDeviceType.kDLCPU, 0

    def to_bytes_array(self) -> Array:
        """An array of ``bytes`` objects. Raises InvalidArgumentError where the elements are none."""
        if self.data_type is not DataType.BYTES:
            raise InvalidArgumentError(f"Tensor has data type {self.data_type} not {DataType.BYTES!r}")
        return elements_of(self.to_host()._bytes(), tuple(self.shape))

    def to_string_array(self) -> Array:
        """The same as strings, decoded as UTF-8."""
        found = self.to_bytes_array()
        return np.array([item.decode() for item in found.ravel()], dtype=np.str_).reshape(found.shape)

    def to_host(self) -> Tensor:
        return self.to_device("cpu")

    def to_device(self, device: Any) -> Tensor:
        """This tensor, or a copy of it there. Raises InvalidArgumentError or UnsupportedError."""
        kind, number = parse_memory_type(device)
        here = self.memory_type
        if kind is MemoryType.CPU and here in (MemoryType.CPU, MemoryType.CPU_PINNED):
            return self
        if kind is here and number == self.memory_type_id:
            return self
        if MemoryType.GPU not in (kind, here) or importlib.util.find_spec("cupy") is None:
            raise UnsupportedError(
                f"Conversion from ({here}, {self.memory_type_id}) to ({kind}, {number}) not supported."
            )
        return _converted(self, kind, number)

    def _bytes(self) -> Array:
        """The host memory as an array that keeps this tensor; writable where its owner says nothing else."""
        if not self.size:
            return np.empty(0, np.uint8)
        array = view_memory(self.data_ptr, self.size, self)
        owner = self.memory_buffer.owner
        if isinstance(owner, np.ndarray) and not owner.flags.writeable:
            array.flags.writeable = False
        return array

    def _array(self) -> Array:
        return self._bytes().view(NUMPY_TYPES[self.data_type]).reshape(self.shape)


def _array_of(given: Any) -> Array:
    if isinstance(given, np.ndarray):
        return given
    try:
        array = np.array(given)
        # An array of numpy's own strings would lose NULs at their ends.
        return array if array.dtype.kind not in "SU" else np.array(given, dtype=np.object_)
    except Exception:
        raise InvalidArgumentError(f"Conversion from {given} to tensor not supported.") from None


def _cupy(tensor: Tensor) -> Any:
    """A tensor in a GPU's memory as a flat or shaped cupy array that shares it."""
    import cupy

    memory = cupy.cuda.UnownedMemory(tensor.data_ptr, tensor.size, tensor, tensor.memory_type_id)
    pointer = cupy.cuda.MemoryPointer(memory, 0)
    if tensor.data_type is DataType.BYTES:
        return cupy.ndarray((tensor.size,), cupy.uint8, pointer)
    return cupy.ndarray(tuple(tensor.shape), NUMPY_TYPES[tensor.data_type], pointer)


def _converted(tensor: Tensor, kind: MemoryType, number: int) -> Tensor:
    """A copy in another memory, made by cupy."""
    import cupy

    if kind is MemoryType.CPU:
        array = _cupy(tensor).get()
        return Tensor(tensor.data_type, tensor.shape, MemoryBuffer._of_array(array))
    with cupy.cuda.Device(number):
        source = _cupy(tensor) if tensor.memory_type is MemoryType.GPU else tensor._bytes()
        array = cupy.asarray(source).copy()
    buffer = MemoryBuffer(array.data.ptr, MemoryType.GPU, number, array.nbytes, array)
    return Tensor(tensor.data_type, tensor.shape, buffer)
