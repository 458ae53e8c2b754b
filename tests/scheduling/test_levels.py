"""Priority levels and queue policies, without a clock: who comes first, who is refused, who has waited too long."""

from __future__ import annotations

import gc
import random
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from atoll.inference import Request
from atoll.scheduling.dynamic_batcher import DynamicBatcher
from atoll.scheduling.levels import Levels, QueuePolicy
from atoll.scheduling.queues import FifoQueue, Queue
from atoll.scheduling.scheduler import Rejected
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

UNLIMITED = QueuePolicy()


def request(name: str = "", at_ns: int = 0, *, priority: int = 0, timeout_us: int = 0, size: int = 1) -> Request:
    made = Request("m", [], lambda response: None, id=name, priority=priority, timeout_us=timeout_us)
    made.queued_ns = at_ns
    made.batch_size = size
    return made


def levels(*policies: QueuePolicy, default: int = 1) -> Levels:
    """One level per policy; without one, priorities mean nothing."""
    if len(policies) < 2:
        return Levels(lambda level: policies[0] if policies else UNLIMITED)
    return Levels(lambda level: policies[level - 1], len(policies), default)


def order(waiting: Levels) -> str:
    return "".join(one.id for one in waiting)


# -- priorities


@pytest.mark.spec("server:206")
def test_a_lower_number_comes_first_and_a_level_keeps_its_order() -> None:
    waiting = levels(UNLIMITED, UNLIMITED, UNLIMITED)
    for name, priority in zip("abcdef", (3, 1, 2, 1, 3, 2), strict=True):
        waiting.push(request(name, priority=priority))
    assert order(waiting) == "bdcfae"


@pytest.mark.spec("server:206")
@pytest.mark.parametrize("priority", [0, 4, 2**63])
def test_a_request_without_a_level_of_its_own_has_the_default_one(priority: int) -> None:
    waiting = levels(UNLIMITED, UNLIMITED, UNLIMITED, default=2)
    for name, given_priority in zip("abcd", (3, priority, 2, 1), strict=True):
        waiting.push(request(name, priority=given_priority))
    assert order(waiting) == "dbca"


def test_without_levels_priorities_mean_nothing() -> None:
    waiting = levels()
    for name, priority in zip("abc", (3, 1, 2), strict=True):
        waiting.push(request(name, priority=priority))
    assert order(waiting) == "abc"


def test_requests_put_back_are_the_first_of_their_levels() -> None:
    waiting = levels(UNLIMITED, UNLIMITED)
    for name, priority in zip("abcd", (1, 2, 1, 2), strict=True):
        waiting.push(request(name, priority=priority))
    taken = waiting.take(3)
    waiting.push(request("e", priority=1))
    waiting.push_front(taken)
    assert order(waiting) == "acebd"


# -- room


@pytest.mark.spec("server:207")
def test_a_full_level_refuses_and_others_do_not() -> None:
    waiting = levels(QueuePolicy(max_queue_size=2), UNLIMITED)
    waiting.push(request("a", priority=1))
    waiting.push(request("b", priority=1))
    with pytest.raises(Rejected) as refusal:
        waiting.push(request("c", priority=1))
    assert str(refusal.value) == "Unavailable: [request id: c] Exceeds maximum queue size"
    with pytest.raises(Rejected, match=r"^Unavailable: \[request id: <id_unknown>\] Exceeds maximum queue size$"):
        waiting.push(request(priority=1))
    waiting.push(request("d", priority=2))
    assert order(waiting) == "abd"
    assert waiting.take(1)[0].id == "a"
    waiting.push(request("e", priority=1))
    assert order(waiting) == "bed"


def test_there_is_always_room_for_what_is_put_back() -> None:
    waiting = levels(QueuePolicy(max_queue_size=1))
    waiting.push(request("a"))
    taken = waiting.take(1)
    waiting.push(request("b"))
    waiting.push_front(taken)
    assert order(waiting) == "ab"


# -- time


def test_what_has_waited_too_long_is_taken_out() -> None:
    waiting = levels(QueuePolicy(timeout_ns=100))
    for name, at_ns in zip("abc", (0, 50, 51), strict=True):
        waiting.push(request(name, at_ns))
    assert waiting.deadline_ns() == 100
    assert waiting.expire(99) == []
    assert [one.id for one in waiting.expire(150)] == ["a", "b"]
    assert order(waiting) == "c"
    assert waiting.deadline_ns() == 151
    assert waiting.take(1)[0].id == "c"
    assert waiting.deadline_ns() is None
    assert waiting.expire(1000) == []


@pytest.mark.spec("server:210")
@pytest.mark.parametrize(
    ("policy", "timeout_us", "deadline_ns"),
    [
        (QueuePolicy(timeout_ns=5000, may_shorten=True), 0, 5000),
        (QueuePolicy(timeout_ns=5000, may_shorten=True), 3, 3000),
        (QueuePolicy(timeout_ns=5000, may_shorten=True), 9, 5000),
        (QueuePolicy(timeout_ns=5000), 3, 5000),
        (QueuePolicy(timeout_ns=0, may_shorten=True), 3, None),
        (QueuePolicy(), 3, None),
    ],
)
def test_a_request_may_only_shorten_its_time(policy: QueuePolicy, timeout_us: int, deadline_ns: int | None) -> None:
    waiting = levels(policy)
    waiting.push(request(timeout_us=timeout_us))
    assert waiting.deadline_ns() == deadline_ns


@pytest.mark.spec("server:210")
def test_shorter_times_end_sooner_whatever_the_order_of_arrival() -> None:
    waiting = levels(QueuePolicy(timeout_ns=9000, may_shorten=True))
    for name, timeout_us in zip("abcd", (0, 5, 2, 7), strict=True):
        waiting.push(request(name, timeout_us=timeout_us))
    assert [one.id for moment in (2000, 5000, 7000, 9000) for one in waiting.expire(moment)] == list("cbda")


@pytest.mark.spec("server:209")
def test_delayed_requests_come_last_of_their_level_and_stay() -> None:
    delaying = QueuePolicy(timeout_ns=100, on_timeout="delay")
    waiting = levels(delaying, UNLIMITED)
    waiting.push(request("a", 0, priority=1))
    waiting.push(request("b", 10, priority=1))
    waiting.push(request("z", 0, priority=2))
    assert waiting.expire(100) == []
    assert order(waiting) == "baz"
    waiting.push(request("c", 100, priority=1))
    assert order(waiting) == "bcaz"
    assert waiting.expire(10_000) == []
    assert order(waiting) == "abcz"  # all are late now, in the order in which they became so
    assert waiting.deadline_ns() is None


@pytest.mark.spec("server:209")
def test_delayed_requests_count_in_the_queue() -> None:
    waiting = levels(QueuePolicy(timeout_ns=100, max_queue_size=1, on_timeout="delay"))
    waiting.push(request("a"))
    waiting.expire(100)
    with pytest.raises(Rejected):
        waiting.push(request("b", 100))


def test_each_level_has_its_policy() -> None:
    waiting = levels(QueuePolicy(timeout_ns=100), QueuePolicy(timeout_ns=50, on_timeout="delay"), UNLIMITED, default=3)
    for name, priority in zip("abc", (1, 2, 0), strict=True):
        waiting.push(request(name, priority=priority))
    assert [one.id for one in waiting.expire(100)] == ["a"]
    assert order(waiting) == "bc"


def test_what_was_put_back_does_not_expire() -> None:
    waiting = levels(QueuePolicy(timeout_ns=100))
    waiting.push(request("a"))
    waiting.push_front(waiting.take(1))
    assert waiting.expire(1000) == []
    assert order(waiting) == "a"


def test_what_has_left_is_not_kept_alive_by_its_deadline() -> None:
    waiting = levels(QueuePolicy(timeout_ns=10**15))
    queue = DynamicBatcher(8, (), 0, lambda request: None, waiting)
    left = []
    for leave in (queue.remove, lambda request: queue.next_batch(0)):
        one = Kept()
        left.append(weakref.ref(one))
        queue.push(one)
        assert leave(one)
        del one
    gc.collect()
    assert [reference() for reference in left] == [None, None]


class Kept(Request):
    """A request that can be watched."""

    def __init__(self) -> None:
        super().__init__("m", [], lambda response: None)


# -- what it costs


class Counted(Request):
    """Counts how often anybody looks at it, for whatever reason."""

    looked = 0

    def __init__(self, priority: int = 0) -> None:
        super().__init__("m", [], lambda response: None, priority=priority)

    def __getattribute__(self, name: str) -> Any:
        Counted.looked += 1
        return super().__getattribute__(name)

    def __hash__(self) -> int:
        Counted.looked += 1
        return id(self)

    def __eq__(self, other: object) -> bool:
        Counted.looked += 1
        return self is other


def counted_batcher(delay_ns: int = 0, timeout_ns: int = 0, max_batch_size: int = 16) -> DynamicBatcher:
    policy = QueuePolicy(timeout_ns=timeout_ns, may_shorten=True)
    return DynamicBatcher(max_batch_size, (), delay_ns, lambda request: None, levels(policy, policy, policy))


def per_request(queue: Queue, work: Callable[[list[Counted]], None], count: int) -> float:
    """Queue so many requests and do ``work``; how often each was looked at, on average."""
    Counted.looked = 0
    requests = [Counted(1 + number % 3) for number in range(count)]
    for one in requests:
        queue.push(one)
    work(requests)
    assert not queue.requests
    return Counted.looked / count


def cancel_all(queue: Queue, step: int) -> Callable[[list[Counted]], None]:
    def work(requests: list[Counted]) -> None:
        shuffled = random.Random(7).sample(requests, len(requests)) if step == 0 else requests[::step]
        for one in shuffled:
            assert queue.remove(one)

    return work


def batch_all(queue: Queue) -> Callable[[list[Counted]], None]:
    def work(requests: list[Counted]) -> None:
        while queue.next_batch(10**18):
            pass

    return work


def expire_all(queue: Queue) -> Callable[[list[Counted]], None]:
    def work(requests: list[Counted]) -> None:
        assert queue.wake_ns(idle=False) is not None
        assert len(queue.expire(10**18)) == len(requests)

    return work


@pytest.mark.spec("server:212")
@pytest.mark.parametrize(
    ("make", "work"),
    [
        (FifoQueue, lambda queue: cancel_all(queue, 1)),
        (FifoQueue, lambda queue: cancel_all(queue, -1)),
        (FifoQueue, lambda queue: cancel_all(queue, 0)),
        (FifoQueue, batch_all),
        (counted_batcher, lambda queue: cancel_all(queue, 1)),
        (counted_batcher, lambda queue: cancel_all(queue, -1)),
        (counted_batcher, lambda queue: cancel_all(queue, 0)),
        (counted_batcher, batch_all),
        (lambda: counted_batcher(timeout_ns=1000), lambda queue: cancel_all(queue, 0)),
        (lambda: counted_batcher(timeout_ns=1000), expire_all),
    ],
)
def test_ten_thousand_requests_cost_each_what_a_hundred_do(
    make: Callable[[], Queue], work: Callable[[Queue], Callable[[list[Counted]], None]]
) -> None:
    few, many = make(), make()
    assert per_request(many, work(many), 10_000) < 1.5 * per_request(few, work(few), 100) + 1


def test_a_batch_that_waits_to_be_filled_is_not_counted_through_for_each_new_request() -> None:
    costs = []
    for count in (100, 10_000):
        queue = counted_batcher(delay_ns=10**9, max_batch_size=count + 1)
        Counted.looked = 0
        for _ in range(count):
            queue.push(Counted(1))
            assert queue.next_batch(0) is None
            assert queue.wake_ns(idle=True) == 10**9
        costs.append(Counted.looked / count)
    assert costs[1] < 1.5 * costs[0] + 1


def test_deadlines_of_what_has_left_do_not_pile_up() -> None:
    waiting = levels(QueuePolicy(timeout_ns=10**15))
    for _ in range(10_000):
        waiting.push(request())
        waiting.take(1)
    assert len(waiting._deadlines) < 200


# -- anything at all


class AnyQueue(RuleBasedStateMachine):
    """Requests come, are cancelled, expire, are taken and put back; every one ends in exactly one way."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        policies = [
            QueuePolicy(max_queue_size=4, timeout_ns=30_000, may_shorten=True),
            QueuePolicy(timeout_ns=20_000, on_timeout="delay"),
            QueuePolicy(max_queue_size=6),
        ]
        self.queue = DynamicBatcher(
            5, (2, 4), 15_000, lambda request: request.parameters is None, levels(*policies, default=3)
        )
        self.arrived: list[Request] = []
        self.ends: Counter[Request] = Counter()
        self.running: list[Request] = []
        self.put_back: set[Request] = set()

    @rule(priority=st.integers(0, 4), size=st.integers(0, 5), timeout=st.sampled_from([0, 10, 40]), odd=st.booleans())
    def push(self, priority: int, size: int, timeout: int, odd: bool) -> None:
        made = request(at_ns=self.now, priority=priority, size=size)
        made.timeout_us = timeout
        made.parameters = {} if odd else None
        queued = set(self.queue.requests)
        try:
            self.queue.push(made)
        except Rejected:
            assert set(self.queue.requests) == queued
        else:
            self.arrived.append(made)

    @rule(passed=st.integers(1, 25))
    def time_passes(self, passed: int) -> None:
        self.now += passed * 1000
        for one in self.queue.expire(self.now):
            assert one not in self.put_back
            self.ends[one] += 1

    @precondition(lambda self: self.queue.requests)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(list(self.queue.requests)))
        assert self.queue.remove(one)
        assert not self.queue.remove(one)
        self.ends[one] += 1

    @rule()
    def run(self) -> None:
        in_order = list(self.queue._levels)
        batch = self.queue.next_batch(self.now)
        if batch is None:
            wake_ns = self.queue.wake_ns(idle=True)
            assert not in_order or (wake_ns is not None and wake_ns > self.now)
            return
        assert batch == in_order[: len(batch)]
        assert sum(one.batch_size for one in batch) <= 5
        assert len({one.parameters is None for one in batch}) == 1
        for one in batch:
            level = one.priority if 1 <= one.priority <= 3 else 3
            if level == 1 and one not in self.put_back:
                assert self.now < one.queued_ns + 1000 * min(
                    one.timeout_us or 30, 30
                )  # what is refused for its age never runs
        self.running += batch

    @rule()
    def finish(self) -> None:
        self.ends.update(self.running)
        self.running.clear()

    @rule()
    def die(self) -> None:
        self.queue.push_front(self.running)
        self.put_back.update(self.running)
        self.running.clear()

    @invariant()
    def nothing_is_lost_and_nothing_is_there_twice(self) -> None:
        queued = Counter(self.queue._levels)
        assert set(queued) == set(self.queue.requests)
        assert queued + self.ends + Counter(self.running) == Counter(self.arrived)

    @invariant()
    def levels_keep_their_order(self) -> None:
        in_time = [one for one in self.queue._levels if one not in self.put_back and one.queued_ns + 20_000 > self.now]
        by_level = [one.priority if 1 <= one.priority <= 3 else 3 for one in in_time]
        assert by_level == sorted(by_level)
        for level in (1, 2, 3):
            of_level = [one for one, number in zip(in_time, by_level, strict=True) if number == level]
            assert of_level == sorted(of_level, key=self.arrived.index)

    def teardown(self) -> None:
        drained = self.queue.drain()
        self.ends.update(drained)
        self.ends.update(self.running)
        assert self.ends == Counter(self.arrived)


AnyQueue.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_any_queue = AnyQueue.TestCase


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=30))
def test_a_batch_that_grew_is_the_batch_that_would_be_formed_now(arrivals: list[tuple[int, int]]) -> None:
    def batcher() -> DynamicBatcher:
        return DynamicBatcher(8, (3, 6), 100, lambda request: request.batch_size == 3, levels(*[UNLIMITED] * 3))

    growing = batcher()
    waiting: list[Request] = []
    for priority, size in arrivals:
        one = request(priority=priority, size=size)
        waiting.append(one)
        growing.push(one)
        fresh = batcher()
        for queued in waiting:
            fresh.push(queued)
        batch = growing.next_batch(0)
        assert batch == fresh.next_batch(0)
        waiting = [queued for queued in waiting if queued not in (batch or [])]
