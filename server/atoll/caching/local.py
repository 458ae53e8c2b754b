"""A response cache in the memory of this server: least recently used responses go first.

Large outputs lie in an arena of the cache's own. A hit refers to them there: neither a client's response nor a
model that called gets a copy, and what was evicted meanwhile lives until the last of them has let go.
"""

from __future__ import annotations

import collections
import logging
import time
from collections.abc import Iterable

from atoll_ipc.memory import Arena, OutOfSharedMemory, Slice
from atoll_ipc.wire import INLINE_NBYTES

from atoll.caching.response_cache import CachedResponse, ResponseCache
from atoll.inference import Tensor, TensorData
from atoll.observe.exposition import Family

__all__ = ["LocalCache"]

_log = logging.getLogger(__name__)


class LocalCache(ResponseCache):
    """At most ``capacity_nbytes`` of tensors."""

    def __init__(self, capacity_nbytes: int, arena: Arena) -> None:
        super().__init__()
        self.used_nbytes = 0
        self._capacity_nbytes = capacity_nbytes
        self._arena = arena
        self._entries: collections.OrderedDict[bytes, CachedResponse] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    async def look_up(self, key: bytes) -> CachedResponse | None:
        began = time.monotonic_ns()
        self.lookups += 1
        found = self._entries.get(key)
        if found is not None:
            self.hits += 1
            self._entries.move_to_end(key)
            found = CachedResponse(
                [Tensor(tensor.name, tensor.datatype, tensor.shape, tensor.data) for tensor in found.outputs],
                dict(found.parameters) if found.parameters else None,
            )
        self.lookup_ns += time.monotonic_ns() - began
        return found

    async def insert(self, key: bytes, response: CachedResponse) -> None:
        began = time.monotonic_ns()
        nbytes = _nbytes(response)
        if nbytes > self._capacity_nbytes:
            _log.error(
                f"a response of {nbytes} bytes is not kept: the response cache holds {self._capacity_nbytes} bytes in "
                "all; raise --cache-config=local,size=…"
            )
        elif key not in self._entries:  # another request was quicker
            while self.used_nbytes + nbytes > self._capacity_nbytes:
                self._evict()
            try:
                outputs = [
                    Tensor(tensor.name, tensor.datatype, tensor.shape, self._keep(tensor))
                    for tensor in response.outputs
                ]
            except OutOfSharedMemory as error:
                _log.error(f"a response was not kept in the response cache: {error}")
            else:
                self._entries[key] = CachedResponse(outputs, response.parameters)
                self.used_nbytes += nbytes
        self.insertion_ns += time.monotonic_ns() - began

    def trim(self) -> list[int]:
        return self._arena.trim()

    def collect(self) -> Iterable[Family]:
        utilization = Family("nv_cache_util", "gauge", "Cache utilization [0.0 - 1.0]")
        utilization.add("", self.used_nbytes / self._capacity_nbytes)
        entries = Family("nv_cache_num_entries", "gauge", "Number of responses stored in response cache")
        entries.add("", len(self._entries))
        return (utilization, entries, *super().collect())

    def _keep(self, tensor: Tensor) -> TensorData:
        """A copy of the tensor's bytes that nobody else writes to."""
        data = tensor.buffer()
        if len(data) <= INLINE_NBYTES:
            return bytes(data)
        block = self._arena.allocate(len(data))
        block.chunk.map[block.start : block.start + len(data)] = data
        return Slice(block, block.start, len(data))

    def _evict(self) -> None:
        _, entry = self._entries.popitem(last=False)
        self.used_nbytes -= _nbytes(entry)
        self.evictions += 1


def _nbytes(response: CachedResponse) -> int:
    return sum(tensor.nbytes for tensor in response.outputs)
