"""Metrics that models make: families and their series, as the models' ``MetricFamily`` and ``Metric`` ask for them.

Families are shared by name between all models and instances; each ``MetricFamily`` object is a *handle* on one, and the
series that were made through handles of a family are shown while one of those handles lives.
"""

from __future__ import annotations

import bisect
import itertools
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from atoll.errors import Code, ServerError
from atoll.observe.exposition import Family, label_text

__all__ = ["CustomMetrics"]

_KINDS = ("COUNTER", "GAUGE", "HISTOGRAM")
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")


class _Series:
    """One labelled value, or a histogram's buckets."""

    __slots__ = ("bounds", "buckets", "handles", "labels", "sum", "value")

    def __init__(self, labels: dict[str, str], bounds: list[float] | None) -> None:
        self.labels = labels
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1) if bounds is not None else []
        self.value = 0.0
        self.sum = 0.0
        self.handles: set[int] = set()


class _MetricFamily:
    """All series of one name."""

    __slots__ = ("description", "kind", "name", "series")

    def __init__(self, name: str, description: str, kind: int) -> None:
        self.name = name
        self.description = description
        self.kind = kind
        self.series: dict[tuple[tuple[str, str], ...], _Series] = {}

    def show(self) -> Family:
        family = Family(self.name, _KINDS[self.kind].lower(), self.description)
        for series in self.series.values():
            labels = label_text(series.labels)
            if series.bounds is None:
                family.add(labels, series.value)
                continue
            total = 0
            for bound, count in zip([*series.bounds, math.inf], series.buckets, strict=True):
                total += count
                le = "+Inf" if bound == math.inf else f"{bound:g}"
                family.add(label_text({**series.labels, "le": le}), total, "_bucket")
            family.add(labels, series.sum, "_sum")
            family.add(labels, total, "_count")
        return family


class CustomMetrics:
    """Answers what models ask; shows what they made."""

    def __init__(self) -> None:
        self._families: dict[str, _MetricFamily] = {}
        self._handles: dict[int, _MetricFamily] = {}
        self._metrics: dict[int, tuple[_MetricFamily, _Series]] = {}
        self._ids = itertools.count(1)

    def collect(self) -> Iterable[Family]:
        return [family.show() for family in self._families.values()]

    def perform(self, topic: str, arguments: list[Any]) -> Any:
        """Do what a model asks. Raises ServerError with the registry's words."""
        operations: dict[str, Callable[..., Any]] = {
            "create_family": self._create_family,
            "create_metric": self._create_metric,
            "delete_family": self._delete_family,
            "increment": self._increment,
            "set": self._set,
            "observe": self._observe,
            "value": self._value,
        }
        if topic not in operations:
            raise ServerError(Code.INVALID_ARG, f"unknown request of a model: '{topic}'")
        return operations[topic](*arguments)

    def _create_family(self, name: str, description: str, kind: int) -> int:
        if not _NAME.match(name):
            raise ServerError(Code.INVALID_ARG, f"Invalid metric name: '{name}'")
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = _MetricFamily(name, description, kind)
        elif family.kind != kind:
            raise ServerError(
                Code.INVALID_ARG,
                f"Metric family '{name}' already exists with kind {_KINDS[family.kind]}, not {_KINDS[kind]}",
            )
        handle = next(self._ids)
        self._handles[handle] = family
        return handle

    def _create_metric(self, handle: int, pairs: list[list[str | None]], bounds: list[float] | None) -> int:
        family = self._handles[handle]
        labels: dict[str, str] = {}
        for key, value in pairs:
            if key is None or value is None:
                raise ServerError(Code.INVALID_ARG, "Labels must be strings")
            if not _LABEL.match(key):
                raise ServerError(Code.INVALID_ARG, f"Invalid label name: '{key}'")
            labels[key] = value
        if bounds is not None and any(low >= high for low, high in itertools.pairwise(bounds)):
            raise ServerError(Code.INVALID_ARG, "Buckets must be in ascending order, without duplicates")
        series = family.series.setdefault(tuple(sorted(labels.items())), _Series(labels, bounds))
        series.handles.add(handle)
        metric = next(self._ids)
        self._metrics[metric] = (family, series)
        return metric

    def _delete_family(self, handle: int) -> None:
        family = self._handles.pop(handle)
        for key, series in list(family.series.items()):
            series.handles.discard(handle)
            if not series.handles:
                del family.series[key]

    def _increment(self, metric: int, value: float) -> None:
        family, series = self._metrics[metric]
        if family.kind == 2:
            raise _unsupported(family, "Increment")
        if family.kind == 0 and value < 0:
            raise ServerError(
                Code.INVALID_ARG,
                "TRITONSERVER_METRIC_KIND_COUNTER can only be incremented monotonically by non-negative values.",
            )
        series.value += value

    def _set(self, metric: int, value: float) -> None:
        family, series = self._metrics[metric]
        if family.kind != 1:
            raise _unsupported(family, "Set")
        series.value = value

    def _observe(self, metric: int, value: float) -> None:
        family, series = self._metrics[metric]
        if family.kind != 2:
            raise _unsupported(family, "Observe")
        assert series.bounds is not None
        series.buckets[bisect.bisect_left(series.bounds, value)] += 1
        series.sum += value

    def _value(self, metric: int) -> float:
        family, series = self._metrics[metric]
        if family.kind == 2:
            raise _unsupported(family, "Value")
        return series.value


def _unsupported(family: _MetricFamily, operation: str) -> ServerError:
    return ServerError(Code.UNSUPPORTED, f"TRITONSERVER_METRIC_KIND_{_KINDS[family.kind]} does not support {operation}")
