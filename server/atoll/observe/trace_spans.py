"""Traces as OpenTelemetry spans, sent by OTLP over HTTP; needs the extra ``otel``.

::

    InferRequest            received … sent          (a client's request only)
      └─ <model name>       REQUEST_START … REQUEST_END
           └─ compute       COMPUTE_START … COMPUTE_END

What happened in between is in each span's events. Spans are made of finished traces, whose span ids are known from the
beginning since models pass them on; the SDK's processor gathers, sends and retries them in a thread of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from atoll.errors import Code, ServerError
from atoll.trace import Trace

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext, SpanKind

__all__ = ["SpanWriter", "spans_of"]

_SERVICE_NAME = "triton-inference-server"
_COMPUTE = ("COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END")
_MODEL = ("REQUEST_START", "QUEUE_START", "INFER_RESPONSE_COMPLETE", "REQUEST_END")

Stamps = Sequence[tuple[str, int]]


class SpanWriter:
    """Sends traces to a collector. ``settings`` are those of ``--trace-config=opentelemetry,…``, by name.

    What they leave open, the variables ``OTEL_…`` say: the exporter's, the resource's and the service's name.
    """

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._settings = settings
        self._processor: Any = None  # a BatchSpanProcessor
        self._resource: Resource | None = None

    def open(self) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            text = f"tracing by OpenTelemetry needs more packages: pip install 'atoll[otel]' ({error})"
            raise ServerError(Code.UNSUPPORTED, text) from None
        settings = self._settings
        self._resource = _resource(settings.get("resource", ""))
        self._processor = BatchSpanProcessor(
            OTLPSpanExporter(endpoint=settings.get("url")),
            max_queue_size=int(settings["bsp_max_queue_size"]),
            schedule_delay_millis=int(settings["bsp_schedule_delay"]),
            max_export_batch_size=int(settings["bsp_max_export_batch_size"]),
        )

    def write(self, traces: Sequence[Trace]) -> None:
        assert self._resource is not None
        epoch_ns = time.time_ns() - time.monotonic_ns()
        for trace in traces:
            for span in spans_of(trace, self._resource, epoch_ns):
                self._processor.on_end(span)

    def close(self) -> None:
        if self._processor is not None:
            self._processor.shutdown()


def _resource(given: str) -> Resource:
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    attributes = dict(item.split("=", 1) for item in given.split(",") if item)
    named = {} if "service.name" in OTELResourceDetector().detect().attributes else {"service.name": _SERVICE_NAME}
    return Resource.create({**named, **attributes})


def spans_of(trace: Trace, resource: Resource, epoch_ns: int) -> Iterator[ReadableSpan]:
    """The spans of a finished trace, the outermost first. ``epoch_ns`` is when the trace's clock was zero."""
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

    ids = trace.spans
    assert ids is not None
    state = TraceState.from_header([ids.state] if ids.state else [])

    def context(span_id: int, *, is_remote: bool = False) -> SpanContext:
        return SpanContext(ids.trace, span_id, is_remote, TraceFlags(TraceFlags.SAMPLED), state)

    def span(
        name: str,
        own: SpanContext,
        parent: SpanContext | None,
        stamps: Stamps,
        attributes: Mapping[str, str | int] | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> ReadableSpan:
        return ReadableSpan(
            name,
            own,
            parent,
            resource,
            attributes or {},
            [Event(activity, timestamp=ns + epoch_ns) for activity, ns in stamps],
            kind=kind,
            status=Status(StatusCode.ERROR, trace.error) if trace.error else Status(),
            start_time=stamps[0][1] + epoch_ns,
            end_time=stamps[-1][1] + epoch_ns,
        )

    stamps = sorted(trace.stamps, key=lambda stamp: stamp[1])
    parent = context(ids.parent, is_remote=trace.parent is None) if ids.parent else None
    if ids.request:
        own = context(ids.request)
        outer = [stamp for stamp in stamps if stamp[0] not in (*_MODEL, *_COMPUTE)]
        yield span("InferRequest", own, parent, outer, kind=SpanKind.SERVER)
        parent = own
    own = context(ids.model)
    yield span(trace.model_name, own, parent, [s for s in stamps if s[0] in _MODEL], _attributes(trace))
    computed = [stamp for stamp in stamps if stamp[0] in _COMPUTE]
    if computed:
        yield span("compute", context(ids.compute), own, computed)


def _attributes(trace: Trace) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        "triton.model_name": trace.model_name,
        "triton.model_version": trace.model_version,
        "triton.trace_id": trace.id,
    }
    if trace.parent is not None:
        attributes["triton.trace_parent_id"] = trace.parent.id
    if trace.request_id:
        attributes["triton.request_id"] = trace.request_id
    return attributes
