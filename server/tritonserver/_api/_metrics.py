"""Metrics of the host on the servers' page."""

from __future__ import annotations

from collections.abc import Mapping

from tritonserver._c.metrics import TRITONSERVER_Metric, TRITONSERVER_MetricFamily
from tritonserver._c.values import TRITONSERVER_Parameter

__all__ = ["Metric", "MetricFamily"]


class MetricFamily(TRITONSERVER_MetricFamily):
    """``MetricFamily(kind, name, description)``."""


class Metric(TRITONSERVER_Metric):
    """One series of a family; ``labels`` by name."""

    def __init__(self, family: MetricFamily, labels: Mapping[str, str] | None = None) -> None:
        super().__init__(family, [TRITONSERVER_Parameter(name, value) for name, value in (labels or {}).items()])
