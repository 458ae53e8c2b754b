"""What a dispatcher needs of a queue, and the plainest one: state without IO.

Events in (a request, a moment), batches out. No socket, no clock and no process here; the shell that asks is
:mod:`atoll.scheduling.dispatcher`. Times are ``time.monotonic_ns``.

Two schedulers, as in the original:

* :class:`FifoQueue`, the default: each execution gets exactly one request, whatever ``max_batch_size`` says.
* :class:`~atoll.scheduling.dynamic_batcher.DynamicBatcher`, when the configuration has ``dynamic_batching``.

Clients come and go by the thousand, so whatever happens to one request costs the same however many others wait.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from typing import Protocol

from atoll.inference import Request

__all__ = ["Batch", "FifoQueue", "Queue"]

Batch = list[Request]


class Queue(Protocol):
    """A model's requests that no instance has yet."""

    one_by_one: bool
    """Whether a batch is always one request: then it gains nothing by waiting, and may be sent ahead."""

    expires: bool
    """Whether a request may wait too long."""

    @property
    def requests(self) -> Mapping[Request, object]:
        """What waits, always the same object; for looking only."""

    def push(self, request: Request) -> None:
        """Take a request. Raises Rejected when the queue is full."""

    def push_front(self, requests: Iterable[Request]) -> None:
        """Put back requests that were taken and not started; they keep their order."""

    def remove(self, request: Request) -> bool:
        """Take a cancelled request out; False when it is not queued."""

    def expire(self, now_ns: int) -> list[Request]:
        """Take out what has waited too long."""

    def is_due(self, now_ns: int) -> bool:
        """Whether :meth:`next_batch` would give one."""

    def next_batch(self, now_ns: int) -> Batch | None:
        """What may run now; None when there is nothing, or it is better to wait. Comes after :meth:`expire`."""

    def wake_ns(self, idle: bool) -> int | None:
        """When to look again without a new event: for what expires, and with an ``idle`` instance for what is due."""

    def drain(self) -> list[Request]:
        """Take everything out."""


class FifoQueue:
    """First come, first served, one at a time. Knows no limits."""

    one_by_one = True
    expires = False

    def __init__(self) -> None:
        # An OrderedDict, not a deque: requests are also taken out of the middle, and looked for.
        self.requests: collections.OrderedDict[Request, None] = collections.OrderedDict()

    def push(self, request: Request) -> None:
        self.requests[request] = None

    def push_front(self, requests: Iterable[Request]) -> None:
        for request in reversed(list(requests)):
            self.requests[request] = None
            self.requests.move_to_end(request, last=False)

    def remove(self, request: Request) -> bool:
        if request not in self.requests:
            return False
        del self.requests[request]
        return True

    def expire(self, now_ns: int) -> list[Request]:
        return []

    def is_due(self, now_ns: int) -> bool:
        return bool(self.requests)

    def next_batch(self, now_ns: int) -> Batch | None:
        return [self.requests.popitem(last=False)[0]] if self.requests else None

    def wake_ns(self, idle: bool) -> int | None:
        return None

    def drain(self) -> list[Request]:
        drained = list(self.requests)
        self.requests.clear()
        return drained
