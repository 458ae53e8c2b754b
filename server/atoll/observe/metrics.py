"""The metrics that every server shows: those of its models, of the machine, and of the (absent) pinned pool.

:class:`Metrics` is one server's: the core adds a model version when it is loaded and removes it when it is gone; the
metrics frontend shows ``page()``. Custom metrics of models join through ``registry``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import psutil

from atoll.observe.distributions import DistributionOptions, Distributions, distribution_families
from atoll.observe.exposition import Collector, Family, Registry, label_text
from atoll.observe.statistics import Failure, ModelStatistics

__all__ = ["Metrics", "MetricsOptions", "ModelSeries"]


@dataclass(frozen=True, slots=True)
class MetricsOptions:
    """What the page shows, and how often the machine is looked at."""

    counter_latencies: bool = True
    cpu: bool = True
    interval_s: float = 2.0
    pinned_pool_nbytes: int = 256 << 20
    distributions: DistributionOptions = field(default_factory=DistributionOptions)


class ModelSeries:
    """One loaded version on the page: its labels, written once, and the statistics they belong to."""

    __slots__ = ("key", "labels", "names", "pending", "reason_labels", "statistics")

    def __init__(
        self,
        name: str,
        version: int,
        statistics: ModelStatistics,
        pending: Callable[[], int],
        tags: Mapping[str, str],
        namespace: str,
    ) -> None:
        self.key = (namespace, name, version)
        self.statistics = statistics
        self.pending = pending
        self.names = labels = {"model": name, "version": str(version)}
        if namespace:
            labels["namespace"] = namespace
        labels.update((f"_{key}", value) for key, value in tags.items())
        self.labels = label_text(labels)
        self.reason_labels = tuple(label_text({**labels, "reason": reason.name}) for reason in Failure)


class Metrics:
    """The metrics of one server."""

    def __init__(self, options: MetricsOptions | None = None, extra: Iterable[Collector] = ()) -> None:
        self.registry = Registry()
        self._options = options or MetricsOptions()
        self._models: dict[tuple[str, str, int], ModelSeries] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._cpu: tuple[float, int, int] = (0.0, 0, 0)
        self.registry.register(self._collect_models)
        if self._options.distributions:
            self.registry.register(self._collect_distributions)
        self.registry.register(self._collect_machine)
        for collector in extra:
            self.registry.register(collector)
        self.refresh()

    def page(self) -> str:
        return self.registry.page()

    def add_model(
        self,
        name: str,
        version: int,
        statistics: ModelStatistics,
        pending: Callable[[], int],
        tags: Mapping[str, str] | None = None,
        *,
        namespace: str = "",
        decoupled: bool = False,
        buckets: Mapping[str, Sequence[float]] | None = None,
    ) -> ModelSeries:
        """Show a version from now on.

        ``pending`` tells how many of its requests wait for an execution; ``tags`` are the ``metric_tags`` of its
        configuration, ``buckets`` its ``model_metrics``. ``namespace`` is where the model lies, if its name alone does
        not tell it from others.
        """
        if self._options.distributions:
            statistics.distributions = Distributions(
                self._options.distributions, decoupled=decoupled, cached=statistics.cached, buckets=buckets or {}
            )
        series = ModelSeries(name, version, statistics, pending, tags or {}, namespace)
        self._models[series.key] = series
        return series

    def remove_model(self, series: ModelSeries) -> None:
        """Show a version no longer. After a reload the newer one, which took its place, stays."""
        if self._models.get(series.key) is series:
            del self._models[series.key]

    def start(self) -> None:
        """Look at the machine again and again, on the running loop, until :meth:`stop`."""
        self.refresh()
        self._timer = asyncio.get_running_loop().call_later(self._options.interval_s, self.start)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def refresh(self) -> None:
        """Look at the machine now."""
        if self._options.cpu:
            memory = psutil.virtual_memory()
            self._cpu = (psutil.cpu_percent() / 100, memory.total, memory.used)

    def _collect_models(self) -> Iterable[Family]:
        success = Family(
            "nv_inference_request_success", "counter", "Number of successful inference requests, all batch sizes"
        )
        failure = Family(
            "nv_inference_request_failure", "counter", "Number of failed inference requests, all batch sizes"
        )
        count = Family(
            "nv_inference_count",
            "counter",
            "Number of inferences performed (does not include cached requests)",
        )
        execution = Family(
            "nv_inference_exec_count",
            "counter",
            "Number of model executions performed (does not include cached requests)",
        )
        pending = Family(
            "nv_inference_pending_request_count",
            "gauge",
            "Instantaneous number of pending requests awaiting execution per-model.",
        )
        load = Family("nv_model_load_duration_secs", "gauge", "Model load time in seconds")
        for series in self._models.values():
            labels, statistics = series.labels, series.statistics
            success.add(labels, statistics.success.count)
            for reason_labels, failures in zip(series.reason_labels, statistics.failures, strict=True):
                failure.add(reason_labels, failures)
            count.add(labels, statistics.inference_count)
            execution.add(labels, statistics.execution_count)
            pending.add(labels, series.pending())
            load.add(labels, statistics.load_duration_s)
        durations = self._collect_durations() if self._options.counter_latencies else ()
        return (success, failure, count, execution, *durations, pending, load, *self._collect_cached())

    def _collect_durations(self) -> Iterable[Family]:
        request = Family(
            "nv_inference_request_duration_us",
            "counter",
            "Cumulative inference request duration in microseconds (includes cached requests)",
        )
        queue = Family(
            "nv_inference_queue_duration_us",
            "counter",
            "Cumulative inference queuing duration in microseconds (includes cached requests)",
        )
        compute_input = Family(
            "nv_inference_compute_input_duration_us",
            "counter",
            "Cumulative compute input duration in microseconds (does not include cached requests)",
        )
        compute_infer = Family(
            "nv_inference_compute_infer_duration_us",
            "counter",
            "Cumulative compute inference duration in microseconds (does not include cached requests)",
        )
        compute_output = Family(
            "nv_inference_compute_output_duration_us",
            "counter",
            "Cumulative inference compute output duration in microseconds (does not include cached requests)",
        )
        for series in self._models.values():
            labels, statistics = series.labels, series.statistics
            request.add(labels, statistics.success.ns // 1000)
            queue.add(labels, statistics.queue.ns // 1000)
            compute_input.add(labels, statistics.compute_input.ns // 1000)
            compute_infer.add(labels, statistics.compute_infer.ns // 1000)
            compute_output.add(labels, statistics.compute_output.ns // 1000)
        return request, queue, compute_input, compute_infer, compute_output

    def _collect_cached(self) -> Iterable[Family]:
        """Of the models that use the response cache."""
        hits = Family("nv_cache_num_hits_per_model", "counter", "Number of cache hits per model")
        misses = Family("nv_cache_num_misses_per_model", "counter", "Number of cache misses per model")
        hit_us = Family(
            "nv_cache_hit_duration_per_model", "counter", "Total cache hit duration per model, in microseconds"
        )
        miss_us = Family(
            "nv_cache_miss_duration_per_model",
            "counter",
            "Total cache miss (insert+lookup) duration per model, in microseconds",
        )
        for series in self._models.values():
            labels, statistics = series.labels, series.statistics
            if statistics.cached:
                hits.add(labels, statistics.cache_hit.count)
                misses.add(labels, statistics.cache_miss.count)
                if self._options.counter_latencies:
                    hit_us.add(labels, statistics.cache_hit.ns // 1000)
                    miss_us.add(labels, statistics.cache_miss.ns // 1000)
        return hits, hit_us, misses, miss_us

    def _collect_distributions(self) -> Iterable[Family]:
        shown = [
            (series.names, series.statistics.distributions)
            for series in self._models.values()
            if series.statistics.distributions is not None
        ]
        return distribution_families(shown, self._options.distributions.quantiles, time.monotonic_ns())

    def _collect_machine(self) -> Iterable[Family]:
        gauges: list[tuple[str, str, int | float]] = [
            # There is no pinned pool here. Dashboards made for the original divide by its size.
            (
                "nv_pinned_memory_pool_total_bytes",
                "Pinned memory pool total memory size, in bytes",
                self._options.pinned_pool_nbytes,
            ),
            ("nv_pinned_memory_pool_used_bytes", "Pinned memory pool used memory size, in bytes", 0),
        ]
        if self._options.cpu:
            utilization, total, used = self._cpu
            gauges += [
                ("nv_cpu_utilization", "CPU utilization rate [0.0 - 1.0]", utilization),
                ("nv_cpu_memory_total_bytes", "CPU total memory (RAM), in bytes", total),
                ("nv_cpu_memory_used_bytes", "CPU used memory (RAM), in bytes", used),
            ]
        for name, help_text, value in gauges:
            family = Family(name, "gauge", help_text)
            family.add("", value)
            yield family
