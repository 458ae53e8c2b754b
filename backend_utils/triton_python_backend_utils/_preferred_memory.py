"""Where a model wants the outputs of the models it calls: ``PreferredMemory`` and its kinds of memory."""

import enum
from typing import Any

from triton_python_backend_utils._arguments import integer

__all__ = ["MemoryType", "PreferredMemory"]


class MemoryType(enum.IntEnum):
    """Kinds of memory. The numbers are the original's, which differ from those of the server's protocol."""

    TRITONSERVER_MEMORY_GPU = 0
    TRITONSERVER_MEMORY_CPU = 1


class PreferredMemory:
    """Memory that the outputs of a called model shall be in, wherever that model put them. (Original 23.04.)

    Given to an ``InferenceRequest``. A host that has no GPU memory answers in its own. Raises TypeError for anything
    but a :class:`MemoryType` and an integer.
    """

    __slots__ = ("_device_id", "_memory_type")

    def __init__(self, preferred_memory_type: MemoryType, preferred_device_id: int = 0) -> None:
        self._memory_type = _memory_type(preferred_memory_type)
        self._device_id = integer(preferred_device_id, "preferred_device_id", -(1 << 63), (1 << 63) - 1)


def _memory_type(value: Any) -> MemoryType:
    if not isinstance(value, MemoryType):
        raise TypeError(f"preferred_memory_type must be a MemoryType, not {type(value).__name__}")
    return value
