"""Joins requests into batches: state without IO, as all queues (:mod:`atoll.scheduling.queues`)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

from atoll.inference import Request
from atoll.scheduling.levels import Levels
from atoll.scheduling.queues import Batch

__all__ = ["DynamicBatcher"]


class DynamicBatcher:
    """Joins requests of equal shapes into batches of up to ``max_batch_size``.

    1. A batch is a prefix of the queue: requests of one ``signature`` whose sizes sum to at most ``max_batch_size``.
       A request that does not fit ends it; nothing overtakes.
    2. Within the delay, the largest prefix whose sum is a preferred size goes at once; where there is none, the one
       that another request would take beyond the largest preferred size.
    3. Without a delay, or when the oldest request has waited for it, or when the prefix is full or cannot grow, the
       whole prefix goes.
    4. Else wait: more may come.

    A batch is formed when an instance can take it and not before, so while all are busy it keeps growing.
    """

    one_by_one = False
    expires = True

    def __init__(
        self,
        max_batch_size: int,
        preferred_sizes: Iterable[int],
        max_delay_ns: int,
        signature: Callable[[Request], Hashable],
        levels: Levels | None = None,
        hold_until: int = 0,
    ) -> None:
        """``hold_until``: nothing goes before so many requests have waited at once; for tests of clients."""
        self._levels = Levels() if levels is None else levels
        self.requests = self._levels.requests
        self._max_batch_size = max_batch_size
        self._preferred = frozenset(preferred_sizes)
        self._full = max(self._preferred, default=max_batch_size)
        self._max_delay_ns = max_delay_ns
        self._signature = signature
        self._hold_until = hold_until
        self._forming: _Forming | None = None  # as it was found last, unless what it was made of has changed

    def push(self, request: Request) -> None:
        self._levels.push(request)
        if self._forming is not None:
            if self._levels.is_last(request):
                self._add(self._forming, request)
            else:
                self._forming = None

    def push_front(self, requests: Iterable[Request]) -> None:
        self._levels.push_front(requests)
        self._forming = None

    def remove(self, request: Request) -> bool:
        self._forming = None
        return self._levels.remove(request)

    def expire(self, now_ns: int) -> list[Request]:
        deadline_ns = self._levels.deadline_ns()
        if deadline_ns is None or deadline_ns > now_ns:
            return []
        self._forming = None
        return self._levels.expire(now_ns)

    def is_due(self, now_ns: int) -> bool:
        return self._due_count(now_ns) > 0

    def next_batch(self, now_ns: int) -> Batch | None:
        count = self._due_count(now_ns)
        if not count:
            return None
        self._forming = None
        return self._levels.take(count)

    def _due_count(self, now_ns: int) -> int:
        """How many requests may go now, as one batch."""
        if not self.requests or self._is_held():
            return 0
        forming = self._form()
        overdue = now_ns - forming.oldest_ns >= self._max_delay_ns
        if forming.preferred_count and not (overdue and self._max_delay_ns):
            return forming.preferred_count
        if overdue or forming.complete or forming.total >= self._full:
            return forming.count
        return 0

    def wake_ns(self, idle: bool) -> int | None:
        deadline_ns = self._levels.deadline_ns()
        if not idle or not self.requests or self._is_held():
            return deadline_ns
        due_ns = self._form().oldest_ns + self._max_delay_ns
        return due_ns if deadline_ns is None else min(due_ns, deadline_ns)

    def drain(self) -> list[Request]:
        self._forming = None
        return self._levels.take(len(self.requests))

    def _is_held(self) -> bool:
        if len(self.requests) >= self._hold_until:
            self._hold_until = 0
        return self._hold_until > 0

    def _form(self) -> _Forming:
        """What is known of the batch at the head of the queue."""
        if self._forming is None:
            self._forming = _Forming()
            for request in self._levels:
                self._add(self._forming, request)
                if self._forming.complete:
                    break
        return self._forming

    def _add(self, forming: _Forming, request: Request) -> None:
        """Take in the next request of the queue, or find that the batch ends before it."""
        if forming.complete:
            return
        size = request.batch_size or 1  # an empty batch takes a place, or there could be any number in one
        signature = self._signature(request)
        if forming.count:
            grown = forming.total + size
            if grown > self._max_batch_size or signature != forming.signature:
                forming.complete = True
                return
            if grown > self._full and not forming.preferred_count:
                forming.preferred_count = forming.count
            forming.oldest_ns = min(forming.oldest_ns, request.queued_ns)
        else:
            forming.signature = signature
            forming.oldest_ns = request.queued_ns
        forming.total += size
        forming.count += 1
        if forming.total in self._preferred:
            forming.preferred_count = forming.count


class _Forming:
    """A prefix of the queue: how many requests, what they sum to, and whether another may join them."""

    __slots__ = ("complete", "count", "oldest_ns", "preferred_count", "signature", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0
        self.signature: Hashable = None
        self.oldest_ns = 0
        self.preferred_count = 0
        """How many of them sum to the largest preferred size that they can make; 0 where they make none."""
        self.complete = False
