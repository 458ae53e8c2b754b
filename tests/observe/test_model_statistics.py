"""The counters of a model version, and what holds between them."""

from typing import Any

import pytest
from atoll.observe.statistics import Failure, ModelStatistics, ResponseOutcome
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.spec("server:253")


def counts(entry: dict[str, Any]) -> dict[str, int]:
    return {name: duration["count"] for name, duration in entry["inference_stats"].items()}


def test_a_fresh_model() -> None:
    nothing = {"count": 0, "ns": 0}
    entry = ModelStatistics().as_dict("two_in", 1)
    assert entry == {
        "name": "two_in",
        "version": "1",
        "last_inference": 0,
        "inference_count": 0,
        "execution_count": 0,
        "inference_stats": {
            "success": nothing,
            "fail": nothing,
            "queue": nothing,
            "compute_input": nothing,
            "compute_infer": nothing,
            "compute_output": nothing,
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "response_stats": {},
        "batch_stats": [],
        "memory_usage": [],
    }
    assert list(entry["inference_stats"])[-2:] == ["cache_hit", "cache_miss"]


@pytest.mark.spec("server:254", "python_backend:Q4")
def test_four_requests_in_one_execution() -> None:
    statistics = ModelStatistics()
    statistics.executed(8, 4, 460, 100, (5, 50, 7), began_ms=1234)
    entry = statistics.as_dict("m", 1)
    assert (entry["inference_count"], entry["execution_count"], entry["last_inference"]) == (8, 1, 1234)
    assert entry["inference_stats"]["success"] == {"count": 4, "ns": 460}
    assert entry["inference_stats"]["queue"] == {"count": 4, "ns": 100}
    assert entry["inference_stats"]["compute_input"] == {"count": 4, "ns": 20}
    assert entry["inference_stats"]["compute_infer"] == {"count": 4, "ns": 200}
    assert entry["inference_stats"]["compute_output"] == {"count": 4, "ns": 28}
    assert entry["batch_stats"] == [
        {
            "batch_size": 8,
            "compute_input": {"count": 1, "ns": 5},
            "compute_infer": {"count": 1, "ns": 50},
            "compute_output": {"count": 1, "ns": 7},
        }
    ]


@pytest.mark.spec("server:254")
def test_batch_sizes_are_listed_in_order_and_none_counts_one() -> None:
    statistics = ModelStatistics()
    for size in (4, 0, 1, 4):
        statistics.executed(size, 1, 1, 1, (1, 1, 1), began_ms=1)
    entry = statistics.as_dict("m", 1)
    sizes = [(batch["batch_size"], batch["compute_infer"]["count"]) for batch in entry["batch_stats"]]
    assert sizes == [(1, 2), (4, 2)]
    assert entry["inference_count"] == 10


def test_an_execution_that_failed_for_every_request_does_not_count() -> None:
    statistics = ModelStatistics()
    statistics.executed(2, 0, 0, 0, (1, 1, 1), began_ms=9)
    statistics.failed(Failure.BACKEND, 30)
    statistics.failed(Failure.BACKEND, 40)
    entry = statistics.as_dict("m", 1)
    assert (entry["execution_count"], entry["inference_count"], entry["last_inference"]) == (0, 0, 0)
    assert entry["inference_stats"]["fail"] == {"count": 2, "ns": 70}
    assert entry["batch_stats"] == []
    assert statistics.failures[Failure.BACKEND] == 2


def test_a_refused_request_is_no_failure_of_the_statistics() -> None:
    statistics = ModelStatistics()
    statistics.refused()
    assert counts(statistics.as_dict("m", 1))["fail"] == 0
    assert statistics.failures == [0, 0, 0, 1]


def test_last_inference_never_goes_back() -> None:
    statistics = ModelStatistics()
    statistics.executed(1, 1, 1, 1, (1, 1, 1), began_ms=20)
    statistics.executed(1, 1, 1, 1, (1, 1, 1), began_ms=10)
    assert statistics.last_inference_ms == 20


@pytest.mark.spec("server:255")
def test_responses_of_a_decoupled_model() -> None:
    statistics = ModelStatistics()
    statistics.responded(1, ResponseOutcome.EMPTY, 3, 0)
    statistics.responded(0, ResponseOutcome.SUCCESS, 10, 2)
    statistics.responded(0, ResponseOutcome.FAIL, 20, 3)
    statistics.responded(1 << 40, ResponseOutcome.SUCCESS, 1, 1)
    responses = statistics.as_dict("m", 1)["response_stats"]
    nothing = {"count": 0, "ns": 0}
    assert list(responses) == ["0", "1"]
    assert responses["0"] == {
        "compute_infer": {"count": 2, "ns": 30},
        "compute_output": {"count": 2, "ns": 5},
        "success": {"count": 1, "ns": 12},
        "fail": {"count": 1, "ns": 23},
        "empty_response": nothing,
        "cancel": nothing,
    }
    assert responses["1"]["empty_response"] == {"count": 1, "ns": 3}
    assert responses["1"]["compute_infer"] == nothing


_requests = st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 10**12)), max_size=5)


@given(st.lists(st.one_of(st.tuples(st.integers(0, 9), _requests), st.sampled_from(Failure))))
def test_what_always_holds(events: list[Any]) -> None:
    statistics = ModelStatistics()
    for event in events:
        if isinstance(event, Failure):
            statistics.failed(event, 1)
        else:
            total_ns, queue_ns = (sum(times) for times in zip(*event[1], strict=True)) if event[1] else (0, 0)
            statistics.executed(event[0], len(event[1]), total_ns, queue_ns, (1, 1, 1), began_ms=1)
    entry = statistics.as_dict("m", 1)
    count = counts(entry)
    assert count["queue"] == count["success"]
    for phase in ("compute_input", "compute_infer", "compute_output"):
        assert count["success"] == count[phase] + count["cache_hit"]
    assert entry["execution_count"] == sum(batch["compute_infer"]["count"] for batch in entry["batch_stats"])
    assert count["fail"] == sum(statistics.failures)
