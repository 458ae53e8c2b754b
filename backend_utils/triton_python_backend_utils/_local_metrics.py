"""Metrics without a server, for tests: what models ask of the server's registry, answered in this process."""

import itertools
import math
import re
import threading
from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Tuple

from triton_python_backend_utils._errors import TritonModelException
from triton_python_backend_utils._metrics import MetricKind

__all__ = ["LocalMetric", "LocalMetrics"]

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")

Labels = FrozenSet[Tuple[str, str]]


class LocalMetric:
    """One series: the ``value`` of a counter or gauge, what a histogram has ``observed``."""

    def __init__(self, kind: MetricKind) -> None:
        self.kind = kind
        self.value = 0.0
        self.observed: List[float] = []


class LocalMetrics:
    """Families and their series. Refuses what the server refuses."""

    def __init__(self) -> None:
        self._kinds: Dict[str, MetricKind] = {}
        self._names: Dict[int, str] = {}  # of families, by the number that the model knows them by
        self._metrics: Dict[int, LocalMetric] = {}
        self._series: Dict[Tuple[str, Labels], LocalMetric] = {}
        self._ids = itertools.count(1)
        self._lock = threading.Lock()

    def find(self, name: str, labels: Mapping[str, str]) -> LocalMetric:
        """Raises KeyError when no model made it."""
        return self._series[name, frozenset(labels.items())]

    def answers(self, topic: str) -> bool:
        return hasattr(self, f"_do_{topic}")

    def perform(self, topic: str, arguments: Tuple[Any, ...]) -> Any:
        with self._lock:
            return getattr(self, f"_do_{topic}")(*arguments)

    def _do_create_family(self, name: str, description: str, kind: int) -> int:
        if not _NAME.match(name):
            raise TritonModelException(f"Invalid metric name: '{name}'")
        known = self._kinds.setdefault(name, MetricKind(kind))
        if known != kind:
            raise TritonModelException(
                f"Metric family '{name}' already exists with kind {known.name}, not {MetricKind(kind).name}"
            )
        family = next(self._ids)
        self._names[family] = name
        return family

    def _do_create_metric(self, family: int, pairs: List[List[Optional[str]]], buckets: Optional[List[float]]) -> int:
        name = self._names[family]
        kind = self._kinds[name]
        labels: Dict[str, str] = {}
        for key, value in pairs:
            if key is None or value is None:
                raise TritonModelException("Labels must be strings")
            if not _LABEL.match(key) or key.startswith("__") or (kind is MetricKind.HISTOGRAM and key == "le"):
                raise TritonModelException(f"Invalid label name: '{key}'")
            labels[key] = value
        bounds = [-math.inf, *(buckets or [])]
        if not all(low < high for low, high in zip(bounds, bounds[1:])):
            raise TritonModelException("Buckets must be in ascending order, without duplicates")
        metric = next(self._ids)
        series = self._series.setdefault((name, frozenset(labels.items())), LocalMetric(kind))
        self._metrics[metric] = series
        return metric

    def _do_delete_family(self, family: int) -> None:
        """The series stay: a test looks at them when the model is gone."""
        del self._names[family]

    def _do_increment(self, metric: int, value: float) -> None:
        series = self._of_kind(metric, "Increment", MetricKind.COUNTER, MetricKind.GAUGE)
        if series.kind is MetricKind.COUNTER and value < 0:
            raise TritonModelException(
                "TRITONSERVER_METRIC_KIND_COUNTER can only be incremented monotonically by non-negative values."
            )
        series.value += value

    def _do_set(self, metric: int, value: float) -> None:
        self._of_kind(metric, "Set", MetricKind.GAUGE).value = value

    def _do_observe(self, metric: int, value: float) -> None:
        self._of_kind(metric, "Observe", MetricKind.HISTOGRAM).observed.append(value)

    def _do_value(self, metric: int) -> float:
        return self._of_kind(metric, "Value", MetricKind.COUNTER, MetricKind.GAUGE).value

    def _of_kind(self, metric: int, operation: str, *kinds: MetricKind) -> LocalMetric:
        series = self._metrics[metric]
        if series.kind not in kinds:
            raise TritonModelException(f"TRITONSERVER_METRIC_KIND_{series.kind.name} does not support {operation}")
        return series
