"""How connections end: stopping, growing old, keepalive, deadlines that nobody reads about, and TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from atoll.frontends.grpc.http2.frames import MAX_WINDOW, PREFACE, ErrorCode, FrameType
from atoll.frontends.grpc.http2.frontend import Http2Frontend
from atoll_protos import messages
from certificates import make_certificates
from conftest import OpenPeer
from frame_peer import INFER, STREAM, Peer, frame, framed, request_fields
from grpc_harness import Client, Frontends, floats, infer_request
from grpc_twin import TwinServer, respond

T = FrameType


def stopping(frontends: Frontends, frontend: Http2Frontend, grace_s: float) -> Any:
    return asyncio.run_coroutine_threadsafe(frontend.stop(grace_s), frontends.thread.loop)


def test_stopping_lets_calls_end(frontends: Frontends, open_peer: OpenPeer, twin: TwinServer) -> None:
    frontend = frontends.start()
    peer, idle = open_peer(frontend.port), open_peer(frontend.port)
    peer.send(peer.call(1, INFER, floats(model="hold")))
    request = twin.arrived.get(timeout=20)
    stopped = stopping(frontends, frontend, 30)
    peer.wait_for(lambda: bool(peer.goaways))
    assert peer.goaways == [(1, ErrorCode.NO_ERROR, b"")]
    idle.has_ended()
    peer.send(peer.call(3), peer.data(3, b"x"), peer.widen(3, 1), peer.reset(3))  # for somebody else, says the GOAWAY
    frontends.thread.call(respond, twin.models["hold"], request, [])
    assert peer.answer(1).message(messages.ModelInferResponse).model_name == "hold"
    assert peer.has_ended()
    assert 3 not in peer.answers
    peer.close()
    idle.close()
    stopped.result(20)


def test_stopping_does_not_wait_for_who_does_not_leave(frontends: Frontends, open_peer: OpenPeer) -> None:
    """The peers keep their side open; the grace is longer than the test may take."""
    frontend = frontends.start()
    peers = [open_peer(frontend.port), open_peer(frontend.port, hello=False)]
    peers[1].wait_for(lambda: bool(peers[1].settings))
    stopping(frontends, frontend, 300).result(20)


def test_stopping_aborts_what_is_left_after_the_grace(
    frontends: Frontends, open_peer: OpenPeer, twin: TwinServer
) -> None:
    frontend = frontends.start()
    peer = open_peer(frontend.port)
    peer.send(peer.call(1, INFER, floats(model="hold")))
    request = twin.arrived.get(timeout=20)
    stopping(frontends, frontend, 0).result(20)
    assert twin.cancelled.get(timeout=20) is request
    assert peer.has_ended()
    assert not frontend._timers


def test_an_old_connection_retires_without_losing_a_call(frontends: Frontends, open_peer: OpenPeer) -> None:
    peer = open_peer(frontends.start(max_connection_age_ms=50).port)
    peer.wait_for(lambda: bool(peer.pings))
    assert peer.goaways == [(MAX_WINDOW, ErrorCode.NO_ERROR, b"")]
    assert peer.is_alive(1)  # begun before the client has read of it
    peer.send(peer.headers(3, request_fields(STREAM)), frame(T.PING, 1, 0, peer.pings[0]))
    peer.wait_for(lambda: len(peer.goaways) == 2)
    assert peer.goaways[1][:2] == (3, ErrorCode.NO_ERROR)
    peer.send(peer.data(3, framed(floats()), True))
    assert peer.answer(3).status == "0"
    assert peer.has_ended()


def test_an_old_connection_is_ended_after_its_grace(
    frontends: Frontends, open_peer: OpenPeer, twin: TwinServer
) -> None:
    peer = open_peer(frontends.start(max_connection_age_ms=50, max_connection_age_grace_ms=50).port)
    peer.send(peer.call(1, INFER, floats(model="hold")))
    assert peer.has_ended()
    assert twin.cancelled.get(timeout=20) is twin.arrived.get(timeout=20)


def test_a_real_client_does_not_notice_that_connections_grow_old(frontends: Frontends) -> None:
    client = frontends.client(frontends.start(max_connection_age_ms=20, max_connection_age_grace_ms=5000))
    for _ in range(300):
        assert client.infer(floats()).model_name == "ident"


def test_a_silent_client_is_asked_and_then_given_up(
    frontends: Frontends, open_peer: OpenPeer, twin: TwinServer
) -> None:
    options = {"keepalive_time_ms": 50, "keepalive_timeout_ms": 50}
    peer = open_peer(frontends.start(**options, http2_max_pings_without_data=0).port)
    peer.send(peer.call(1, INFER, floats(model="hold")))
    for count in (1, 2, 3):
        peer.wait_for(lambda count=count: len(peer.pings) >= count)
        peer.send(frame(T.PING, 1, 0, peer.pings[-1]))
    assert peer.has_ended()
    assert twin.cancelled.get(timeout=20) is twin.arrived.get(timeout=20)


def test_an_idle_client_is_not_asked(frontends: Frontends, open_peer: OpenPeer) -> None:
    options = {"keepalive_time_ms": 20, "keepalive_timeout_ms": 20}
    idle = open_peer(frontends.start(**options).port)
    asked = open_peer(frontends.start(**options, keepalive_permit_without_calls=True).port)
    assert asked.has_ended()
    assert idle.is_alive(1)
    assert not idle.pings


def test_a_deadline_of_an_answer_that_is_not_read(open_peer: OpenPeer) -> None:
    peer = open_peer(initial_window_size=10)
    peer.send(peer.call(1, INFER, floats(), grpc_timeout="50m"))
    assert peer.reset_of(1) == ErrorCode.CANCEL
    assert len(peer.answers[1].data) == 10
    peer.send(peer.headers(3, request_fields(STREAM, grpc_timeout="50m")), peer.data(3, framed(floats())))
    assert peer.reset_of(3) == ErrorCode.CANCEL
    assert peer.is_alive_with_window(5)


def test_a_client_that_leaves_takes_its_calls_along(open_peer: OpenPeer, twin: TwinServer) -> None:
    peer = open_peer()
    peer.send(peer.call(1, INFER, floats(model="hold")), peer.headers(3, request_fields(INFER)), peer.data(3, b"\0"))
    request = twin.arrived.get(timeout=20)
    peer.close()
    assert twin.cancelled.get(timeout=20) is request


def test_a_client_that_reads_nothing_at_all(frontends: Frontends, open_peer: OpenPeer, client: Client) -> None:
    """Its socket is full: the connection is put out when nothing moves."""
    frontend = frontends.start()
    peer = open_peer(frontend.port)
    peer.send(peer.widen(0, 1 << 30))
    data = bytes(1 << 20)
    request = framed(infer_request(raw=[("IN", "UINT8", [len(data)], data)]))
    for number in range(1, 60, 2):
        peer.send(peer.headers(number, request_fields(INFER)), peer.widen(number, 1 << 30))
        peer.send(peer.data(number, request[: 1 << 20]), peer.data(number, request[1 << 20 :], True))
        if frontends.thread.call(lambda: any(c.session.sender.is_paused for c in frontend._timers)):
            break
    else:
        raise AssertionError("the socket is never full")
    for _ in range(3):
        frontends.thread.call(lambda: [connection.sweep() for connection in list(frontend._timers)])
    assert not frontends.thread.call(lambda: frontend._timers)
    assert client.call("ServerLive").live


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def secured(frontends: Frontends, authority: Path) -> Http2Frontend:
    frontend = frontends.start(
        use_ssl=True, server_cert=str(authority / "server.pem"), server_key=str(authority / "server.key")
    )
    assert isinstance(frontend, Http2Frontend)
    return frontend


def secure(peer: Peer, authority: Path, *protocols: str) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(authority / "ca.pem"))
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(list(protocols))
    wrapped = context.wrap_socket(peer.socket)
    peer.socket = wrapped
    return wrapped


def test_tls_speaks_h2(secured: Http2Frontend, open_peer: OpenPeer, authority: Path) -> None:
    peer = open_peer(secured.port, hello=False)
    assert secure(peer, authority, "http/1.1", "h2").selected_alpn_protocol() == "h2"
    peer.hello()
    assert peer.is_alive(1)
    peer.send(peer.data(9, b"x"))
    assert peer.goaway() == ErrorCode.PROTOCOL_ERROR


def test_plain_bytes_on_a_secure_port(secured: Http2Frontend, open_peer: OpenPeer, authority: Path) -> None:
    peer = open_peer(secured.port, hello=False)
    peer.send(PREFACE, frame(T.SETTINGS))
    while peer.socket.recv(100):  # an alert, perhaps
        pass
    other = open_peer(secured.port, hello=False)
    secure(other, authority, "h2")
    other.hello()
    assert other.is_alive(1)


def test_stopping_does_not_wait_for_secure_peers_that_linger(
    frontends: Frontends, secured: Http2Frontend, open_peer: OpenPeer, authority: Path
) -> None:
    """One has shaken hands and answers no close_notify, one never shakes hands."""
    peer = open_peer(secured.port, hello=False)
    secure(peer, authority, "h2")
    peer.hello()
    half = open_peer(secured.port, hello=False)
    half.send(b"\x16\x03\x01")
    stopping(frontends, secured, 300).result(20)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", secured.port), timeout=5)
