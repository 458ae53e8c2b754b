"""Traces as spans: their names and parents, W3C Trace Context, what each span holds."""

from __future__ import annotations

import sys

import pytest
from atoll.errors import ServerError
from atoll.observe.trace_context import child_spans, new_spans, propagated_spans
from atoll.observe.trace_settings import TraceOptions, TraceSettings
from atoll.observe.trace_spans import SpanWriter, spans_of
from atoll.observe.tracer import Tracer
from atoll.trace import SpanIds, Trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import SpanKind, StatusCode

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BATCHING = {"bsp_max_queue_size": "2048", "bsp_schedule_delay": "5000", "bsp_max_export_batch_size": "512"}


def tracer(mode: str = "opentelemetry", **settings: object) -> Tracer:
    options = TraceOptions(mode, TraceSettings(("TIMESTAMPS",), **settings), "/t", BATCHING)  # type: ignore[arg-type]
    return Tracer(options, bool)


def headers(**values: str) -> object:
    return lambda name: values.get(name, "")


@pytest.mark.spec("server:128")
def test_the_callers_span_is_the_parent() -> None:
    spans = propagated_spans(PARENT, "vendor=x")
    assert spans is not None
    assert (f"{spans.trace:032x}", f"{spans.parent:016x}") == (PARENT[3:35], PARENT[36:52])
    assert len({spans.parent, spans.request, spans.model, spans.compute}) == 4
    assert spans.context() == {
        "traceparent": f"00-{PARENT[3:35]}-{spans.compute:016x}-01",
        "tracestate": "vendor=x",
    }
    assert propagated_spans("01-" + PARENT[3:] + "-more", "") is not None  # of a version to come


@pytest.mark.spec("server:128")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        PARENT.upper(),
        PARENT + "-more",
        "ff" + PARENT[2:],
        f"00-{'0' * 32}-{'1' * 16}-01",
        PARENT[:36] + "0" * 16 + "-01",
    ],
)
def test_a_header_that_makes_no_sense_is_as_none(text: str) -> None:
    assert propagated_spans(text, "") is None


def test_the_spans_of_a_child_are_below_whoever_made_it() -> None:
    parent = new_spans()
    assert parent.parent == 0
    assert "tracestate" not in parent.context()
    for computing, caller in ((True, parent.compute), (False, parent.model)):
        child = child_spans(parent, computing=computing)
        assert (child.trace, child.parent, child.request) == (parent.trace, caller, 0)


@pytest.mark.spec("server:128")
def test_a_request_with_a_callers_span_is_traced_whatever_the_rate() -> None:
    rare = tracer(rate=0)
    assert rare.sample("m", headers()) is None  # type: ignore[arg-type]
    trace = rare.sample("m", headers(traceparent=PARENT))  # type: ignore[arg-type]
    assert trace is not None
    assert trace.spans is not None
    assert not trace.with_tensors
    files = tracer("triton", rate=0)
    assert files.sample("m", headers(traceparent=PARENT)) is None  # type: ignore[arg-type]


@pytest.mark.spec("server:128")
def test_the_spans_of_a_trace() -> None:
    ids = SpanIds(1, 2, 3, 4, 5, "vendor=x")
    trace = Trace(tracer(), 7, None, spans=ids)
    trace.stamp("HTTP_RECV_START", 10)
    trace.stamp("HTTP_RECV_END", 11)
    trace.begin("m", 2, "r", 12)
    trace.executed(13, 14, (1, 1, 1))
    trace.responded([], "", empty=False, final=True)
    trace.stamps[-2:] = [("INFER_RESPONSE_COMPLETE", 18), ("REQUEST_END", 19)]
    trace.stamp("HTTP_SEND_START", 20)
    trace.stamp("HTTP_SEND_END", 21)
    outer, model, compute = spans_of(trace, Resource({}), 1000)
    assert [span.name for span in (outer, model, compute)] == ["InferRequest", "m", "compute"]
    assert [(span.start_time, span.end_time) for span in (outer, model, compute)] == [
        (1010, 1021),
        (1012, 1019),
        (1014, 1017),
    ]
    for span, own, parent in ((outer, 3, 2), (model, 4, 3), (compute, 5, 4)):
        assert span.context is not None
        assert span.parent is not None
        assert (span.context.trace_id, span.context.span_id, span.parent.span_id) == (1, own, parent)
        assert span.context.trace_state.to_header() == "vendor=x"
        assert span.status.status_code is StatusCode.UNSET
    assert outer.parent is not None
    assert outer.parent.is_remote
    assert outer.kind is SpanKind.SERVER
    assert dict(model.attributes or {}) == {
        "triton.model_name": "m",
        "triton.model_version": 2,
        "triton.trace_id": 7,
        "triton.request_id": "r",
    }
    assert [event.name for event in model.events] == [
        "REQUEST_START",
        "QUEUE_START",
        "INFER_RESPONSE_COMPLETE",
        "REQUEST_END",
    ]
    assert [event.timestamp for event in compute.events] == [1014, 1015, 1016, 1017]


@pytest.mark.spec("server:128")
def test_a_child_that_failed_before_it_was_computed() -> None:
    trace = Trace(tracer(), 7, None, spans=new_spans())
    child = trace.child()
    child.begin("m", 1, "", 12)
    child.responded([], "no", empty=False, final=True)
    (model,) = spans_of(child, Resource({}), 0)
    assert (model.status.status_code, model.status.description) == (StatusCode.ERROR, "no")
    assert model.attributes is not None
    assert model.attributes["triton.trace_parent_id"] == 7


def test_without_the_extra_the_mode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)
    with pytest.raises(ServerError, match=r"needs more packages: pip install 'atoll\[otel\]'"):
        SpanWriter(BATCHING).open()
