"""Shared memory as clients have it: by tritonclient, with the names and the place in mind that a test needs."""

from __future__ import annotations

import contextlib
import multiprocessing.resource_tracker
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
from tritonclient.utils import shared_memory

__all__ = ["ClientMemory", "client_memory", "start_tracker"]

Array = np.ndarray[Any, Any]


class ClientMemory:
    """A file in /dev/shm, filled with zeros at first."""

    def __init__(self, nbytes: int) -> None:
        self.key = f"/atoll_test_{uuid.uuid4()}"
        self.path = f"/dev/shm{self.key}"
        self.nbytes = nbytes
        self.handle = shared_memory.create_shared_memory_region("test", self.key, nbytes, create_only=True)

    def __setitem__(self, offset: int, value: Array) -> None:
        shared_memory.set_shared_memory_region(self.handle, [value], offset)

    def array(self, dtype: Any, shape: Any, offset: int = 0) -> Array:
        """A copy of what is there now."""
        return np.array(shared_memory.get_contents_as_numpy(self.handle, dtype, shape, offset))


@contextlib.contextmanager
def client_memory(nbytes: int) -> Iterator[ClientMemory]:
    memory = ClientMemory(nbytes)
    try:
        yield memory
    finally:
        shared_memory.destroy_shared_memory_region(memory.handle)


def start_tracker() -> None:
    """The process that Python starts at the first use of its shared memory, and that stays for good."""
    multiprocessing.resource_tracker.ensure_running()
