"""Requests traced by a running server, into files: what is noted, of which requests, and when it is written."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from calling import Caller, call, wait_until
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
            for request in requests:
                assert request.trace().get_context() is None
            return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", r.inputs()[0].as_numpy())]) for r in requests]
"""
CALLER = """
    import triton_python_backend_utils as pb_utils

    class TritonPythonModel:
        def execute(self, requests):
            responses = []
            for request in requests:
                for trace in (request.trace(), None):
                    call = pb_utils.InferenceRequest(
                        model_name="identity", inputs=request.inputs(), requested_output_names=["Y"], trace=trace
                    )
                    answer = call.exec()
                responses.append(answer)
            return responses
"""
STREAM = """
    import triton_python_backend_utils as pb_utils

    class TritonPythonModel:
        def execute(self, requests):
            for request in requests:
                sender = request.get_response_sender()
                response = pb_utils.InferenceResponse([pb_utils.Tensor("Y", request.inputs()[0].as_numpy())])
                sender.send(response)
                sender.send(response)
                sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
FAILING = """
    class TritonPythonModel:
        def execute(self, requests):
            raise ValueError("no")
"""
ENSEMBLE = """
    platform: "ensemble"
    input { name: "X" data_type: TYPE_INT32 dims: 2 }
    output { name: "Y" data_type: TYPE_INT32 dims: 2 }
    ensemble_scheduling {
      step [
        { model_name: "identity" model_version: -1
          input_map { key: "X" value: "X" } output_map { key: "Y" value: "between" } },
        { model_name: "caller" model_version: -1
          input_map { key: "X" value: "between" } output_map { key: "Y" value: "Y" } }
      ]
    }
"""
X = {"X": np.array([1, 2], np.int32)}
TRACE = "/v2/trace/setting"
EXECUTED = [
    "REQUEST_START",
    "QUEUE_START",
    "COMPUTE_START",
    "COMPUTE_INPUT_END",
    "COMPUTE_OUTPUT_START",
    "COMPUTE_END",
    "INFER_RESPONSE_COMPLETE",
    "REQUEST_END",
]


class Traces:
    """What a trace file holds by now."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = 0

    def entries(self, suffix: str = "") -> list[Any]:
        documents: list[Any] = []
        wait_until(lambda: documents or self._read(suffix, documents), "no write to be in progress")
        return list(documents[0])

    def _read(self, suffix: str, documents: list[Any]) -> bool:
        """Fails only while the server is in the middle of a write."""
        with contextlib.suppress(json.JSONDecodeError):
            documents.append(json.loads(Path(f"{self.path}{suffix}").read_text()))
        return bool(documents)

    def next(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait for so many traces beyond those seen before; with their timestamps in the order of the file."""
        wait_until(lambda: len(self._heads()) >= self._seen + count, f"{count} more traces in {self.path}")
        heads = self._heads()[self._seen :]
        self._seen += len(heads)
        assert len(heads) == count
        return [self._whole(head) for head in heads]

    def _heads(self) -> list[Any]:
        return [entry for entry in self.entries() if "model_name" in entry]

    def _whole(self, head: dict[str, Any]) -> dict[str, Any]:
        own = [entry for entry in self.entries() if entry["id"] == head["id"]]
        stamps = [stamp for entry in own for stamp in entry.get("timestamps", ())]
        moments = [stamp["ns"] for stamp in stamps]
        assert moments == sorted(moments)
        tensors = [(entry["activity"], entry["tensor"]) for entry in own if "tensor" in entry]
        return {**head, "names": [stamp["name"] for stamp in stamps], "moments": moments, "tensors": tensors}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracing")
    write_model(folder, "identity", IDENTITY, IO)
    write_model(folder, "caller", CALLER, IO)
    write_model(folder, "stream", STREAM, IO + "model_transaction_policy { decoupled: true }")
    write_model(folder, "failing", FAILING, IO)
    write_model(folder, "chain", "", ENSEMBLE)
    return folder


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traces") / "trace.json"


@pytest.fixture(scope="module")
def server(repository: Path, path: Path) -> Iterator[Served]:
    with serve(repository, f"--trace-config=triton,file={path}", "--trace-config=rate=1") as served:
        yield served


@pytest.fixture(scope="module")
def all_traces(path: Path) -> Traces:
    return Traces(path)


@pytest.fixture
def traces(server: Served, all_traces: Traces) -> Iterator[Traces]:
    """With timestamps of every request."""
    assert server.post(TRACE, {"trace_level": ["TIMESTAMPS"]})[0] == 200
    yield all_traces
    cleared = {"trace_level": None, "trace_rate": None, "trace_count": None, "log_frequency": None}
    assert server.post(TRACE, cleared)[0] == 200


@pytest.mark.spec("server:126")
def test_a_request_over_http(server: Served, traces: Traces) -> None:
    before = time.monotonic_ns()
    call(server, "identity", X)
    after = time.monotonic_ns()
    (trace,) = traces.next()
    assert trace["names"] == ["HTTP_RECV_START", "HTTP_RECV_END", *EXECUTED, "HTTP_SEND_START", "HTTP_SEND_END"]
    assert before < trace["moments"][0]
    assert trace["moments"][-2] < after
    assert (trace["model_name"], trace["model_version"]) == ("identity", 1)
    assert "request_id" not in trace
    assert "parent_id" not in trace


@pytest.mark.spec("server:126")
def test_a_large_body_is_received_from_its_head_on(server: Served, traces: Traces) -> None:
    tensor = {"name": "X", "shape": [2], "datatype": "INT32", "data": [1, 2]}
    body = json.dumps({"id": "big", "pad": " " * 100_000, "inputs": [tensor]}).encode()
    with socket.create_connection(("127.0.0.1", server.http_port)) as connection:
        head = f"POST /v2/models/identity/infer HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[:50_000])
        server.get("/v2/health/live")  # the first part was read by now
        between = time.monotonic_ns()
        connection.sendall(body[50_000:])
        assert connection.recv(20).startswith(b"HTTP/1.1 200")
    (trace,) = traces.next()
    assert trace["request_id"] == "big"
    assert trace["moments"][0] < between < trace["moments"][1]


@pytest.mark.spec("server:126")
def test_a_request_over_grpc(server: Served, traces: Traces) -> None:
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        client.infer("identity", [grpc_input()], request_id="r-1")
    (trace,) = traces.next()
    received = ["GRPC_WAITREAD_START", "GRPC_WAITREAD_END"]
    assert trace["names"] == [*received, *EXECUTED, "GRPC_SEND_START", "GRPC_SEND_END"]
    assert trace["request_id"] == "r-1"


def grpc_input() -> tritonclient.grpc.InferInput:
    tensor = tritonclient.grpc.InferInput("X", [2], "INT32")
    tensor.set_data_from_numpy(X["X"])
    return tensor


@pytest.mark.spec("server:126")
def test_a_generate_request(server: Served, traces: Traces) -> None:
    assert server.post("/v2/models/identity/generate", {"X": [1, 2]})[0] == 200
    (trace,) = traces.next()
    assert trace["names"] == ["HTTP_RECV_START", "HTTP_RECV_END", *EXECUTED, "HTTP_SEND_START", "HTTP_SEND_END"]


@pytest.mark.spec("server:126")
def test_a_compressed_response_is_sent_when_it_is_compressed(server: Served, traces: Traces) -> None:
    inputs = [{"name": "X", "shape": [2], "datatype": "INT32", "data": [1, 2]}]
    body = json.dumps({"id": "x" * 1000, "inputs": inputs}).encode()
    url = f"http://{server.http_url}/v2/models/identity/infer"
    with urllib.request.urlopen(urllib.request.Request(url, body, {"Accept-Encoding": "gzip"}), timeout=20) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        response.read()
    (trace,) = traces.next()
    assert trace["names"][-2:] == ["HTTP_SEND_START", "HTTP_SEND_END"]


@pytest.mark.spec("server:126")
def test_a_stream_of_responses(server: Served, traces: Traces) -> None:
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(lambda result, error: None)
        client.async_stream_infer("stream", [grpc_input()])
        client.stop_stream()
    (trace,) = traces.next()
    assert trace["names"].count("INFER_RESPONSE_COMPLETE") == 2
    assert trace["names"].count("GRPC_SEND_END") == 3
    assert set(EXECUTED) <= set(trace["names"])


@pytest.mark.spec("server:126", "python_backend:Q120")
def test_a_call_is_a_child_where_the_model_says_so(server: Served, traces: Traces) -> None:
    call(server, "caller", X)
    child, parent = traces.next(2)
    assert (parent["model_name"], child["model_name"]) == ("caller", "identity")
    assert child["parent_id"] == parent["id"]
    assert child["names"] == EXECUTED
    computing = dict(zip(parent["names"], parent["moments"], strict=True))
    assert computing["COMPUTE_INPUT_END"] < child["moments"][0]
    assert child["moments"][-1] < computing["COMPUTE_OUTPUT_START"]


@pytest.mark.spec("server:126")
def test_the_steps_of_an_ensemble_are_children(server: Served, traces: Traces) -> None:
    call(server, "chain", X)
    first, called, second, whole = traces.next(4)
    names = [trace["model_name"] for trace in (first, called, second, whole)]
    assert names == ["identity", "identity", "caller", "chain"]
    assert first["parent_id"] == second["parent_id"] == whole["id"]
    assert called["parent_id"] == second["id"]
    received, sent = ["HTTP_RECV_START", "HTTP_RECV_END"], ["HTTP_SEND_START", "HTTP_SEND_END"]
    assert whole["names"] == [*received, "REQUEST_START", "INFER_RESPONSE_COMPLETE", "REQUEST_END", *sent]


@pytest.mark.spec("server:126")
def test_a_failed_execution(server: Served, traces: Traces) -> None:
    assert "no" in call(server, "failing", X).error
    (trace,) = traces.next()
    assert [name for name in EXECUTED if name not in trace["names"]] == ["COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START"]


@pytest.mark.spec("server:127")
def test_tensors(server: Served, traces: Traces) -> None:
    server.post(TRACE, {"trace_level": ["TENSORS"]})
    call(server, "identity", X)
    (trace,) = traces.next()
    assert trace["names"] == []
    given = {"name": "X", "data": "1,2", "shape": "2", "dtype": "INT32"}
    assert trace["tensors"] == [
        ("TENSOR_QUEUE_INPUT", given),
        ("TENSOR_BACKEND_INPUT", given),
        ("TENSOR_BACKEND_OUTPUT", {**given, "name": "Y"}),
    ]


@pytest.mark.spec("server:126")
def test_rate_and_count(server: Served, traces: Traces) -> None:
    server.post(TRACE, {"trace_rate": "3", "trace_count": "2"})
    with Caller(server) as caller:
        for _ in range(12):
            caller("identity", X)
    traces.next(2)
    assert server.get(TRACE)[1]["trace_count"] == "0"
    server.post(TRACE, {"trace_count": "1", "trace_rate": "1"})
    call(server, "identity", X)
    call(server, "identity", X)
    traces.next(1)


@pytest.mark.spec("server:124", "server:126")
def test_a_model_with_settings_of_its_own(server: Served, traces: Traces) -> None:
    server.post("/v2/models/identity/trace/setting", {"trace_level": ["OFF"]})
    call(server, "identity", X)
    call(server, "caller", X)
    assert [trace["model_name"] for trace in traces.next(2)] == ["identity", "caller"]  # a call belongs to its caller
    server.post("/v2/models/identity/trace/setting", {"trace_level": None})


@pytest.mark.spec("server:126")
def test_a_file_for_every_so_many_traces(server: Served, traces: Traces) -> None:
    server.post(TRACE, {"log_frequency": "2"})
    with Caller(server) as caller:
        for _ in range(4):
            caller("identity", X)
    wait_until(lambda: Path(f"{traces.path}.1").exists(), "the second file")
    heads = [[entry["id"] for entry in traces.entries(f".{index}") if "model_name" in entry] for index in (0, 1)]
    assert [len(ids) for ids in heads] == [2, 2]
    assert heads[0] < heads[1]


@pytest.mark.spec("server:126")
def test_what_was_traced_is_in_the_file_when_the_server_has_ended(repository: Path, tmp_path: Path) -> None:
    flags = ["--trace-config=level=TIMESTAMPS", "--trace-config=rate=1", f"--trace-config=triton,file={tmp_path}/t"]
    with serve(repository, *flags) as served:
        call(served, "identity", X)
        assert served.stop() == 0
    entries = json.loads((tmp_path / "t").read_text())
    names = [stamp["name"] for entry in entries for stamp in entry.get("timestamps", ())]
    assert names == ["HTTP_RECV_START", "HTTP_RECV_END", *EXECUTED, "HTTP_SEND_START", "HTTP_SEND_END"]


@pytest.mark.spec("server:125", "server:167")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["level=TIMESTAMPS"], "Attempting to set invalid trace setting :trace file name is not given"),
        (["triton,file=/no/such/file"], "failed to open trace file '/no/such/file': No such file or directory"),
    ],
)
def test_a_server_that_could_not_write_its_traces_does_not_start(
    repository: Path, flags: list[str], message: str
) -> None:
    with serve(repository, *(f"--trace-config={flag}" for flag in flags), expect_start=False) as served:
        assert served.process.wait(30) == 1
    assert served.log.splitlines()[-1] == f"error: creating server: Invalid argument - {message}"
