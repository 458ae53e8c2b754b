"""Metrics of the host: families and series that every server of this process shows on its page."""

from __future__ import annotations

from collections.abc import Sequence

from atoll.observe.custom_metrics import CustomMetrics

from tritonserver._c.enums import TRITONSERVER_MetricKind
from tritonserver._c.errors import translated
from tritonserver._c.values import TRITONSERVER_Parameter

__all__ = ["TRITONSERVER_Metric", "TRITONSERVER_MetricFamily", "process_metrics"]

process_metrics = CustomMetrics()
"""Shared by all servers, as the original's."""

_OWNER = object()


class TRITONSERVER_MetricFamily:
    """Shown while the object lives, and some series of it."""

    def __init__(self, kind: TRITONSERVER_MetricKind, name: str, description: str) -> None:
        self.kind = TRITONSERVER_MetricKind(kind)
        with translated():
            self.handle: int = process_metrics.perform(_OWNER, "create_family", [name, description, int(kind)])

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            process_metrics.perform(_OWNER, "delete_family", [self.handle])


class TRITONSERVER_Metric:
    """One series of a family, which it keeps."""

    def __init__(self, family: TRITONSERVER_MetricFamily, labels: Sequence[TRITONSERVER_Parameter] = ()) -> None:
        self._family = family
        pairs = [[label.name, label.value] for label in labels]
        self._handle: int = self._perform("create_metric", family.handle, pairs, None)

    @property
    def kind(self) -> TRITONSERVER_MetricKind:
        return self._family.kind

    @property
    def value(self) -> float:
        return float(self._perform("value", self._handle))

    def increment(self, value: float) -> None:
        self._perform("increment", self._handle, value)

    def set_value(self, value: float) -> None:
        self._perform("set", self._handle, value)

    def _perform(self, topic: str, *arguments: object) -> int:
        with translated():
            result: int = process_metrics.perform(_OWNER, topic, list(arguments))
        return result
