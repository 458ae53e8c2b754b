"""Summaries: quantiles within their bound whatever the values, over a window that slides."""

import math

import pytest
from atoll.observe.exposition import Family
from atoll.observe.summary import Summary
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.spec("server:245")

SECOND = 1_000_000_000
QUANTILES = (0.0, 0.5, 0.9, 0.999, 1.0)


@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=200))
def test_quantiles_are_within_half_a_percent_of_the_true_ones(values: list[int]) -> None:
    summary = Summary()
    for value in values:
        summary.observe(value, 0)
    ordered = sorted(values)
    for quantile, found in zip(QUANTILES, summary.quantiles(QUANTILES, 0), strict=True):
        true = ordered[math.floor(quantile * (len(ordered) - 1))]
        assert found == pytest.approx(true, rel=0.005001)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60))
def test_values_of_the_last_fifty_seconds_count_and_none_older_than_a_minute(pauses: list[int]) -> None:
    summary, second, seen = Summary(), 0, []
    for pause in pauses:
        second += pause
        summary.observe(second + 1000, second * SECOND)
        seen.append(second)
    (oldest,) = summary.quantiles((0.0,), second * SECOND)
    assert oldest >= (1000 + min(time for time in seen if time >= second - 60)) * 0.994
    assert oldest <= (1000 + min(time for time in seen if time >= second - 50)) * 1.006


def test_after_a_pause_nothing_old_is_left_but_the_totals() -> None:
    summary = Summary()
    summary.observe(7, 3 * SECOND)
    summary.observe(9, 4 * SECOND)
    family = Family("f", "summary", "h")
    summary.show(family, {"model": "m"}, (0.5,), 65 * SECOND)
    assert family.samples[:2] == [("_count", '{model="m"}', 2), ("_sum", '{model="m"}', 16)]
    suffix, labels, value = family.samples[2]
    assert (suffix, labels) == ("", '{model="m",quantile="0.5"}')
    assert math.isnan(value)


def test_memory_is_bounded_by_the_range_of_the_values_and_not_by_their_number() -> None:
    summary = Summary()
    for value in range(20_000):
        summary.observe(value, 0)
    assert len(summary._counts) < 1000
