"""Which of the requests whose turn it is make a batch, in both strategies; without a clock."""

from __future__ import annotations

import pytest
from atoll.inference import Request, Tensor
from atoll.scheduling.dynamic_batcher import DynamicBatcher
from atoll.scheduling.sequences.book import Lane
from atoll.scheduling.sequences.direct import DirectLane
from atoll.scheduling.sequences.oldest import OldestLane

DELAY_NS = 100


def request(id: str, at_ns: int = 0, shape: str = "") -> Request:
    made = Request("m", [Tensor(shape, "INT8", [1], b"")], lambda response: None, id=id)
    made.queued_ns = at_ns
    return made


def shape_of(request: Request) -> str:
    return request.inputs[0].name


def direct(slots: int = 4, utilization: float = 0.0, delay_ns: int = 0) -> DirectLane:
    return DirectLane(slots, utilization, delay_ns, shape_of)


def oldest(size: int = 4, delay_ns: int = 0) -> OldestLane:
    return OldestLane(DynamicBatcher(size, (size,), delay_ns, shape_of))


def ids(batch: list[Request | None] | None) -> list[str] | None:
    return None if batch is None else ["-" if request is None else request.id for request in batch]


@pytest.mark.parametrize("lane", [direct(), oldest()], ids=["direct", "oldest"])
def test_where_nobody_has_a_turn_there_is_nothing_to_wait_for(lane: Lane) -> None:
    assert lane.next_batch(0) is None
    assert lane.wake_ns() is None


@pytest.mark.parametrize("lane", [direct(), oldest()], ids=["direct", "oldest"])
def test_what_was_removed_is_not_in_a_batch(lane: Lane) -> None:
    first, second = request("a"), request("b")
    lane.push(0, first)
    lane.push(1, second)
    lane.remove(first)
    batch = lane.next_batch(0)
    assert batch is not None
    assert [one.id for one in batch if one is not None] == ["b"]
    assert lane.next_batch(0) is None


# -- direct


@pytest.mark.spec("server:214")
def test_a_slot_is_a_place_in_the_batch() -> None:
    lane = direct()
    for slot in (2, 0):
        lane.push(slot, request(str(slot)))
    assert ids(lane.next_batch(0)) == ["0", "-", "2"]
    lane.push(1, request("1"))
    assert ids(lane.next_batch(0)) == ["-", "1"]


@pytest.mark.spec("server:214")
def test_requests_of_another_shape_than_the_oldest_wait_and_leave_their_places_empty() -> None:
    lane = direct()
    lane.push(0, request("long", 5, shape="long"))
    lane.push(1, request("short", 3, shape="short"))
    lane.push(2, request("other", 4, shape="short"))
    lane.push(3, request("last", 6, shape="long"))
    assert ids(lane.next_batch(9)) == ["-", "short", "other", "-"]
    lane.push(1, request("late", 9, shape="short"))
    assert ids(lane.next_batch(9)) == ["long", "-", "-", "last"]
    assert ids(lane.next_batch(9)) == ["-", "late"]


@pytest.mark.spec("server:215")
def test_a_batch_waits_until_enough_slots_have_work() -> None:
    lane = direct(utilization=0.5, delay_ns=DELAY_NS)
    lane.push(0, request("a", 10))
    assert lane.next_batch(50) is None
    assert lane.wake_ns() == 10 + DELAY_NS
    lane.push(1, request("b", 50))
    assert ids(lane.next_batch(50)) == ["a", "b"]


@pytest.mark.spec("server:215")
def test_a_batch_waits_no_longer_than_the_delay() -> None:
    lane = direct(utilization=1.0, delay_ns=DELAY_NS)
    lane.push(0, request("a", 10))
    assert lane.next_batch(10 + DELAY_NS - 1) is None
    assert ids(lane.next_batch(10 + DELAY_NS)) == ["a"]


@pytest.mark.spec("server:215")
@pytest.mark.parametrize(("utilization", "delay_ns"), [(0.0, DELAY_NS), (1.0, 0)])
def test_without_either_setting_no_batch_waits(utilization: float, delay_ns: int) -> None:
    lane = direct(utilization=utilization, delay_ns=delay_ns)
    lane.push(3, request("a"))
    assert ids(lane.next_batch(0)) == ["-", "-", "-", "a"]


# -- oldest


@pytest.mark.spec("server:216")
def test_candidates_are_batched_in_the_order_of_their_turns() -> None:
    lane = oldest(size=2)
    for slot in (3, 0, 2):
        lane.push(slot, request(str(slot)))
    assert ids(lane.next_batch(0)) == ["3", "0"]
    assert ids(lane.next_batch(0)) == ["2"]


@pytest.mark.spec("server:216")
def test_candidates_wait_for_others_as_the_delay_says() -> None:
    lane = oldest(size=2, delay_ns=DELAY_NS)
    lane.push(0, request("a", 10))
    assert lane.next_batch(10) is None
    assert lane.wake_ns() == 10 + DELAY_NS
    lane.push(1, request("b", 20))
    assert ids(lane.next_batch(20)) == ["a", "b"]
