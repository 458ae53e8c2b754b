"""A client that says what it is told to, frame by frame, and notes what it hears. Knows no rules."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from typing import Any

import hpack
from atoll.frontends.grpc.http2.frames import HEAD, PREFACE, ErrorCode, FrameType, Setting
from atoll_protos import messages

__all__ = ["Answer", "Gone", "Peer", "frame", "framed", "request_fields"]

END_STREAM, END_HEADERS, PADDED, PRIORITY, ACK = 1, 4, 8, 32, 1
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"


class Gone(Exception):
    """The server ended the connection."""


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    return HEAD.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream_id) + payload


def framed(message: Any, compressed: bool = False) -> bytes:
    """A gRPC message with its prefix."""
    body = message if isinstance(message, bytes) else message.SerializeToString()
    return struct.pack(">BI", compressed, len(body)) + body


def request_fields(path: str = LIVE, **more: str) -> list[tuple[str, str]]:
    """Header fields of a good call; more of them by name, ``_`` for ``-``."""
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "test")]
    fields += [("content-type", "application/grpc"), ("te", "trailers")]
    return fields + [(name.replace("_", "-"), value) for name, value in more.items()]


@dataclass
class Answer:
    """What came for one stream until it ended."""

    heads: list[dict[str, str]] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: ErrorCode | None = None

    @property
    def status(self) -> str:
        return self.heads[-1]["grpc-status"] if self.heads else ""

    def message(self, kind: Any) -> Any:
        assert self.heads[0][":status"] == "200"
        assert self.status == "0", self.heads
        return kind.FromString(bytes(self.data[5:]))


class Peer:
    """One connection. ``hello`` begins it; what the server says is read when something is waited for."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        self._unread = b""
        self.settings: dict[int, int] = {}
        self.credit: dict[int, int] = {}
        self.pongs: list[bytes] = []
        self.pings: list[bytes] = []
        self.acks = 0
        self.goaways: list[tuple[int, ErrorCode, bytes]] = []
        self.answers: dict[int, Answer] = {}
        self.largest_data = 0

    def close(self) -> None:
        self.socket.close()

    # -- saying

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def send_or_gone(self, *frames: bytes) -> None:
        """A server that ends the connection may do so before it has read all."""
        try:
            self.send(*frames)
        except OSError:
            pass

    def hello(self, **settings: int) -> None:
        values = {Setting[name.upper()]: value for name, value in settings.items()}
        payload = b"".join(struct.pack(">HI", name, value) for name, value in values.items())
        self.send(PREFACE, frame(FrameType.SETTINGS, 0, 0, payload))
        self.wait_for(lambda: bool(self.settings) and self.acks == 1)
        self.send(frame(FrameType.SETTINGS, ACK))

    def headers(self, stream_id: int, fields: Any = None, end: bool = False, flags: int = END_HEADERS) -> bytes:
        block = self.encoder.encode(fields if fields is not None else request_fields(), huffman=False)
        return frame(FrameType.HEADERS, flags | (END_STREAM if end else 0), stream_id, block)

    def data(self, stream_id: int, data: bytes = b"", end: bool = False) -> bytes:
        return frame(FrameType.DATA, END_STREAM if end else 0, stream_id, data)

    def call(self, stream_id: int, path: str = LIVE, body: Any = b"", **fields: str) -> bytes:
        """A whole call."""
        return self.headers(stream_id, request_fields(path, **fields)) + self.data(stream_id, framed(body), True)

    def widen(self, stream_id: int, nbytes: int) -> bytes:
        return frame(FrameType.WINDOW_UPDATE, 0, stream_id, struct.pack(">I", nbytes))

    def reset(self, stream_id: int, code: ErrorCode = ErrorCode.CANCEL) -> bytes:
        return frame(FrameType.RST_STREAM, 0, stream_id, struct.pack(">I", code))

    # -- hearing

    def wait_for(self, reached: Any) -> None:
        """Read until it is. Raises Gone at the end of the connection."""
        while not reached():
            self.read()

    def read(self) -> None:
        """One frame."""
        head = self._exactly(HEAD.size)
        upper, lower, kind, flags, stream_id = HEAD.unpack(head)
        self._on_frame(kind, flags, stream_id, self._exactly(upper << 8 | lower))

    def answer(self, stream_id: int) -> Answer:
        """What the server says to a stream, once it has ended."""
        self.wait_for(lambda: stream_id in self.answers and self._has_ended(self.answers[stream_id]))
        return self.answers[stream_id]

    def reset_of(self, stream_id: int) -> ErrorCode:
        self.wait_for(lambda: stream_id in self.answers and self.answers[stream_id].reset is not None)
        code = self.answers[stream_id].reset
        assert code is not None
        return code

    def goaway(self) -> ErrorCode:
        """The code of the GOAWAY that comes, behind which the connection ends."""
        self.has_ended()
        return self.goaways[-1][1]

    def round_trip(self) -> None:
        """The server has read all that was said before."""
        payload = len(self.pongs).to_bytes(8, "big")
        self.send(frame(FrameType.PING, 0, 0, payload))
        self.wait_for(lambda: payload in self.pongs)

    def is_alive(self, stream_id: int) -> bool:
        """Whether a call passes on this connection."""
        self.send(self.call(stream_id))
        return bool(self.answer(stream_id).message(messages.ServerLiveResponse).live)

    def is_alive_with_window(self, stream_id: int) -> bool:
        """The same where the windows of streams begin at nothing."""
        self.send(self.call(stream_id), self.widen(stream_id, 100))
        return bool(self.answer(stream_id).message(messages.ServerLiveResponse).live)

    def has_ended(self) -> bool:
        """Wait until the server ends the connection."""
        try:
            self.wait_for(lambda: False)
        except Gone:
            pass
        return True

    @staticmethod
    def _has_ended(answer: Answer) -> bool:
        return answer.ended or answer.reset is not None

    def _exactly(self, nbytes: int) -> bytes:
        while len(self._unread) < nbytes:
            try:
                received = self.socket.recv(1 << 16)
            except ConnectionResetError:
                received = b""
            if not received:
                raise Gone
            self._unread += received
        taken, self._unread = self._unread[:nbytes], self._unread[nbytes:]
        return taken

    def _on_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        answer = self.answers.setdefault(stream_id, Answer()) if stream_id else Answer()
        if kind == FrameType.HEADERS:
            assert not answer.ended
            answer.heads.append(dict(self._decoder.decode(payload)))
        elif kind == FrameType.DATA:
            assert not answer.ended
            answer.data += payload
            self.largest_data = max(self.largest_data, len(payload))
        elif kind == FrameType.RST_STREAM:
            answer.reset = ErrorCode(int.from_bytes(payload, "big"))
        elif kind == FrameType.SETTINGS and flags & ACK:
            self.acks += 1
        elif kind == FrameType.SETTINGS:
            self.settings.update(struct.iter_unpack(">HI", payload))
        elif kind == FrameType.PING:
            (self.pongs if flags & ACK else self.pings).append(payload)
        elif kind == FrameType.GOAWAY:
            last, code = struct.unpack(">II", payload[:8])
            self.goaways.append((last, ErrorCode(code), payload[8:]))
        elif kind == FrameType.WINDOW_UPDATE:
            self.credit[stream_id] = self.credit.get(stream_id, 0) + int.from_bytes(payload, "big")
        else:
            raise AssertionError(f"a frame of type {kind}")
        if kind in (FrameType.HEADERS, FrameType.DATA) and flags & END_STREAM:
            answer.ended = True
