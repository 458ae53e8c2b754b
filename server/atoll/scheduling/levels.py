"""The requests that wait for a batcher, by priority: who comes first, who finds no room, who has waited too long.

1. Level 1 comes first; a level's requests come only after all of the levels before it, in the order of their arrival.
2. A request without a level of its own (priority 0, or beyond the last level) belongs to the default level.
3. Each level has a policy: how many requests it holds, how long they may wait, and what comes of those that wait too
   long. ``reject`` takes them out. ``delay`` puts them behind all others of their level, where they wait for ever.
4. A request may ask for a shorter time than the policy's, where the policy allows it; never for a longer one.
5. A request that was put back, because its instance died before it began, has had its time: it does not expire.

Deadlines are in a heap whose entries are not looked for when a request leaves. They are recognised as stale when they
come up, and the heap is made anew when most of it is. It holds numbers: what has left the queue is not kept from dying.
"""

from __future__ import annotations

import collections
import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from atoll.errors import Code
from atoll.inference import Request
from atoll.scheduling.scheduler import Rejected

__all__ = ["Levels", "QueuePolicy"]

_UNLIMITED = 0
_SMALL_HEAP = 64

Line = collections.OrderedDict[Request, int]
"""Requests in their order, each with the number of its deadline, or _UNLIMITED."""


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """Limits of one priority level; 0 is no limit."""

    max_queue_size: int = 0
    timeout_ns: int = 0
    may_shorten: bool = False
    """Whether a request's own timeout counts where it is the shorter one."""
    on_timeout: Literal["reject", "delay"] = "reject"

    def deadline_ns(self, request: Request) -> int | None:
        timeout_ns = self.timeout_ns
        if not timeout_ns:
            return None
        if self.may_shorten and request.timeout_us:
            timeout_ns = min(timeout_ns, request.timeout_us * 1000)
        return request.queued_ns + timeout_ns


class _Level:
    """One priority level: those in time, and behind them those that were delayed."""

    __slots__ = ("delayed", "policy", "waiting")

    def __init__(self, policy: QueuePolicy) -> None:
        self.policy = policy
        self.waiting: Line = Line()
        self.delayed: Line = Line()

    def __len__(self) -> int:
        return len(self.waiting) + len(self.delayed)


class Levels:
    """All that waits."""

    def __init__(
        self, policy: Callable[[int], QueuePolicy] = lambda level: QueuePolicy(), count: int = 0, default: int = 0
    ) -> None:
        """``count`` levels, each with the policy that ``policy`` tells; 0 where priorities mean nothing."""
        self.requests: dict[Request, Line] = {}
        self._policy = policy
        self._count = count
        self._default = default
        self._levels: dict[int, _Level] = {}  # those that had a request, by number
        self._in_order: list[_Level] = []
        self._deadlines: list[tuple[int, int]] = []  # a heap of moments and numbers
        self._watched: dict[int, Request] = {}  # whose deadlines they are, as long as it waits
        self._numbers = itertools.count(_UNLIMITED + 1)

    def push(self, request: Request) -> None:
        """Take a request. Raises Rejected when its level is full."""
        level = self._level(request)
        policy = level.policy
        if policy.max_queue_size and len(level) >= policy.max_queue_size:
            raise Rejected(Code.UNAVAILABLE, f"{request.rid}Exceeds maximum queue size")
        deadline_ns = policy.deadline_ns(request)
        number = _UNLIMITED if deadline_ns is None else self._watch(request, deadline_ns)
        self._append(level.waiting, request, number)

    def push_front(self, requests: Iterable[Request]) -> None:
        """Put back requests that were taken; they keep their order."""
        for request in reversed(list(requests)):
            waiting = self._level(request).waiting
            self._append(waiting, request, _UNLIMITED)
            waiting.move_to_end(request, last=False)

    def remove(self, request: Request) -> bool:
        """Take one out, wherever it stands; False when it does not wait."""
        line = self.requests.pop(request, None)
        if line is None:
            return False
        self._watched.pop(line.pop(request), None)
        return True

    def expire(self, now_ns: int) -> list[Request]:
        """Take out, or delay, what has waited too long; returns what was taken out."""
        rejected = []
        while (deadline_ns := self.deadline_ns()) is not None and deadline_ns <= now_ns:
            request = self._watched[heapq.heappop(self._deadlines)[1]]
            self.remove(request)
            level = self._level(request)
            if level.policy.on_timeout == "delay":
                self._append(level.delayed, request, _UNLIMITED)
            else:
                rejected.append(request)
        return rejected

    def deadline_ns(self) -> int | None:
        """When :meth:`expire` will have something to do."""
        deadlines = self._deadlines
        while deadlines and deadlines[0][1] not in self._watched:
            heapq.heappop(deadlines)
        return deadlines[0][0] if deadlines else None

    def is_last(self, request: Request) -> bool:
        """Whether a request that was just pushed comes after all others."""
        own = self._level(request)
        return not own.delayed and not any(self._in_order[self._in_order.index(own) + 1 :])

    def __iter__(self) -> Iterator[Request]:
        for level in self._in_order:
            yield from level.waiting
            yield from level.delayed

    def take(self, count: int) -> list[Request]:
        """The first ``count`` requests, which wait no longer."""
        taken = list(itertools.islice(self, count))
        for request in taken:
            self.remove(request)
        return taken

    def _level(self, request: Request) -> _Level:
        number = request.priority if 0 < request.priority <= self._count else self._default
        level = self._levels.get(number)
        if level is None:
            level = self._levels[number] = _Level(self._policy(number))
            self._in_order = [self._levels[known] for known in sorted(self._levels)]
        return level

    def _append(self, line: Line, request: Request, number: int) -> None:
        line[request] = number
        self.requests[request] = line

    def _watch(self, request: Request, deadline_ns: int) -> int:
        """Note a deadline; its number."""
        deadlines = self._deadlines
        if len(deadlines) > _SMALL_HEAP + 2 * len(self._watched):
            deadlines[:] = [entry for entry in deadlines if entry[1] in self._watched]
            heapq.heapify(deadlines)
        number = next(self._numbers)
        heapq.heappush(deadlines, (deadline_ns, number))
        self._watched[number] = request
        return number
