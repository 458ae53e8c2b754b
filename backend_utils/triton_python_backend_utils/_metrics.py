"""``MetricFamily`` and ``Metric``: a model's own series on the server's metrics page (original 23.05)."""

import enum
from typing import Any, Dict, List, Optional

from triton_python_backend_utils._arguments import number, text
from triton_python_backend_utils._errors import TritonModelException
from triton_python_backend_utils._host import Host, get_host

__all__ = ["Metric", "MetricFamily", "MetricKind"]

_DELETED = (
    "Invalid metric operation as the corresponding 'MetricFamily' has been deleted. The 'MetricFamily' object should "
    "be deleted AFTER its corresponding 'Metric' objects have been deleted."
)


class MetricKind(enum.IntEnum):
    """What a family's metrics count."""

    COUNTER = 0
    GAUGE = 1
    HISTOGRAM = 2


class MetricFamily:
    """Metrics of one name, shared by all models: the same name and kind is the same family.

    The first description stays. Deleting the object takes away the series it made. Raises
    :class:`TritonModelException` for an invalid name and for a name that is taken by another kind.
    """

    COUNTER = MetricKind.COUNTER
    GAUGE = MetricKind.GAUGE
    HISTOGRAM = MetricKind.HISTOGRAM

    def __init__(self, name: str, description: str, kind: MetricKind) -> None:
        self._alive = _Alive()
        name, description = text(name, "name"), text(description, "description")
        if not isinstance(kind, MetricKind):
            raise TypeError(f"kind must be one of MetricFamily's kinds, not {type(kind).__name__}")
        self._kind = kind
        self._host = get_host()
        arguments = (name, description, int(kind))
        self._id: int = _ask(self._host, "Error when creating MetricFamily: ", "create_family", *arguments)
        self._alive.value = True

    def Metric(self, labels: Optional[Dict[str, str]] = None, buckets: Optional[List[float]] = None) -> "Metric":
        """The family's metric with these labels; the same labels are the same series.

        ``buckets`` are the upper bounds of a histogram, ascending, and belong to nothing else.
        """
        if labels is not None and not isinstance(labels, dict):
            raise TritonModelException("Failed to create metric. Labels must be a dictionary.")
        if self._kind is MetricKind.HISTOGRAM:
            if buckets is None:
                raise TritonModelException("Failed to create metric. Missing required buckets.")
            if not isinstance(buckets, list):
                raise TritonModelException("Failed to create metric. Buckets must be a list.")
        elif buckets is not None:
            raise TritonModelException("Failed to create metric. Unexpected buckets found.")
        pairs = [[_label(key), _label(value)] for key, value in (labels or {}).items()]
        bounds = None if buckets is None else [number(bound, "buckets") for bound in buckets]
        metric = _ask(self._host, "Error when creating Metric: ", "create_metric", self._id, pairs, bounds)
        return Metric(self._host, self._alive, metric)

    def __del__(self) -> None:
        if self._alive.value:
            self._alive.value = False
            self._host.tell("delete_family", self._id)


class Metric:
    """One series of a family; made by ``family.Metric(…)``."""

    def __init__(self, host: Host, family: "_Alive", id: int) -> None:
        self._host = host
        self._family = family
        self._id = id

    def increment(self, value: float) -> None:
        """Add to a counter (not less than 0) or to a gauge."""
        self._call("Failed to increment metric value: ", "increment", number(value, "value"))

    def set(self, value: float) -> None:
        """Set a gauge."""
        self._call("Failed to set metric value: ", "set", number(value, "value"))

    def observe(self, value: float) -> None:
        """Record a value in a histogram."""
        self._call("Failed to observe metric value: ", "observe", number(value, "value"))

    def value(self) -> float:
        """The value of a counter or gauge."""
        return float(self._call("Failed to get metric value: ", "value"))

    def _call(self, prefix: str, operation: str, *arguments: float) -> Any:
        if not self._family.value:
            raise TritonModelException(prefix + _DELETED)
        return _ask(self._host, prefix, operation, self._id, *arguments)


class _Alive:
    """Whether a family is there; shared with its metrics, which must not keep it alive."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = False


def _label(value: Any) -> Any:
    """Labels that are no strings are refused by the server, with its text."""
    return value if isinstance(value, str) else None


def _ask(host: Host, prefix: str, topic: str, *arguments: Any) -> Any:
    try:
        return host.ask(topic, *arguments)
    except TritonModelException as error:
        raise TritonModelException(prefix + str(error)) from None
