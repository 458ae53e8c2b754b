"""Shared memory as clients have it: by tritonclient, with the names and the place in mind that a test needs."""

from __future__ import annotations

import contextlib
import multiprocessing.resource_tracker
import os
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from serving import Served
from tritonclient.utils import shared_memory

__all__ = ["ClientMemory", "Region", "client_memory", "infer", "region", "start_tracker"]

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


class Region(ClientMemory):
    """A region that is registered with a server."""

    def __init__(self, nbytes: int, served: Served) -> None:
        super().__init__(nbytes)
        self.name = self.key[1:]
        self._path = f"/v2/systemsharedmemory/region/{self.name}"
        self._served = served
        document = {"key": self.key, "byte_size": nbytes}
        assert served.post(f"{self._path}/register", document) == (200, b"")

    def unregister(self) -> None:
        assert self._served.post(f"{self._path}/unregister", {}) == (200, b"")

    def place(self, nbytes: int, offset: int = 0) -> dict[str, Any]:
        """What a tensor's parameters say of it."""
        return {
            "shared_memory_region": self.name,
            "shared_memory_byte_size": nbytes,
            "shared_memory_offset": offset,
        }

    def is_mapped_by(self, pid: int) -> bool:
        """Whether a process maps the file or has it open."""
        with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
            if self.name in maps.read():
                return True
        return any(self.name in os.path.realpath(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))


@contextlib.contextmanager
def region(nbytes: int, served: Served) -> Iterator[Region]:
    shared = Region(nbytes, served)
    try:
        yield shared
        shared.unregister()
    finally:
        shared_memory.destroy_shared_memory_region(shared.handle)


def infer(
    served: Served,
    model: str,
    inputs: Mapping[str, tuple[Any, dict[str, Any] | list[Any]]],
    outputs: Mapping[str, dict[str, Any]] | None = None,
    /,
    **parameters: Any,
) -> tuple[int, Any]:
    """Infer over HTTP: status, and the outputs by name or the text of an error.

    An input is its shape and its place, or its elements for UINT8; with a shape of one text it holds strings.
    """
    tensors = []
    for name, (shape, data) in inputs.items():
        datatype, shape = ("BYTES", [int(shape)]) if isinstance(shape, str) else ("UINT8", list(shape))
        where = {"parameters": data} if isinstance(data, dict) else {"data": data}
        tensors.append({"name": name, "datatype": datatype, "shape": shape, **where})
    document: dict[str, Any] = {"inputs": tensors, "parameters": parameters}
    if outputs is not None:
        document["outputs"] = [{"name": name, "parameters": place} for name, place in outputs.items()]
    status, answer = served.post(f"/v2/models/{model}/infer", document)
    return status, answer["error"] if status != 200 else {output["name"]: output for output in answer["outputs"]}
