"""Feeds the instances of one model from its queue.

An instance that finishes should find its next request already in its channel, since a round trip to the supervisor
costs more than a small model's execution. So requests are sent ahead, but only while every instance is busy, no more
than the instance executes in a millisecond, and not when the current one is late: a slow model never holds a request
that another instance could have taken. Several at a time also make for fewer wake-ups of either process: under load
each read then finds more than one message.
"""

from __future__ import annotations

import asyncio
import collections
import time

from atoll.errors import Code, ServerError
from atoll.inference import Request
from atoll.instances.instance import Instance, State
from atoll.scheduling.queues import Queue
from atoll.scheduling.scheduler import SchedulerOwner

__all__ = ["Dispatcher"]

_AHEAD_NS = 1_000_000
_MOST_AHEAD = 4


class Dispatcher:
    """The shell around a :class:`~atoll.scheduling.queues.Queue`."""

    def __init__(self, queue: Queue, instances: list[Instance], owner: SchedulerOwner) -> None:
        self.queue = queue
        self._waiting = queue.requests
        self.instances = instances
        self._owner = owner
        self._idle: collections.deque[Instance] = collections.deque()
        self._timer: asyncio.TimerHandle | None = None
        self._wake_ns = 0  # when the timer goes off

    @property
    def pending(self) -> int:
        """Requests whose execution has not begun: queued, or sent ahead."""
        ahead = sum(
            len(execution.requests)
            for instance in self.instances
            for execution in list(instance.executions)[1:]
            if not execution.is_dropped
        )
        return len(self._waiting) + ahead

    def submit(self, request: Request) -> None:
        now = request.queued_ns = time.monotonic_ns()
        queue = self.queue
        if queue.one_by_one and not self._waiting:
            instance = self._idle_instance()
            if instance is not None:
                instance.execute([request], now)
                return
        if queue.expires:
            self._expire(now)  # it makes room
        queue.push(request)
        self._pump(now)

    def cancel(self, request: Request) -> bool:
        return self.queue.remove(request)

    def is_queued(self, request: Request) -> bool:
        return request in self._waiting

    def died(self, instance: Instance, unstarted: list[Request]) -> list[Request]:
        """What an instance took with it to the grave goes to others."""
        self.queue.push_front(unstarted)
        self._pump(time.monotonic_ns())
        return []

    def freed(self, instance: Instance) -> None:
        """An instance came up, or finished an execution."""
        if not instance.executions and instance not in self._idle:
            self._idle.append(instance)
        if self._waiting:
            self._pump(time.monotonic_ns())

    def _pump(self, now: int) -> None:
        """Refuse what has waited too long, and hand out what may run now."""
        queue = self.queue
        if queue.expires:
            self._expire(now)
        idle = False
        while self._waiting:
            instance = self._idle_instance()
            if instance is None:
                if not any(self._send_ahead(busy, now) for busy in self._least_busy_first()):
                    break
                continue
            batch = queue.next_batch(now)
            if batch is None:
                self._idle.appendleft(instance)
                idle = True
                break
            instance.execute(batch, now)
        if not queue.one_by_one:
            self._wake_at(queue.wake_ns(idle), now)

    def _expire(self, now: int) -> None:
        for request in self.queue.expire(now):
            self._owner.dropped(request, ServerError(Code.UNAVAILABLE, "Request timeout expired"))

    def _least_busy_first(self) -> list[Instance]:
        if len(self.instances) == 1:
            return self.instances
        return sorted(self.instances, key=lambda instance: len(instance.executions))

    def _idle_instance(self) -> Instance | None:
        while self._idle:
            instance = self._idle.popleft()
            if instance.state is State.READY and not instance.executions:
                return instance
        return None

    def _send_ahead(self, instance: Instance, now: int) -> bool:
        if (
            not self.queue.one_by_one
            or instance.state is not State.READY
            or not 0 < len(instance.executions) <= _MOST_AHEAD
            or not 0 < len(instance.executions) * instance.recent_execution_ns < _AHEAD_NS
            or now - instance.executions[0].began_ns > _AHEAD_NS
        ):
            return False
        batch = self.queue.next_batch(now)
        if batch is None:
            return False
        instance.execute(batch, now)
        instance.executions[-1].was_sent_ahead = True
        return True

    def _wake_at(self, wake_ns: int | None, now: int) -> None:
        """Look again at that moment, or before."""
        if wake_ns is None:
            return
        if self._timer is not None:
            if self._wake_ns <= wake_ns:
                return
            self._timer.cancel()
        self._wake_ns = wake_ns
        self._timer = asyncio.get_running_loop().call_later(max(0, wake_ns - now) / 1e9, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._pump(time.monotonic_ns())

    def stop(self) -> list[Request]:
        """Nothing is handed out any more; returns what still waits."""
        if self._timer is not None:
            self._timer.cancel()
        return self.queue.drain()
