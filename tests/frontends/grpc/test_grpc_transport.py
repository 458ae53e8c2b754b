"""The port, TLS, restriction, header forwarding, compression, stopping, and the real client."""

from __future__ import annotations

import queue
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from atoll.errors import Code, ServerError
from certificates import make_certificates
from grpc_harness import Client, Frontend, Frontends, floats
from grpc_twin import TwinServer, respond


@pytest.mark.spec("server:163")
def test_a_port_that_is_taken(frontends: Frontends, frontend: Frontend) -> None:
    with pytest.raises(ServerError) as caught:
        frontends.start(port=frontend.port)
    assert caught.value.code is Code.UNAVAILABLE
    assert caught.value.message == f"Socket '127.0.0.1:{frontend.port}' already in use "


@pytest.mark.spec("server:172")
def test_a_port_that_is_shared(frontends: Frontends) -> None:
    first = frontends.start(reuse_port=True)
    second = frontends.start(reuse_port=True, port=first.port)
    assert second.port == first.port


@pytest.mark.spec("server:152")
def test_keepalive_and_age_options_are_accepted(frontends: Frontends) -> None:
    frontend = frontends.start(
        keepalive_time_ms=1000,
        keepalive_timeout_ms=500,
        keepalive_permit_without_calls=True,
        http2_max_pings_without_data=0,
        http2_min_recv_ping_interval_without_data_ms=100,
        http2_max_ping_strikes=0,
        max_connection_age_ms=60_000,
        max_connection_age_grace_ms=1000,
    )
    assert frontends.client(frontend).call("ServerLive").live


@pytest.mark.spec("server:153")
@pytest.mark.parametrize("level", ["none", "low", "medium", "high"])
def test_compression(frontends: Frontends, level: str) -> None:
    frontend = frontends.start(infer_response_compression_level=level)
    client = frontends.client(frontend, compression=grpc.Compression.Gzip)
    assert client.infer(floats()).model_name == "ident"
    assert len(list(client.stream([floats()]))) == 1


def test_stopping_finishes_running_calls(frontends: Frontends, twin: TwinServer) -> None:
    frontend = frontends.start()
    client = frontends.client(frontend)
    call = client.method("ModelInfer").future(floats(model="hold"), timeout=30)
    request = twin.arrived.get(timeout=30)

    async def stop_and_answer() -> None:
        stopping = frontends.thread.loop.create_task(frontend.stop(30))
        respond(twin.models["hold"], request, [])
        await stopping

    frontends.thread.run(stop_and_answer())
    assert call.result().model_name == "hold"
    assert client.infer_error(floats())[0] == "UNAVAILABLE"


def test_stopping_cancels_what_outlives_the_grace(frontends: Frontends, twin: TwinServer) -> None:
    frontend = frontends.start()
    call = frontends.client(frontend).method("ModelInfer").future(floats(model="hold"), timeout=30)
    request = twin.arrived.get(timeout=30)
    frontends.thread.run(frontend.stop(0))
    assert twin.cancelled.get(timeout=30) is request
    assert call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def test_calls_that_arrive_while_stopping(frontends: Frontends) -> None:
    frontend = frontends.start()
    client = frontends.client(frontend)
    frontend._service.refuse_new_calls()
    refused = ("UNAVAILABLE", "GRPC server is shutting down and has stopped accepting new requests.")
    assert client.infer_error(floats()) == refused
    assert client.error("ServerLive") == refused
    call = client.stream([])
    with pytest.raises(grpc.RpcError):
        next(call)
    assert (call.code().name, call.details()) == refused


@pytest.mark.spec("server:278")
def test_restricted_protocols(frontends: Frontends) -> None:
    frontend = frontends.start(restricted_protocol={"inference": ("infer-key", "v"), "health": ("health-key", "h")})
    client = frontends.client(frontend)
    text = "This protocol is restricted, expecting header 'triton-grpc-protocol-{}'"
    assert client.infer_error(floats()) == ("UNAVAILABLE", text.format("infer-key"))
    assert client.error("ServerLive") == ("UNAVAILABLE", text.format("health-key"))
    assert client.infer_error(floats(), metadata=(("triton-grpc-protocol-infer-key", "no"),))[0] == "UNAVAILABLE"
    assert client.infer(floats(), metadata=(("triton-grpc-protocol-infer-key", "v"),)).model_name == "ident"
    assert client.call("ServerMetadata").name == "triton"


@pytest.mark.spec("server:279")
def test_header_forwarding(frontends: Frontends, twin: TwinServer) -> None:
    client = frontends.client(frontends.start(header_forward_pattern="My_.*"))
    client.infer(floats(own=1), metadata=(("my_key", "a"), ("x_my_other", "b"), ("yours", "c")))
    assert twin.arrived.get(timeout=30).parameters == {"own": 1, "my_key": "a", "x_my_other": "b"}
    list(client.stream([floats()], metadata=(("my_key", "a"),)))
    assert twin.arrived.get(timeout=30).parameters == {"my_key": "a"}
    sensitive = frontends.client(frontends.start(header_forward_pattern="(?-i)My_.*"))
    sensitive.infer(floats(), metadata=(("my_key", "a"),))
    assert twin.arrived.get(timeout=30).parameters is None
    everything = frontends.client(frontends.start(header_forward_pattern=".*"))
    assert everything.infer_error(floats(), metadata=(("triton_x", "a"),)) == (
        "INVALID_ARGUMENT",
        "Header 'triton_x' is reserved for Triton usage and cannot be forwarded.",
    )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def _secure_client(frontends: Frontends, frontend: Frontend, folder: Path, *, known: bool) -> Client:
    pair = ((folder / "client.key").read_bytes(), (folder / "client.pem").read_bytes()) if known else (None, None)
    credentials = grpc.ssl_channel_credentials((folder / "ca.pem").read_bytes(), *pair)
    return frontends.adopt(grpc.secure_channel(f"127.0.0.1:{frontend.port}", credentials))


@pytest.mark.spec("server:281")
@pytest.mark.parametrize("mutual", [False, True])
def test_tls(frontends: Frontends, authority: Path, mutual: bool) -> None:
    frontend = frontends.start(
        use_ssl=not mutual,
        use_ssl_mutual=mutual,
        server_cert=str(authority / "server.pem"),
        server_key=str(authority / "server.key"),
        root_cert=str(authority / "ca.pem") if mutual else "",
    )
    assert _secure_client(frontends, frontend, authority, known=True).infer(floats()).model_name == "ident"
    stranger = _secure_client(frontends, frontend, authority, known=False)
    if mutual:
        assert stranger.infer_error(floats())[0] == "UNAVAILABLE"
    else:
        assert stranger.infer(floats()).model_name == "ident"
    assert frontends.client(frontend).infer_error(floats())[0] == "UNAVAILABLE"


@pytest.mark.spec("server:281")
@pytest.mark.parametrize("root_cert", ["", "/nowhere.pem"])
def test_client_certificates_need_something_to_be_verified_by(
    frontends: Frontends, authority: Path, root_cert: str
) -> None:
    with pytest.raises(ServerError) as caught:
        frontends.start(
            use_ssl_mutual=True,
            server_cert=str(authority / "server.pem"),
            server_key=str(authority / "server.key"),
            root_cert=root_cert,
        )
    assert caught.value.message == "Socket '127.0.0.1:0' already in use "


@pytest.mark.spec("server:281")
@pytest.mark.parametrize("certificate", ["absent", "garbage"])
def test_an_unusable_certificate(frontends: Frontends, tmp_path: Path, certificate: str) -> None:
    path = tmp_path / "cert.pem"
    if certificate == "garbage":
        path.write_text("garbage")
    with pytest.raises(ServerError) as caught:
        frontends.start(use_ssl=True, server_cert=str(path), server_key=str(path))
    assert caught.value.message == "Socket '127.0.0.1:0' already in use "


@pytest.mark.spec("server:131")
def test_the_real_client(frontend: Frontend) -> None:
    values = np.arange(4, dtype=np.float32).reshape(1, 4)
    tensor = triton.InferInput("IN", [1, 4], "FP32")
    tensor.set_data_from_numpy(values)
    with triton.InferenceServerClient(f"127.0.0.1:{frontend.port}") as client:
        assert client.is_server_live()
        assert client.is_model_ready("ident")
        assert client.get_server_metadata(as_json=True)["name"] == "triton"
        assert client.get_model_config("ident").config.name == "ident"
        assert client.get_inference_statistics("ident").model_stats[0].name == "ident"
        assert client.get_model_repository_index().models[0].state == "READY"
        result = client.infer("ident", [tensor], request_id="7", parameters={"mine": "a"})
        assert np.array_equal(result.as_numpy("OUT"), values)
        assert result.get_response().parameters["mine"].string_param == "a"
        with pytest.raises(triton.InferenceServerException) as caught:
            client.infer("nope", [tensor])
        assert caught.value.status() == "StatusCode.NOT_FOUND"


@pytest.mark.spec("server:144")
def test_the_real_client_on_a_stream(frontend: Frontend) -> None:
    answers: queue.Queue[tuple[object, object]] = queue.Queue()
    tensor = triton.InferInput("IN", [1], "INT32")
    tensor.set_data_from_numpy(np.array([2], np.int32))
    with triton.InferenceServerClient(f"127.0.0.1:{frontend.port}") as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("repeat", [tensor], enable_empty_final_response=True)
        client.async_stream_infer("nope", [tensor])
        received = [answers.get(timeout=30) for _ in range(4)]
        client.stop_stream()
    assert sorted(str(error) for _, error in received if error is not None) == [
        "Request for unknown model: 'nope' is not found"
    ]
    assert len([result for result, _ in received if result is not None]) == 3


@pytest.mark.spec("server:134")
@pytest.mark.parametrize("protobuf", ["upb", "python"])
@pytest.mark.parametrize("order", ["atoll.frontends.grpc tritonclient.grpc", "tritonclient.grpc atoll.frontends.grpc"])
def test_both_in_one_process(order: str, protobuf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = order.split()
    code = f"""
import {first}
import {second}
from atoll_protos import messages
from tritonclient.grpc import service_pb2
ours = messages.ModelInferRequest(model_name="m", raw_input_contents=[b"x"])
assert service_pb2.ModelInferRequest.FromString(ours.SerializeToString()).model_name == "m"
from atoll.frontends.grpc.incoming import RequestReader
incoming = RequestReader().read(ours.SerializeToString())
assert (incoming.model_name, incoming.id) == ("m", "")
"""
    monkeypatch.setenv("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", protobuf)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
