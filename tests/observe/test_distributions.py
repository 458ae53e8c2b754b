"""Distributions of latencies on the metrics page: what is shown for which option, by which names."""

import math

import pytest
from atoll.observe.distributions import DEFAULT_QUANTILES, DistributionOptions
from atoll.observe.metrics import Metrics, MetricsOptions
from atoll.observe.statistics import ModelStatistics
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

SUMMARIES = {
    "nv_inference_request_summary_us": (
        "Summary of inference request duration in microseconds (includes cached requests)"
    ),
    "nv_inference_queue_summary_us": "Summary of inference queuing duration in microseconds (includes cached requests)",
    "nv_inference_compute_input_summary_us": (
        "Cumulative compute input duration in microseconds (does not include cached requests)"
    ),
    "nv_inference_compute_infer_summary_us": (
        "Cumulative compute inference duration in microseconds (does not include cached requests)"
    ),
    "nv_inference_compute_output_summary_us": (
        "Cumulative inference compute output duration in microseconds (does not include cached requests)"
    ),
}
FIRST_RESPONSE = "nv_inference_first_response_histogram_ms"


def page(metrics: Metrics) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(metrics.page())}


def metrics_with(**options: object) -> Metrics:
    return Metrics(MetricsOptions(cpu=False, distributions=DistributionOptions(**options)))  # type: ignore[arg-type]


def buckets(family: Metric, **labels: str) -> dict[str, float]:
    return {
        sample.labels["le"]: sample.value
        for sample in family.samples
        if sample.name.endswith("_bucket") and labels.items() <= sample.labels.items()
    }


def test_nothing_is_kept_unless_asked_for() -> None:
    metrics, statistics = Metrics(MetricsOptions(cpu=False)), ModelStatistics()
    metrics.add_model("m", 1, statistics, lambda: 0, decoupled=True)
    assert statistics.distributions is None
    assert not [name for name in page(metrics) if "summary" in name or "histogram" in name or "atoll" in name]


@pytest.mark.spec("server:245")
def test_summaries() -> None:
    metrics, statistics = metrics_with(quantiles=DEFAULT_QUANTILES), ModelStatistics()
    metrics.add_model("m", 1, statistics, lambda: 0, {"team": "x"})
    assert statistics.distributions is not None
    empty = page(metrics)["nv_inference_request_summary_us"]
    assert [sample.value for sample in empty.samples if "quantile" not in sample.labels] == [0, 0]
    assert all(math.isnan(sample.value) for sample in empty.samples if "quantile" in sample.labels)
    assert '{_team="x",model="m",version="1",quantile="0.5"} Nan\n' in metrics.page()

    for factor in range(1, 101):
        statistics.distributions.executed(
            factor * 50_000, factor * 1_000, (factor * 2_000, factor * 30_000, factor * 4_000), 0
        )
    shown = page(metrics)
    assert {name: shown[name].documentation for name in SUMMARIES} == SUMMARIES
    assert {shown[name].type for name in SUMMARIES} == {"summary"}
    totals = {
        sample.name: sample.value for name in SUMMARIES for sample in shown[name].samples if len(sample.labels) == 3
    }
    assert totals == {
        f"{name}_{what}": value
        for name, factor in zip(SUMMARIES, (50, 1, 2, 30, 4), strict=True)
        for what, value in (("count", 100), ("sum", 5050 * factor))
    }


@pytest.mark.spec("server:243", "server:245")
def test_a_model_that_uses_the_cache_has_summaries_of_that_and_none_of_whole_requests() -> None:
    metrics, statistics = metrics_with(quantiles=(0.5,)), ModelStatistics()
    statistics.cached = True
    metrics.add_model("m", 1, statistics, lambda: 0)
    metrics.add_model("plain", 1, ModelStatistics(), lambda: 0)
    assert statistics.distributions is not None
    statistics.distributions.executed(9_000, 1_000, (2_000, 3_000, 4_000), 0)
    statistics.missed_cache(5_000, 6_000)
    statistics.found_in_cache(30_000, 7_000, 8_000)
    shown = page(metrics)
    totals = {
        sample.name: sample.value
        for family in shown.values()
        for sample in family.samples
        if sample.labels == {"model": "m", "version": "1"} and "_summary_" in sample.name
    }
    assert {name: value for name, value in totals.items() if not name.endswith("_count")} == {
        "nv_inference_queue_summary_us_sum": 8,
        "nv_inference_compute_input_summary_us_sum": 2,
        "nv_inference_compute_infer_summary_us_sum": 3,
        "nv_inference_compute_output_summary_us_sum": 4,
        "nv_cache_hit_summary_per_model_sum": 8,
        "nv_cache_miss_summary_per_model_sum": 11,
    }
    hits = shown["nv_cache_hit_summary_per_model"]
    assert hits.documentation == "Summary of cache hit counts/durations per model, in microseconds."
    assert {sample.labels["model"] for sample in hits.samples} == {"m"}


@pytest.mark.spec("server:245")
def test_quantiles_are_labelled_in_their_order() -> None:
    metrics, statistics = metrics_with(quantiles=(0.25, 1.0)), ModelStatistics()
    metrics.add_model("m", 1, statistics, lambda: 0)
    name = "nv_inference_queue_summary_us"
    lines = [line for line in metrics.page().splitlines() if line.startswith(f"{name}{{")]
    assert lines == [f'{name}{{model="m",version="1",quantile="{quantile}"}} Nan' for quantile in ("0.25", "1")]


@pytest.mark.spec("server:246")
def test_first_responses_are_shown_of_decoupled_models_only() -> None:
    metrics, statistics = metrics_with(first_responses=True), ModelStatistics()
    metrics.add_model("plain", 1, ModelStatistics(), lambda: 0)
    metrics.add_model("stream", 1, statistics, lambda: 0, decoupled=True)
    assert statistics.distributions is not None
    for milliseconds in (1, 100, 101, 700, 6000):
        statistics.distributions.first_response(milliseconds * 1_000_000)
    family = page(metrics)[FIRST_RESPONSE]
    assert family.documentation == "Duration from request to first response in milliseconds"
    assert family.type == "histogram"
    assert {sample.labels["model"] for sample in family.samples} == {"stream"}
    assert buckets(family) == {"100": 2, "500": 3, "2000": 4, "5000": 4, "+Inf": 5}
    assert {sample.value for sample in family.samples if sample.name.endswith("_sum")} == {6902}


@pytest.mark.spec("server:246")
def test_a_model_may_choose_its_buckets() -> None:
    metrics = metrics_with(first_responses=True, stages=True)
    chosen = {FIRST_RESPONSE: [20.5, 5.0, 5.0], "atoll_queue_depth": [3.0]}
    metrics.add_model("stream", 1, ModelStatistics(), lambda: 0, decoupled=True, buckets=chosen)
    shown = page(metrics)
    assert list(buckets(shown[FIRST_RESPONSE])) == ["5", "20.5", "+Inf"]
    assert list(buckets(shown["atoll_queue_depth"])) == ["3", "+Inf"]


def test_stages_and_the_depth_of_the_queue() -> None:
    metrics, statistics = metrics_with(stages=True), ModelStatistics()
    metrics.add_model("m", 1, statistics, lambda: 0)
    assert statistics.distributions is not None
    statistics.distributions.executed(99_000, 10_000, (20_000, 30_000, 2_000_000_000), 0)
    statistics.distributions.waiting(0)
    statistics.distributions.waiting(3)
    shown = page(metrics)
    stages = shown["atoll_stage_duration_us"]
    sums = {sample.labels["stage"]: sample.value for sample in stages.samples if sample.name.endswith("_sum")}
    assert sums == {"queue": 10, "compute_input": 20, "compute_infer": 30, "compute_output": 2_000_000}
    assert [buckets(stages, stage="queue")[bound] for bound in ("10", "+Inf")] == [1, 1]
    assert [buckets(stages, stage="compute_input")[bound] for bound in ("10", "25")] == [0, 1]
    assert [buckets(shown["atoll_queue_depth"])[bound] for bound in ("0", "2", "4", "1024")] == [1, 1, 2, 2]
    assert not set(SUMMARIES) & set(shown)
