"""Queues, without a clock: what runs when, for tables of arrivals and for any arrivals at all."""

from __future__ import annotations

from collections import Counter

import pytest
from atoll.inference import Request, Tensor
from atoll.scheduling.dynamic_batcher import DynamicBatcher
from atoll.scheduling.queues import FifoQueue, Queue
from hypothesis import given, settings
from hypothesis import strategies as st

NO_DELAY = 0


def request(size: int = 1, at_ns: int = 0, shape: str = "") -> Request:
    made = Request("m", [Tensor(shape, "INT8", [size], b"")], lambda response: None)
    made.batch_size = size
    made.queued_ns = at_ns
    return made


def batcher(
    *sizes: int, max_batch_size: int = 8, preferred: tuple[int, ...] = (), delay_ns: int = NO_DELAY
) -> DynamicBatcher:
    queue = DynamicBatcher(max_batch_size, preferred, delay_ns, lambda request: request.inputs[0].name)
    for size in sizes:
        queue.push(request(size))
    return queue


def sizes(batch: list[Request] | None) -> list[int] | None:
    return None if batch is None else [one.batch_size for one in batch]


@pytest.fixture(params=["fifo", "dynamic"])
def queue(request: pytest.FixtureRequest) -> Queue:
    return FifoQueue() if request.param == "fifo" else batcher()


# -- both


def test_an_empty_queue_has_no_batch_and_nothing_to_wait_for(queue: Queue) -> None:
    assert queue.next_batch(0) is None
    assert queue.wake_ns(idle=True) is None
    assert queue.drain() == []


def test_requests_put_back_come_first_and_in_their_order(queue: Queue) -> None:
    one, two, three = request(8), request(8), request(8)
    queue.push(three)
    queue.push_front([one, two])
    assert [queue.next_batch(0) for _ in range(3)] == [[one], [two], [three]]


def test_a_removed_request_is_not_run(queue: Queue) -> None:
    one, two = request(), request()
    queue.push(one)
    queue.push(two)
    assert queue.remove(one) is True
    assert queue.remove(one) is False
    assert queue.next_batch(0) == [two]
    assert queue.remove(two) is False


def test_draining_takes_everything_in_order(queue: Queue) -> None:
    requests = [request(), request(2), request(3)]
    for one in requests:
        queue.push(one)
    assert queue.drain() == requests
    assert not queue.requests


# -- default scheduler


def test_the_default_scheduler_runs_one_request_at_a_time_in_order() -> None:
    queue = FifoQueue()
    requests = [request(), request(5), request()]
    for one in requests:
        queue.push(one)
    assert [queue.next_batch(0) for _ in range(4)] == [[requests[0]], [requests[1]], [requests[2]], None]


# -- dynamic batcher


@pytest.mark.parametrize(
    ("queued", "preferred", "expected"),
    [
        ([1, 2, 3], (), [1, 2, 3]),  # all that is there
        ([3, 3, 3], (), [3, 3]),  # up to the largest batch
        ([8, 1], (), [8]),
        ([1, 8, 1], (), [1]),  # nothing overtakes what does not fit
        ([1, 1, 1], (2,), [1, 1]),  # a preferred size that is there
        ([1, 1, 1, 1, 1], (2, 4), [1, 1, 1, 1]),  # the largest of them
        ([3], (2, 4), [3]),  # none is there
        ([2, 2, 2], (4, 6), [2, 2, 2]),
        ([3, 3], (4,), [3]),  # can no longer become one
        ([0, 0, 4], (4,), [0, 0]),  # an empty batch takes a place all the same
    ],
)
def test_without_delay_a_batch_never_waits(queued: list[int], preferred: tuple[int, ...], expected: list[int]) -> None:
    assert sizes(batcher(*queued, preferred=preferred).next_batch(0)) == expected


@pytest.mark.parametrize(
    ("queued", "preferred", "early", "late"),
    [
        ([1, 2], (), None, [1, 2]),  # more may come
        ([4, 4], (), [4, 4], None),  # full
        ([5, 4], (), [5], [4]),  # cannot grow
        ([1, 1, 1], (2,), [1, 1], [1]),  # preferred at once, the rest when it is due
        ([1, 2], (4,), None, [1, 2]),
        ([1, 3], (4,), [1, 3], None),
        ([3, 3], (4,), [3], [3]),  # can no longer become a preferred size
        ([2, 6], (4,), [2], [6]),
        ([5], (4,), [5], None),
        ([4, 2, 1], (6, 7), [4, 2, 1], None),
    ],
)
def test_with_a_delay_a_batch_waits_until_it_is_due(
    queued: list[int], preferred: tuple[int, ...], early: list[int] | None, late: list[int] | None
) -> None:
    queue = batcher(*queued, preferred=preferred, delay_ns=100)
    assert sizes(queue.next_batch(99)) == early
    assert sizes(queue.next_batch(100)) == late


def test_once_due_the_whole_batch_goes_and_not_only_a_preferred_part() -> None:
    assert sizes(batcher(1, 1, 1, preferred=(2,), delay_ns=100).next_batch(100)) == [1, 1, 1]


def test_the_oldest_request_says_when_a_batch_is_due() -> None:
    queue = batcher(delay_ns=100)
    queue.push(request(at_ns=50))
    queue.push(request(at_ns=90))
    assert queue.wake_ns(idle=True) == 150
    assert queue.next_batch(149) is None
    assert sizes(queue.next_batch(150)) == [1, 1]
    assert queue.wake_ns(idle=True) is None


def test_a_batch_holds_one_signature() -> None:
    queue = batcher(delay_ns=100)
    for shape in "aab":
        queue.push(request(shape=shape))
    assert sizes(queue.next_batch(0)) == [1, 1]  # it cannot grow: nothing overtakes
    assert queue.next_batch(0) is None
    assert sizes(queue.next_batch(100)) == [1]


def test_a_request_larger_than_any_batch_still_runs_alone() -> None:
    queue = batcher(9, 1)
    assert sizes(queue.next_batch(0)) == [9]


arrivals = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 50), st.sampled_from("ab")), max_size=30)
choices = st.tuples(
    st.integers(1, 4).map(lambda n: n + 3), st.lists(st.integers(1, 8), max_size=3), st.sampled_from([0, 20, 100])
)


@settings(deadline=None)
@given(arrivals, choices, st.lists(st.integers(0, 40), max_size=20))
def test_batching_loses_and_doubles_nothing_and_keeps_order(
    arrived: list[tuple[int, int, str]], chosen: tuple[int, list[int], int], visits: list[int]
) -> None:
    max_batch_size, preferred, delay_ns = chosen
    queue = DynamicBatcher(max_batch_size, preferred, delay_ns, lambda request: request.inputs[0].name)
    waiting: list[Request] = []
    order: list[Request] = []
    run: list[Request] = []
    now = 0

    def visit() -> bool:
        batch = queue.next_batch(now)
        if batch is None:
            return False
        assert batch
        assert sum(one.batch_size for one in batch) <= max_batch_size
        assert len({one.inputs[0].name for one in batch}) == 1
        run.extend(batch)
        del waiting[: len(batch)]
        return True

    pauses = iter(visits)
    for size, gap, shape in arrived:
        now += gap
        made = request(size, now, shape)
        order.append(made)
        waiting.append(made)
        queue.push(made)
        for _ in range(next(pauses, 0) % 3):
            if not visit():
                break
    while queue.requests:
        wake = queue.wake_ns(idle=True)
        assert wake is not None
        assert wake == waiting[0].queued_ns + delay_ns
        if not visit():
            assert now < wake  # what is due is never held back
            now = wake
            assert visit()
    assert run == order
    assert max(Counter(map(id, run)).values(), default=1) == 1


@settings(deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=12), st.sets(st.integers(1, 8), min_size=1, max_size=3))
def test_within_the_delay_the_largest_preferred_prefix_goes(queued: list[int], preferred: set[int]) -> None:
    queue = batcher(*queued, preferred=tuple(preferred), delay_ns=100)
    totals = [sum(queued[:count]) for count in range(1, len(queued) + 1)]
    fitting = [total for total in totals if total <= 8 and total in preferred]
    batch = queue.next_batch(0)
    if fitting:
        assert sum(sizes(batch) or []) == max(fitting)
    elif totals[-1] < 8 and totals[-1] <= max(preferred):
        assert batch is None
