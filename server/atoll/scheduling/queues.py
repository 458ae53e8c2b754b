"""The queues of a model: state without IO.

Events in (a request, a moment), batches out. No socket, no clock and no process here; the shell that asks is
:mod:`atoll.scheduling.dispatcher`. Times are ``time.monotonic_ns``.

Two schedulers, as in the original:

* :class:`FifoQueue`, the default: each execution gets exactly one request, whatever ``max_batch_size`` says.
* :class:`DynamicBatcher`, when the configuration has ``dynamic_batching``.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Hashable, Iterable
from typing import Protocol

from atoll.inference import Request

__all__ = ["DynamicBatcher", "FifoQueue", "Queue"]

Batch = list[Request]


class Queue(Protocol):
    """What a dispatcher needs of a queue."""

    one_by_one: bool
    """Whether a batch is always one request: then it gains nothing by waiting, and may be sent ahead."""

    requests: collections.deque[Request]
    """What waits; for looking only."""

    def push(self, request: Request) -> None: ...

    def push_front(self, requests: Iterable[Request]) -> None:
        """Put back requests that were taken and not started; they keep their order."""

    def remove(self, request: Request) -> bool:
        """Take a cancelled request out; False when it is not queued."""

    def next_batch(self, now_ns: int) -> Batch | None:
        """What may run now; None when there is nothing, or it is better to wait until :meth:`wake_ns`."""

    def wake_ns(self) -> int | None:
        """When :meth:`next_batch` will answer differently without a new request."""

    def drain(self) -> Batch:
        """Take everything out."""


class FifoQueue:
    """First come, first served, one at a time."""

    one_by_one = True

    def __init__(self) -> None:
        self.requests: collections.deque[Request] = collections.deque()

    def push(self, request: Request) -> None:
        self.requests.append(request)

    def push_front(self, requests: Iterable[Request]) -> None:
        self.requests.extendleft(reversed(list(requests)))

    def remove(self, request: Request) -> bool:
        return _remove(self.requests, request)

    def next_batch(self, now_ns: int) -> Batch | None:
        return [self.requests.popleft()] if self.requests else None

    def wake_ns(self) -> int | None:
        return None

    def drain(self) -> Batch:
        return _drain(self.requests)


class DynamicBatcher:
    """Joins requests of equal shapes into batches of up to ``max_batch_size``.

    1. A batch is a prefix of the queue: requests of one ``signature`` whose sizes sum to at most ``max_batch_size``.
       A request that does not fit ends it; nothing overtakes.
    2. Within the delay, the largest prefix whose sum is a preferred size goes at once; where there is none, the one
       that another request would take beyond the largest preferred size.
    3. Without a delay, or when the oldest request has waited for it, or when the prefix is full or cannot grow, the
       whole prefix goes.
    4. Else wait: more may come.
    """

    one_by_one = False

    def __init__(
        self,
        max_batch_size: int,
        preferred_sizes: Iterable[int],
        max_delay_ns: int,
        signature: Callable[[Request], Hashable],
    ) -> None:
        self.requests: collections.deque[Request] = collections.deque()
        self._max_batch_size = max_batch_size
        self._preferred = frozenset(preferred_sizes)
        self._full = max(self._preferred, default=max_batch_size)
        self._max_delay_ns = max_delay_ns
        self._signature = signature

    def push(self, request: Request) -> None:
        self.requests.append(request)

    def push_front(self, requests: Iterable[Request]) -> None:
        self.requests.extendleft(reversed(list(requests)))

    def remove(self, request: Request) -> bool:
        return _remove(self.requests, request)

    def next_batch(self, now_ns: int) -> Batch | None:
        queue = self.requests
        if not queue:
            return None
        signature = self._signature(queue[0])
        total = count = preferred_count = 0
        complete = False
        for position, request in enumerate(queue):
            if position:
                grown = total + request.batch_size
                if grown > self._max_batch_size or self._signature(request) != signature:
                    complete = True
                    break
                if grown > self._full and not preferred_count:
                    preferred_count = position
            total += request.batch_size
            count = position + 1
            if total in self._preferred:
                preferred_count = count
        overdue = now_ns - queue[0].queued_ns >= self._max_delay_ns
        if preferred_count and not (overdue and self._max_delay_ns):
            count = preferred_count
        elif not (overdue or complete or total >= self._full):
            return None
        return [queue.popleft() for _ in range(count)]

    def wake_ns(self) -> int | None:
        return self.requests[0].queued_ns + self._max_delay_ns if self.requests else None

    def drain(self) -> Batch:
        return _drain(self.requests)


def _remove(requests: collections.deque[Request], request: Request) -> bool:
    try:
        requests.remove(request)
    except ValueError:
        return False
    return True


def _drain(requests: collections.deque[Request]) -> Batch:
    taken = list(requests)
    requests.clear()
    return taken
