"""Memory for outputs, as releases up to 25.01 let a program choose it."""

from __future__ import annotations

import abc
import importlib.util
from typing import Any

import numpy as np

from tritonserver._api._memorybuffer import MemoryBuffer
from tritonserver._c.enums import TRITONSERVER_MemoryType as MemoryType

__all__ = ["MemoryAllocator", "default_memory_allocators"]


class MemoryAllocator(abc.ABC):
    """Gives memory for one output at a time; it may be of another type than the one asked for."""

    @abc.abstractmethod
    def allocate(self, size: int, memory_type: MemoryType, memory_type_id: int) -> MemoryBuffer:
        """``size`` bytes or more."""


class _Host(MemoryAllocator):
    def allocate(self, size: int, memory_type: MemoryType, memory_type_id: int) -> MemoryBuffer:
        return MemoryBuffer._of_array(np.empty(size, np.byte))


class _Gpu(MemoryAllocator):
    def allocate(self, size: int, memory_type: MemoryType, memory_type_id: int) -> MemoryBuffer:
        import cupy

        with cupy.cuda.Device(memory_type_id):
            array: Any = cupy.empty(size, cupy.byte)
        return MemoryBuffer(array.data.ptr, MemoryType.GPU, memory_type_id, size, array)


default_memory_allocators: dict[MemoryType, MemoryAllocator] = {MemoryType.CPU: _Host()}
"""Programs may change it; it is consulted at each request."""

if importlib.util.find_spec("cupy") is not None:
    default_memory_allocators[MemoryType.GPU] = _Gpu()
