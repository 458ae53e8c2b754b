"""gRPC as a protocol: appendix B.1 (control), health, bytes that are no message, cancellation and deadlines."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from atoll_protos import messages
from grpc_wire import SERVICE, RpcClient, infer_request, two_in
from serving import Served
from waiting import Gate

pytestmark = pytest.mark.usefixtures("nothing_stays")

HEALTH = "/grpc.health.v1.Health/"


@pytest.fixture(scope="module", params=["http2", "grpcio"])
def server(request: pytest.FixtureRequest, server: Served) -> Served:
    """Both transports answer alike."""
    return server if request.param == "http2" else request.getfixturevalue("grpcio_server")


@pytest.fixture
def rpc(server: Served) -> Iterator[RpcClient]:
    with RpcClient(server.grpc_url) as client:
        yield client


def refused(call: Callable[[], Any]) -> tuple[str, str]:
    """The status of a call that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code().name, caught.value.details()


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [
        pytest.param("two_in", "", True, marks=pytest.mark.spec("server:B1")),
        ("two_in", "1", True),
        ("versions", "11", True),
        pytest.param("nope", "", False, marks=pytest.mark.spec("server:B2")),
        pytest.param("two_in", "9", False, marks=pytest.mark.spec("server:B3")),
        pytest.param("", "", False, marks=pytest.mark.spec("server:B6")),
    ],
)
def test_model_ready(rpc: RpcClient, name: str, version: str, ready: bool) -> None:
    assert rpc.call("ModelReady", name=name, version=version).ready is ready


@pytest.mark.parametrize(
    ("call", "fields", "status", "details"),
    [
        pytest.param(*row[1:], id=row[0], marks=pytest.mark.spec(f"server:{row[0]}"))
        for row in [
            (
                "B4",
                "ModelReady",
                {"name": "two_in", "version": "x"},
                "INVALID_ARGUMENT",
                "failed to get model version from specified version string 'x' (details: stol), version should be an "
                "integral value > 0",
            ),
            (
                "B5",
                "ModelReady",
                {"name": "two_in", "version": "-1"},
                "INVALID_ARGUMENT",
                "invalid model version specified '-1' , version should be an integral value > 0",
            ),
            (
                "B8",
                "ModelMetadata",
                {"name": "nope"},
                "NOT_FOUND",
                "Request for unknown model: 'nope' is not found",
            ),
            (
                "B9",
                "ModelMetadata",
                {"name": "two_in", "version": "9"},
                "NOT_FOUND",
                "Request for unknown model: 'two_in' version 9 is not found",
            ),
            ("B10", "ModelConfig", {"name": "nope"}, "NOT_FOUND", "Request for unknown model: 'nope' is not found"),
            (
                "B11",
                "ModelStatistics",
                {"name": "nope"},
                "INVALID_ARGUMENT",
                "requested model 'nope' is not available",
            ),
            (
                "B12",
                "RepositoryIndex",
                {"repository_name": "x"},
                "UNIMPLEMENTED",
                "'repository_name' specification is not supported",
            ),
            (
                "B14",
                "RepositoryModelLoad",
                {"repository_name": "x", "model_name": "two_in"},
                "UNIMPLEMENTED",
                "'repository_name' specification is not supported",
            ),
        ]
    ],
)
def test_control_call_that_is_refused(
    rpc: RpcClient, call: str, fields: dict[str, str], status: str, details: str
) -> None:
    assert refused(lambda: rpc.call(call, **fields)) == (status, details)


def test_server_is_live_and_ready(rpc: RpcClient) -> None:
    assert rpc.call("ServerLive").live
    assert rpc.call("ServerReady").ready


@pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService", "anything"])
def test_health_check_answers_for_any_service(rpc: RpcClient, service: str) -> None:
    request = messages.HealthCheckRequest(service=service)
    answer = rpc.send(HEALTH + "Check", request.SerializeToString())
    assert messages.HealthCheckResponse.FromString(answer).status == messages.HealthCheckResponse.SERVING


@pytest.mark.spec("server:B33")
def test_health_watch_is_not_implemented(rpc: RpcClient) -> None:
    watch = rpc.channel.unary_stream(HEALTH + "Watch", lambda data: data, lambda data: data)
    status, _ = refused(lambda: list(watch(b"", timeout=20)))
    assert status == "UNIMPLEMENTED"


@pytest.mark.parametrize("path", [SERVICE + "Nothing", "/inference.Other/ModelInfer", "/grpc.reflection.v1.Any/Thing"])
def test_unknown_call_is_not_implemented(rpc: RpcClient, path: str) -> None:
    assert refused(lambda: rpc.send(path, b""))[0] == "UNIMPLEMENTED"
    assert rpc.call("ServerLive").live


def test_no_metadata_are_sent(rpc: RpcClient) -> None:
    call = rpc.start(two_in())
    call.result()
    initial = [key for key, _ in call.initial_metadata()]
    assert initial == []
    assert list(call.trailing_metadata()) == []


# -- bytes that are no message

NONSENSE = [b"\xff\xff\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe", b"\x3a\xff\xff\xff\xff\x0f", b"\x2a\x7f" + bytes(20)]


@pytest.mark.parametrize("data", NONSENSE)
@pytest.mark.parametrize("path", ["ModelInfer", "ModelMetadata"])
def test_bytes_that_are_no_message_are_refused(rpc: RpcClient, path: str, data: bytes) -> None:
    status, _ = refused(lambda: rpc.send(SERVICE + path, data))
    assert status in ("INVALID_ARGUMENT", "INTERNAL", "NOT_FOUND")
    assert rpc.infer(two_in(id="after")).id == "after"


@pytest.mark.parametrize("data", NONSENSE)
def test_bytes_that_are_no_message_end_their_stream_only(rpc: RpcClient, data: bytes) -> None:
    call = rpc.stream([two_in(id="1"), data])
    with pytest.raises(grpc.RpcError):
        for _ in call:
            pass
    assert rpc.infer(two_in(id="after")).id == "after"


def test_unknown_fields_are_tolerated(rpc: RpcClient) -> None:
    data = two_in(id="1").SerializeToString() + b"\xfa\x3f\x03abc" + b"\xf8\x3f\x07"
    answer = messages.ModelInferResponse.FromString(rpc.send(SERVICE + "ModelInfer", data))
    assert answer.id == "1"


@pytest.mark.parametrize("seed", range(3))
def test_damaged_messages_are_answered(rpc: RpcClient, seed: int) -> None:
    chance = random.Random(seed)
    valid = two_in(
        id="1", outputs=[{"name": "OUTPUT0", "parameters": {"classification": 2}}], parameters={"a": 1, "b": "c"}
    ).SerializeToString()
    for _ in range(200):
        data = bytearray(valid)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(data))
            if chance.random() < 0.7:
                data[at] = chance.randrange(256)
            else:
                del data[at : at + chance.randint(1, 5)]
        call = rpc.channel.unary_unary(SERVICE + "ModelInfer").future(bytes(data), timeout=20)
        assert call.code().name in ("OK", "INVALID_ARGUMENT", "NOT_FOUND"), (call.details(), bytes(data))
    assert rpc.infer(two_in(id="after")).id == "after"


# -- clients that leave


def held(gate: Gate, model: str = "hold") -> Any:
    path = gate.path.encode()
    raw = len(path).to_bytes(4, "little") + path
    return infer_request(model, {"name": "INPUT0", "datatype": "BYTES", "shape": [1]}, raw_input_contents=[raw])


def test_cancelled_call_leaves_nothing(
    rpc: RpcClient, make_gate: Callable[[], Gate], settled: Callable[[], None]
) -> None:
    gate = make_gate()
    call = rpc.start(held(gate))
    gate.wait_for_arrival()
    call.cancel()
    assert call.code() == grpc.StatusCode.CANCELLED
    gate.open()
    settled()
    assert rpc.infer(two_in(id="after")).id == "after"


def test_cancelled_call_in_the_queue_is_never_executed(
    rpc: RpcClient, server: Served, make_gate: Callable[[], Gate], wait_for_pending: Callable[[str, int], None]
) -> None:
    executing, queued = make_gate(), make_gate()
    first = rpc.start(held(executing))
    executing.wait_for_arrival()
    second = rpc.start(held(queued))
    wait_for_pending("hold", 1)
    second.cancel()
    wait_for_pending("hold", 0)
    executing.open()
    first.result()
    assert queued.path not in server.log


def test_deadline_is_kept(rpc: RpcClient, make_gate: Callable[[], Gate]) -> None:
    gate = make_gate()
    method = rpc.channel.unary_unary(SERVICE + "ModelInfer", lambda data: data, lambda data: data)
    status, _ = refused(lambda: method(held(gate).SerializeToString(), timeout=0.2))
    assert status == "DEADLINE_EXCEEDED"
    gate.open()


def test_channel_that_closes_leaves_nothing(
    server: Served, make_gate: Callable[[], Gate], settled: Callable[[], None]
) -> None:
    gate = make_gate()
    with RpcClient(server.grpc_url) as client:
        call = client.start(held(gate))
        gate.wait_for_arrival()
    assert call.code() == grpc.StatusCode.CANCELLED
    gate.open()
    settled()
