"""A dispatcher whose instances wait for their turns at the rate limiter."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial

from atoll.inference import Request
from atoll.instances.instance import Instance, RateLimit, State
from atoll.scheduling.dispatcher import Dispatcher
from atoll.scheduling.queues import Queue
from atoll.scheduling.rate_limiter import Demand, RateLimiter, Resource, Seat
from atoll.scheduling.scheduler import SchedulerOwner

__all__ = ["LimitedDispatcher", "demand"]


class LimitedDispatcher(Dispatcher):
    """While there is a batch to execute, every idle instance waits for its turn; the first that gets one takes it.

    A batch is formed when its turn has come, so it grows until then. Nothing is sent ahead: a turn is one execution.
    """

    def __init__(self, queue: Queue, instances: list[Instance], owner: SchedulerOwner, limiter: RateLimiter) -> None:
        super().__init__(queue, instances, owner)
        self._limiter = limiter
        self._seats: dict[Instance, Seat] = {}  # of instances that have come up

    def cancel(self, request: Request) -> bool:
        removed = super().cancel(request)
        if removed and not self._waiting:
            self._limiter.withdraw(self._seats.values())
        return removed

    def freed(self, instance: Instance) -> None:
        now = time.monotonic_ns()
        seat = self._seats.get(instance)
        if seat is None:
            seat = self._seats[instance] = Seat(demand(instance.settings.rate_limit), partial(self._start, instance))
            self._limiter.enrol([seat])
        self._limiter.release(seat, stage=_is_idle(instance) and self.queue.is_due(now))
        self._pump(now)

    def died(self, instance: Instance, unstarted: list[Request]) -> list[Request]:
        seat = self._seats.get(instance)
        if seat is not None:
            self._limiter.withdraw([seat])
            self._limiter.release(seat)
        return super().died(instance, unstarted)

    def stop(self) -> list[Request]:
        self._limiter.leave(self._seats.values())
        return super().stop()

    def _pump(self, now: int) -> None:
        queue = self.queue
        if queue.expires:
            self._expire(now)
        for instance in [instance for instance in self._seats if instance.state is State.STOPPED]:
            self._limiter.leave([self._seats.pop(instance)])
        if queue.is_due(now):
            self._limiter.stage(seat for instance, seat in self._seats.items() if _is_idle(instance))
        self._settle(now)

    def _start(self, instance: Instance) -> bool:
        """It is an instance's turn: have it execute what is due."""
        now = time.monotonic_ns()
        if self.queue.expires:
            self._expire(now)
        batch = self.queue.next_batch(now) if _is_idle(instance) else None
        if batch is not None:
            instance.execute(batch, now)
        self._settle(now)
        return batch is not None

    def _settle(self, now: int) -> None:
        """Nobody waits for a turn in vain, and nothing is forgotten."""
        is_due = self.queue.is_due(now)
        if not is_due:
            self._limiter.withdraw(self._seats.values())
        self._wake_at(self.queue.wake_ns(idle=not is_due), now)


def demand(limit: RateLimit) -> Demand:
    """What an instance's settings say, in the limiter's words."""
    units: Counter[Resource] = Counter()
    for name, device, count in limit.resources:
        units[Resource(name, device)] += count
    return Demand(dict(units), limit.priority)


def _is_idle(instance: Instance) -> bool:
    return instance.state is State.READY and not instance.executions
