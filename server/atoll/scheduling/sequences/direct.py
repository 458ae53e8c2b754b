"""The direct strategy: a sequence's slot is its place in every batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from atoll.inference import Request

__all__ = ["DirectLane"]


class DirectLane:
    """One instance's batches: a place for each slot up to the last one with work, some of them empty.

    1. A batch goes when enough of the slots have work, or when the oldest request has waited for the delay.
    2. Requests of one batch have the signature of the oldest; the others keep their places empty and wait for the next.
    """

    def __init__(
        self, slots: int, min_utilization: float, max_delay_ns: int, signature: Callable[[Request], Hashable]
    ) -> None:
        self._slots = slots
        self._min_utilization = min_utilization
        self._max_delay_ns = max_delay_ns
        self._signature = signature
        self._requests: dict[int, Request] = {}

    def push(self, slot: int, request: Request) -> None:
        self._requests[slot] = request

    def remove(self, request: Request) -> None:
        self._requests = {slot: known for slot, known in self._requests.items() if known is not request}

    def is_due(self, now_ns: int) -> bool:
        wake_ns = self.wake_ns()
        return wake_ns is not None and (now_ns >= wake_ns or len(self._requests) / self._slots >= self._min_utilization)

    def next_batch(self, now_ns: int) -> list[Request | None] | None:
        if not self.is_due(now_ns):
            return None
        requests = self._requests
        oldest = min(requests.values(), key=lambda request: request.queued_ns)
        signature = self._signature(oldest)
        taken = {slot: request for slot, request in requests.items() if self._signature(request) == signature}
        self._requests = {slot: request for slot, request in requests.items() if slot not in taken}
        return [taken.get(slot) for slot in range(max(requests) + 1)]

    def wake_ns(self) -> int | None:
        if not self._requests:
            return None
        return min(request.queued_ns for request in self._requests.values()) + self._max_delay_ns
