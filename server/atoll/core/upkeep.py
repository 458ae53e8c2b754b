"""What a server does by the clock: giving back idle shared memory; and what it tells of memory on the metrics page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from atoll.core.catalog import Catalog
from atoll.observe.exposition import Family, label_text

__all__ = ["Upkeep"]

_TRIM_INTERVAL_S = 10.0


class Upkeep:
    """One server's. ``trims`` give back what others than models have idle, as models do: they return chunks' ids."""

    def __init__(self, catalog: Catalog, chunks_gone: Callable[[list[int]], None]) -> None:
        self.trims: list[Callable[[], list[int]]] = []
        self._catalog = catalog
        self._chunks_gone = chunks_gone
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_TRIM_INTERVAL_S, self._again)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def collect(self) -> Iterable[Family]:
        """Ours, beside the original's metrics: what the arena of each model's requests holds, and what stubs read."""
        families = [
            Family("atoll_shared_memory_bytes", "gauge", "Shared memory reserved for requests to a model, in bytes"),
            Family("atoll_shared_memory_used_bytes", "gauge", "Of it, bytes that requests hold at this moment"),
            Family("atoll_shared_memory_leased_blocks", "gauge", "Blocks of others that a model's instances may read"),
            Family("atoll_instance_restarts", "counter", "Times that instances of a model were started again"),
        ]
        for model in self._catalog.models():
            labels = label_text({"model": model.name, "version": str(model.version)})
            memory = model.arena.stats()
            values = (memory.reserved_nbytes, memory.used_nbytes, model.leased_blocks, model.restarts)
            for family, value in zip(families, values, strict=True):
                family.add(labels, value)
        return families

    def trim(self) -> None:
        """Give back chunks that nobody has used since the last time."""
        for trim in [*self.trims, *(model.trim for model in self._catalog.living())]:
            self._chunks_gone(trim())

    def _again(self) -> None:
        self.trim()
        self.start()
