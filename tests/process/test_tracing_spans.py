"""OpenTelemetry: what a collector gets from a running server."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from serving import Served, serve, write_model

IO = """
    backend: "python"
    input { name: "X" data_type: TYPE_INT32 dims: 2 }
    output { name: "Y" data_type: TYPE_INT32 dims: 2 }
"""
IDENTITY = """
    import triton_python_backend_utils as pb_utils

    class TritonPythonModel:
        def execute(self, requests):
            return [
                pb_utils.InferenceResponse(
                    [pb_utils.Tensor("Y", r.inputs()[0].as_numpy())],
                    parameters={"context": r.trace().get_context() or "none"},
                )
                for r in requests
            ]
"""
CALLER = """
    import triton_python_backend_utils as pb_utils

    class TritonPythonModel:
        def execute(self, requests):
            (request,) = requests
            call = pb_utils.InferenceRequest(
                model_name="identity", inputs=request.inputs(), requested_output_names=["Y"], trace=request.trace()
            )
            return [call.exec()]
"""
FAILING = """
    class TritonPythonModel:
        def execute(self, requests):
            raise ValueError("no")
"""
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"


class Collector:
    """Takes in what exporters post."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self._arrived = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(self.path, ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()

    def take(self, path: str, request: Any) -> None:
        assert path == "/v1/traces"
        with self._arrived:
            for group in request.resource_spans:
                self.resources.append(attributes(group.resource))
                self.spans += [span for scope in group.scope_spans for span in scope.spans]
            self._arrived.notify_all()

    def next(self, count: int) -> list[Any]:
        """So many spans, which are forgotten then."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.spans) >= count, 20), f"{len(self.spans)} spans"
            taken, self.spans = self.spans, []
        assert len(taken) == count
        return taken


def attributes(thing: Any) -> dict[str, Any]:
    values = {item.key: item.value for item in thing.attributes}
    return {key: getattr(value, value.WhichOneof("value")) for key, value in values.items()}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spans")
    write_model(folder, "identity", IDENTITY, IO)
    write_model(folder, "caller", CALLER, IO)
    write_model(folder, "failing", FAILING, IO)
    return folder


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def server(repository: Path, collector: Collector) -> Iterator[Served]:
    flags = [
        "mode=opentelemetry",
        "level=TIMESTAMPS",
        "rate=1",
        f"opentelemetry,url={collector.url}",
        "opentelemetry,resource=deployment=test",
        "opentelemetry,bsp_schedule_delay=50",
    ]
    with serve(repository, *(f"--trace-config={flag}" for flag in flags)) as served:
        yield served


def infer(served: Served, model: str, headers: dict[str, str] | None = None, id: str = "") -> dict[str, Any]:
    """The response's parameters."""
    inputs = [{"name": "X", "shape": [2], "datatype": "INT32", "data": [1, 2]}]
    body = json.dumps({"id": id, "inputs": inputs}).encode()
    request = urllib.request.Request(f"http://{served.http_url}/v2/models/{model}/infer", body, headers or {})
    with urllib.request.urlopen(request, timeout=20) as response:
        return dict(json.load(response).get("parameters", {}))


def by_name(spans: list[Any]) -> dict[str, Any]:
    return {span.name: span for span in spans}


@pytest.mark.spec("server:128")
def test_the_spans_of_a_request(server: Served, collector: Collector) -> None:
    infer(server, "identity", id="r-1")
    spans = by_name(collector.next(3))
    outer, model, compute = (spans[name] for name in ("InferRequest", "identity", "compute"))
    assert not outer.parent_span_id
    assert (model.parent_span_id, compute.parent_span_id) == (outer.span_id, model.span_id)
    assert len({span.trace_id for span in spans.values()}) == 1
    assert outer.start_time_unix_nano < model.start_time_unix_nano < compute.start_time_unix_nano
    assert compute.end_time_unix_nano < model.end_time_unix_nano < outer.end_time_unix_nano
    assert attributes(model)["triton.model_name"] == "identity"
    assert attributes(model)["triton.model_version"] == 1
    assert attributes(model)["triton.request_id"] == "r-1"
    assert outer.events[0].name == "HTTP_RECV_START"
    assert collector.resources[-1]["service.name"] == "triton-inference-server"
    assert collector.resources[-1]["deployment"] == "test"


@pytest.mark.spec("server:128", "python_backend:C176")
def test_the_callers_context_goes_on_to_models_and_their_calls(server: Served, collector: Collector) -> None:
    parameters = infer(server, "caller", {"Traceparent": TRACEPARENT, "tracestate": "vendor=x"})
    spans = collector.next(5)
    assert {span.trace_id.hex() for span in spans} == {TRACE_ID}
    named = {(span.name, span.parent_span_id.hex()): span for span in spans}
    outer = named["InferRequest", PARENT_ID]
    caller = named["caller", outer.span_id.hex()]
    computing = named["compute", caller.span_id.hex()]
    called = named["identity", computing.span_id.hex()]
    computed = named["compute", called.span_id.hex()]
    assert attributes(called)["triton.trace_parent_id"] == attributes(caller)["triton.trace_id"]
    assert json.loads(parameters["context"]) == {
        "traceparent": f"00-{TRACE_ID}-{computed.span_id.hex()}-01",
        "tracestate": "vendor=x",
    }


@pytest.mark.spec("server:128")
def test_a_context_in_grpc_metadata(server: Served, collector: Collector) -> None:
    tensor = tritonclient.grpc.InferInput("X", [2], "INT32")
    tensor.set_data_from_numpy(np.zeros(2, np.int32))
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        client.infer("identity", [tensor], headers={"traceparent": TRACEPARENT})
    outer = by_name(collector.next(3))["InferRequest"]
    assert (outer.trace_id.hex(), outer.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    assert {event.name for event in outer.events} >= {"GRPC_WAITREAD_START", "GRPC_SEND_END"}


@pytest.mark.spec("server:128")
def test_a_failure_is_told(server: Served, collector: Collector) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        infer(server, "failing")
    caught.value.close()
    model = by_name(collector.next(3))["failing"]
    assert model.status.code == 2
    assert "ValueError: no" in model.status.message


@pytest.mark.spec("server:124", "server:128", "python_backend:C176")
def test_settings_and_what_is_traced_without_them(server: Served, collector: Collector) -> None:
    shown = server.get("/v2/trace/setting")[1]
    assert list(shown.items()) == [
        ("trace_level", ["TIMESTAMPS"]),
        ("trace_rate", "1"),
        ("trace_count", "-1"),
        ("trace_mode", "opentelemetry"),
        ("url", collector.url),
        ("resource", "deployment=test"),
        ("bsp_schedule_delay", "50"),
        ("bsp_max_queue_size", "2048"),
        ("bsp_max_export_batch_size", "512"),
    ]
    server.post("/v2/trace/setting", {"trace_rate": "0"})
    assert infer(server, "identity")["context"] == "none"
    assert TRACE_ID in infer(server, "identity", {"traceparent": TRACEPARENT})["context"]
    server.post("/v2/trace/setting", {"trace_level": ["OFF"]})
    assert infer(server, "identity", {"traceparent": TRACEPARENT})["context"] == "none"
    server.post("/v2/trace/setting", {"trace_rate": None, "trace_level": None})
    collector.next(3)


@pytest.mark.spec("server:128")
def test_the_variables_of_opentelemetry_and_the_end_of_the_server(
    repository: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.removesuffix("/v1/traces"))
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    flags = ["mode=opentelemetry", "level=TIMESTAMPS", "rate=1"]
    with serve(repository, *(f"--trace-config={flag}" for flag in flags)) as served:
        infer(served, "identity")
        assert served.stop() == 0
    collector.next(3)
    assert collector.resources[-1]["service.name"] == "mine"
