"""A histogram as Prometheus has it: counts of values up to each bound, their sum, and how it is shown."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence

from atoll.observe.exposition import Family, label_text, number_text

__all__ = ["Histogram"]


class Histogram:
    """``bounds`` are the upper bounds of the buckets in ascending order; a last one, ``+Inf``, is always added."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = [bound for bound in bounds if bound != math.inf]
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._sum += value

    def show(self, family: Family, labels: Mapping[str, str]) -> None:
        """Add its samples to a family."""
        total = 0
        for bound, count in zip([*self._bounds, math.inf], self._counts, strict=True):
            total += count
            family.add(label_text({**labels, "le": number_text(bound)}), total, "_bucket")
        text = label_text(labels)
        family.add(text, self._sum, "_sum")
        family.add(text, total, "_count")
