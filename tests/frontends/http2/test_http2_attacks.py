"""Known attacks, and what bounds each: the attacker's connection ends, or costs no more than it may; others go on."""

from __future__ import annotations

import gc
import struct
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from atoll.frontends.grpc.http2 import limits
from atoll.frontends.grpc.http2.frames import ErrorCode, FrameType, Setting
from atoll.frontends.grpc.http2.frontend import Http2Frontend
from atoll.frontends.grpc.http2.session import Session
from atoll_protos import messages
from conftest import OpenPeer
from frame_peer import END_HEADERS, INFER, STREAM, Peer, frame, framed, request_fields
from grpc_harness import Client, Frontends, floats, infer_request
from grpc_twin import TwinServer

T = FrameType


def sessions(frontends: Frontends, frontend: Http2Frontend) -> list[Session]:
    return frontends.thread.call(lambda: [connection.session for connection in frontend._timers])


def holding(peer: Peer, number: int) -> bytes:
    return peer.call(number, INFER, floats(model="hold"))


FLOODS: dict[str, Callable[[Peer], Any]] = {
    "rapid reset": lambda p: (holding(p, number) + p.reset(number) for number in range(1, 12_000, 2)),
    "resets that are provoked": lambda p: (holding(p, number) + p.widen(number, 0) for number in range(1, 12_000, 2)),
    "DATA on streams that ended": lambda p: (p.call(n) + p.data(n, b"x") for n in range(1, 12_000, 2)),
    "pings": lambda p: (frame(T.PING, 0, 0, bytes(8)) for _ in range(5000)),
    "answers to pings": lambda p: (frame(T.PING, 1, 0, bytes(8)) for _ in range(5000)),
    "settings": lambda p: (frame(T.SETTINGS, 0, 0, struct.pack(">HI", 4, n % 2)) for n in range(5000)),
    "acknowledgements": lambda p: (frame(T.SETTINGS, 1) for _ in range(5000)),
    "priorities": lambda p: (frame(T.PRIORITY, 0, 1, bytes(5)) for _ in range(5000)),
    "unknown frames": lambda p: (frame(0x42) for _ in range(5000)),
    "empty DATA": lambda p: [p.headers(1), *[p.data(1)] * 1000],
    "DATA that is padding": lambda p: [p.headers(1), *[frame(T.DATA, 8, 1, b"\x01\0")] * 1000],
    "CONTINUATION": lambda p: [p.headers(1, flags=0), *[frame(T.CONTINUATION, 0, 1, b"\0\1a\1b")] * 1000],
    "empty CONTINUATION": lambda p: [p.headers(1, flags=0), *[frame(T.CONTINUATION, 0, 1)] * 1000],
    "a large CONTINUATION": lambda p: [p.headers(1, flags=0), *[frame(T.CONTINUATION, 0, 1, bytes(16000))] * 10],
    "a header bomb": lambda p: [
        frame(T.HEADERS, END_HEADERS, 1, p.encoder.encode([("x", "y" * 4000)]) + b"\xbe" * 16_000)
    ],
    "many header fields": lambda p: [p.headers(1, [*request_fields(), *[("a", "")] * 4000])],
    "a large frame of control": lambda p: [frame(T.SETTINGS, 0, 0, bytes(600_000))],
}


@pytest.mark.parametrize("flood", FLOODS)
def test_floods_end_the_connection(peer: Peer, client: Client, twin: TwinServer, flood: str) -> None:
    peer.send_or_gone(*FLOODS[flood](peer))
    assert peer.goaway() == ErrorCode.ENHANCE_YOUR_CALM
    assert client.call("ServerLive").live


def test_what_was_reset_is_cancelled_at_once(peer: Peer, twin: TwinServer) -> None:
    peer.send(*(holding(peer, number) + peer.reset(number) for number in range(1, 200, 2)))
    peer.round_trip()
    arrived = [twin.arrived.get(timeout=20) for _ in range(100)]
    assert [twin.cancelled.get(timeout=20) for _ in range(100)] == arrived


def test_more_streams_than_allowed(peer: Peer, twin: TwinServer) -> None:
    most = peer.settings[Setting.MAX_CONCURRENT_STREAMS]
    assert most == limits.MAX_CONCURRENT_STREAMS
    peer.send(*(holding(peer, number) for number in range(1, 2 * most + 20, 2)))
    for number in range(2 * most + 1, 2 * most + 20, 2):
        assert peer.reset_of(number) == ErrorCode.REFUSED_STREAM
    peer.send(peer.reset(1))
    assert peer.is_alive(2 * most + 21)
    peer.close()
    for _ in range(most):
        twin.cancelled.get(timeout=20)


def test_pings_are_counted_as_grpc_does(frontends: Frontends, open_peer: OpenPeer) -> None:
    port = frontends.start(http2_max_ping_strikes=2).port
    peer = open_peer(port)
    peer.send(*[frame(T.PING, 0, 0, bytes(8))] * 4)
    assert peer.goaway() == ErrorCode.ENHANCE_YOUR_CALM
    assert peer.goaways[-1][2] == b"too_many_pings"
    peer = open_peer(port)
    for number in range(1, 20, 2):
        peer.send(*[frame(T.PING, 0, 0, bytes(8))] * 3)
        assert peer.is_alive(number)


def test_a_zero_window_does_not_keep_anything_for_ever(
    frontends: Frontends, open_peer: OpenPeer, twin: TwinServer
) -> None:
    """Answers and streams that are not read, and requests that are not finished, are reset after a while."""
    frontend = frontends.start()
    peer = open_peer(frontend.port, initial_window_size=0)
    data = bytes(1 << 20)
    large = framed(infer_request(raw=[("IN", "UINT8", [len(data)], data)]))
    peer.send(
        peer.headers(1, request_fields(INFER)), peer.data(1, large[: 1 << 19]), peer.data(1, large[1 << 19 :], True)
    )
    peer.send(peer.headers(3, request_fields(STREAM)), peer.data(3, framed(floats())))
    peer.send(peer.headers(5, request_fields(INFER)), peer.data(5, large[: 1 << 19]))
    peer.send(peer.headers(7, request_fields(STREAM)))
    peer.wait_for(lambda: {1, 3} <= peer.answers.keys())
    peer.round_trip()
    arena = twin.models["ident"].arena
    for _ in range(2):
        for session in sessions(frontends, frontend):
            frontends.thread.call(session.end_stalled)
    for number in (1, 3, 5):
        assert peer.reset_of(number) == ErrorCode.CANCEL
    peer.send(peer.data(7, framed(floats()), True), peer.widen(7, 1000))
    assert peer.answer(7).status == "0"  # an idle stream is none that stalls
    while not twin.arrived.empty():
        twin.arrived.get()
    assert frontends.thread.call(lambda: (gc.collect() and 0) or arena.stats().used_nbytes) == 0


def test_a_stream_that_is_not_read_takes_no_more_requests(frontends: Frontends, open_peer: OpenPeer) -> None:
    frontend = frontends.start(http2_max_ping_strikes=0)
    peer = open_peer(frontend.port, initial_window_size=0)
    data = bytes(60_000)
    said = framed(infer_request(raw=[("IN", "UINT8", [len(data)], data)]))
    peer.send(peer.headers(1, request_fields(STREAM)))
    window, count = peer.settings[Setting.INITIAL_WINDOW_SIZE], 0
    while window + peer.credit.get(1, 0) - count * len(said) >= len(said):
        peer.send(peer.data(1, said))
        count += 1
        peer.round_trip()
        peer.send(peer.widen(0, 1))
    assert count * len(said) < 10 << 20
    (session,) = [s for s in sessions(frontends, frontend) if s.streams]
    assert session.streams[1].weight < 5 << 20
    peer.send(peer.widen(0, 1 << 28), peer.widen(1, 1 << 28), peer.data(1, b"", True))
    answer = peer.answer(1)
    assert answer.status == "0"
    assert answer.data.count(b"OUT") == count


def test_many_tiny_messages_that_are_not_read(open_peer: OpenPeer) -> None:
    """Each is answered by a refusal that is larger; what is kept of them is as small as they are."""
    peer = open_peer(initial_window_size=0)
    peer.send(peer.headers(1, request_fields(STREAM)))
    peer.send(peer.data(1, bytes(5) * 100_000))
    peer.round_trip()
    assert peer.is_alive_with_window(3)
    peer.send(peer.widen(0, 1 << 30), peer.widen(1, 1 << 30), peer.data(1, b"", True))
    assert peer.answer(1).status == "0"


def test_windows_opened_by_a_byte(open_peer: OpenPeer) -> None:
    peer = open_peer(initial_window_size=0)
    peer.send(*(peer.call(number, INFER, floats()) for number in range(1, 200, 2)))
    peer.wait_for(lambda: len(peer.answers) >= 100)
    for _ in range(50):
        peer.send(*(peer.widen(number, 1) for number in range(1, 200, 2)))
    peer.wait_for(lambda: all(len(peer.answers[number].data) == 50 for number in range(1, 200, 2)))
    peer.send(*(peer.widen(number, 1000) for number in range(1, 200, 2)))
    for number in range(1, 200, 2):
        assert peer.answer(number).message(messages.ModelInferResponse).model_name == "ident"


def test_requests_that_would_take_too_much_on_one_connection(
    peer: Peer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atoll.frontends.grpc.http2.calls.MAX_ARRIVING_NBYTES", 3 << 30)
    beginning = struct.pack(">BI", 0, (1 << 31) - 1) + b"\x0a\x04nope"
    peer.send(*(peer.headers(n, request_fields(INFER)) + peer.data(n, beginning) for n in (1, 3)))
    answer = peer.answer(3)
    assert answer.status == "14"
    assert answer.heads[-1]["grpc-message"] == "more than 3 GiB of requests arrive on one connection at a time"
    peer.send(peer.reset(1), peer.headers(5, request_fields(INFER)), peer.data(5, beginning))
    peer.round_trip()
    assert 5 not in peer.answers
    assert client.call("ServerLive").live


def test_many_idle_connections(
    frontends: Frontends, frontend: Http2Frontend, open_peer: OpenPeer, client: Client
) -> None:
    """They weigh little, whether they have said anything or not; who has not begun for long is put out."""
    before = len(sessions(frontends, frontend))
    talking = [open_peer() for _ in range(50)]
    silent = [open_peer(hello=False) for _ in range(50)]
    for peer in silent:
        peer.wait_for(lambda peer=peer: bool(peer.settings))
    assert client.call("ServerLive").live
    assert len(sessions(frontends, frontend)) >= before + 100
    for _ in range(2):
        frontends.thread.call(lambda: [connection.sweep() for connection in list(frontend._timers)])
    for peer in silent:
        assert peer.has_ended()
    assert all(peer.is_alive(1) for peer in talking)


def test_a_call_leaves_nothing_that_only_the_garbage_collector_finds(
    frontends: Frontends, peer: Peer, twin: TwinServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[weakref.ref[Any]] = []
    opened = Session.__init__.__globals__["Stream"]

    class Noted(opened):  # type: ignore[misc, valid-type]
        __slots__ = ("__weakref__",)

        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            calls.append(weakref.ref(self))

    monkeypatch.setitem(Session.__init__.__globals__, "Stream", Noted)
    gc.disable()
    try:
        x = np.zeros(4, np.float32)
        peer.send(
            *(peer.call(n, INFER, infer_request(raw=[("IN", "FP32", [4], x.tobytes())])) for n in range(1, 20, 2))
        )
        for number in range(1, 20, 2):
            assert peer.answer(number).status == "0"
        peer.send(holding(peer, 21), peer.reset(21), peer.call(23), peer.call(25, INFER, infer_request("nope")))
        assert peer.answer(23).status == "0"
        assert peer.answer(25).status == "5"
        peer.round_trip()
        assert len(calls) == 13
        while not twin.arrived.empty():  # the twin's requests know whom to answer
            twin.arrived.get()
        while not twin.cancelled.empty():
            twin.cancelled.get()
        assert frontends.thread.call(lambda: sum(call() is not None for call in calls)) <= 1
    finally:
        gc.enable()


def test_a_stream_that_is_reset_while_its_answer_waits(open_peer: OpenPeer) -> None:
    """It waits for the connection's window; when that opens, nothing more of it is sent."""
    peer = open_peer(initial_window_size=1 << 20)
    data = bytes(100_000)
    request = framed(infer_request(raw=[("IN", "UINT8", [len(data)], data)]))
    peer.send(peer.headers(1, request_fields(INFER)), peer.data(1, request, True))
    peer.wait_for(lambda: 1 in peer.answers and len(peer.answers[1].data) == 65535)
    peer.send(peer.reset(1), peer.widen(0, 1 << 20))
    assert peer.is_alive(3)
    peer.round_trip()
    assert len(peer.answers[1].data) == 65535


def test_more_data_than_the_window_of_a_stream(open_peer: OpenPeer) -> None:
    """One that is held gets no credit; what is sent all the same costs the stream, not the connection."""
    peer = open_peer(initial_window_size=0)
    window = peer.settings[Setting.INITIAL_WINDOW_SIZE]
    peer.send(peer.headers(1, request_fields(STREAM)), peer.data(1, bytes(5) * 100_000))
    peer.send(*[peer.data(1, bytes(1 << 20))] * (window >> 20))
    assert peer.reset_of(1) == ErrorCode.FLOW_CONTROL_ERROR
    assert peer.is_alive_with_window(3)
