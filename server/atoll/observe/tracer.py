"""Request tracing as the rest of the server sees it: which requests are traced, and where finished traces go."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

from atoll.errors import Code, ServerError
from atoll.observe.trace_context import child_spans, new_spans, propagated_spans
from atoll.observe.trace_file import FileWriter, Source
from atoll.observe.trace_settings import TraceControl, TraceOptions, read_changes
from atoll.observe.trace_spans import SpanWriter
from atoll.observe.trace_thread import TraceThread, TraceWriter
from atoll.trace import Trace

__all__ = ["Header", "Tracer"]

_RESTART_S = 5.0

Header = Callable[[str], str]
"""A request's header by its name in small letters; empty when there is none."""


class Tracer:
    """The tracing of one server. All methods are for its event loop."""

    def __init__(self, options: TraceOptions, is_served: Callable[[str], bool]) -> None:
        """``is_served`` tells of a model's name whether there is such a model. Raises ServerError."""
        self.is_on = False
        """Whether any request may be traced; ask before :meth:`sample`."""
        self._is_served = is_served
        self._numbers = itertools.count(1)
        self._thread: TraceThread | None = None
        self._started = False
        self._use(options)

    def _use(self, options: TraceOptions) -> None:
        self._control = TraceControl(options)
        self._makes_spans = options.mode == "opentelemetry"
        self._writer: TraceWriter = SpanWriter(options.exporter) if self._makes_spans else FileWriter(options.file)

    # -- settings

    def shown(self, model: str = "") -> dict[str, list[str]]:
        """The settings of all models, or of one, in the protocol's words. Raises ServerError for an unknown model."""
        if model and not self._is_served(model):
            raise ServerError(Code.INVALID_ARG, f"Request for unknown model : {model}")
        return self._control.shown(model)

    def update(
        self, given: Mapping[str, Sequence[str] | None], model: str = "", *, gap: str = ""
    ) -> dict[str, list[str]]:
        """Change some settings, as :func:`read_changes` reads them; all of them. On ServerError nothing is changed."""
        self.shown(model)  # says that there is no such model, if so
        self._control.update(read_changes(given, gap), model)
        self._adapt()
        return self._control.shown(model)

    # -- life

    def start(self) -> None:
        """Be ready to write. Raises ServerError when that cannot be."""
        self._writer.open()
        self._started = True
        self._adapt()

    def restart(self, options: TraceOptions) -> None:
        """Go on with other options, after what has ended was written. Raises ServerError when that cannot be."""
        self.stop(_RESTART_S)
        self._use(options)
        self.start()

    def _adapt(self) -> None:
        """The settings may have changed."""
        self.is_on = self._started and self._control.is_on
        if self.is_on and self._thread is None:
            self._thread = TraceThread(self._writer)
            self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Write what has ended; waits for it."""
        self.is_on = self._started = False
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop(timeout_s)

    # -- traces (atoll.trace.TraceSink)

    def sample(self, model: str, header: Header) -> Trace | None:
        """The trace of a request of a client that has just come, if it is to be traced.

        Spans are also made of a request that comes with a span of its caller, whatever rate and count say.
        """
        sampler = self._control.sampler(model)
        settings = sampler.settings
        spans = None
        if self._makes_spans and settings.is_on:
            spans = propagated_spans(header("traceparent"), header("tracestate"))
        if spans is None and not sampler.take():
            return None
        source = Source(sampler, settings.level, settings.log_frequency, sampler.remaining == 0)
        if self._makes_spans:
            return Trace(self, next(self._numbers), source, spans=spans or new_spans())
        return Trace(self, next(self._numbers), source, with_tensors="TENSORS" in settings.level)

    def child_of(self, parent: Trace) -> Trace:
        spans = None if parent.spans is None else child_spans(parent.spans, computing=parent.at_stub)
        return Trace(
            self, next(self._numbers), parent.source, with_tensors=parent.with_tensors, spans=spans, parent=parent
        )

    def ended(self, trace: Trace) -> None:
        if self._thread is not None:
            self._thread.put(trace)
