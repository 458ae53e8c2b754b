"""Metrics that models make: families and their series, as the models' ``MetricFamily`` and ``Metric`` ask for them.

Families are shared by name between all models and instances. Each ``MetricFamily`` object is a *handle* on one; a
series is shown while one of the handles lives through which it was made. A name keeps its kind and its first
description for good; it may be none that the server shows itself.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from typing import Any

from atoll.errors import Code, ServerError
from atoll.observe.exposition import Family, label_text
from atoll.observe.histogram import Histogram

__all__ = ["CustomMetrics"]

_KINDS = ("COUNTER", "GAUGE", "HISTOGRAM")
_COUNTER, _GAUGE, _HISTOGRAM = range(3)
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")
_DELETED = (
    "Invalid metric operation as the corresponding 'MetricFamily' has been deleted. The 'MetricFamily' object should "
    "be deleted AFTER its corresponding 'Metric' objects have been deleted."
)

_Key = tuple[tuple[str, str], ...]  # labels, sorted


class _Series:
    """One labelled value, or a histogram."""

    __slots__ = ("histogram", "labels", "made_by", "value")

    def __init__(self, labels: dict[str, str], bounds: list[float] | None) -> None:
        self.labels = labels
        self.histogram = None if bounds is None else Histogram(bounds)
        self.value = 0.0
        self.made_by: set[int] = set()  # handles


class _MetricFamily:
    """All series of one name."""

    __slots__ = ("description", "kind", "name", "series")

    def __init__(self, name: str, description: str, kind: int) -> None:
        self.name = name
        self.description = description
        self.kind = kind
        self.series: dict[_Key, _Series] = {}

    def show(self) -> Family:
        family = Family(self.name, _KINDS[self.kind].lower(), self.description)
        for series in self.series.values():
            if series.histogram is None:
                family.add(label_text(series.labels), series.value)
            else:
                series.histogram.show(family, series.labels)
        return family


class _Handle:
    """One ``MetricFamily`` object of a model, and its metrics by their labels."""

    __slots__ = ("family", "metrics", "owner")

    def __init__(self, family: _MetricFamily, owner: object) -> None:
        self.family = family
        self.owner = owner
        self.metrics: dict[_Key, int] = {}


class CustomMetrics:
    """Answers what models ask; shows what they made. ``taken`` tells the names that are no longer free."""

    def __init__(self, taken: Callable[[], AbstractSet[str]] = frozenset) -> None:
        self._taken = taken
        self._families: dict[str, _MetricFamily] = {}
        self._handles: dict[int, _Handle] = {}
        self._metrics: dict[int, tuple[_MetricFamily, _Series]] = {}
        self._ids = itertools.count(1)
        self._operations: dict[str, Callable[..., Any]] = {
            "create_metric": self._create_metric,
            "delete_family": self._delete_family,
            "increment": self._increment,
            "set": self._set,
            "observe": self._observe,
            "value": self._value,
        }

    def collect(self) -> Iterable[Family]:
        return [family.show() for family in self._families.values()]

    def perform(self, owner: object, topic: str, arguments: list[Any]) -> Any:
        """Do what a model asks. Raises ServerError with the registry's words."""
        if topic == "create_family":
            return self._create_family(owner, *arguments)
        operation = self._operations.get(topic)
        if operation is None:
            raise _invalid(f"unknown request of a model: '{topic}'")
        return operation(*arguments)

    def forget(self, owner: object) -> None:
        """A model has ended, and its objects with it; those of a stub that crashed were still there."""
        for handle_id in [handle_id for handle_id, handle in self._handles.items() if handle.owner is owner]:
            self._delete_family(handle_id)

    # -- families and their series

    def _create_family(self, owner: object, name: str, description: str, kind: int) -> int:
        if not _NAME.match(name):
            raise _invalid(f"Invalid metric name: '{name}'")
        family = self._families.get(name)
        if family is None:
            taken = self._taken()
            suffixes = ("_bucket", "_sum", "_count") if kind == _HISTOGRAM else ("",)
            if not taken.isdisjoint([name, *(name + suffix for suffix in suffixes)]):
                raise _invalid(f"Metric family '{name}' would clash with a metric of the server")
            family = self._families[name] = _MetricFamily(name, description, kind)
        elif family.kind != kind:
            raise _invalid(f"Metric family '{name}' already exists with kind {_KINDS[family.kind]}, not {_KINDS[kind]}")
        handle = next(self._ids)
        self._handles[handle] = _Handle(family, owner)
        return handle

    def _create_metric(self, handle_id: int, pairs: list[list[str | None]], bounds: list[float] | None) -> int:
        handle = self._handle(handle_id)
        family = handle.family
        labels = _labels(pairs, family.kind)
        buckets = None if bounds is None else _bounds(bounds)
        key = tuple(sorted(labels.items()))
        metric = handle.metrics.get(key)
        if metric is None:
            series = family.series.get(key)
            if series is None:
                series = family.series[key] = _Series(labels, buckets)
            series.made_by.add(handle_id)
            metric = handle.metrics[key] = next(self._ids)
            self._metrics[metric] = (family, series)
        return metric

    def _delete_family(self, handle_id: int) -> None:
        handle = self._handle(handle_id)
        del self._handles[handle_id]
        series_of = handle.family.series
        for key, metric in handle.metrics.items():
            del self._metrics[metric]
            series_of[key].made_by.discard(handle_id)
            if not series_of[key].made_by:
                del series_of[key]

    # -- values

    def _increment(self, metric: int, value: float) -> None:
        family, series = self._metric(metric)
        if family.kind == _HISTOGRAM:
            raise _unsupported(family, "Increment")
        if family.kind == _COUNTER and value < 0:
            raise _invalid(
                "TRITONSERVER_METRIC_KIND_COUNTER can only be incremented monotonically by non-negative values."
            )
        series.value += value

    def _set(self, metric: int, value: float) -> None:
        family, series = self._metric(metric)
        if family.kind != _GAUGE:
            raise _unsupported(family, "Set")
        series.value = value

    def _observe(self, metric: int, value: float) -> None:
        family, series = self._metric(metric)
        if family.kind != _HISTOGRAM:
            raise _unsupported(family, "Observe")
        assert series.histogram is not None
        series.histogram.observe(value)

    def _value(self, metric: int) -> float:
        family, series = self._metric(metric)
        if family.kind == _HISTOGRAM:
            raise _unsupported(family, "Value")
        return series.value

    # -- look-up

    def _handle(self, handle_id: int) -> _Handle:
        handle = self._handles.get(handle_id)
        if handle is None:
            raise _invalid(_DELETED)
        return handle

    def _metric(self, metric: int) -> tuple[_MetricFamily, _Series]:
        found = self._metrics.get(metric)
        if found is None:
            raise _invalid(_DELETED)
        return found


def _labels(pairs: list[list[str | None]], kind: int) -> dict[str, str]:
    labels: dict[str, str] = {}
    for name, value in pairs:
        if name is None or value is None:
            raise _invalid("Labels must be strings")
        if not _LABEL.match(name) or name.startswith("__") or (kind == _HISTOGRAM and name == "le"):
            raise _invalid(f"Invalid label name: '{name}'")
        labels[name] = value
    return labels


def _bounds(bounds: list[float]) -> list[float]:
    if not all(low < high for low, high in itertools.pairwise([-math.inf, *bounds])):
        raise _invalid("Buckets must be in ascending order, without duplicates")
    return bounds


def _invalid(text: str) -> ServerError:
    return ServerError(Code.INVALID_ARG, text)


def _unsupported(family: _MetricFamily, operation: str) -> ServerError:
    return ServerError(Code.UNSUPPORTED, f"TRITONSERVER_METRIC_KIND_{_KINDS[family.kind]} does not support {operation}")
