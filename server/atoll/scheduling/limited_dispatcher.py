"""A dispatcher whose instances wait for their turns at the rate limiter."""

from __future__ import annotations

import time

from atoll.inference import Request
from atoll.instances.instance import Instance
from atoll.scheduling.dispatcher import Dispatcher
from atoll.scheduling.queues import Queue
from atoll.scheduling.rate_limiter import RateLimiter
from atoll.scheduling.scheduler import SchedulerOwner
from atoll.scheduling.turns import Turns

__all__ = ["LimitedDispatcher"]


class LimitedDispatcher(Dispatcher):
    """While there is a batch to execute, every idle instance waits for its turn; the first that gets one takes it.

    A batch is formed when its turn has come, so it grows until then.
    """

    def __init__(self, queue: Queue, instances: list[Instance], owner: SchedulerOwner, limiter: RateLimiter) -> None:
        super().__init__(queue, instances, owner)
        self._turns = Turns(limiter, self._start)

    def cancel(self, request: Request) -> bool:
        removed = super().cancel(request)
        if removed and not self._waiting:
            self._turns.set_waiting(())
        return removed

    def freed(self, instance: Instance) -> None:
        now = time.monotonic_ns()
        self._turns.freed(instance, has_work=self.queue.is_due(now))
        self._pump(now)

    def died(self, instance: Instance, unstarted: list[Request]) -> list[Request]:
        self._turns.died(instance)
        return super().died(instance, unstarted)

    def stop(self) -> list[Request]:
        self._turns.end()
        return super().stop()

    def _pump(self, now: int) -> None:
        if self.queue.expires:
            self._expire(now)
        self._settle(now)

    def _start(self, instance: Instance) -> bool:
        """It is an instance's turn: have it execute what is due."""
        now = time.monotonic_ns()
        if self.queue.expires:
            self._expire(now)
        batch = self.queue.next_batch(now)
        if batch is not None:
            instance.execute(batch, now)
        self._settle(now)
        return batch is not None

    def _settle(self, now: int) -> None:
        """All that is due waits for a turn, nobody waits for one in vain, and nothing is forgotten."""
        self._turns.set_waiting(self.instances if self.queue.is_due(now) else ())
        self._wake_at(self.queue.wake_ns(idle=not self.queue.is_due(now)), now)
