"""Memory that somebody owns, known by its address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tritonserver._api._dlpack import describe
from tritonserver._c.enums import TRITONSERVER_MemoryType as MemoryType

__all__ = ["MemoryBuffer"]


@dataclass
class MemoryBuffer:
    """Refers to ``size`` bytes at ``data_ptr``, valid while ``owner`` lives. It never copies."""

    data_ptr: int
    memory_type: MemoryType
    memory_type_id: int
    size: int
    owner: Any

    @staticmethod
    def from_dlpack(owner: Any) -> MemoryBuffer:
        """Of any object with ``__dlpack__``. Raises InvalidArgumentError."""
        described = describe(owner)
        return MemoryBuffer(described.address, described.memory_type, described.memory_type_id, described.nbytes, owner)

    @staticmethod
    def _of_array(array: np.ndarray[Any, Any]) -> MemoryBuffer:
        """Of a C-contiguous array."""
        return MemoryBuffer(array.__array_interface__["data"][0], MemoryType.CPU, 0, array.nbytes, array)
