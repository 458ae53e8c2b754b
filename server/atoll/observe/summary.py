"""A summary as Prometheus has it: how many values there were, their sum, and quantiles of the last minute.

Values are counted in buckets whose bounds grow by a constant factor, so that a quantile is known within 0.5 % of its
value however the values are distributed (the idea of DDSketch). To count one costs a logarithm and a dictionary entry;
the memory is bounded by the buckets between the least and the greatest value, 2,200 from a microsecond to an hour.
The window slides in steps: there is a table for each, and the oldest is dropped as a new one begins.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence

from atoll.observe.exposition import Family, label_text, number_text

__all__ = ["Summary"]

_ACCURACY = 0.005
_GROWTH = (1 + _ACCURACY) / (1 - _ACCURACY)
_SCALE = 1 / math.log(_GROWTH)
_ZERO = -1  # the bucket of values below one

_WINDOW_NS = 60_000_000_000
_STEPS = 6
_STEP_NS = _WINDOW_NS // _STEPS


class Summary:
    """Of whole numbers that are not negative, such as microseconds. Times are those of the monotonic clock."""

    __slots__ = ("_counts", "_step_ends_ns", "_steps", "_sum", "_total")

    def __init__(self) -> None:
        self._total = 0
        self._sum = 0
        self._counts: dict[int, int] = {}  # of the present step
        self._step_ends_ns = 0
        self._steps: deque[tuple[int, dict[int, int]]] = deque()  # the end of each step in the window, and its counts

    def observe(self, value: int, now_ns: int) -> None:
        self._total += 1
        self._sum += value
        if now_ns >= self._step_ends_ns:
            self._slide(now_ns)
        bucket = math.ceil(math.log(value) * _SCALE) if value > 0 else _ZERO
        self._counts[bucket] = self._counts.get(bucket, 0) + 1

    def quantiles(self, wanted: Sequence[float], now_ns: int) -> list[float]:
        """Those of the values in the window; NaN when there are none."""
        if now_ns >= self._step_ends_ns:
            self._slide(now_ns)
        merged: Counter[int] = Counter()
        for _, counts in self._steps:
            merged.update(counts)
        buckets, total = sorted(merged), sum(merged.values())
        found = []
        for quantile in wanted:
            rank, seen = quantile * (total - 1), 0
            value = math.nan
            for bucket in buckets:
                seen += merged[bucket]
                if seen > rank:
                    value = _middle(bucket)
                    break
            found.append(value)
        return found

    def show(self, family: Family, labels: Mapping[str, str], wanted: Sequence[float], now_ns: int) -> None:
        """Add its samples to a family."""
        text = label_text(labels)
        family.add(text, self._total, "_count")
        family.add(text, self._sum, "_sum")
        for quantile, value in zip(wanted, self.quantiles(wanted, now_ns), strict=True):
            family.add(label_text({**labels, "quantile": number_text(quantile)}), value)

    def _slide(self, now_ns: int) -> None:
        self._step_ends_ns = (now_ns // _STEP_NS + 1) * _STEP_NS
        while self._steps and self._steps[0][0] <= self._step_ends_ns - _WINDOW_NS:
            self._steps.popleft()
        self._counts = {}
        self._steps.append((self._step_ends_ns, self._counts))


def _middle(bucket: int) -> float:
    """The value that is at most ``_ACCURACY`` away from every value of a bucket."""
    return 0.0 if bucket == _ZERO else 2 * math.exp(bucket / _SCALE) / (_GROWTH + 1)
