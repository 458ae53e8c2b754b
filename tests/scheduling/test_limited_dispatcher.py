"""Dispatchers that share a rate limiter: a batch is formed when its turn has come, and nobody waits in vain."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from atoll.instances.instance import RateLimit, State
from atoll.scheduling.dynamic_batcher import DynamicBatcher
from atoll.scheduling.levels import Levels, QueuePolicy
from atoll.scheduling.limited_dispatcher import LimitedDispatcher
from atoll.scheduling.queues import FifoQueue, Queue
from atoll.scheduling.rate_limiter import RateLimiter, Resource
from scheduling_twins import SHORT_NS, InstanceTwin, OwnerTwin, names, on_loop, request

pytestmark = pytest.mark.spec("server:231")

R = Resource("R", 0)


class Limited(InstanceTwin):
    """An instance that needs so many units of R."""

    def __init__(self, units: int = 1, priority: int = 1) -> None:
        super().__init__(SHORT_NS)
        self.settings = SimpleNamespace(rate_limit=RateLimit(priority, (("R", 0, units),)))


def start(
    limiter: RateLimiter, *instances: Limited, queue: Queue | None = None, owner: OwnerTwin | None = None
) -> LimitedDispatcher:
    dispatcher = LimitedDispatcher(
        queue or FifoQueue(),
        list(instances),  # type: ignore[arg-type]
        owner or OwnerTwin(),
        limiter,
    )
    for instance in instances:
        dispatcher.freed(instance)  # type: ignore[arg-type]
    return dispatcher


def submit(dispatcher: LimitedDispatcher, *names: str) -> None:
    for name in names:
        dispatcher.submit(request(name))


def batcher(delay_us: int = 0, timeout_us: int = 0) -> DynamicBatcher:
    policy = QueuePolicy(timeout_ns=timeout_us * 1000)
    return DynamicBatcher(4, (), delay_us * 1000, lambda request: None, Levels(lambda level: policy))


@on_loop
async def test_one_execution_is_one_turn_and_nothing_is_sent_ahead() -> None:
    instance = Limited()
    dispatcher = start(RateLimiter(), instance)
    submit(dispatcher, "a", "b", "c")
    assert names(instance.taken) == ["a"]
    instance.finish(dispatcher)
    instance.finish(dispatcher)
    assert names(instance.taken) == ["a", "b", "c"]
    assert dispatcher.pending == 0


@on_loop
async def test_a_batch_grows_until_its_turn() -> None:
    limiter = RateLimiter()
    mine, theirs = Limited(), Limited()
    my, their = start(limiter, mine), start(limiter, theirs, queue=batcher())
    submit(my, "x")
    submit(their, "a", "b", "c")
    assert theirs.taken == []
    mine.finish(my)
    assert names(theirs.taken) == ["abc"]


@on_loop
async def test_the_idle_instance_that_has_executed_least_goes_first() -> None:
    limiter = RateLimiter([("R", 9, None)])
    first, second = Limited(), Limited(priority=2)
    dispatcher = start(limiter, first, second)
    for name in "abcdef":
        submit(dispatcher, name)
        (first if first.executions else second).finish(dispatcher)
    assert (len(first.taken), len(second.taken)) == (4, 2)


@on_loop
async def test_a_delay_keeps_no_turn_from_others_and_ends_on_time() -> None:
    limiter = RateLimiter()
    patient, other = Limited(), Limited()
    waiting, busy = start(limiter, patient, queue=batcher(delay_us=20_000)), start(limiter, other)
    submit(waiting, "a", "b")
    submit(busy, "x")
    assert (patient.taken, names(other.taken)) == ([], ["x"])
    other.finish(busy)
    await patient.executed.wait()
    assert names(patient.taken) == ["ab"]


@on_loop
async def test_a_request_that_waits_for_a_turn_too_long_is_refused_on_time() -> None:
    limiter, owner = RateLimiter(), OwnerTwin()
    mine, theirs = Limited(), Limited()
    my, their = start(limiter, mine), start(limiter, theirs, queue=batcher(timeout_us=1000), owner=owner)
    submit(my, "x")
    submit(their, "a")
    await owner.told.wait()
    assert owner.dropped_requests == [("a", "Unavailable: Request timeout expired")]
    mine.finish(my)
    assert theirs.taken == []
    assert limiter.available(R) == 1


@on_loop
async def test_a_batch_that_waits_for_a_turn_sets_no_timer_again_and_again() -> None:
    limiter = RateLimiter()
    mine, theirs = Limited(), Limited()
    my, their = start(limiter, mine), start(limiter, theirs, queue=batcher(delay_us=1))
    submit(my, "x")
    submit(their, "a")
    timers = 0
    plain = asyncio.get_running_loop().call_later

    def counted(*arguments: object) -> asyncio.TimerHandle:
        nonlocal timers
        timers += 1
        return plain(*arguments)  # type: ignore[arg-type]

    loop = asyncio.get_running_loop()
    loop.call_later = counted  # type: ignore[method-assign, assignment]
    done = asyncio.Event()
    plain(0.01, done.set)
    await done.wait()
    assert timers <= 1
    mine.finish(my)
    assert names(theirs.taken) == ["a"]


@on_loop
async def test_a_cancelled_request_takes_no_turn() -> None:
    limiter = RateLimiter()
    mine, theirs, third = Limited(2), Limited(2), Limited(1)
    my, their, other = start(limiter, mine), start(limiter, theirs), start(limiter, third)
    submit(my, "x")
    cancelled = request("a")
    their.submit(cancelled)
    submit(other, "b")
    assert their.cancel(cancelled)
    mine.finish(my)
    assert (theirs.taken, names(third.taken)) == ([], ["b"])


@on_loop
async def test_the_dead_hold_nothing_and_have_a_turn_again_when_they_are_back() -> None:
    limiter = RateLimiter()
    mine, theirs = Limited(), Limited()
    my, their = start(limiter, mine), start(limiter, theirs)
    submit(my, "x")
    submit(their, "a", "b")
    mine.die(my)
    assert names(theirs.taken) == ["a"]
    submit(my, "y")
    theirs.finish(their)
    assert names(theirs.taken) == ["a", "b"]
    mine.restart(my)
    theirs.finish(their)
    assert names(mine.taken) == ["x", "y"]


@on_loop
async def test_instances_come_and_go() -> None:
    limiter = RateLimiter()
    first = Limited(1)
    dispatcher = start(limiter, first)
    submit(dispatcher, "a")
    first.state = State.LEAVING
    submit(dispatcher, "b")
    second = Limited(3)
    dispatcher.instances.append(second)  # type: ignore[arg-type]
    dispatcher.freed(second)  # type: ignore[arg-type]
    assert limiter.available(R) == 3 - 1
    first.finish(dispatcher)
    assert names(second.taken) == ["b"]
    first.state = State.STOPPED
    second.finish(dispatcher)
    submit(dispatcher, "c")
    assert names(first.taken) == ["a"]
    dispatcher.stop()
    assert limiter.available(R) == 0


@on_loop
async def test_stopping_gives_back_what_waits_and_every_turn() -> None:
    limiter = RateLimiter()
    mine, theirs = Limited(), Limited()
    my, their = start(limiter, mine), start(limiter, theirs)
    submit(my, "x", "y")
    submit(their, "a")
    assert [one.id for one in my.stop()] == ["y"]
    assert names(theirs.taken) == ["a"]
    mine.finish(my)
    assert names(mine.taken) == ["x"]
