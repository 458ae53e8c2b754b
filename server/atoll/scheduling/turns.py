"""One model's instances at the rate limiter: who may execute, and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

from atoll.instances.instance import Instance, RateLimit, State
from atoll.scheduling.rate_limiter import Demand, RateLimiter, Resource, Seat

__all__ = ["Turns", "demand"]


class Turns:
    """A turn is one execution. Nothing is sent ahead, and what is executed is decided when the turn has come."""

    def __init__(self, limiter: RateLimiter, start: Callable[[Instance], bool]) -> None:
        """``start`` has an idle instance execute what is due, and says whether there was anything."""
        self._limiter = limiter
        self._start = start
        self._seats: dict[Instance, Seat] = {}  # of instances that have come up

    def freed(self, instance: Instance, has_work: bool) -> None:
        """An instance came up, or finished an execution; with more work it has the next turn if it is the lowest."""
        seat = self._seats.get(instance)
        if seat is None:
            seat = self._seats[instance] = Seat(demand(instance.settings.rate_limit), partial(self._begin, instance))
            self._limiter.enrol([seat])
        self._limiter.release(seat, stage=has_work and _is_idle(instance))

    def died(self, instance: Instance) -> None:
        seat = self._seats.get(instance)
        if seat is not None:
            self._limiter.withdraw([seat])
            self._limiter.release(seat)

    def set_waiting(self, instances: Iterable[Instance]) -> None:
        """Those of ``instances`` that are idle want a turn, and no others. May start them there and then."""
        for instance in [instance for instance in self._seats if instance.state is State.STOPPED]:
            self._limiter.leave([self._seats.pop(instance)])
        waiting = {self._seats[instance] for instance in instances if instance in self._seats and _is_idle(instance)}
        self._limiter.withdraw(seat for seat in self._seats.values() if seat not in waiting)
        self._limiter.stage(waiting)

    def end(self) -> None:
        """The model is gone. What its last executions hold is free at once: they are few, and about to end."""
        self._limiter.leave(self._seats.values())
        self._seats.clear()

    def _begin(self, instance: Instance) -> bool:
        return _is_idle(instance) and self._start(instance)


def demand(limit: RateLimit) -> Demand:
    """What an instance's settings say, in the limiter's words."""
    units: Counter[Resource] = Counter()
    for name, device, count in limit.resources:
        units[Resource(name, device)] += count
    return Demand(dict(units), limit.priority)


def _is_idle(instance: Instance) -> bool:
    return instance.state is State.READY and not instance.executions
