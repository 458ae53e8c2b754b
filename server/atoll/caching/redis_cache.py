"""A response cache in a Redis server, which several servers may share and which outlives them.

What is evicted, and when, is the business of Redis (``maxmemory``, ``maxmemory-policy``). A Redis that cannot be
reached costs a request no more than the timeout; it is logged once, and once more when it answers again.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import msgpack

from atoll.caching.response_cache import CachedResponse, ResponseCache
from atoll.inference import Tensor

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["RedisCache"]

_log = logging.getLogger(__name__)

_PREFIX = b"atoll:response:"


class RedisCache(ResponseCache):
    """Responses under ``atoll:response:<key>``, as msgpack arrays."""

    def __init__(self, client: Redis) -> None:
        super().__init__()
        self._client = client
        self._reachable = True

    async def look_up(self, key: bytes) -> CachedResponse | None:
        began = time.monotonic_ns()
        self.lookups += 1
        found = None
        try:
            packed = await self._client.get(_PREFIX + key)
            if isinstance(packed, bytes):
                found = _unpacked(packed)
                self.hits += 1
            self._is_reachable()
        except Exception as error:  # whatever a network and a foreign value may bring
            self._failed(error)
        self.lookup_ns += time.monotonic_ns() - began
        return found

    async def insert(self, key: bytes, response: CachedResponse) -> None:
        began = time.monotonic_ns()
        try:
            await self._client.set(_PREFIX + key, _packed(response))
            self._is_reachable()
        except Exception as error:
            self._failed(error)
        self.insertion_ns += time.monotonic_ns() - began

    async def close(self) -> None:
        await self._client.aclose()

    def _is_reachable(self) -> None:
        if not self._reachable:
            _log.info("the response cache's Redis server answers again")
        self._reachable = True

    def _failed(self, error: Exception) -> None:
        if self._reachable:
            _log.error(f"the response cache's Redis server fails, requests go to the models: {error}")
        self._reachable = False


def _packed(response: CachedResponse) -> bytes:
    outputs = [
        (tensor.name, tensor.datatype, list(tensor.shape), bytes(tensor.buffer())) for tensor in response.outputs
    ]
    packed: bytes = msgpack.packb([outputs, response.parameters], unicode_errors="surrogateescape")
    return packed


def _unpacked(packed: bytes) -> CachedResponse:
    outputs, parameters = msgpack.unpackb(packed, unicode_errors="surrogateescape")
    return CachedResponse([Tensor(*fields) for fields in outputs], parameters)
