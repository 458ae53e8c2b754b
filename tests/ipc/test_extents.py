"""Bookkeeping of free ranges, against a model that knows every byte."""

import pytest
from atoll_ipc.memory import Extents, round_up
from hypothesis import given, settings
from hypothesis import strategies as st

SIZE = 64


@settings(deadline=None)
@given(st.lists(st.one_of(st.integers(1, SIZE), st.integers(-SIZE, -1))))
def test_ranges_never_overlap_and_free_space_is_always_found(steps: list[int]) -> None:
    """A positive step takes so many bytes, a negative one gives a taken range back."""
    extents = Extents(SIZE)
    owner = [0] * SIZE  # for each byte the range that holds it, 0 for none
    taken: list[tuple[int, int]] = []
    for number, step in enumerate(steps, start=1):
        if step > 0:
            start = extents.take(step)
            longest = max(map(len, "".join("x" if held else "." for held in owner).split("x")))
            if start is None:
                assert longest < step
                continue
            assert owner[start : start + step] == [0] * step
            owner[start : start + step] = [number] * step
            taken.append((start, step))
        elif taken:
            start, nbytes = taken.pop(-step % len(taken))
            extents.give(start, nbytes)
            owner[start : start + nbytes] = [0] * nbytes
        assert extents.used == sum(1 for held in owner if held)
    for start, nbytes in taken:
        extents.give(start, nbytes)
    assert extents.used == 0
    assert extents.take(SIZE) == 0


def test_the_first_range_that_fits_is_taken() -> None:
    extents = Extents(100)
    ranges = [extents.take(10) for _ in range(10)]
    assert ranges == list(range(0, 100, 10))
    extents.give(20, 10)
    extents.give(60, 10)
    extents.give(70, 10)
    assert extents.take(15) == 60
    assert extents.take(10) == 20
    assert extents.take(10) is None
    assert extents.take(5) == 75


@pytest.mark.parametrize(("nbytes", "rounded"), [(0, 8), (1, 8), (8, 8), (9, 16), (4096, 4096)])
def test_sizes_are_rounded_up_to_at_least_one_unit(nbytes: int, rounded: int) -> None:
    assert round_up(nbytes, 8) == rounded
