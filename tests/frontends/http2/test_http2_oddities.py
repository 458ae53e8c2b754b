"""What RFC 9113 and gRPC allow and few clients do; and a client whose own HTTP/2, the h2 package, checks all we say."""

from __future__ import annotations

import gzip
import struct
import zlib

import h2.config
import h2.connection
import h2.events
import numpy as np
import pytest
from atoll.frontends.grpc.http2.frames import PREFACE, ErrorCode, FrameType, Setting
from atoll_protos import messages
from conftest import OpenPeer
from frame_peer import (
    END_HEADERS,
    END_STREAM,
    INFER,
    LIVE,
    PADDED,
    PRIORITY,
    STREAM,
    Peer,
    frame,
    framed,
    request_fields,
)
from grpc_harness import Frontends, floats, infer_request
from grpc_twin import TwinServer

T = FrameType
LIVE_ANSWER = messages.ServerLiveResponse


def block_of(peer: Peer, **more: str) -> bytes:
    return peer.encoder.encode(request_fields(**more), huffman=False)


def settled(peer: Peer, stream_id: int = 1) -> None:
    assert peer.answer(stream_id).message(LIVE_ANSWER).live
    assert peer.is_alive(stream_id + 2)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_bytes_in_pieces(open_peer: OpenPeer, size: int) -> None:
    peer = open_peer(hello=False)
    said = PREFACE + frame(T.SETTINGS) + peer.call(1)
    for start in range(0, len(said), size):
        peer.send(said[start : start + size])
    settled(peer)


def test_all_at_once_and_without_waiting(open_peer: OpenPeer) -> None:
    peer = open_peer(hello=False)
    peer.send(PREFACE, frame(T.SETTINGS), *(peer.call(number) for number in range(1, 200, 2)))
    for number in range(1, 200, 2):
        assert peer.answer(number).message(LIVE_ANSWER).live


def test_a_header_block_in_many_frames(peer: Peer) -> None:
    block = block_of(peer)
    parts = [block[start : start + 10] for start in range(0, len(block), 10)]
    peer.send(frame(T.HEADERS, 0, 1, parts[0]), *(frame(T.CONTINUATION, 0, 1, part) for part in parts[1:]))
    peer.send(frame(T.CONTINUATION, END_HEADERS, 1), peer.data(1, framed(b""), True))
    settled(peer)


def test_padding_and_priority(peer: Peer) -> None:
    block = block_of(peer)
    head = b"\x05" + bytes(4) + b"\xff" + block + bytes(5)
    peer.send(frame(T.HEADERS, END_HEADERS | PADDED | PRIORITY, 1, head))
    peer.send(frame(T.DATA, PADDED, 1, b"\x00" + framed(b"")[:3]), frame(T.DATA, PADDED, 1, b"\x02" + bytes(2)))
    peer.send(frame(T.DATA, PADDED | END_STREAM, 1, b"\xff" + framed(b"")[3:] + bytes(255)))
    settled(peer)


def test_large_frames_with_padding_count_in_full(peer: Peer) -> None:
    """More of them than the windows hold: all of it is credited again."""
    data = bytes(1000 << 10)
    request = infer_request(raw=[("IN", "UINT8", [40 * len(data)], data * 40)])
    body = framed(request)
    peer.send(peer.headers(1, request_fields(INFER)))
    sent, window = 0, peer.settings[Setting.INITIAL_WINDOW_SIZE]
    for start in range(0, len(body), len(data)):
        piece = b"\xff" + body[start : start + len(data)] + bytes(255)
        sent += len(piece)
        peer.wait_for(lambda sent=sent: window + peer.credit.get(1, 0) >= sent)
        peer.send(frame(T.DATA, PADDED | (END_STREAM if start + len(data) >= len(body) else 0), 1, piece))
    peer.send(peer.widen(0, 1 << 27), peer.widen(1, 1 << 27))
    answer = peer.answer(1).message(messages.ModelInferResponse)
    assert len(answer.raw_output_contents[0]) == 40 * len(data)


def test_priority_anywhere(peer: Peer) -> None:
    itself = struct.pack(">IB", 1, 3)
    peer.send(*(frame(T.PRIORITY, 0, number, itself) for number in (1, 2, 99)), peer.call(1))
    assert peer.answer(1).message(LIVE_ANSWER).live
    peer.send(frame(T.PRIORITY, 0, 1, itself))
    assert peer.is_alive(3)


def test_unknown_frames_settings_and_flags(peer: Peer) -> None:
    peer.send(frame(0x42, 0xFF, 77, bytes(10)), frame(0x10, 0, 0, b"\0\0\0\1u=1"), frame(0xFF, 0, 1, bytes(1 << 20)))
    peer.send(frame(T.SETTINGS, 0xFE, 0, struct.pack(">HIHI", 0x99, 5, 8, 1)))
    peer.send(frame(T.HEADERS, END_HEADERS | 0x42, 1, block_of(peer)), frame(T.DATA, 0xF6, 1, framed(b"")))
    peer.send(frame(T.DATA, END_STREAM, 1))
    settled(peer)


def test_the_reserved_bit_is_ignored(peer: Peer) -> None:
    said = bytearray(peer.call(1))
    said[5] |= 0x80
    peer.send(bytes(said))
    settled(peer)


def test_what_comes_late_for_a_stream_that_ended(peer: Peer) -> None:
    assert peer.is_alive(1)
    peer.send(peer.widen(1, 5), peer.widen(1, 0), peer.reset(1), frame(T.PRIORITY, 0, 1, bytes(5)))
    assert peer.is_alive(3)


def test_what_comes_late_for_a_stream_that_was_reset_here(peer: Peer) -> None:
    peer.send(peer.headers(1, [(":method", "POST")]))
    assert peer.reset_of(1) == ErrorCode.PROTOCOL_ERROR
    peer.send(peer.data(1, b"x" * 1000), peer.headers(1, [("a", "b")], end=True), peer.widen(1, 0), peer.reset(1))
    assert peer.is_alive(3)


def test_streams_that_are_skipped(peer: Peer) -> None:
    assert peer.is_alive(101)
    assert peer.is_alive((1 << 31) - 1)


def test_trailers_end_a_request(peer: Peer) -> None:
    peer.send(peer.headers(1), peer.data(1, framed(b"")), peer.headers(1, [("grpc-x", "y")], end=True))
    settled(peer)


def test_a_content_length_that_is_kept(peer: Peer) -> None:
    peer.send(peer.call(1, content_length="5"))
    settled(peer)


def test_the_table_is_followed_through_all_that_is_refused(peer: Peer) -> None:
    """Each of these blocks changes the table; the last call is understood only if all were decoded."""
    fields = request_fields()
    peer.send(peer.headers(1, [*fields, ("x-one", "1"), ("Bad", "name")]), peer.call(3, x_one="1", x_two="2"))
    assert peer.reset_of(1) == ErrorCode.PROTOCOL_ERROR
    assert peer.answer(3).message(LIVE_ANSWER).live
    peer.send(peer.call(5, x_two="2", x_one="1"))
    settled(peer, 5)


def test_a_table_that_is_resized(peer: Peer) -> None:
    assert peer.is_alive(1)
    for number, size in enumerate((0, 100, 4096)):
        peer.encoder.header_table_size = size
        assert peer.is_alive(3 + 2 * number)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({":method": "GET"}, "405"),
        ({"content-type": "text/plain"}, "415"),
        ({"content-type": "application/grpcx"}, "415"),
        ({"content-type": "application/grpc+proto"}, "200"),
        ({"content-type": "application/grpc;x"}, "200"),
    ],
)
def test_requests_that_are_not_grpc(peer: Peer, fields: dict[str, str], status: str) -> None:
    peer.send(peer.headers(1, list({**dict(request_fields()), **fields}.items())), peer.data(1, framed(b""), True))
    assert peer.answer(1).heads[0][":status"] == status
    assert peer.is_alive(3)


@pytest.mark.parametrize("path", ["/nobody/Knows", "*", "inference", "/grpc.health.v1.Health/Watch"])
def test_unknown_paths(peer: Peer, path: str) -> None:
    peer.send(peer.call(1, path))
    assert peer.answer(1).status == "12"
    assert peer.is_alive(3)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", "13"),
        (framed(b"")[:4], "13"),
        (framed(b"") * 2, "13"),
        (b"\x02" + bytes(4), "13"),
        (b"\0\xff\xff\xff\xff", "3"),
        (framed(b"xx", compressed=True), "13"),
        (framed(b"\xff\xff\xff"), "3"),
    ],
)
def test_data_that_is_no_message(peer: Peer, data: bytes, status: str) -> None:
    peer.send(peer.headers(1), peer.data(1, data, True))
    assert peer.answer(1).status == status
    assert peer.is_alive(3)


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
@pytest.mark.parametrize("nbytes", [16, 5 << 20])
def test_compressed_requests(peer: Peer, encoding: str, compress: type, nbytes: int) -> None:
    """The large one is inflated beside the loop; END_STREAM comes before that is done."""
    data = np.arange(nbytes // 4, dtype=np.int32).tobytes()
    request = infer_request(raw=[("IN", "INT32", [nbytes // 4], data)])
    peer.send(peer.widen(0, 1 << 27), frame(T.SETTINGS, 0, 0, struct.pack(">HI", Setting.INITIAL_WINDOW_SIZE, 1 << 27)))
    body = framed(compress(request.SerializeToString()), compressed=True)
    peer.send(peer.headers(1, request_fields(INFER, grpc_encoding=encoding)))
    for start in range(0, len(body), 1 << 20):
        peer.send(peer.data(1, body[start : start + (1 << 20)]))
    peer.send(peer.data(1, b"", True))
    assert peer.answer(1).message(messages.ModelInferResponse).raw_output_contents[0] == data
    cut = framed(compress(request.SerializeToString())[:-3], compressed=True)
    peer.send(peer.headers(3, request_fields(INFER, grpc_encoding=encoding)), peer.data(3, cut[: 1 << 20], True))
    assert peer.answer(3).status == "13"


def test_a_stream_whose_messages_are_inflated_keeps_their_order(peer: Peer) -> None:
    large = infer_request(raw=[("IN", "UINT8", [3 << 20], bytes(3 << 20))], id="large").SerializeToString()
    said = framed(gzip.compress(large), compressed=True) + framed(floats(id="small"))
    peer.send(peer.widen(0, 1 << 27), frame(T.SETTINGS, 0, 0, struct.pack(">HI", Setting.INITIAL_WINDOW_SIZE, 1 << 27)))
    peer.send(peer.headers(1, request_fields(STREAM, grpc_encoding="gzip")), peer.data(1, said, True))
    answer = peer.answer(1)
    assert answer.status == "0"
    data, ids = bytes(answer.data), []
    while data:
        (length,) = struct.unpack(">xI", data[:5])
        ids.append(messages.ModelStreamInferResponse.FromString(data[5 : 5 + length]).infer_response.id)
        data = data[5 + length :]
    assert ids == ["large", "small"]


def test_a_message_that_would_grow_beyond_the_limit(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atoll.frontends.grpc.http2.messages.inflated.__defaults__", (4 << 20,), raising=True)
    bomb = framed(gzip.compress(bytes(64 << 20)), compressed=True)
    peer.send(peer.headers(1, request_fields(INFER, grpc_encoding="gzip")), peer.data(1, bomb, True))
    assert peer.answer(1).status == "3"
    assert peer.is_alive(3)


@pytest.mark.parametrize(
    ("timeout", "status"),
    [("1n", "4"), ("0S", "4"), ("30S", "0"), ("99999999H", "0"), ("123456789S", "0"), ("1x", "0")],
)
def test_timeouts(peer: Peer, twin: TwinServer, timeout: str, status: str) -> None:
    model = "hold" if status == "4" else "ident"
    peer.send(peer.call(1, INFER, floats(model=model), grpc_timeout=timeout))
    assert peer.answer(1).status == status


def test_a_deadline_within_an_upload(peer: Peer) -> None:
    peer.send(peer.headers(1, request_fields(INFER, grpc_timeout="20m")), peer.data(1, framed(floats())[:-1]))
    answer = peer.answer(1)
    assert (answer.status, answer.heads[-1]["grpc-message"]) == ("4", "Deadline Exceeded")
    assert peer.reset_of(1) == ErrorCode.NO_ERROR
    peer.send(peer.data(1, b"x", True))
    assert peer.is_alive(3)


def test_metadata_is_decoded_and_that_of_the_call_is_left_out(frontends: Frontends, twin: TwinServer) -> None:
    peer = Peer(frontends.start(header_forward_pattern=".*").port)
    peer.hello()
    peer.send(peer.call(1, INFER, floats(), grpc_timeout="10S", mine="a", grpc_accept_encoding="gzip"))
    assert peer.answer(1).status == "0"
    peer.close()
    assert twin.arrived.get(timeout=20).parameters == {"mine": "a"}


def test_a_message_in_grpc_message_is_percent_encoded(peer: Peer) -> None:
    peer.send(peer.call(1, INFER, infer_request("fail", text="50% of\nünfug")))
    assert peer.answer(1).heads[-1]["grpc-message"] == "50%25 of%0A%C3%BCnfug"


class StrictClient:
    """h2's own state machine: it raises on anything that it finds wrong with us."""

    def __init__(self, peer: Peer) -> None:
        self.socket = peer.socket
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()

    def call(self, stream_id: int, path: str, body: bytes) -> tuple[list[h2.events.Event], bytes]:
        self.h2.send_headers(stream_id, request_fields(path))
        events: list[h2.events.Event] = []
        data = b""
        while not any(isinstance(event, h2.events.StreamEnded) for event in events):
            if body or not events:
                size = min(len(body), self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size)
                self.h2.send_data(stream_id, body[:size], end_stream=size == len(body) and bool(body))
                body = body[size:]
            self.socket.sendall(self.h2.data_to_send())
            if body and self.h2.local_flow_control_window(stream_id):
                continue
            for event in self.h2.receive_data(self.socket.recv(1 << 16)):
                events.append(event)
                if isinstance(event, h2.events.DataReceived):
                    data += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, stream_id)
        self.socket.sendall(self.h2.data_to_send())
        return events, data


@pytest.mark.parametrize("nbytes", [16, 100_000, 9 << 20])
def test_the_h2_package(open_peer: OpenPeer, nbytes: int) -> None:
    client = StrictClient(open_peer(hello=False))
    content = np.random.default_rng(1).bytes(nbytes)
    request = infer_request(raw=[("IN", "UINT8", [nbytes], content)])
    for stream_id in (1, 3):
        events, data = client.call(stream_id, INFER, framed(request))
        assert messages.ModelInferResponse.FromString(data[5:]).raw_output_contents[0] == content
        trailers = next(event for event in events if isinstance(event, h2.events.TrailersReceived))
        assert dict(trailers.headers) == {"grpc-status": "0"}
    events, _ = client.call(5, LIVE, framed(b""))
    assert not any(isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated) for event in events)
