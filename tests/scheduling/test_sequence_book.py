"""Slots, backlog, idle sequences and deaths of instances, without a clock: tables of events, and any events at all."""

from __future__ import annotations

from collections import Counter

import pytest
from atoll.inference import SEQUENCE_END, SEQUENCE_START, Request
from atoll.scheduling.sequences.book import Book, Lane
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

IDLE_NS = 1000
START, END = SEQUENCE_START, SEQUENCE_END


class LaneTwin:
    """The requests whose turn it is, by slot."""

    def __init__(self) -> None:
        self.requests: dict[int, Request] = {}

    def push(self, slot: int, request: Request) -> None:
        assert slot not in self.requests, "two requests of one slot"
        self.requests[slot] = request

    def remove(self, request: Request) -> None:
        [slot] = [slot for slot, known in self.requests.items() if known is request]
        del self.requests[slot]

    def next_batch(self, now_ns: int) -> list[Request | None] | None:
        raise AssertionError

    def wake_ns(self) -> int | None:
        raise AssertionError

    @property
    def ids(self) -> dict[int, str]:
        return {slot: request.id for slot, request in self.requests.items()}


class Setup:
    """A book over twins; times are 0 unless said otherwise."""

    def __init__(self, lanes: int = 1, slots: int = 2, is_open: bool = True) -> None:
        self.lanes = [LaneTwin() for _ in range(lanes)]
        self.book = Book([lane for lane in self.lanes], slots, IDLE_NS)  # noqa: C416, a list of another type
        self.requests: dict[str, Request] = {}
        for lane in range(lanes if is_open else 0):
            self.book.open_lane(lane)

    def add(self, id: str, flags: int = 0, timeout_us: int = 0, at_ns: int = 0) -> Request:
        """A request of the sequence that the id begins with."""
        request = Request("m", [], lambda response: None, id=id, flags=flags, timeout_us=timeout_us)
        request.queued_ns = at_ns
        self.book.add(id[0], request, last=bool(flags & END))
        self.requests[id] = request
        return request

    def run(self, *ids: str) -> None:
        """Their turn has come, and they are executed."""
        for id in ids:
            request = self.requests[id]
            lane = next(lane for lane in self.lanes if request in lane.requests.values())
            lane.remove(request)
            self.book.begin(request)

    def answer(self, *ids: str, now_ns: int = 0) -> None:
        for id in ids:
            self.book.answered(self.requests[id], now_ns)

    def finish(self, *ids: str, now_ns: int = 0) -> None:
        self.run(*ids)
        self.answer(*ids, now_ns=now_ns)

    @property
    def turns(self) -> list[dict[int, str]]:
        return [lane.ids for lane in self.lanes]


def ids(requests: list[Request]) -> list[str]:
    return [request.id for request in requests]


# -- slots


@pytest.mark.spec("server:213")
def test_a_new_sequence_takes_the_free_slot_with_the_lowest_number_of_all_instances() -> None:
    on = Setup(lanes=2, slots=2)
    for id in ("a1", "b1", "c1", "d1"):
        on.add(id, START)
    assert on.turns == [{0: "a1", 1: "c1"}, {0: "b1", 1: "d1"}]


@pytest.mark.spec("server:213")
def test_a_sequence_keeps_its_slot() -> None:
    on = Setup(lanes=2)
    on.add("a1", START)
    on.add("b1", START)
    on.finish("a1", "b1")
    on.add("b2")
    on.add("a2", END)
    assert on.turns == [{0: "a2"}, {0: "b2"}]


@pytest.mark.spec("server:216")
def test_the_next_request_has_its_turn_when_the_one_before_is_answered() -> None:
    on = Setup()
    on.add("a1", START)
    on.add("a2")
    on.add("a3", END)
    assert on.turns == [{0: "a1"}]
    on.run("a1")
    assert on.turns == [{}]
    on.answer("a1")
    assert on.turns == [{0: "a2"}]
    assert on.book.waiting_count == 2


@pytest.mark.spec("server:213")
def test_a_slot_is_free_when_the_last_request_is_answered() -> None:
    on = Setup(slots=1)
    on.add("a1", START | END)
    on.add("b1", START)
    on.run("a1")
    assert on.turns == [{}]
    on.answer("a1")
    assert on.turns == [{0: "b1"}]


def test_what_comes_after_the_end_is_another_sequence() -> None:
    on = Setup()
    on.add("a1", START)
    on.add("a2", END)
    assert not on.book.is_open("a")
    on.add("a3", START)
    assert on.turns == [{0: "a1", 1: "a3"}]


def test_no_slot_is_given_away_before_the_instance_is_there() -> None:
    on = Setup(lanes=2, slots=1, is_open=False)
    on.add("a1", START)
    on.add("b1", START)
    assert on.turns == [{}, {}]
    on.book.open_lane(1)
    on.book.open_lane(1)
    assert on.turns == [{}, {0: "a1"}]
    on.book.open_lane(0)
    assert on.turns == [{0: "b1"}, {0: "a1"}]


def test_a_request_that_is_executed_again_comes_before_all_others_of_its_sequence() -> None:
    on = Setup()
    on.add("a1", START)
    on.add("a2")
    on.run("a1")
    on.book.again(on.requests["a1"])
    assert on.turns == [{0: "a1"}]
    on.finish("a1")
    assert on.turns == [{0: "a2"}]


# -- the backlog


@pytest.mark.spec("server:213")
def test_sequences_without_a_slot_wait_first_come_first_served_with_all_their_requests() -> None:
    on = Setup(slots=1)
    on.add("a1", START | END)
    on.add("b1", START)
    on.add("c1", START | END)
    on.add("b2", END)
    assert on.book.waiting_count == 4
    on.finish("a1")
    assert on.turns == [{0: "b1"}]
    on.finish("b1")
    assert on.turns == [{0: "b2"}]
    on.finish("b2")
    assert on.turns == [{0: "c1"}]


@pytest.mark.spec("server:221")
def test_a_request_of_the_backlog_takes_its_sequence_with_it_when_its_time_is_over() -> None:
    on = Setup(slots=1)
    on.add("a1", START)
    on.add("b1", START, timeout_us=10, at_ns=5)
    on.add("b2", timeout_us=2, at_ns=100)
    on.add("b3", at_ns=200)
    on.add("c1", START, timeout_us=3, at_ns=200)
    assert on.book.wake_ns() == 2100
    assert on.book.expire(2099) == []
    assert ids(on.book.expire(2100)) == ["b1", "b2", "b3"]
    assert not on.book.is_open("b")
    assert on.book.wake_ns() == 3200
    assert ids(on.book.expire(9999)) == ["c1"]
    on.answer("b1")  # as each of them is, in the end
    assert on.turns == [{0: "a1"}]


def test_limits_that_mean_nothing_any_more_are_not_kept() -> None:
    on = Setup(slots=1)
    on.add("a1", START)
    for number in range(1000):
        waiting = on.add(f"b{number}", START, timeout_us=1_000_000 - number)
        on.book.remove(waiting)
    assert len(on.book._limits) < 200


@pytest.mark.spec("server:221")
def test_requests_in_a_slot_wait_as_long_as_it_takes() -> None:
    on = Setup(slots=1)
    on.add("a1", START | END)
    on.add("b1", START, timeout_us=1)
    on.add("c1", START, timeout_us=9)
    on.finish("a1")
    assert on.book.expire(8999) == []
    assert on.turns == [{0: "b1"}]
    assert on.book.wake_ns() == 9000


# -- idle sequences


@pytest.mark.spec("server:219")
def test_an_idle_sequence_loses_its_slot_to_the_next() -> None:
    on = Setup(slots=1)
    on.add("a1", START)
    on.add("b1", START)
    on.finish("a1", now_ns=500)
    assert on.book.wake_ns() == 500 + IDLE_NS
    assert on.book.expire(500 + IDLE_NS - 1) == []
    assert on.book.is_open("a")
    assert on.book.expire(500 + IDLE_NS) == []
    assert not on.book.is_open("a")
    assert on.turns == [{0: "b1"}]
    assert on.book.wake_ns() is None


@pytest.mark.spec("server:219")
def test_a_sequence_is_not_idle_while_something_of_it_waits_or_is_executed() -> None:
    on = Setup()
    on.add("a1", START)
    on.add("b1", START)
    on.run("a1")
    assert on.book.wake_ns() is None
    assert on.book.expire(10 * IDLE_NS) == []
    on.answer("a1", now_ns=10 * IDLE_NS)
    on.add("a2")
    assert on.book.wake_ns() is None
    assert on.book.open_count == 2


def test_the_sequence_that_is_idle_longest_ends_first() -> None:
    on = Setup(slots=3)
    for moment, id in enumerate(("a1", "b1", "c1")):
        on.add(id, START)
        on.finish(id, now_ns=moment)
    on.add("a2")
    on.finish("a2", now_ns=3)
    on.book.expire(1 + IDLE_NS)
    assert [on.book.is_open(key) for key in "abc"] == [True, False, True]
    assert on.book.wake_ns() == 2 + IDLE_NS


# -- cancellation, conflict and the end


@pytest.mark.spec("server:222")
def test_cancelling_one_queued_request_cancels_all_of_its_sequence_and_frees_the_slot() -> None:
    on = Setup(slots=1)
    on.add("a1", START)
    on.add("a2")
    on.add("b1", START)
    assert ids(on.book.remove(on.requests["a2"])) == ["a1", "a2"]
    assert not on.book.is_open("a")
    assert on.turns == [{0: "b1"}]


@pytest.mark.spec("server:222")
def test_what_is_executed_stays_and_keeps_the_slot_until_it_is_answered() -> None:
    on = Setup(slots=1)
    on.add("a1", START)
    on.add("a2")
    on.add("b1", START)
    on.run("a1")
    assert on.book.remove(on.requests["a1"]) == []
    assert ids(on.book.remove(on.requests["a2"])) == ["a2"]
    assert on.turns == [{}]
    on.answer("a1")
    assert on.turns == [{0: "b1"}]


@pytest.mark.spec("server:222")
def test_a_sequence_of_the_backlog_is_cancelled_as_a_whole() -> None:
    on = Setup(slots=1)
    on.add("a1", START | END)
    on.add("b1", START, timeout_us=5)
    on.add("b2")
    assert ids(on.book.remove(on.requests["b1"])) == ["b1", "b2"]
    assert on.book.wake_ns() is None
    on.finish("a1")
    assert on.turns == [{}]
    assert on.book.remove(on.requests["b2"]) == []


@pytest.mark.spec("server:220")
def test_a_sequence_that_starts_again_goes_on_in_the_same_slot_after_what_was_queued() -> None:
    on = Setup(lanes=2)
    on.add("a1", START)
    on.add("a2")
    on.add("a3", START)
    on.add("a4", END)
    for id in ("a1", "a2", "a3", "a4"):
        assert on.turns == [{0: id}, {}]
        on.finish(id)
    assert on.book.open_count == 0


def test_draining_takes_all_that_waits_in_the_order_of_arrival() -> None:
    on = Setup(slots=1)
    on.add("a1", START)
    on.add("b1", START)
    on.add("a2")
    on.add("c1", START | END)
    on.run("a1")
    assert ids(on.book.drain()) == ["b1", "a2", "c1"]
    assert (on.book.open_count, on.book.waiting_count, on.turns) == (0, 0, [{}])
    on.answer("a1")
    assert on.book.wake_ns() is None


# -- deaths


def test_what_a_dead_instance_had_begun_is_lost() -> None:
    on = Setup(lanes=2, slots=2)
    for id in ("a1", "b1", "c1"):
        on.add(id, START)
    on.add("a2")
    on.add("a3", END)
    on.finish("a1")
    assert ids(on.book.close_lane(0)) == ["a2", "a3"]
    assert not on.book.is_open("a")
    on.answer("a2", "a3")
    assert on.turns == [{}, {0: "b1", 1: "c1"}]  # c had not been begun


def test_an_idle_sequence_ends_with_its_instance() -> None:
    on = Setup()
    on.add("a1", START)
    on.finish("a1")
    assert on.book.close_lane(0) == []
    assert not on.book.is_open("a")
    assert on.book.wake_ns() is None


def test_what_was_not_begun_waits_before_all_others_for_an_instance() -> None:
    on = Setup(slots=2)
    for id in ("a1", "b1", "c1"):
        on.add(id, START, timeout_us=1)
    on.add("a2", END)
    assert on.book.close_lane(0) == []
    assert on.turns == [{}]
    on.book.open_lane(0)
    assert on.turns == [{0: "a1", 1: "b1"}]
    on.finish("a1")
    assert on.turns == [{0: "a2", 1: "b1"}]


def test_a_conflicting_start_survives_the_instance() -> None:
    on = Setup()
    on.add("a1", START)
    on.add("a2")
    on.add("a3", START)
    on.add("a4")
    on.finish("a1")
    assert ids(on.book.close_lane(0)) == ["a2"]
    assert on.book.is_open("a")
    on.book.open_lane(0)
    on.finish("a3")
    assert on.turns == [{0: "a4"}]


def test_a_request_that_goes_back_to_the_backlog_has_its_time_limit_again() -> None:
    on = Setup(slots=1)
    on.add("a1", START, timeout_us=7, at_ns=100)
    assert on.book.wake_ns() is None
    on.book.close_lane(0)
    assert on.book.wake_ns() == 7100
    assert ids(on.book.expire(7100)) == ["a1"]


# -- whatever happens


class AnyEvents(RuleBasedStateMachine):
    """Every request is executed once or handed back once; those of a sequence in order, one at a time, at one place."""

    LANES, SLOTS = 2, 1

    def __init__(self) -> None:
        super().__init__()
        self.lanes = [LaneTwin() for _ in range(self.LANES)]
        lanes: list[Lane] = list(self.lanes)
        self.book = Book(lanes, self.SLOTS, IDLE_NS)
        self.now = 0
        self.up = {0, 1}
        for lane in self.up:
            self.book.open_lane(lane)
        self.added: list[Request] = []
        self.running: dict[Request, int] = {}
        self.executed: list[tuple[Request, int]] = []
        self.handed_back: list[Request] = []
        self.numbers: Counter[str] = Counter()

    @rule(key=st.sampled_from("abc"), end=st.booleans(), start=st.booleans(), timeout_us=st.sampled_from([0, 0, 1]))
    def request(self, key: str, start: bool, end: bool, timeout_us: int) -> None:
        is_open = self.book.is_open(key)
        self.numbers[key] += not is_open
        sequence = f"{key}{self.numbers[key]}"
        flags = (START if start or not is_open else 0) | (END if end else 0)
        request = Request("m", [], lambda response: None, id=sequence, flags=flags, timeout_us=timeout_us)
        request.queued_ns = self.now
        self.added.append(request)
        self.book.add(key, request, last=end)

    @rule(lane=st.integers(0, 1))
    def execute(self, lane: int) -> None:
        if lane in self.up and lane not in self.running.values():
            for request in list(self.lanes[lane].requests.values()):
                self.lanes[lane].remove(request)
                self.book.begin(request)
                self.running[request] = lane
                self.executed.append((request, lane))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(list(self.running)))
        del self.running[request]
        self.book.answered(request, self.now)

    @precondition(lambda self: self.added)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.added))
        removed = self.book.remove(request)
        assert not removed or request in removed
        self.handed_back += removed

    @rule(ns=st.integers(1, 700))
    def time_passes(self, ns: int) -> None:
        self.now += ns
        self.handed_back += self.book.expire(self.now)
        wake_ns = self.book.wake_ns()
        assert wake_ns is None or wake_ns > self.now

    @rule(lane=st.integers(0, 1))
    def instance_dies(self, lane: int) -> None:
        if lane in self.up:
            self.up.discard(lane)
            for request in [request for request, at in self.running.items() if at == lane]:
                del self.running[request]
                self.book.answered(request, self.now)
            self.handed_back += self.book.close_lane(lane)

    @rule(lane=st.integers(0, 1))
    def instance_comes_back(self, lane: int) -> None:
        self.up.add(lane)
        self.book.open_lane(lane)

    @rule()
    def stop(self) -> None:
        waiting = self.book.waiting_count
        drained = self.book.drain()
        assert len(drained) == waiting
        self.handed_back += drained
        assert not self.book.open_count
        assert not any(lane.requests for lane in self.lanes)

    @invariant()
    def each_request_ends_once(self) -> None:
        ends = Counter([*self.handed_back, *(request for request, _ in self.executed)])
        assert max(ends.values(), default=1) == 1
        assert len(self.added) - len(ends) == self.book.waiting_count
        assert all(self.book.is_waiting(request) == (request not in ends) for request in self.added)

    @invariant()
    def only_what_waits_has_its_turn(self) -> None:
        for number, lane in enumerate(self.lanes):
            assert all(self.book.is_waiting(request) for request in lane.requests.values())
            assert number in self.up or not lane.requests
            assert len(lane.requests) <= self.SLOTS

    @invariant()
    def a_sequence_runs_in_order_at_one_place(self) -> None:
        order = {request: number for number, request in enumerate(self.added)}
        last: dict[str, tuple[int, int]] = {}
        for request, lane in self.executed:
            if request.id in last:
                assert last[request.id][0] < order[request]
            if not request.flags & START:
                assert last[request.id][1] == lane
            last[request.id] = order[request], lane

    def teardown(self) -> None:
        """With instances and time enough, nothing waits for ever."""
        for lane in (0, 1):
            self.instance_comes_back(lane)
        for _ in range(4 * len(self.added) + 4):
            for lane in (0, 1):
                self.execute(lane)
            for request in list(self.running):
                del self.running[request]
                self.book.answered(request, self.now)
            self.time_passes(IDLE_NS)
        assert (self.book.waiting_count, self.book.open_count) == (0, 0)
        assert self.book.wake_ns() is None


TestAnyEvents = AnyEvents.TestCase
TestAnyEvents.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
