"""The rate limiter: which instance of which model may execute next, where all share resources. State without IO.

One limiter serves all models of a server. Each instance has a *seat*:

::

    resting ──stage──► staged ──granted──► running ──release──► resting
       ▲                 │
       └────withdraw─────┘

1. A staged seat wants to execute and waits for its turn: those with the lowest ``priority * executions so far`` come
   first, among equals those that have waited longer.
2. A seat runs only when all its resources are free; it holds them until it is released.
3. One that lacks a resource does not hold up seats that need others. But what it needs is kept for it: nobody behind
   it gets a unit that it waits for, or a seat with many units could wait for ever.
4. A pool belongs to one device, or is global. Its size is what the command line says; where that names no resource at
   all, the most that any one seat needs of it.
5. A new seat starts level with the lowest, and not with zero: a model that is loaded late shall not have the machine
   for itself until it has caught up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from atoll.errors import Code, ServerError

__all__ = ["Demand", "RateLimiter", "Resource", "Seat"]


@dataclass(frozen=True, slots=True)
class Resource:
    """A pool: that of a device, or with no device, the global one."""

    name: str
    device: int | None


@dataclass(frozen=True, slots=True)
class Demand:
    """What an instance needs to execute, and how its executions weigh: one of twice the priority runs half as often."""

    units: dict[Resource, int]
    priority: int = 1


class Seat:
    """One instance's place at the limiter."""

    __slots__ = ("demand", "executions", "is_running", "start")

    def __init__(self, demand: Demand, start: Callable[[], bool]) -> None:
        self.demand = demand
        self.start = start
        self.executions = 0
        self.is_running = False

    @property
    def score(self) -> int:
        return self.demand.priority * self.executions


class RateLimiter:
    """Grants turns. A granted seat's ``start`` is called, which says whether there was anything to execute."""

    def __init__(self, limits: Iterable[tuple[str, int, int | None]] = ()) -> None:
        """``limits``: name, units and device; without a device, so many on each device, and globally."""
        self._limits = {Resource(name, device): count for name, count, device in limits}
        self._seats: set[Seat] = set()
        self._staged: dict[Seat, None] = {}  # in the order of their coming
        self._used: Counter[Resource] = Counter()
        self._is_granting = False

    def check(self, demands: Iterable[Demand]) -> None:
        """Raises ServerError INVALID_ARG where one of these could never be met."""
        needed: Counter[Resource] = Counter()
        for demand in demands:
            needed |= Counter(demand.units)
        known = {resource for seat in self._seats for resource in seat.demand.units}.union(needed)
        global_names = {resource.name for resource in known if resource.device is None}
        device_names = {resource.name for resource in known if resource.device is not None}
        for resource, count in needed.items():
            if resource.name in global_names & device_names:
                raise ServerError(
                    Code.INVALID_ARG,
                    f'Resource "{resource.name}" is present as both global and device-specific resource in the model '
                    "configuration.",
                )
            if self._limits and count > self._size(resource):
                raise ServerError(
                    Code.INVALID_ARG,
                    f'Resource count for "{resource.name}" is limited to {self._size(resource)} which will prevent '
                    f"scheduling of one or more model instances, the minimum required count is {count}",
                )

    def enrol(self, seats: Collection[Seat]) -> None:
        """New seats. See that they can run at all with :meth:`check`."""
        level = min((seat.score for seat in self._seats), default=0)
        for seat in seats:
            seat.executions = level // seat.demand.priority
        self._seats.update(seats)

    def leave(self, seats: Collection[Seat]) -> None:
        """The model is gone, and whatever its seats held is free."""
        for seat in seats:
            self._free(seat)
            self._staged.pop(seat, None)
            self._seats.discard(seat)
        self._grant()

    def stage(self, seats: Iterable[Seat]) -> None:
        """They want to execute. May start them there and then."""
        for seat in seats:
            if not seat.is_running:
                self._staged.setdefault(seat)
        self._grant()

    def withdraw(self, seats: Iterable[Seat]) -> None:
        """There is nothing to execute any more."""
        for seat in seats:
            self._staged.pop(seat, None)
        self._grant()

    def release(self, seat: Seat, stage: bool = False) -> None:
        """Its execution is over. With ``stage`` it wants another turn, and has the next one if it is the lowest."""
        self._free(seat)
        if stage:
            self._staged.setdefault(seat)
        self._grant()

    def available(self, resource: Resource) -> int:
        """Units of a pool that nobody holds."""
        return self._size(resource) - self._used[resource]

    def _size(self, resource: Resource) -> int:
        if not self._limits:
            return max((seat.demand.units.get(resource, 0) for seat in self._seats), default=0)
        everywhere = self._limits.get(Resource(resource.name, None), 0)
        return self._limits.get(resource, everywhere)

    def _grant(self) -> None:
        """Start all that may run now."""
        if self._is_granting:
            return  # what the started have changed, the loop below sees
        self._is_granting = True
        try:
            while (seat := self._next()) is not None:
                del self._staged[seat]
                seat.is_running = True
                self._used.update(seat.demand.units)
                if seat.start():
                    seat.executions += 1
                else:
                    self._free(seat)
        finally:
            self._is_granting = False

    def _next(self) -> Seat | None:
        free = {resource: self.available(resource) for seat in self._staged for resource in seat.demand.units}
        for seat in sorted(self._staged, key=lambda seat: seat.score):
            units = seat.demand.units
            if all(free[resource] >= count for resource, count in units.items()):
                return seat
            for resource, count in units.items():
                free[resource] -= count
        return None

    def _free(self, seat: Seat) -> None:
        if seat.is_running:
            seat.is_running = False
            self._used.subtract(seat.demand.units)
