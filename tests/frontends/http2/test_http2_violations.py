"""What RFC 9113 forbids, frame by frame: the code of the answer, and that nobody else is harmed."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from atoll.frontends.grpc.http2.frames import PREFACE, ErrorCode, FrameType, Setting
from conftest import OpenPeer
from frame_peer import END_HEADERS, END_STREAM, INFER, PADDED, PRIORITY, Gone, Peer, frame, framed, request_fields
from grpc_harness import Client, floats

T = FrameType
C = ErrorCode


def setting(name: int, value: int) -> bytes:
    return frame(T.SETTINGS, 0, 0, struct.pack(">HI", name, value))


def used(peer: Peer) -> bytes:
    """Stream 1 has ended."""
    peer.is_alive(1)
    return b""


def held(peer: Peer) -> bytes:
    """Stream 1 waits for its answer."""
    return peer.call(1, INFER, floats(model="hold"))


OF_THE_CONNECTION: dict[str, tuple[Callable[[Peer], bytes], ErrorCode]] = {
    "a frame larger than announced": (lambda p: frame(0x20)[:0] + b"\x10\x00\x01" + bytes(6), C.FRAME_SIZE_ERROR),
    "DATA on no stream": (lambda p: p.data(0, b"x"), C.PROTOCOL_ERROR),
    "DATA on an idle stream": (lambda p: p.data(7, b"x"), C.PROTOCOL_ERROR),
    "DATA on a stream of the server": (lambda p: used(p) + p.headers(5) + p.data(2, b"x"), C.PROTOCOL_ERROR),
    "padding without a length": (lambda p: p.headers(1) + frame(T.DATA, PADDED, 1), C.FRAME_SIZE_ERROR),
    "padding beyond DATA": (lambda p: p.headers(1) + frame(T.DATA, PADDED, 1, b"\x02x"), C.PROTOCOL_ERROR),
    "padding beyond HEADERS": (lambda p: frame(T.HEADERS, END_HEADERS | PADDED, 1, b"\x09x"), C.PROTOCOL_ERROR),
    "HEADERS too short for padding": (lambda p: frame(T.HEADERS, END_HEADERS | PADDED, 1), C.FRAME_SIZE_ERROR),
    "HEADERS too short for priority": (
        lambda p: frame(T.HEADERS, END_HEADERS | PRIORITY, 1, b"1234"),
        C.FRAME_SIZE_ERROR,
    ),
    "HEADERS on no stream": (lambda p: p.headers(0), C.PROTOCOL_ERROR),
    "HEADERS on a stream of the server": (lambda p: p.headers(2), C.PROTOCOL_ERROR),
    "HEADERS on a stream that ended": (lambda p: used(p) + p.headers(1), C.STREAM_CLOSED),
    "HEADERS on a lower stream": (lambda p: p.headers(5) + p.headers(3), C.STREAM_CLOSED),
    "CONTINUATION of nothing": (lambda p: frame(T.CONTINUATION, END_HEADERS, 1), C.PROTOCOL_ERROR),
    "CONTINUATION after the end of a block": (
        lambda p: p.headers(1) + frame(T.CONTINUATION, END_HEADERS, 1),
        C.PROTOCOL_ERROR,
    ),
    "CONTINUATION of another stream": (
        lambda p: p.headers(1, flags=0) + frame(T.CONTINUATION, END_HEADERS, 3),
        C.PROTOCOL_ERROR,
    ),
    "a block interrupted": (lambda p: p.headers(1, flags=0) + frame(T.PING, 0, 0, bytes(8)), C.PROTOCOL_ERROR),
    "a block interrupted by an unknown frame": (lambda p: p.headers(1, flags=0) + frame(0x42), C.PROTOCOL_ERROR),
    "an index beyond the table": (lambda p: frame(T.HEADERS, END_HEADERS, 1, b"\xff\x80\x01"), C.COMPRESSION_ERROR),
    "a block cut short": (lambda p: frame(T.HEADERS, END_HEADERS, 1, b"\x40\x0aabc"), C.COMPRESSION_ERROR),
    "a table larger than allowed": (lambda p: frame(T.HEADERS, END_HEADERS, 1, b"\x3f\xff\x7f"), C.COMPRESSION_ERROR),
    "a broken block for trailers": (
        lambda p: p.headers(1) + frame(T.HEADERS, END_HEADERS | END_STREAM, 1, b"\xff\x80\x01"),
        C.COMPRESSION_ERROR,
    ),
    "PRIORITY on no stream": (lambda p: frame(T.PRIORITY, 0, 0, bytes(5)), C.PROTOCOL_ERROR),
    "a short PRIORITY on an idle stream": (lambda p: frame(T.PRIORITY, 0, 9, bytes(4)), C.FRAME_SIZE_ERROR),
    "RST_STREAM on no stream": (lambda p: p.reset(0), C.PROTOCOL_ERROR),
    "RST_STREAM on an idle stream": (lambda p: p.reset(3), C.PROTOCOL_ERROR),
    "a short RST_STREAM": (lambda p: p.headers(1) + frame(T.RST_STREAM, 0, 1, bytes(3)), C.FRAME_SIZE_ERROR),
    "SETTINGS on a stream": (lambda p: frame(T.SETTINGS, 0, 1), C.PROTOCOL_ERROR),
    "SETTINGS cut short": (lambda p: frame(T.SETTINGS, 0, 0, bytes(5)), C.FRAME_SIZE_ERROR),
    "an acknowledgement with settings": (lambda p: frame(T.SETTINGS, 1, 0, bytes(6)), C.FRAME_SIZE_ERROR),
    "ENABLE_PUSH of 2": (lambda p: setting(Setting.ENABLE_PUSH, 2), C.PROTOCOL_ERROR),
    "an initial window too large": (lambda p: setting(Setting.INITIAL_WINDOW_SIZE, 1 << 31), C.FLOW_CONTROL_ERROR),
    "an initial window that overflows another": (
        lambda p: p.headers(1) + p.widen(1, (1 << 31) - 1 - 65535) + setting(Setting.INITIAL_WINDOW_SIZE, 65536),
        C.FLOW_CONTROL_ERROR,
    ),
    "frames too small": (lambda p: setting(Setting.MAX_FRAME_SIZE, 16383), C.PROTOCOL_ERROR),
    "frames too large": (lambda p: setting(Setting.MAX_FRAME_SIZE, 1 << 24), C.PROTOCOL_ERROR),
    "PUSH_PROMISE": (lambda p: frame(T.PUSH_PROMISE, END_HEADERS, 1, bytes(4)), C.PROTOCOL_ERROR),
    "PING on a stream": (lambda p: frame(T.PING, 0, 1, bytes(8)), C.PROTOCOL_ERROR),
    "a short PING": (lambda p: frame(T.PING, 0, 0, bytes(7)), C.FRAME_SIZE_ERROR),
    "GOAWAY on a stream": (lambda p: frame(T.GOAWAY, 0, 1, bytes(8)), C.PROTOCOL_ERROR),
    "a short GOAWAY": (lambda p: frame(T.GOAWAY, 0, 0, bytes(7)), C.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of nothing": (lambda p: p.widen(0, 0), C.PROTOCOL_ERROR),
    "WINDOW_UPDATE beyond what there can be": (lambda p: p.widen(0, (1 << 31) - 1), C.FLOW_CONTROL_ERROR),
    "WINDOW_UPDATE on an idle stream": (lambda p: p.widen(1, 1), C.PROTOCOL_ERROR),
    "a short WINDOW_UPDATE": (lambda p: frame(T.WINDOW_UPDATE, 0, 0, bytes(3)), C.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize("violation", OF_THE_CONNECTION)
def test_what_ends_the_connection(peer: Peer, client: Client, violation: str) -> None:
    say, code = OF_THE_CONNECTION[violation]
    peer.send(say(peer))
    assert peer.goaway() == code
    assert client.call("ServerLive").live


PSEUDO = request_fields()[:4]

OF_A_STREAM: dict[str, tuple[Callable[[Peer], bytes], ErrorCode]] = {
    "HEADERS after the end": (lambda p: held(p) + p.headers(1, end=True), C.STREAM_CLOSED),
    "DATA after the end": (lambda p: held(p) + p.data(1, b"x"), C.STREAM_CLOSED),
    "trailers that do not end": (lambda p: p.headers(1) + p.headers(1, [("a", "b")]), C.PROTOCOL_ERROR),
    "pseudo-header fields in trailers": (lambda p: p.headers(1) + p.headers(1, PSEUDO, end=True), C.PROTOCOL_ERROR),
    "WINDOW_UPDATE of nothing": (lambda p: p.headers(1) + p.widen(1, 0), C.PROTOCOL_ERROR),
    "WINDOW_UPDATE beyond what there can be": (
        lambda p: p.headers(1) + p.widen(1, (1 << 31) - 1),
        C.FLOW_CONTROL_ERROR,
    ),
    "a short PRIORITY": (lambda p: p.headers(1) + frame(T.PRIORITY, 0, 1, bytes(4)), C.FRAME_SIZE_ERROR),
    "less data than promised": (
        lambda p: p.headers(1, request_fields(content_length="9")) + p.data(1, framed(b""), True),
        C.PROTOCOL_ERROR,
    ),
    "more data than promised": (
        lambda p: p.headers(1, request_fields(content_length="1")) + p.data(1, framed(b""), True),
        C.PROTOCOL_ERROR,
    ),
    **{
        f"header fields: {name}": (lambda p, fields=fields: p.headers(1, fields), C.PROTOCOL_ERROR)  # type: ignore[misc]
        for name, fields in {
            "no method": PSEUDO[1:],
            "no scheme": [PSEUDO[0], *PSEUDO[2:]],
            "no path": [*PSEUDO[:2], PSEUDO[3]],
            "an empty path": [*PSEUDO[:2], (":path", ""), PSEUDO[3]],
            "a path twice": [*PSEUDO, PSEUDO[2]],
            "an unknown pseudo-header field": [*PSEUDO, (":x", "y")],
            "one of responses": [*PSEUDO, (":status", "200")],
            "a pseudo-header field behind others": [*PSEUDO[:3], ("a", "b"), PSEUDO[3]],
            "an uppercase name": [*PSEUDO, ("Abc", "x")],
            "a name with a space": [*PSEUDO, ("a b", "x")],
            "a name with a colon": [*PSEUDO, ("a:b", "x")],
            "an empty name": [*PSEUDO, ("", "x")],
            "a value with a line feed": [*PSEUDO, ("a", "x\ny")],
            "a value with a null": [*PSEUDO, ("a", "x\0y")],
            "a value that begins with a space": [*PSEUDO, ("a", " x")],
            "a value that ends with a tab": [*PSEUDO, ("a", "x\t")],
            "connection": [*PSEUDO, ("connection", "close")],
            "transfer-encoding": [*PSEUDO, ("transfer-encoding", "chunked")],
            "te": [*PSEUDO, ("te", "gzip")],
            "a content-length that is none": [*PSEUDO, ("content-length", "-1")],
            "two content-lengths": [*PSEUDO, ("content-length", "1"), ("content-length", "2")],
        }.items()
    },
}


@pytest.mark.parametrize("violation", OF_A_STREAM)
def test_what_resets_a_stream(peer: Peer, violation: str) -> None:
    say, code = OF_A_STREAM[violation]
    peer.send(say(peer))
    assert peer.reset_of(1) == code
    assert peer.is_alive(3)


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX",
        b"\0",
    ],
)
def test_what_is_not_http2(open_peer: OpenPeer, client: Client, beginning: bytes) -> None:
    peer = open_peer(hello=False)
    peer.send(beginning)
    assert peer.goaway() == C.PROTOCOL_ERROR
    assert client.call("ServerLive").live


@pytest.mark.parametrize("first", [frame(T.PING, 0, 0, bytes(8)), frame(T.SETTINGS, 1), frame(0x42)])
def test_a_first_frame_that_is_not_settings(open_peer: OpenPeer, first: bytes) -> None:
    peer = open_peer(hello=False)
    peer.send(PREFACE, first)
    assert peer.goaway() == C.PROTOCOL_ERROR


def test_a_client_that_leaves_within_the_preface(open_peer: OpenPeer, client: Client) -> None:
    peer = open_peer(hello=False)
    peer.send(PREFACE[:7])
    peer.socket.shutdown(1)
    with pytest.raises(Gone):
        peer.wait_for(lambda: False)
    assert client.call("ServerLive").live
