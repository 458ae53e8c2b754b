"""What every response cache does: keeps outputs under the key of a request, and counts.

See also: ``local`` and ``redis_cache`` for where the outputs lie, ``key`` for what makes two requests equal,
``atoll.core.cached_requests`` for when the cache is asked.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import NamedTuple

from atoll.inference import Parameter, Tensor
from atoll.observe.exposition import Family

__all__ = ["CachedResponse", "ResponseCache"]


class CachedResponse(NamedTuple):
    """A successful response without the request it answered."""

    outputs: list[Tensor]
    parameters: dict[str, Parameter] | None


class ResponseCache(abc.ABC):
    """One server's cache. Neither method raises: a cache that fails is one that has nothing."""

    def __init__(self) -> None:
        self.lookups = 0
        self.hits = 0
        self.evictions = 0
        self.lookup_ns = 0
        self.insertion_ns = 0

    @abc.abstractmethod
    async def look_up(self, key: bytes) -> CachedResponse | None:
        """What was kept under ``key``; the tensors are those of the caller from now on."""

    @abc.abstractmethod
    async def insert(self, key: bytes, response: CachedResponse) -> None:
        """Keep a response."""

    def trim(self) -> list[int]:
        """Give back idle shared memory; returns the ids of the chunks that are gone."""
        return []

    async def close(self) -> None:  # noqa: B027 - most have nothing to close
        """The server has stopped."""

    def collect(self) -> Iterable[Family]:
        """The totals, under the original's names. All of them are gauges there."""
        for name, help_text, value in (
            ("nv_cache_num_hits", "Number of cache hits in response cache", self.hits),
            ("nv_cache_num_misses", "Number of cache misses in response cache", self.lookups - self.hits),
            ("nv_cache_num_lookups", "Number of cache lookups in response cache", self.lookups),
            ("nv_cache_num_evictions", "Number of cache evictions in response cache", self.evictions),
            (
                "nv_cache_lookup_duration",
                "Total cache lookup duration (hit and miss), in microseconds",
                self.lookup_ns // 1000,
            ),
            (
                "nv_cache_insertion_duration",
                "Total cache insertion duration, in microseconds",
                self.insertion_ns // 1000,
            ),
        ):
            family = Family(name, "gauge", help_text)
            family.add("", value)
            yield family
