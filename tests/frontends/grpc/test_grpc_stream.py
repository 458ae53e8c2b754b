"""ModelStreamInfer: order, in-band errors, final flags, the ends of a stream."""

from __future__ import annotations

import queue
import struct
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from atoll.errors import Code, ServerError
from grpc_harness import Client, Frontends, floats, infer_request
from grpc_twin import TwinServer, respond

EMPTY_FINAL = {"triton_enable_empty_final_response": True}


def repeat(count: int, **options: Any) -> Any:
    return infer_request("repeat", raw=[("IN", "INT32", [1], struct.pack("<i", count))], **options)


def shape(message: Any) -> tuple[str, str, str, bool | None, int, str]:
    """(id, model name, model version, triton_final_response, number of outputs, error)."""
    response = message.infer_response
    final = response.parameters.get("triton_final_response")
    return (
        response.id,
        response.model_name,
        response.model_version,
        None if final is None else final.bool_param,
        len(response.outputs),
        message.error_message,
    )


class Feed:
    """Requests that the test sends one by one."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Any] = queue.Queue()
        self.send = self._queue.put

    def half_close(self) -> None:
        self._queue.put(None)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._queue.get, None)


@pytest.mark.spec("server:148")
def test_empty_stream(client: Client) -> None:
    call = client.stream([])
    assert list(call) == []
    assert call.code() is grpc.StatusCode.OK


@pytest.mark.spec("server:145")
def test_decoupled(client: Client) -> None:
    messages = list(client.stream([repeat(3, id="a")]))
    assert [shape(m) for m in messages] == [("a", "repeat", "1", False, 1, "")] * 3
    assert [m.infer_response.raw_output_contents[0][0] for m in messages] == [0, 1, 2]


@pytest.mark.spec("server:146")
def test_empty_final_response(client: Client) -> None:
    final = ("a", "repeat", "", True, 0, "")
    assert [shape(m) for m in client.stream([repeat(2, id="a", **EMPTY_FINAL)])][2:] == [final]
    assert [shape(m) for m in client.stream([repeat(0, id="a", **EMPTY_FINAL)])] == [final]
    assert list(client.stream([repeat(0)])) == []


@pytest.mark.spec("server:149")
def test_the_version_is_as_requested_where_there_is_no_data(client: Client) -> None:
    requests = [repeat(0, id="a", **EMPTY_FINAL), repeat(-1, id="b")]
    for request in requests:
        request.model_version = "1"
    assert [shape(m) for m in client.stream(requests)] == [
        ("a", "repeat", "1", True, 0, ""),
        ("b", "repeat", "1", True, 0, "neg!"),
    ]


@pytest.mark.spec("server:145")
def test_final_with_the_last_data(client: Client) -> None:
    finals = [shape(m)[3] for m in client.stream([repeat(100, **EMPTY_FINAL)])]
    assert finals == [False] * 99 + [True]


@pytest.mark.spec("server:145")
def test_not_decoupled(client: Client) -> None:
    messages = client.stream([floats(id="x", **EMPTY_FINAL), floats(id="y")])
    assert [shape(m) for m in messages] == [
        ("x", "ident", "1", True, 1, ""),
        ("y", "ident", "1", True, 1, ""),
    ]


@pytest.mark.spec("server:144")
@pytest.mark.spec("server:149")
def test_errors_are_messages(client: Client) -> None:
    wrong_version = floats(id="v")
    wrong_version.model_version = "9"
    unknown_input = floats(id="i")
    unknown_input.inputs[0].name = "ZZ"
    requests = [
        floats(model="nope", id="n"),
        wrong_version,
        unknown_input,
        floats(id="t", triton_x=True),
        repeat(-1, id="d"),
        floats(model="fail", id="f"),
        floats(id="ok"),
    ]
    call = client.stream(requests)
    assert {shape(m)[0]: shape(m)[1:] for m in call} == {
        "n": ("", "", None, 0, "Request for unknown model: 'nope' is not found"),
        "v": ("", "", None, 0, "Request for unknown model: 'ident' version 9 is not found"),
        "i": ("", "", None, 0, "unexpected inference input 'ZZ' for model 'ident'"),
        "t": (
            "",
            "",
            None,
            0,
            "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting "
            "with 'triton_' are allowed: triton_enable_empty_final_response",
        ),
        "d": ("repeat", "", True, 0, "neg!"),
        "f": ("fail", "", True, 0, "coded"),
        "ok": ("ident", "1", True, 1, ""),
    }
    assert call.code() is grpc.StatusCode.OK


@pytest.mark.spec("server:147")
@pytest.mark.spec("server:148")
def test_request_order_but_decoupled_responses_pass(client: Client, frontends: Frontends, twin: TwinServer) -> None:
    call = client.stream([floats(model="hold", id="slow"), floats(id="fast"), floats(model="nope", id="no"), repeat(1)])
    slow = twin.arrived.get(timeout=30)
    assert shape(next(call))[1] == "repeat"
    frontends.thread.call(respond, twin.models["hold"], slow, [])
    assert [shape(m)[0] for m in call] == ["slow", "fast", "no"]
    assert call.code() is grpc.StatusCode.OK


@pytest.mark.spec("server:147")
def test_decoupled_responses_interleave(client: Client, frontends: Frontends, twin: TwinServer) -> None:
    model = twin.add("held", lambda *_: None, decoupled=True)
    call = client.stream([floats(model="held", id="a"), floats(model="held", id="b")])
    a, b = (twin.arrived.get(timeout=30) for _ in range(2))
    seen = []
    for request, final in ((b, False), (a, False), (b, True), (a, True)):
        frontends.thread.call(respond, model, request, [], final=final)
        seen.append(shape(next(call))[0])
    assert seen == ["b", "a", "b", "a"]
    assert list(call) == []


@pytest.mark.spec("server:144")
def test_answers_come_while_the_stream_is_open(client: Client) -> None:
    feed = Feed()
    call = client.stream(feed)
    for id in ("a", "b"):
        feed.send(floats(id=id))
        assert shape(next(call))[0] == id
    feed.half_close()
    assert list(call) == []


@pytest.mark.spec("server:143")
def test_cancelling_the_stream_cancels_its_requests(client: Client, twin: TwinServer) -> None:
    call = client.stream([floats(model="hold"), floats(model="hold")])
    requests = {twin.arrived.get(timeout=30) for _ in range(2)}
    call.cancel()
    assert {twin.cancelled.get(timeout=30) for _ in range(2)} == requests
    with pytest.raises(grpc.RpcError):
        next(call)
    assert call.code() is grpc.StatusCode.CANCELLED


@pytest.mark.spec("server:150")
def test_status_codes_on_request(client: Client, twin: TwinServer) -> None:
    requests = [
        floats(model="nope", id="n"),
        floats(id="ok"),
        floats(model="fail", id="f", code="NOT_FOUND"),
        floats(model="hold"),
    ]
    call = client.stream(requests, metadata=(("triton_grpc_error", "true"),))
    assert shape(next(call))[5] == "Request for unknown model: 'nope' is not found"
    assert shape(next(call))[0] == "ok"
    with pytest.raises(grpc.RpcError):
        next(call)
    assert (call.code(), call.details()) == (grpc.StatusCode.NOT_FOUND, "coded")


@pytest.mark.spec("server:150")
def test_a_stream_that_ends_with_a_status_cancels_the_rest(
    client: Client, frontends: Frontends, twin: TwinServer
) -> None:
    feed = Feed()
    call = client.stream(feed, metadata=(("triton_grpc_error", "true"),))
    feed.send(floats(model="hold"))
    feed.send(floats(model="hold"))
    first, second = (twin.arrived.get(timeout=30) for _ in range(2))
    error = ServerError(Code.UNAVAILABLE, "gone")
    frontends.thread.call(respond, twin.models["hold"], first, [], error=error)
    with pytest.raises(grpc.RpcError):
        next(call)
    assert (call.code(), call.details()) == (grpc.StatusCode.UNAVAILABLE, "gone")
    assert twin.cancelled.get(timeout=30) is second
    frontends.thread.call(respond, twin.models["hold"], second, [])
    feed.half_close()


def test_a_malformed_message_ends_the_stream(client: Client) -> None:
    method = client.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    call = method(iter([b"\x0a\xff\xff"]), timeout=30)
    with pytest.raises(grpc.RpcError):
        next(call)
    assert call.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_classification_errors_are_in_band(client: Client) -> None:
    request = infer_request(raw=[("IN", "BOOL", [2], b"\0\1")], id="c")
    request.outputs.add(name="OUT").parameters["classification"].int64_param = 1
    text = "class result not available for output due to unsupported type 'BOOL'"
    assert [shape(m) for m in client.stream([request])] == [("c", "ident", "", True, 0, text)]
