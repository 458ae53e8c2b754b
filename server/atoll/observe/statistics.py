"""What is counted of one model version: the numbers of the statistics extension and of the metrics page.

Plain integers, changed on the event loop only. What holds at any time: ``success.count`` is the sum of each
``compute_*.count`` and ``cache_hit.count``, and equals ``queue.count``.

A request that the model answered with an error of its own counts as a success, as in the original: the execution
succeeded. A batch that failed as a whole counts as failures, with the reason BACKEND.
"""

from __future__ import annotations

import enum
import time
from typing import Any

from atoll.observe.distributions import Distributions

__all__ = ["Failure", "ModelStatistics", "ResponseOutcome"]

_RESPONSE_INDEX_LIMIT = 1024
"""Responses of one request that are counted by index: a stream without end must not grow the table without end."""


class Failure(enum.IntEnum):
    """Why a request failed; the members' names are the values of the metric's label ``reason``."""

    REJECTED = 0  # its queue was full, or it waited too long
    CANCELED = 1
    BACKEND = 2  # the model, or its stub
    OTHER = 3  # validation, or ourselves


class ResponseOutcome(enum.IntEnum):
    """What one response of a decoupled model was."""

    SUCCESS = 0
    FAIL = 1
    EMPTY = 2  # it carried the final flag only
    CANCEL = 3


class _Duration:
    """How often, and how long in all."""

    __slots__ = ("count", "ns")

    def __init__(self) -> None:
        self.count = 0
        self.ns = 0

    def add(self, count: int, ns: int) -> None:
        self.count += count
        self.ns += ns

    def as_dict(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


class _BatchStatistics:
    """Executions of one batch size."""

    __slots__ = ("compute_infer", "compute_input", "compute_output")

    def __init__(self) -> None:
        self.compute_input = _Duration()
        self.compute_infer = _Duration()
        self.compute_output = _Duration()


class _ResponseStatistics:
    """Responses that were the n-th of their request."""

    __slots__ = ("compute_infer", "compute_output", "outcomes")

    def __init__(self) -> None:
        self.compute_infer = _Duration()
        self.compute_output = _Duration()
        self.outcomes = tuple(_Duration() for _ in ResponseOutcome)

    def as_dict(self) -> dict[str, dict[str, int]]:
        success, fail, empty, cancel = self.outcomes
        return {
            "compute_infer": self.compute_infer.as_dict(),
            "compute_output": self.compute_output.as_dict(),
            "success": success.as_dict(),
            "fail": fail.as_dict(),
            "empty_response": empty.as_dict(),
            "cancel": cancel.as_dict(),
        }


class ModelStatistics:
    """The counters of one loaded version; a reload starts with new ones."""

    __slots__ = (
        "_batches",
        "_responses",
        "cache_hit",
        "cache_miss",
        "cached",
        "compute_infer",
        "compute_input",
        "compute_output",
        "distributions",
        "execution_count",
        "fail",
        "failures",
        "inference_count",
        "last_inference_ms",
        "load_duration_s",
        "queue",
        "success",
    )

    def __init__(self) -> None:
        self.last_inference_ms = 0
        self.inference_count = 0
        self.execution_count = 0
        self.success = _Duration()
        self.fail = _Duration()
        self.queue = _Duration()
        self.compute_input = _Duration()
        self.compute_infer = _Duration()
        self.compute_output = _Duration()
        self.cache_hit = _Duration()
        self.cache_miss = _Duration()
        self.failures = [0] * len(Failure)
        self.cached = False  # the model uses the response cache
        self.load_duration_s = 0.0
        self.distributions: Distributions | None = None
        self._batches: dict[int, _BatchStatistics] = {}
        self._responses: dict[int, _ResponseStatistics] = {}

    def executed(
        self,
        batch_size: int,
        count: int,
        total_ns: int,
        queue_ns: int,
        compute_ns: tuple[int, int, int],
        began_ms: int,
    ) -> None:
        """An execution ended, and ``count`` of its requests with success; their times are summed.

        ``batch_size`` counts every request of the execution, those that failed as well (a request without batch
        dimension counts one). ``compute_ns`` (input, infer, output) is attributed whole to each of its requests. Call
        :meth:`failed` for the others. ``began_ms`` is the time of day at which the last successful request began.
        """
        if not count:
            return
        batch_size = batch_size or 1
        self.inference_count += batch_size
        self.execution_count += 1
        if began_ms > self.last_inference_ms:
            self.last_inference_ms = began_ms
        success, queue = self.success, self.queue
        success.count += count
        success.ns += total_ns
        queue.count += count
        queue.ns += queue_ns
        batch = self._batches.get(batch_size)
        if batch is None:
            batch = self._batches[batch_size] = _BatchStatistics()
        for ns, duration, of_batch in zip(
            compute_ns,
            (self.compute_input, self.compute_infer, self.compute_output),
            (batch.compute_input, batch.compute_infer, batch.compute_output),
            strict=True,
        ):
            duration.count += count
            duration.ns += count * ns
            of_batch.count += 1
            of_batch.ns += ns

    def executed_late(self, queue_ns: int, compute_ns: tuple[int, int, int]) -> None:
        """Times of a request that :meth:`executed` has counted already: one of its steps went on after its answer."""
        self.queue.ns += queue_ns
        for ns, duration in zip(compute_ns, (self.compute_input, self.compute_infer, self.compute_output), strict=True):
            duration.ns += ns

    def found_in_cache(self, total_ns: int, queue_ns: int, lookup_ns: int) -> None:
        """The response cache had the response to a request."""
        self.success.add(1, total_ns)
        self.queue.add(1, queue_ns)
        self.cache_hit.add(1, lookup_ns)
        if self.distributions is not None:
            self.distributions.found_in_cache(queue_ns, lookup_ns, time.monotonic_ns())

    def missed_cache(self, lookup_ns: int, insertion_ns: int) -> None:
        """It had not, and has it now; the request was executed, and the lookup was part of its time."""
        self.cache_miss.add(1, lookup_ns + insertion_ns)
        self.success.ns += insertion_ns
        if self.distributions is not None:
            self.distributions.missed_cache(lookup_ns + insertion_ns, time.monotonic_ns())

    def failed(self, reason: Failure, total_ns: int) -> None:
        """A request failed after its model's queue had accepted it, or because that queue would not."""
        self.fail.add(1, total_ns)
        self.failures[reason] += 1

    def refused(self) -> None:
        """A request failed its validation: the metrics count it, the statistics don't."""
        self.failures[Failure.OTHER] += 1

    def responded(self, index: int, outcome: ResponseOutcome, infer_ns: int, output_ns: int) -> None:
        """A decoupled model sent the response number ``index`` of a request; its times run from its own start."""
        if index >= _RESPONSE_INDEX_LIMIT:
            return
        response = self._responses.get(index)
        if response is None:
            response = self._responses[index] = _ResponseStatistics()
        if outcome in (ResponseOutcome.SUCCESS, ResponseOutcome.FAIL):
            response.compute_infer.add(1, infer_ns)
            response.compute_output.add(1, output_ns)
        response.outcomes[outcome].add(1, infer_ns + output_ns)

    def as_dict(self, name: str, version: int | str) -> dict[str, Any]:
        """One entry of ``model_stats``."""
        return {
            "name": name,
            "version": str(version),
            "last_inference": self.last_inference_ms,
            "inference_count": self.inference_count,
            "execution_count": self.execution_count,
            "inference_stats": {
                "success": self.success.as_dict(),
                "fail": self.fail.as_dict(),
                "queue": self.queue.as_dict(),
                "compute_input": self.compute_input.as_dict(),
                "compute_infer": self.compute_infer.as_dict(),
                "compute_output": self.compute_output.as_dict(),
                "cache_hit": self.cache_hit.as_dict(),
                "cache_miss": self.cache_miss.as_dict(),
            },
            "response_stats": {str(index): self._responses[index].as_dict() for index in sorted(self._responses)},
            "batch_stats": [
                {
                    "batch_size": size,
                    "compute_input": batch.compute_input.as_dict(),
                    "compute_infer": batch.compute_infer.as_dict(),
                    "compute_output": batch.compute_output.as_dict(),
                }
                for size, batch in sorted(self._batches.items())
            ],
            "memory_usage": [],
        }
