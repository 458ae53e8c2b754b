"""Which sequence has which slot, and whose turn it is: state without IO.

Events in (a request, an answer, a moment), requests out; times are ``time.monotonic_ns``. The shell that performs what
follows is :mod:`atoll.scheduling.sequences.scheduler`. Which of the requests whose turn it is make a batch is the
business of the *lanes*, one for each instance: see ``direct`` and ``oldest``.

1. A sequence is *open* from the request that began it until its last one has come, it was idle for too long, one of its
   queued requests was cancelled, or its instance died. Who comes later under the same id begins another sequence.
2. A new sequence takes the free slot with the lowest number over all instances and keeps it; without one it waits in
   the backlog, first come, first served. A slot is free again when its sequence is not open and all is answered.
3. A request's turn comes when the one before it, of the same sequence, was answered for the last time. Only then does
   the lane know of it; until it is executed it counts as waiting.
4. A sequence is idle while it is open, has a slot, and nothing of it waits or is executed.
5. A request in the backlog that gives a time to wait takes its whole sequence with it when that is over.
6. What an instance knew of its sequences dies with it. Those that it had not begun go back to the head of the backlog.
"""

from __future__ import annotations

import collections
import heapq
import itertools
from collections.abc import Hashable
from typing import NamedTuple, Protocol

from atoll.inference import SEQUENCE_START, Request, Tensor

__all__ = ["Book", "Lane", "Sequence", "Slot"]

Batch = list[Request | None]
_SMALL_HEAP = 64


class Lane(Protocol):
    """The requests that one instance could execute now, at most one of each slot."""

    def push(self, slot: int, request: Request) -> None: ...

    def remove(self, request: Request) -> None:
        """Take out one that was pushed and not handed out."""

    def is_due(self, now_ns: int) -> bool:
        """Whether :meth:`next_batch` would give one."""

    def next_batch(self, now_ns: int) -> Batch | None:
        """Hand out what is executed together; None in a place that nothing is there for.

        Without a batch there is nothing, or it is better to wait until :meth:`wake_ns`.
        """

    def wake_ns(self) -> int | None:
        """When :meth:`next_batch` will answer differently without a new request."""


class Slot(NamedTuple):
    """A place at an instance, in the order in which places are given away."""

    number: int
    lane: int


class Sequence:
    """One sequence, as long as anything of it waits or is executed, or more may come."""

    __slots__ = ("begun", "is_open", "key", "limit_ns", "running", "slot", "states", "waiting")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.slot: Slot | None = None
        self.waiting: collections.deque[Request] = collections.deque()
        self.running: Request | None = None
        self.is_open = True
        self.begun = False  # the instance has seen something of it
        self.limit_ns: int | None = None  # until when it may wait in the backlog
        self.states: dict[str, Tensor] = {}  # what it has come to, where the server keeps that


Limit = tuple[int, int, Sequence]
"""The moment, a number that keeps equal moments apart, and whose limit it is."""


class Book:
    """All sequences of one model."""

    def __init__(self, lanes: list[Lane], slots: int, idle_ns: int) -> None:
        """``slots`` are those of each lane; none is given away before its lane is opened."""
        self._lanes = lanes
        self._slots = slots
        self._idle_ns = idle_ns
        self._open_lanes: set[int] = set()
        self._free: list[Slot] = []
        self._seated: dict[Slot, Sequence] = {}
        self._open: dict[Hashable, Sequence] = {}
        self._of: dict[Request, Sequence] = {}
        self._running_count = 0
        self._backlog: collections.OrderedDict[Sequence, None] = collections.OrderedDict()
        self._limits: list[Limit] = []  # a heap, for the backlog
        self._limit_numbers = itertools.count()
        self._idle: collections.OrderedDict[Sequence, int] = collections.OrderedDict()

    # -- what there is

    @property
    def open_count(self) -> int:
        """How many sequences may still get requests."""
        return len(self._open)

    @property
    def waiting_count(self) -> int:
        """How many requests wait for their execution."""
        return len(self._of) - self._running_count

    def is_open(self, key: Hashable) -> bool:
        return key in self._open

    def is_known(self, request: Request) -> bool:
        """Whether the request waits or is executed."""
        return request in self._of

    def is_waiting(self, request: Request) -> bool:
        sequence = self._of.get(request)
        return sequence is not None and sequence.running is not request

    def sequence(self, request: Request) -> Sequence:
        return self._of[request]

    def wake_ns(self) -> int | None:
        """When :meth:`expire` will find something."""
        while self._limits and not self._is_valid(self._limits[0]):
            heapq.heappop(self._limits)
        moments = [self._limits[0][0]] if self._limits else []
        if self._idle:
            moments.append(next(iter(self._idle.values())))
        return min(moments, default=None)

    # -- requests

    def add(self, key: Hashable, request: Request, last: bool) -> None:
        """A request of an open sequence, or the first one of a new sequence. ``last``: no other will follow."""
        sequence = self._open.get(key)
        if sequence is None:
            sequence = self._open[key] = Sequence(key)
            self._backlog[sequence] = None
            self._seat_waiting()
        self._idle.pop(sequence, None)
        self._of[request] = sequence
        sequence.waiting.append(request)
        if last:
            self._close(sequence)
        if sequence.slot is None:
            self._limit(sequence, request)
        elif sequence.running is None and len(sequence.waiting) == 1:
            self._offer(sequence)

    def begin(self, request: Request) -> Sequence:
        """A lane has handed the request out; it is executed now."""
        sequence = self._of[request]
        sequence.waiting.popleft()
        sequence.running = request
        sequence.begun = True
        self._running_count += 1
        return sequence

    def answered(self, request: Request, now_ns: int) -> None:
        """The last answer was given. Nothing comes of it where the request was not executed: it was handed back."""
        sequence = self._of.pop(request, None)
        if sequence is None:
            return
        sequence.running = None
        self._running_count -= 1
        if sequence.waiting:
            self._offer(sequence)
        elif sequence.is_open:
            self._idle[sequence] = now_ns + self._idle_ns
        else:
            self._leave(sequence)

    def again(self, request: Request) -> None:
        """What was executed shall be executed once more, before all else of its sequence."""
        sequence = self._of[request]
        sequence.running = None
        self._running_count -= 1
        sequence.waiting.appendleft(request)
        self._offer(sequence)

    def remove(self, request: Request) -> list[Request]:
        """A waiting request was cancelled: its sequence ends. All that waited of it; nothing when it does not wait."""
        return self._end(self._of[request]) if self.is_waiting(request) else []

    def expire(self, now_ns: int) -> list[Request]:
        """End what was idle for too long; the requests of the backlog whose time is over."""
        expired: list[Request] = []
        while self._limits and self._limits[0][0] <= now_ns:
            limit = heapq.heappop(self._limits)
            if self._is_valid(limit):
                expired += self._end(limit[2])
        while self._idle and next(iter(self._idle.values())) <= now_ns:
            self._end(next(iter(self._idle)))
        return expired

    def drain(self) -> list[Request]:
        """End everything; what waited."""
        waiting = [request for request, sequence in self._of.items() if sequence.running is not request]
        for sequence in dict.fromkeys([*self._of.values(), *self._open.values()]):
            self._end(sequence)
        return waiting

    # -- instances

    def open_lane(self, lane: int) -> None:
        """An instance is there."""
        if lane in self._open_lanes:
            return
        self._open_lanes.add(lane)
        for number in range(self._slots):
            heapq.heappush(self._free, Slot(number, lane))
        self._seat_waiting()

    def close_lane(self, lane: int) -> list[Request]:
        """An instance died, what it executed was answered. The requests that make no sense without what it knew."""
        self._open_lanes.discard(lane)
        self._free = [slot for slot in self._free if slot.lane != lane]
        heapq.heapify(self._free)
        lost: list[Request] = []
        for slot in sorted((slot for slot in self._seated if slot.lane == lane), reverse=True):
            sequence = self._seated.pop(slot)
            self._idle.pop(sequence, None)
            if sequence.waiting and sequence.running is None:
                self._lanes[lane].remove(sequence.waiting[0])
            sequence.slot = None
            while sequence.begun and sequence.waiting and not sequence.waiting[0].flags & SEQUENCE_START:
                request = sequence.waiting.popleft()
                del self._of[request]
                lost.append(request)
            if not sequence.waiting:
                self._close(sequence)
                continue
            sequence.begun = False
            sequence.limit_ns = None
            self._backlog[sequence] = None
            self._backlog.move_to_end(sequence, last=False)
            for request in sequence.waiting:
                self._limit(sequence, request)
        self._seat_waiting()
        return lost

    # -- steps of these

    def _offer(self, sequence: Sequence) -> None:
        """The turn of its next request has come."""
        assert sequence.slot is not None
        self._lanes[sequence.slot.lane].push(sequence.slot.number, sequence.waiting[0])

    def _limit(self, sequence: Sequence, request: Request) -> None:
        """How long a request may wait in the backlog, from its arrival on; the shortest time of a sequence counts."""
        limit_ns = request.queued_ns + 1000 * request.timeout_us
        if not request.timeout_us or (sequence.limit_ns is not None and sequence.limit_ns <= limit_ns):
            return
        sequence.limit_ns = limit_ns
        if len(self._limits) > _SMALL_HEAP + 2 * len(self._backlog):
            self._limits = [limit for limit in self._limits if self._is_valid(limit)]
            heapq.heapify(self._limits)
        heapq.heappush(self._limits, (limit_ns, next(self._limit_numbers), sequence))

    def _is_valid(self, limit: Limit) -> bool:
        """An entry of the heap stays there when its sequence leaves the backlog, or gets a shorter limit."""
        return limit[2] in self._backlog and limit[0] == limit[2].limit_ns

    def _seat_waiting(self) -> None:
        """Give away free slots."""
        while self._free and self._backlog:
            sequence, _ = self._backlog.popitem(last=False)
            sequence.slot = heapq.heappop(self._free)
            self._seated[sequence.slot] = sequence
            if sequence.waiting:
                self._offer(sequence)

    def _leave(self, sequence: Sequence) -> None:
        """Give its slot back."""
        slot, sequence.slot = sequence.slot, None
        if slot is not None:
            del self._seated[slot]
            heapq.heappush(self._free, slot)
            self._seat_waiting()

    def _close(self, sequence: Sequence) -> None:
        """Nothing more can join it."""
        if sequence.is_open:
            sequence.is_open = False
            del self._open[sequence.key]

    def _end(self, sequence: Sequence) -> list[Request]:
        """Take out all of a sequence that is not executed just now."""
        self._close(sequence)
        self._backlog.pop(sequence, None)
        self._idle.pop(sequence, None)
        removed = list(sequence.waiting)
        sequence.waiting.clear()
        for request in removed:
            del self._of[request]
        if sequence.running is None:
            if removed and sequence.slot is not None:
                self._lanes[sequence.slot.lane].remove(removed[0])
            self._leave(sequence)
        return removed
