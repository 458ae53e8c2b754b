"""Feeding instances from a queue: who gets what, and when. The instances are twins that remember."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

import pytest
from atoll.scheduling.dispatcher import Dispatcher
from atoll.scheduling.dynamic_batcher import DynamicBatcher
from atoll.scheduling.levels import Levels, QueuePolicy
from atoll.scheduling.queues import FifoQueue, Queue
from atoll.scheduling.scheduler import Rejected
from scheduling_twins import LONG_NS, SHORT_NS, InstanceTwin, OwnerTwin, names, on_loop, request


def start(queue: Queue, *instances: InstanceTwin, owner: OwnerTwin | None = None) -> Dispatcher:
    dispatcher = Dispatcher(queue, list(instances), owner or OwnerTwin())  # type: ignore[arg-type]
    for instance in instances:
        dispatcher.freed(instance)  # type: ignore[arg-type]
    return dispatcher


def submit(dispatcher: Dispatcher, *names: str) -> None:
    for name in names:
        dispatcher.submit(request(name))


# -- one at a time


@on_loop
async def test_idle_instances_take_one_request_each_in_turn() -> None:
    first, second = InstanceTwin(), InstanceTwin()
    dispatcher = start(FifoQueue(), first, second)
    submit(dispatcher, "a", "b", "c")
    assert (names(first.taken), names(second.taken)) == (["a"], ["b"])
    assert dispatcher.pending == 1


@on_loop
async def test_a_freed_instance_takes_the_oldest_request() -> None:
    first, second = InstanceTwin(), InstanceTwin()
    dispatcher = start(FifoQueue(), first, second)
    submit(dispatcher, "a", "b", "c", "d")
    second.finish(dispatcher)
    first.finish(dispatcher)
    assert (names(first.taken), names(second.taken)) == (["a", "d"], ["b", "c"])


@on_loop
async def test_an_idle_instance_is_preferred_to_sending_ahead() -> None:
    busy, idle = InstanceTwin(SHORT_NS), InstanceTwin(SHORT_NS)
    dispatcher = start(FifoQueue(), busy, idle)
    submit(dispatcher, "a", "b")
    assert (names(busy.taken), names(idle.taken)) == (["a"], ["b"])


@on_loop
async def test_requests_are_sent_ahead_to_short_executions_when_all_are_busy() -> None:
    instance = InstanceTwin(SHORT_NS)
    dispatcher = start(FifoQueue(), instance)
    submit(dispatcher, "a", "b")
    assert names(instance.taken) == ["a", "b"]
    assert dispatcher.pending == 1  # it waits, wherever it is
    assert instance.finish(dispatcher)[0].id == "a"
    assert dispatcher.pending == 0


@on_loop
async def test_only_a_few_requests_are_sent_ahead() -> None:
    instance = InstanceTwin(SHORT_NS)
    dispatcher = start(FifoQueue(), instance)
    submit(dispatcher, *(str(number) for number in range(50)))
    assert 1 < len(instance.taken) < 10
    assert dispatcher.pending == 49


@on_loop
async def test_what_is_sent_ahead_is_little_work() -> None:
    """However short one execution is, those that wait for it in the channel sum up to a millisecond at most."""
    instance = InstanceTwin(400_000)
    dispatcher = start(FifoQueue(), instance)
    submit(dispatcher, *"abcdef")
    assert 1 < len(instance.taken) <= 4


@on_loop
async def test_nothing_is_sent_ahead_to_long_executions() -> None:
    instance = InstanceTwin(LONG_NS)
    dispatcher = start(FifoQueue(), instance)
    submit(dispatcher, "a", "b")
    assert names(instance.taken) == ["a"]


@on_loop
async def test_nothing_is_sent_ahead_before_the_first_execution_was_measured() -> None:
    instance = InstanceTwin(0)
    dispatcher = start(FifoQueue(), instance)
    submit(dispatcher, "a", "b")
    assert names(instance.taken) == ["a"]


@on_loop
async def test_the_least_busy_instance_is_sent_ahead_first() -> None:
    first, second = InstanceTwin(SHORT_NS), InstanceTwin(SHORT_NS)
    dispatcher = start(FifoQueue(), first, second)
    submit(dispatcher, *"abcdef")
    assert (names(first.taken), names(second.taken)) == (["a", "c", "e"], ["b", "d", "f"])
    second.finish(dispatcher)
    second.finish(dispatcher)
    submit(dispatcher, "g")
    assert names(second.taken) == ["b", "d", "f", "g"]


@on_loop
async def test_what_the_least_busy_instance_may_not_take_goes_to_the_next() -> None:
    slow, short = InstanceTwin(LONG_NS), InstanceTwin(SHORT_NS)
    dispatcher = start(FifoQueue(), slow, short)
    submit(dispatcher, *"abcd")
    assert (names(slow.taken), names(short.taken)) == (["a"], ["b", "c", "d"])


def test_nothing_is_sent_ahead_while_the_current_execution_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000_000_000
    monkeypatch.setattr(time, "monotonic_ns", lambda: now)
    instance = InstanceTwin(SHORT_NS)
    dispatcher = start(FifoQueue(), instance)
    submit(dispatcher, "a")
    now += LONG_NS
    submit(dispatcher, "b")
    assert names(instance.taken) == ["a"]


@on_loop
async def test_every_request_is_executed_once_and_in_order() -> None:
    instances = [InstanceTwin(SHORT_NS), InstanceTwin(LONG_NS), InstanceTwin(0)]
    dispatcher = start(FifoQueue(), *instances)
    done = []
    submit(dispatcher, *(f"{number:02}" for number in range(60)))
    while busy := [instance for instance in instances if instance.executions]:
        done += [one.id for one in busy[len(done) % len(busy)].finish(dispatcher)]
    assert sorted(done) == [f"{number:02}" for number in range(60)]
    for instance in instances:
        taken = names(instance.taken)
        assert taken == sorted(taken)


# -- death


@on_loop
async def test_what_was_sent_ahead_of_a_death_comes_first_again() -> None:
    dying, other = InstanceTwin(SHORT_NS), InstanceTwin(LONG_NS)
    dispatcher = start(FifoQueue(), dying, other)
    submit(dispatcher, "a", "b", "c", "d")
    ahead = len(dying.taken) - 1
    assert ahead >= 1
    submit(dispatcher, "z")
    dying.die(dispatcher)
    assert names(other.taken) == ["b"]
    other.finish(dispatcher)
    other.finish(dispatcher)
    assert names(other.taken) == ["b", "c", "d"]


@on_loop
async def test_a_dead_instance_gets_nothing_until_it_is_back() -> None:
    instance = InstanceTwin()
    dispatcher = start(FifoQueue(), instance)
    instance.die(dispatcher)
    submit(dispatcher, "a", "b")
    assert instance.taken == []
    instance.restart(dispatcher)
    assert names(instance.taken) == ["a"]


@on_loop
async def test_an_idle_instance_that_died_and_came_back_is_idle_once() -> None:
    instance = InstanceTwin()
    dispatcher = start(FifoQueue(), instance)
    for _ in range(3):
        instance.die(dispatcher)
        instance.restart(dispatcher)
    submit(dispatcher, "a", "b")
    assert names(instance.taken) == ["a"]
    instance.finish(dispatcher)
    assert names(instance.taken) == ["a", "b"]


@on_loop
async def test_stopping_hands_back_what_waits() -> None:
    instance = InstanceTwin()
    dispatcher = start(FifoQueue(), instance)
    submit(dispatcher, "a", "b", "c")
    assert [one.id for one in dispatcher.stop()] == ["b", "c"]
    instance.finish(dispatcher)
    assert names(instance.taken) == ["a"]


# -- batches


def batcher(delay_us: int = 0) -> DynamicBatcher:
    return DynamicBatcher(4, (), delay_us * 1000, lambda request: None)


@on_loop
async def test_batches_fill_up_while_the_instance_is_busy_and_are_not_sent_ahead() -> None:
    instance = InstanceTwin(SHORT_NS)
    dispatcher = start(batcher(), instance)
    submit(dispatcher, "a", "b", "c", "d", "e", "f")
    assert names(instance.taken) == ["a"]
    instance.finish(dispatcher)
    instance.finish(dispatcher)
    assert names(instance.taken) == ["a", "bcde", "f"]


@on_loop
async def test_a_batch_that_waits_goes_when_its_delay_is_over() -> None:
    instance = InstanceTwin()
    dispatcher = start(batcher(delay_us=20_000), instance)
    began = time.monotonic()
    submit(dispatcher, "a", "b")
    assert instance.taken == []
    await instance.executed.wait()
    assert time.monotonic() - began >= 0.02
    assert names(instance.taken) == ["ab"]


@on_loop
async def test_a_full_batch_does_not_wait() -> None:
    instance = InstanceTwin()
    dispatcher = start(batcher(delay_us=10_000_000), instance)
    submit(dispatcher, "a", "b", "c", "d")
    assert names(instance.taken) == ["abcd"]
    dispatcher.stop()


@on_loop
async def test_an_instance_that_waits_for_a_batch_stays_idle_for_it() -> None:
    first, second = InstanceTwin(), InstanceTwin()
    dispatcher = start(batcher(delay_us=10_000_000), first, second)
    submit(dispatcher, "a", "b", "c", "d", "e", "f", "g", "h")
    assert (names(first.taken), names(second.taken)) == (["abcd"], ["efgh"])
    dispatcher.stop()


@on_loop
async def test_no_timer_fires_after_the_stop() -> None:
    instance = InstanceTwin()
    dispatcher = start(batcher(delay_us=1000), instance)
    submit(dispatcher, "a")
    assert [one.id for one in dispatcher.stop()] == ["a"]
    done = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, done.set)
    await done.wait()
    assert instance.taken == []


# -- queue policies


def limited(timeout_us: int = 0, *, on_timeout: Literal["reject", "delay"] = "reject", size: int = 0) -> DynamicBatcher:
    policy = QueuePolicy(size, timeout_us * 1000, True, on_timeout)
    return DynamicBatcher(1, (), 0, lambda request: None, Levels(lambda level: policy))


def let_pass_us(time_us: int) -> None:
    """The loop does not run meanwhile, nor do its timers."""
    deadline = time.monotonic_ns() + time_us * 1000
    while time.monotonic_ns() < deadline:
        pass


@pytest.mark.spec("server:208")
@on_loop
async def test_a_request_that_waits_too_long_is_refused_on_time_though_all_instances_are_busy() -> None:
    instance, owner = InstanceTwin(), OwnerTwin()
    dispatcher = start(limited(timeout_us=20_000), instance, owner=owner)
    submit(dispatcher, "a")
    began = time.monotonic()
    submit(dispatcher, "b")
    assert dispatcher.pending == 1
    await owner.told.wait()
    assert time.monotonic() - began >= 0.02
    assert owner.dropped_requests == [("b", "Unavailable: Request timeout expired")]
    assert dispatcher.pending == 0
    instance.finish(dispatcher)
    assert names(instance.taken) == ["a"]


@pytest.mark.spec("server:210")
@on_loop
async def test_the_timer_is_set_for_whichever_request_comes_first() -> None:
    instance, owner = InstanceTwin(), OwnerTwin()
    dispatcher = start(limited(timeout_us=60_000_000), instance, owner=owner)
    submit(dispatcher, "a", "b")
    hasty = request("c")
    hasty.timeout_us = 1000
    dispatcher.submit(hasty)
    await owner.told.wait()
    assert [name for name, _ in owner.dropped_requests] == ["c"]
    assert [one.id for one in dispatcher.stop()] == ["b"]


@on_loop
async def test_what_has_expired_makes_room_before_the_timer_tells() -> None:
    instance, owner = InstanceTwin(), OwnerTwin()
    dispatcher = start(limited(timeout_us=1000, size=1), instance, owner=owner)
    submit(dispatcher, "a", "b")
    with pytest.raises(Rejected):
        submit(dispatcher, "c")
    let_pass_us(1000)
    submit(dispatcher, "d")
    assert [name for name, _ in owner.dropped_requests] == ["b"]
    assert [one.id for one in dispatcher.stop()] == ["d"]


@pytest.mark.spec("server:209")
@on_loop
async def test_a_delayed_request_runs_when_nothing_else_waits() -> None:
    instance, owner = InstanceTwin(), OwnerTwin()
    dispatcher = start(limited(timeout_us=1000, on_timeout="delay"), instance, owner=owner)
    submit(dispatcher, "a", "b")
    let_pass_us(1000)
    submit(dispatcher, "c")
    for _ in range(3):
        instance.finish(dispatcher)
    assert names(instance.taken) == ["a", "c", "b"]
    assert owner.dropped_requests == []


@on_loop
async def test_a_request_of_higher_priority_overtakes() -> None:
    instance = InstanceTwin()
    queue = DynamicBatcher(1, (), 0, lambda request: None, Levels(lambda level: QueuePolicy(), 2, 2))
    dispatcher = start(queue, instance)
    submit(dispatcher, "a", "b")
    urgent = request("c")
    urgent.priority = 1
    dispatcher.submit(urgent)
    for _ in range(3):
        instance.finish(dispatcher)
    assert names(instance.taken) == ["a", "c", "b"]


@on_loop
async def test_a_held_batcher_starts_once_so_many_wait() -> None:
    instance = InstanceTwin()
    dispatcher = start(DynamicBatcher(2, (), 0, lambda request: None, hold_until=3), instance)
    submit(dispatcher, "a", "b")
    assert instance.taken == []
    submit(dispatcher, "c")
    instance.finish(dispatcher)
    instance.finish(dispatcher)
    submit(dispatcher, "d")
    assert names(instance.taken) == ["ab", "c", "d"]
