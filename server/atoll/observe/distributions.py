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
_SUMMARIES = {
    "request": "Summary of inference request duration in microseconds (includes cached requests)",
    "queue": "Summary of inference queuing duration in microseconds (includes cached requests)",
    "compute_input": "Cumulative compute input duration in microseconds (does not include cached requests)",
    "compute_infer": "Cumulative compute inference duration in microseconds (does not include cached requests)",
    "compute_output": "Cumulative inference compute output duration in microseconds (does not include cached requests)",
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
    """Those of one model version. ``buckets`` stand in for the default ones, by the histogram's family."""

    __slots__ = ("_first_response", "_queue_depth", "_stages", "_summaries")

    def __init__(
        self, options: DistributionOptions, *, decoupled: bool, buckets: Mapping[str, Sequence[float]]
    ) -> None:
        def histogram(family: str) -> Histogram:
            return Histogram(sorted(set(buckets.get(family, _BUCKETS[family]))))

        self._summaries = [Summary() for _ in _SUMMARIES] if options.quantiles else []
        self._first_response = histogram(_FIRST_RESPONSE) if options.first_responses and decoupled else None
        self._stages = [histogram(_STAGE) for _ in _STAGES] if options.stages else []
        self._queue_depth = histogram(_QUEUE_DEPTH) if options.stages else None

    def executed(self, total_ns: int, queue_ns: int, compute_ns: Sequence[int], now_ns: int) -> None:
        """A request was executed with success."""
        for summary, ns in zip(self._summaries, (total_ns, queue_ns, *compute_ns), strict=False):
            summary.observe(ns // 1000, now_ns)
        for histogram, ns in zip(self._stages, (queue_ns, *compute_ns), strict=False):
            histogram.observe(ns / 1000)

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
        for name, summary in zip(_SUMMARIES, self._summaries, strict=False):
            summary.show(families[_summary_name(name)], labels, quantiles, now_ns)
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
            *(Family(_summary_name(name), "summary", help_text) for name, help_text in _SUMMARIES.items()),
            Family(_FIRST_RESPONSE, "histogram", "Duration from request to first response in milliseconds"),
            Family(_STAGE, "histogram", "Duration of each stage of a request in microseconds"),
            Family(_QUEUE_DEPTH, "histogram", "Requests that waited for an execution when one ended"),
        )
    }
    for labels, distributions in models:
        distributions._show(families, labels, quantiles, now_ns)
    return families.values()


def _summary_name(name: str) -> str:
    return f"nv_inference_{name}_summary_us"
