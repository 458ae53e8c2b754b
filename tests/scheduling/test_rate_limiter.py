"""Turns, without a clock: who executes when instances share resources."""

from __future__ import annotations

from collections import Counter

import pytest
from atoll.errors import ServerError
from atoll.scheduling.rate_limiter import Demand, RateLimiter, Resource, Seat
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.spec("server:231")

R, S = Resource("R", 0), Resource("S", 0)


class Player:
    """An instance with a seat, and so many batches to execute."""

    def __init__(self, limiter: RateLimiter, name: str = "", priority: int = 1, **units: int) -> None:
        self.name = name
        self.work = 0
        self.executed = 0
        self._limiter = limiter
        demand = Demand({Resource(resource, 0): count for resource, count in units.items()}, priority)
        self.seat = Seat(demand, self._start)

    def enrol(self) -> Player:
        self._limiter.enrol([self.seat])
        return self

    def _start(self) -> bool:
        if not self.work:
            return False
        self.work -= 1
        self.executed += 1
        return True

    def want(self, work: int = 1) -> None:
        self.work += work
        self._limiter.stage([self.seat])

    def finish(self) -> None:
        assert self.seat.is_running
        self._limiter.release(self.seat, stage=self.work > 0)


def running(*players: Player) -> str:
    return "".join(player.name for player in players if player.seat.is_running)


def test_without_resources_all_run_at_once() -> None:
    limiter = RateLimiter()
    players = [Player(limiter, name).enrol() for name in "abc"]
    for player in players:
        player.want()
    assert running(*players) == "abc"


def test_a_seat_waits_until_its_resources_are_free() -> None:
    limiter = RateLimiter()
    a, b = Player(limiter, "a", R=2).enrol(), Player(limiter, "b", R=1).enrol()
    a.want()
    b.want()
    assert running(a, b) == "a"
    assert limiter.available(R) == 0
    a.finish()
    assert running(a, b) == "b"
    assert limiter.available(R) == 1
    b.finish()
    assert limiter.available(R) == 2


def test_a_seat_of_higher_priority_number_runs_less_often() -> None:
    limiter = RateLimiter([("R", 1, None)])
    once, twice, thrice = (Player(limiter, priority=priority, R=1).enrol() for priority in (1, 2, 3))
    players = (once, twice, thrice)
    for player in players:
        player.want(1000)
    for _ in range(660):
        next(player for player in players if player.seat.is_running).finish()
    assert [player.executed // 10 for player in players] == [36, 18, 12]


def test_equals_take_turns_in_the_order_in_which_they_came() -> None:
    limiter = RateLimiter([("R", 1, None)])
    players = {name: Player(limiter, name, R=1).enrol() for name in "abc"}
    for name in "cab":
        players[name].want(3)
    turns = ""
    for _ in range(9):
        turns += running(*players.values())
        players[turns[-1]].finish()
    assert turns == "cab" * 3


def test_what_a_waiting_seat_needs_is_kept_for_it() -> None:
    limiter = RateLimiter([("R", 2, None), ("S", 1, None)])
    small, other, large, elsewhere = (
        Player(limiter, name, **units).enrol()
        for name, units in (("s", {"R": 1}), ("o", {"R": 1}), ("l", {"R": 2}), ("e", {"S": 1}))
    )
    small.want(2)
    large.want()
    other.want()
    elsewhere.want()
    assert running(small, other, large, elsewhere) == "se"  # a unit of R is free, but the large one waits for it
    small.finish()
    assert running(small, other, large, elsewhere) == "le"
    large.finish()
    assert running(small, other, large, elsewhere) == "soe"


def test_a_seat_without_work_passes_its_turn_on_and_has_not_executed() -> None:
    limiter = RateLimiter()
    a, b, c = (Player(limiter, name, R=1).enrol() for name in "abc")
    a.want()
    b.want()
    c.want()
    b.work = 0
    a.finish()
    assert running(a, b, c) == "c"
    assert (b.seat.executions, b.executed) == (0, 0)
    assert limiter.available(R) == 0


def test_a_withdrawn_seat_keeps_nothing_from_others() -> None:
    limiter = RateLimiter([("R", 2, None)])
    a, large, b = (
        Player(limiter, "a", R=1).enrol(),
        Player(limiter, "l", R=2).enrol(),
        Player(limiter, "b", R=1).enrol(),
    )
    a.want()
    large.want()
    b.want()
    assert running(a, large, b) == "a"
    limiter.withdraw([large.seat])
    assert running(a, large, b) == "ab"


def test_a_seat_that_leaves_gives_back_what_it_held() -> None:
    limiter = RateLimiter([("R", 1, None)])
    a, b = Player(limiter, "a", R=1).enrol(), Player(limiter, "b", R=1).enrol()
    a.want()
    b.want()
    limiter.leave([a.seat])
    assert running(a, b) == "b"
    limiter.leave([b.seat])
    assert limiter.available(R) == 1


def test_a_late_seat_starts_level_with_the_others() -> None:
    limiter = RateLimiter()
    old = Player(limiter, "o", R=1).enrol()
    for _ in range(100):
        old.want()
        old.finish()
    late = Player(limiter, "l", R=1).enrol()
    old.want(10)
    late.want(10)
    for _ in range(10):
        (old if old.seat.is_running else late).finish()
    assert late.executed in (5, 6)


def test_the_pool_is_what_the_most_demanding_seat_needs() -> None:
    limiter = RateLimiter()
    small, large = Player(limiter, R=2).enrol(), Player(limiter, R=5).enrol()
    assert limiter.available(R) == 5
    limiter.leave([large.seat])
    assert limiter.available(R) == 2
    limiter.leave([small.seat])
    assert limiter.available(R) == 0


@pytest.mark.parametrize(
    ("resource", "count"),
    [
        (Resource("R", 0), 4),
        (Resource("R", 1), 7),
        (Resource("R", None), 4),
        (Resource("S", 0), 0),
        (Resource("S", 1), 3),
        (Resource("T", 0), 0),
    ],
)
def test_the_pool_is_what_the_command_line_says(resource: Resource, count: int) -> None:
    limiter = RateLimiter([("R", 4, None), ("R", 7, 1), ("S", 3, 1)])
    assert limiter.available(resource) == count


@pytest.mark.parametrize(
    ("limits", "units", "message"),
    [
        (
            [("R", 2, None)],
            {R: 3},
            'Resource count for "R" is limited to 2 which will prevent scheduling of one or more model instances, the '
            "minimum required count is 3",
        ),
        (
            [("S", 2, None)],
            {R: 1},
            'Resource count for "R" is limited to 0 which will prevent scheduling of one or more model instances, the '
            "minimum required count is 1",
        ),
        (
            [],
            {R: 1, Resource("R", None): 1},
            'Resource "R" is present as both global and device-specific resource in the model configuration.',
        ),
    ],
)
def test_demands_that_can_never_be_met_are_refused(
    limits: list[tuple[str, int, int | None]], units: dict[Resource, int], message: str
) -> None:
    limiter = RateLimiter(limits)
    with pytest.raises(ServerError) as refusal:
        limiter.check([Demand({}), Demand(units)])
    assert str(refusal.value) == f"Invalid argument: {message}"
    limiter.check([Demand({})])


def test_models_cannot_disagree_on_whether_a_resource_is_global() -> None:
    limiter = RateLimiter()
    limiter.enrol([Seat(Demand({R: 1}), lambda: True)])
    with pytest.raises(ServerError, match="both global and device-specific"):
        limiter.check([Demand({Resource("R", None): 1})])


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=5),
    st.lists(st.tuples(st.sampled_from("wfx"), st.integers(0, 4)), max_size=60),
)
def test_pools_are_never_overdrawn_and_nobody_waits_for_ever(
    demands: list[tuple[int, int, int]], events: list[tuple[str, int]]
) -> None:
    limiter = RateLimiter([("R", 4, None), ("S", 3, None)])
    players = [Player(limiter, priority=priority, R=r, S=s).enrol() for r, s, priority in demands]

    def check() -> None:
        held: Counter[Resource] = Counter()
        for player in players:
            if player.seat.is_running:
                held.update(player.seat.demand.units)
        assert held[R] <= 4
        assert held[S] <= 3
        assert (limiter.available(R), limiter.available(S)) == (4 - held[R], 3 - held[S])

    for event, number in events:
        player = players[number % len(players)]
        if event == "w":
            player.want()
        elif event == "f" and player.seat.is_running:
            player.finish()
        elif event == "x":
            player.work = 0
            limiter.withdraw([player.seat])
        check()
    for _ in range(sum(player.work for player in players) + len(players)):
        for player in players:
            if player.seat.is_running:
                player.finish()
        check()
    assert [player.work for player in players] == [0] * len(players)
