"""The oldest strategy: what the sequences of an instance have next goes through a dynamic batcher."""

from __future__ import annotations

from atoll.inference import Request
from atoll.scheduling.dynamic_batcher import DynamicBatcher

__all__ = ["OldestLane"]


class OldestLane:
    """One instance's batches; a sequence has another place in each."""

    def __init__(self, batcher: DynamicBatcher) -> None:
        self._batcher = batcher

    def push(self, slot: int, request: Request) -> None:
        self._batcher.push(request)

    def remove(self, request: Request) -> None:
        self._batcher.remove(request)

    def is_due(self, now_ns: int) -> bool:
        return self._batcher.is_due(now_ns)

    def next_batch(self, now_ns: int) -> list[Request | None] | None:
        batch = self._batcher.next_batch(now_ns)
        return None if batch is None else list(batch)

    def wake_ns(self) -> int | None:
        return self._batcher.wake_ns(idle=True)
