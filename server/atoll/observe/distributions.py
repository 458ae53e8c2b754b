"""How the latencies of one model version are distributed: summaries and histograms, kept only where they are asked for.

See also: ``statistics`` for what is always counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from atoll.observe.exposition import Family
from atoll.observe.histogram import Histogram
from atoll.observe.summary import Summary

__all__ = ["DEFAULT_QUANTILES", "Distributions", "DistributionOptions", "distribution_families"]

DEFAULT_QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)

_FIRST_RESPONSE = "nv_inference_first_response_histogram_ms"
_STAGE = "atoll_stage_duration_us"
_QUEUE_DEPTH = "atoll_queue_depth"
_BUCKETS: dict[str, tuple[float, ...]] = {
    _FIRST_RESPONSE: (100, 500, 2000, 5000),
    _STAGE: tuple(digit * 10**power for power in range(1, 7) for digit in (1, 2.5, 5)),
    _QUEUE_DEPTH: (0, *(2**power for power in range(11))),
}
_STAGES = ("queue", "compute_input", "compute_infer", "compute_output")
_TIMES = ("request", *_STAGES)
_SUMMARIES = {
    "request": (
        "nv_inference_request_summary_us",
        "Summary of inference request duration in microseconds (includes cached requests)",
    ),
    "queue": (
        "nv_inference_queue_summary_us",
        "Summary of inference queuing duration in microseconds (includes cached requests)",
    ),
    "compute_input": (
        "nv_inference_compute_input_summary_us",
        "Cumulative compute input duration in microseconds (does not include cached requests)",
    ),
    "compute_infer": (
        "nv_inference_compute_infer_summary_us",
        "Cumulative compute inference duration in microseconds (does not include cached requests)",
    ),
    "compute_output": (
        "nv_inference_compute_output_summary_us",
        "Cumulative inference compute output duration in microseconds (does not include cached requests)",
    ),
    "cache_hit": (
        "nv_cache_hit_summary_per_model",
        "Summary of cache hit counts/durations per model, in microseconds.",
    ),
    "cache_miss": (
        "nv_cache_miss_summary_per_model",
        "Summary of cache miss counts/durations per model, in microseconds.",
    ),
}


@dataclass(frozen=True, slots=True)
class DistributionOptions:
    """What is kept; nothing unless asked for."""

    quantiles: tuple[float, ...] = ()
    """Of the summaries; without any there are no summaries."""
    first_responses: bool = False
    """A histogram of the time to the first response, for decoupled models."""
    stages: bool = False
    """Ours: histograms of each stage of a request and of the depth of the queue."""

    def __bool__(self) -> bool:
        return bool(self.quantiles) or self.first_responses or self.stages


class Distributions:
    """Those of one model version. ``buckets`` stand in for the default ones, by the histogram's family.

    A model that uses the response cache (``cached``) has summaries of that instead of the one of whole requests.
    """

    __slots__ = ("_first_response", "_queue_depth", "_stages", "_summaries")

    def __init__(
        self,
        options: DistributionOptions,
        *,
        decoupled: bool,
        cached: bool,
        buckets: Mapping[str, Sequence[float]],
    ) -> None:
        def histogram(family: str) -> Histogram:
            return Histogram(sorted(set(buckets.get(family, _BUCKETS[family]))))

        shown = (*_STAGES, "cache_hit", "cache_miss") if cached else _TIMES
        self._summaries = {name: Summary() for name in shown} if options.quantiles else {}
        self._first_response = histogram(_FIRST_RESPONSE) if options.first_responses and decoupled else None
        self._stages = [histogram(_STAGE) for _ in _STAGES] if options.stages else []
        self._queue_depth = histogram(_QUEUE_DEPTH) if options.stages else None

    def executed(self, total_ns: int, queue_ns: int, compute_ns: Sequence[int], now_ns: int) -> None:
        """A request was executed with success."""
        for name, ns in zip(_TIMES, (total_ns, queue_ns, *compute_ns), strict=True):
            self._summarize(name, ns, now_ns)
        for histogram, ns in zip(self._stages, (queue_ns, *compute_ns), strict=False):
            histogram.observe(ns / 1000)

    def found_in_cache(self, queue_ns: int, lookup_ns: int, now_ns: int) -> None:
        """A request was answered by the response cache."""
        self._summarize("queue", queue_ns, now_ns)
        self._summarize("cache_hit", lookup_ns, now_ns)

    def missed_cache(self, ns: int, now_ns: int) -> None:
        """The response cache did not have the response; so long did it take to look it up and to insert it."""
        self._summarize("cache_miss", ns, now_ns)

    def _summarize(self, name: str, ns: int, now_ns: int) -> None:
        summary = self._summaries.get(name)
        if summary is not None:
            summary.observe(ns // 1000, now_ns)

    def waiting(self, count: int) -> None:
        """An execution ended, and so many requests waited for one then."""
        if self._queue_depth is not None:
            self._queue_depth.observe(count)

    def first_response(self, ns: int) -> None:
        """So long after it came, a request to a decoupled model got its first response."""
        if self._first_response is not None:
            self._first_response.observe(ns / 1_000_000)

    def _show(
        self, families: Mapping[str, Family], labels: Mapping[str, str], quantiles: Sequence[float], now_ns: int
    ) -> None:
        for name, summary in self._summaries.items():
            summary.show(families[_SUMMARIES[name][0]], labels, quantiles, now_ns)
        if self._first_response is not None:
            self._first_response.show(families[_FIRST_RESPONSE], labels)
        for stage, histogram in zip(_STAGES, self._stages, strict=False):
            histogram.show(families[_STAGE], {**labels, "stage": stage})
        if self._queue_depth is not None:
            self._queue_depth.show(families[_QUEUE_DEPTH], labels)


def distribution_families(
    models: Iterable[tuple[Mapping[str, str], Distributions]], quantiles: Sequence[float], now_ns: int
) -> Iterable[Family]:
    """The families of all models, each with its labels."""
    families = {
        family.name: family
        for family in (
            *(Family(name, "summary", help_text) for name, help_text in _SUMMARIES.values()),
            Family(_FIRST_RESPONSE, "histogram", "Duration from request to first response in milliseconds"),
            Family(_STAGE, "histogram", "Duration of each stage of a request in microseconds"),
            Family(_QUEUE_DEPTH, "histogram", "Requests that waited for an execution when one ended"),
        )
    }
    for labels, distributions in models:
        distributions._show(families, labels, quantiles, now_ns)
    return families.values()
