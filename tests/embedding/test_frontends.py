"""Frontends of an embedded server, with real clients in the same process."""

from __future__ import annotations

import http.client
import json
import queue
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
import tritonfrontend
import tritonserver
from embedded import EXAMPLE_MODELS
from serving import write_model
from shared_regions import client_memory
from tritonclient.utils import InferenceServerException
from tritonfrontend import Feature, FeatureGroup, KServeGrpc, KServeHttp, Metrics, RestrictedFeatures, Tracing
from tritonserver import Server

WAITS = """
import pathlib
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.folder = pathlib.Path(args["model_repository"])

    def execute(self, requests):
        (self.folder / "begun").touch()
        while not (self.folder / "go").exists():
            time.sleep(0.01)
        tensors = [pb_utils.Tensor("OUT", request.inputs()[0].as_numpy()) for request in requests]
        return [pb_utils.InferenceResponse([tensor]) for tensor in tensors]
"""
CONFIG = """
backend: "python"
input [{ name: "IN" data_type: TYPE_FP32 dims: [ -1 ] }]
output [{ name: "OUT" data_type: TYPE_FP32 dims: [ -1 ] }]
"""
LOOPBACK = {"address": "127.0.0.1", "port": 0}


def http_service(server: Server, **options: Any) -> KServeHttp:
    return KServeHttp(server, KServeHttp.Options(**LOOPBACK, **options))


def grpc_service(server: Server, **options: Any) -> KServeGrpc:
    return KServeGrpc(server, KServeGrpc.Options(**LOOPBACK, **options))


def url(service: Any) -> str:
    return f"127.0.0.1:{service.port}"


def strings(module: Any, array: Any) -> list[Any]:
    tensor = module.InferInput("INPUT0", array.shape, "BYTES")
    tensor.set_data_from_numpy(array)
    return [tensor]


def get(service: Any, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, str]:
    request = urllib.request.Request(f"http://{url(service)}{path}", body, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def fresh() -> Iterator[Server]:
    """A server that a test may stop."""
    server = Server(model_repository=str(EXAMPLE_MODELS)).start()
    yield server
    if server._server is not None:
        server.stop()


@pytest.mark.spec("inprocess:43")
def test_what_is_exported() -> None:
    assert {"KServeHttp", "KServeGrpc", "Metrics"} <= set(tritonfrontend.__all__)


@pytest.mark.spec("inprocess:44")
@pytest.mark.spec("inprocess:58")
@pytest.mark.parametrize(
    ("make", "given"),
    [
        (KServeHttp.Options, {"port": -15}),
        (KServeHttp.Options, {"port": 65536}),
        (KServeHttp.Options, {"thread_count": 0}),
        (KServeHttp.Options, {"header_forward_pattern": 10}),
        (KServeHttp.Options, {"header_forward_pattern": "("}),
        (KServeHttp.Options, {"reuse_port": "yes"}),
        (KServeHttp.Options, {"restricted_features": {}}),
        *((KServeGrpc.Options, {name: -1}) for name in ("port", "keepalive_time_ms", "keepalive_timeout_ms")),
        *((KServeGrpc.Options, {name: -1}) for name in ("http2_max_ping_strikes", "max_connection_age_ms")),
        *((KServeGrpc.Options, {name: -1}) for name in ("infer_thread_count", "max_response_pool_size")),
        (KServeGrpc.Options, {"infer_allocation_pool_size": "8"}),
        (KServeGrpc.Options, {"server_key": 10}),
        (KServeGrpc.Options, {"infer_compression_level": 9}),
        (Metrics.Options, {"port": -1}),
        (Metrics.Options, {"thread_count": 0}),
        (Tracing, {"rate": -1}),
        (Tracing, {"level": "SOME"}),
    ],
)
def test_options_that_cannot_be(make: Any, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(given))) as caught:
        make(**given)
    assert isinstance(caught.value, tritonserver.InvalidArgumentError)


@pytest.mark.spec("inprocess:44")
@pytest.mark.spec("inprocess:58")
def test_options_as_they_are_by_default() -> None:
    http, grpc, metrics = KServeHttp.Options(), KServeGrpc.Options(), Metrics.Options()
    assert (http.address, http.port, http.thread_count) == ("0.0.0.0", 8000, 8)
    assert (grpc.port, grpc.infer_compression_level, grpc.keepalive_time_ms) == (8001, 0, 7_200_000)
    assert (metrics.port, metrics.thread_count) == (8002, 1)
    level = KServeGrpc.Grpc_compression_level
    assert KServeGrpc.Options(infer_compression_level=level.HIGH).infer_compression_level == 3
    assert [int(one) for one in level] == [0, 1, 2, 3, 4]


@pytest.mark.spec("inprocess:45")
def test_a_server_and_its_options_are_checked(server: Server) -> None:
    with pytest.raises(tritonserver.InvalidArgumentError, match=r"^Server not started$"):
        KServeHttp(Server(model_repository="m"))
    for kind in (KServeHttp, KServeGrpc, Metrics):
        text = f"Incorrect type for options. options argument must be of type {kind.__name__}.Options"
        with pytest.raises(tritonserver.InvalidArgumentError, match=f"^{re.escape(text)}$"):
            kind(server, {"port": 8001})


@pytest.mark.spec("inprocess:45")
@pytest.mark.spec("inprocess:58")
@pytest.mark.parametrize(("make", "name"), [(http_service, "HTTP"), (grpc_service, "GRPC")])
def test_start_and_stop(server: Server, make: Any, name: str) -> None:
    service = make(server)
    with pytest.raises(tritonserver.UnavailableError, match=rf"^{name} server is not running\.$"):
        service.stop()
    for _ in range(2):
        assert service.start() is None
        with pytest.raises(tritonserver.AlreadyExistsError, match=rf"^{name} server is already running\.$"):
            service.start()
        module = httpclient if name == "HTTP" else grpcclient
        with module.InferenceServerClient(url(service)) as client:
            assert client.is_server_ready()
        other = type(service)(server, type(service).Options(address="127.0.0.1", port=service.port))
        with pytest.raises(tritonserver.UnavailableError) as caught:
            other.start()
        assert str(caught.value) == f"Socket '127.0.0.1:{service.port}' already in use "
        service.stop()


@pytest.mark.spec("inprocess:45")
@pytest.mark.spec("inprocess:46")
@pytest.mark.spec("inprocess:60")
def test_both_spellings_infer(server: Server) -> None:
    with KServeHttp.Server(server, KServeHttp.Options(**LOOPBACK)) as http, grpc_service(server) as grpc:
        assert isinstance(http, KServeHttp)
        for module, service in ((httpclient, http), (grpcclient, grpc)):
            with module.InferenceServerClient(url(service)) as client:
                for array in (np.array([["Roger Roger"]], dtype=object), np.array(["Roger Roger"], dtype=object)):
                    result = client.infer("identity", strings(module, array))
                    assert result.as_numpy("OUTPUT0").astype(str).tolist() == array.tolist()
    with pytest.raises(KeyError), http_service(server):
        raise KeyError("the body's own")


@pytest.mark.spec("inprocess:58")
def test_generate_and_streams(server: Server) -> None:
    with http_service(server) as http, grpc_service(server) as grpc:
        status, body = get(http, "/v2/models/identity/generate", "POST", b'{"INPUT0": "testing"}')
        assert (status, json.loads(body)["OUTPUT0"]) == (200, "testing")
        results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with grpcclient.InferenceServerClient(url(grpc)) as client:
            client.start_stream(lambda result, error: results.put((result, error)))
            for number in range(100):
                client.async_stream_infer("identity", strings(grpcclient, np.array([str(number)], dtype=object)))
            found = [results.get(timeout=20) for _ in range(100)]
            client.stop_stream()
        assert [error for _, error in found if error is not None] == []
        assert [int(result.as_numpy("OUTPUT0")[0]) for result, _ in found] == list(range(100))


@pytest.mark.spec("inprocess:58")
def test_metrics_count_requests(fresh: Server) -> None:
    with Metrics(fresh, Metrics.Options(**LOOPBACK)) as metrics, grpc_service(fresh) as grpc:
        row = 'nv_inference_count{model="identity",version="1"} '
        assert row + "0" in get(metrics, "/metrics")[1]
        with grpcclient.InferenceServerClient(url(grpc)) as client:
            client.infer("identity", strings(grpcclient, np.array(["a"], dtype=object)))
        assert row + "1" in get(metrics, "/metrics")[1]
        assert get(metrics, "/metrics", "POST", b"")[0] == 405


@pytest.mark.spec("inprocess:51")
@pytest.mark.spec("inprocess:52")
@pytest.mark.spec("inprocess:58")
def test_requests_after_the_server_has_stopped(fresh: Server) -> None:
    http, grpc = http_service(fresh), grpc_service(fresh)
    http.start()
    grpc.start()
    fresh.stop()
    assert get(http, "/v2/health/live")[0] == get(http, "/v2/health/ready")[0] == 400
    array = np.array(["a"], dtype=object)
    with httpclient.InferenceServerClient(url(http)) as client:
        with pytest.raises(InferenceServerException) as caught:
            client.infer("identity", strings(httpclient, array))
        assert "Server not ready" in str(caught.value)
    with grpcclient.InferenceServerClient(url(grpc)) as client:
        assert not client.is_server_live()
        with pytest.raises(InferenceServerException) as caught:
            client.infer("identity", strings(grpcclient, array))
        assert "UNAVAILABLE" in str(caught.value.status())
    http.stop()
    grpc.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == grpc._embedded._thread._thread.name]


@pytest.mark.spec("inprocess:53")
@pytest.mark.spec("inprocess:58")
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_requests_in_flight_when_a_frontend_stops(tmp_path: Path, protocol: str) -> None:
    folder = write_model(tmp_path, "waits", WAITS, CONFIG)
    server = Server(model_repository=str(tmp_path), exit_timeout=20).start()
    service = http_service(server) if protocol == "http" else grpc_service(server)
    service.start()
    module = httpclient if protocol == "http" else grpcclient
    tensor = module.InferInput("IN", [1], "FP32")
    tensor.set_data_from_numpy(np.ones(1, np.float32))
    if protocol == "http":
        connection = http.client.HTTPConnection(url(service), timeout=0.5)
        body = json.dumps({"inputs": [{"name": "IN", "datatype": "FP32", "shape": [1], "data": [1]}]})
        connection.request("POST", "/v2/models/waits/infer", body)
        _wait_for(folder / "begun")
        service.stop()
        with pytest.raises(TimeoutError):
            connection.getresponse()  # neither answered nor closed
        with pytest.raises(ConnectionRefusedError):
            http.client.HTTPConnection(url(service), timeout=5).connect()
        (folder / "go").touch()
        connection.close()
    else:
        errors: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with grpcclient.InferenceServerClient(url(service)) as client:
            client.async_infer("waits", [tensor], lambda result, error: errors.put(error))
            _wait_for(folder / "begun")
            service.stop()
            error = errors.get(timeout=3)
        assert (error.status(), error.message()) == ("StatusCode.CANCELLED", "CANCELLED")
        (folder / "go").touch()
    server.stop()


def _wait_for(path: Path) -> None:
    met = threading.Event()
    for _ in range(500):
        if path.exists():
            return
        met.wait(0.02)
    raise AssertionError(f"{path} does not come")


@pytest.mark.spec("inprocess:47")
def test_headers_become_parameters(server: Server) -> None:
    with (
        http_service(server, header_forward_pattern="^my-") as http,
        grpc_service(server, forward_header_pattern="^my-") as grpc,
    ):
        for module, service in ((httpclient, http), (grpcclient, grpc)):
            tensor = module.InferInput("int32_input", [1, 1], "INT32")
            tensor.set_data_from_numpy(np.ones((1, 1), np.int32))
            with module.InferenceServerClient(url(service)) as client:
                result = client.infer("test", [tensor], headers={"my-name": "me", "other": "x"})
            assert json.loads(result.as_numpy("output_parameters")[0]) == {"my-name": "me"}


@pytest.mark.spec("inprocess:48")
@pytest.mark.spec("inprocess:59")
def test_restricted_features(server: Server) -> None:
    restricted = RestrictedFeatures([FeatureGroup("key", "word", [Feature.INFERENCE])])
    restricted.create_feature_group("other", "secret", Feature.METADATA)
    array = np.array(["a"], dtype=object)
    with (
        http_service(server, restricted_features=restricted) as http,
        grpc_service(server, restricted_features=restricted) as grpc,
    ):
        status, body = get(http, "/v2")
        assert (status, json.loads(body)) == (
            403,
            {"error": "This API is restricted, expecting header 'other'"},
        )
        for module, service, prefix in ((httpclient, http, ""), (grpcclient, grpc, "triton-grpc-protocol-")):
            with module.InferenceServerClient(url(service)) as client:
                with pytest.raises(InferenceServerException, match="is restricted, expecting header"):
                    client.infer("identity", strings(module, array))
                headers = {f"{prefix}key": "word"}
                assert client.infer("identity", strings(module, array), headers=headers)
                assert client.get_server_metadata(headers={f"{prefix}other": "secret"})


@pytest.mark.spec("inprocess:48")
@pytest.mark.spec("inprocess:59")
def test_groups_of_features() -> None:
    restricted = RestrictedFeatures()
    restricted.add_feature_group(FeatureGroup("k", "v", [Feature.HEALTH, Feature.SHM_MEMORY]))
    groups = restricted.get_feature_groups()
    assert [repr(group) for group in groups] == [
        repr(FeatureGroup("k", "v", Feature.HEALTH)),
        repr(FeatureGroup("k", "v", [Feature.SHM_MEMORY])),
    ]
    restricted.update_feature_group(Feature.HEALTH, "x", "y")
    restricted.remove_features(Feature.SHM_MEMORY)
    assert groups == [FeatureGroup("x", "y", Feature.HEALTH)]
    assert json.loads(repr(restricted)) == json.loads(str(restricted))
    assert json.loads(str(restricted)) == [{"key": "x", "value": "y", "features": ["health"]}]
    assert (str(Feature.HEALTH), restricted.has_feature(Feature.TRACE)) == ("Feature.HEALTH", False)
    invalid = tritonserver.InvalidArgumentError
    with pytest.raises(invalid, match=r"A given feature can only belong to one group. Feature.HEALTH already belongs"):
        restricted.create_feature_group("k", "v", Feature.HEALTH)
    with pytest.raises(invalid, match=r"^Invalid features found: "):
        FeatureGroup("k", "v", [1])  # type: ignore[list-item]
    with pytest.raises(invalid, match="needs to be of type Feature or List"):
        FeatureGroup("k", "v", "health")  # type: ignore[arg-type]
    with pytest.raises(invalid, match="need to be of type str"):
        FeatureGroup(1, "v", Feature.HEALTH)  # type: ignore[arg-type]
    with pytest.raises(tritonserver.NotFoundError, match=r"not being restricted\.$"):
        restricted.update_feature_group(Feature.TRACE, "k", "v")
    with pytest.raises(invalid, match=r"and therefore cannot be removed\.$"):
        restricted.remove_features([Feature.TRACE])


@pytest.mark.spec("inprocess:49")
def test_requests_are_traced(fresh: Server, tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    tracing = Tracing(filepath=str(file), rate=1, level="TIMESTAMPS")
    with http_service(fresh, tracing=tracing) as http, httpclient.InferenceServerClient(url(http)) as client:
        assert client.get_trace_settings()["trace_rate"] == "1"
        client.infer("identity", strings(httpclient, np.array(["a"], dtype=object)))
    fresh.stop()
    traced = json.loads(file.read_text())
    assert any(entry.get("model_name") == "identity" for entry in traced)


@pytest.mark.spec("inprocess:50")
def test_regions_are_shared_by_the_frontends(server: Server) -> None:
    with (
        client_memory(64) as region,
        http_service(server) as http,
        grpc_service(server) as grpc,
        httpclient.InferenceServerClient(url(http)) as one,
        grpcclient.InferenceServerClient(url(grpc)) as other,
    ):
        one.register_system_shared_memory("r", region.key, 64)
        assert "r" in other.get_system_shared_memory_status(as_json=True)["regions"]
        region[0] = np.arange(4, dtype=np.int32)
        tensor = grpcclient.InferInput("int32_input", [2, 2], "INT32")
        tensor.set_shared_memory("r", 16)
        assert other.infer("test", [tensor]).as_numpy("int32_output").tolist() == [[0, 1], [2, 3]]
        other.unregister_system_shared_memory("r")
        assert one.get_system_shared_memory_status() == []
