"""The thread in which traces are written: the event loop hands them over and goes on.

What comes in quick succession is written together. A trace is not written twice as fast for being written at once,
but a write for each would keep the event loop from its work.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from typing import Protocol

from atoll.trace import Trace

__all__ = ["TraceThread", "TraceWriter"]

_log = logging.getLogger(__name__)

_GATHER_S = 0.1
_MOST_WAITING = 10_000
"""More traces than that are being made faster than they can be written: the rest is dropped."""


class TraceWriter(Protocol):
    """Where traces are written to; called in the thread, but for ``open``."""

    def open(self) -> None:
        """Be ready to write. Raises ServerError."""

    def write(self, traces: Sequence[Trace]) -> None:
        """Raises OSError; others than that are faults of ours, or of the exporter."""

    def close(self) -> None:
        """Write what there is left. Raises OSError."""


class TraceThread:
    """Feeds a writer. ``put`` may be called from ``start`` to ``stop``."""

    def __init__(self, writer: TraceWriter) -> None:
        self._writer = writer
        self._waiting: queue.SimpleQueue[Trace | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._dropping = False

    def start(self) -> None:
        self._thread.start()

    def put(self, trace: Trace) -> None:
        full = self._waiting.qsize() >= _MOST_WAITING
        if full and not self._dropping:
            _log.warning("traces are made faster than they can be written: some are dropped")
        self._dropping = full
        if not full:
            self._waiting.put(trace)

    def stop(self, timeout_s: float) -> None:
        """Write what was put, as far as the time allows."""
        self._stopping.set()
        self._waiting.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        failing = False
        while (first := self._waiting.get()) is not None:
            self._stopping.wait(_GATHER_S)
            traces, over = self._gather(first)
            try:
                self._writer.write(traces)
                failing = False
            except Exception as error:  # of whatever kind: the traces to come may be written
                if not failing:
                    _log.error(f"failed to write traces: {error!r}")
                failing = True
            if over:
                break
        try:
            self._writer.close()
        except Exception as error:
            _log.error(f"failed to write traces: {error!r}")

    def _gather(self, first: Trace) -> tuple[list[Trace], bool]:
        """What has come since, and whether that is all there will be."""
        traces = [first]
        try:
            while (trace := self._waiting.get_nowait()) is not None:
                traces.append(trace)
        except queue.Empty:
            return traces, False
        return traces, True
