"""One HTTP/2 connection on a socket: frames in, calls out, and their answers back as frames.

What comes is read into a buffer that all connections share. Nothing here waits: an answer is written when a call gives
it, or, when a window is closed or the socket full, when that opens again (``sending``).

Rules, by RFC 9113:

1. The client's preface and SETTINGS come first (3.4); ours are sent at once.
2. A header block is HEADERS and its CONTINUATIONs with nothing between them (4.3); every block is decoded, of
   refused streams too, for the table's sake.
3. Streams of clients are odd and rise (5.1.1). What comes for one that was reset here meanwhile is dropped.
4. A violation that concerns one stream resets it, any other ends the connection, with the code that the RFC names.
5. Shutting down: GOAWAY, no more streams, and the end when the last one is answered.

See also: ``limits`` for what a client may do how often, ``calls`` for gRPC.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from atoll.errors import ServerError
from atoll.frontends.grpc.http2.frames import (
    ACK,
    END_STREAM,
    MAX_WINDOW,
    SETTINGS_ACK,
    ConnectionFailure,
    ErrorCode,
    FrameType,
    StreamFailure,
    goaway,
    ping,
    read_settings,
    read_uint32,
    rst_stream,
)
from atoll.frontends.grpc.http2.header_blocks import BlockReader, RequestHead
from atoll.frontends.grpc.http2.limits import (
    MAX_CONCURRENT_STREAMS,
    Allowance,
    PingPolicy,
)
from atoll.frontends.grpc.http2.outlet import Outlet
from atoll.frontends.grpc.http2.reading import FrameReader
from atoll.frontends.grpc.http2.receiving import OUR_SETTINGS, STREAM_WINDOW, Receiver
from atoll.frontends.grpc.http2.sending import Sender
from atoll.frontends.grpc.http2.streams import Call, Stream

if TYPE_CHECKING:
    from atoll.frontends.grpc.http2.frontend import Http2Frontend

__all__ = ["Connection", "OpenCall"]

OpenCall = Callable[["Connection", Stream, RequestHead], "Call | None"]
"""What a stream's request begins; None when it is answered already."""


class Connection(asyncio.BufferedProtocol):
    """The protocol object of one accepted socket."""

    def __init__(self, frontend: Http2Frontend, open_call: OpenCall) -> None:
        self._frontend = frontend
        self._open_call = open_call
        self._shared = frontend.receive_buffer
        self._transport: asyncio.Transport | None = None
        self._outlet: Outlet | None = None
        self._reader = FrameReader(self)
        self._blocks = BlockReader()
        self._last_stream_id = 0
        self._reset_here: dict[int, None] = {}
        self.receiver = Receiver(self.write)
        self._resets = Allowance(burst=1000, per_s=100)
        self._controls = Allowance(burst=1000, per_s=200)
        options = frontend.options
        self._pings = PingPolicy(
            options.http2_min_recv_ping_interval_without_data_ms,
            options.http2_max_ping_strikes,
            options.keepalive_permit_without_calls,
        )
        self._closing = False
        self._heard_ns = 0
        self.streams: dict[int, Stream] = {}
        self.sender = Sender(self._pings.sent_data, self._sent_all)

    # -- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._outlet = self.sender.outlet = Outlet(self._transport)  # type: ignore[arg-type]
        self._frontend.opened(self)
        self._outlet.write(OUR_SETTINGS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = self._outlet = self.sender.outlet = None
        self._frontend.closed(self)
        self._abort_calls()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._shared

    def buffer_updated(self, nbytes: int) -> None:
        try:
            self._reader.feed(self._shared[:nbytes])
        except ConnectionFailure as failure:
            self._fail(failure)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.sender.is_paused = True
        # Who does not read what we say may not make us say more.
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self.sender.is_paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self.sender.pump_all()

    # -- atoll.frontends.grpc.http2.reading.FrameHandler

    @property
    def is_over(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def on_block(self, stream_id: int, flags: int, block: bytes, depends_on_itself: bool) -> None:
        try:
            self._on_block(stream_id, flags, block, depends_on_itself)
        except StreamFailure as failure:
            self.reset(failure.stream_id, failure.code)

    def on_frame(self, kind: int, flags: int, stream_id: int, payload: memoryview) -> None:
        try:
            if kind == FrameType.WINDOW_UPDATE:
                self._on_window_update(stream_id, read_uint32(bytes(payload), "WINDOW_UPDATE") & MAX_WINDOW)
            elif kind == FrameType.RST_STREAM:
                self._on_rst_stream(stream_id, payload)
            elif kind == FrameType.PING:
                self._on_ping(flags, stream_id, bytes(payload))
            elif kind == FrameType.SETTINGS:
                self._on_settings(flags, stream_id, bytes(payload))
            elif kind == FrameType.PRIORITY:
                self._on_priority(stream_id, payload)
            elif kind == FrameType.GOAWAY and stream_id:
                raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
            elif kind == FrameType.PUSH_PROMISE:
                raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
        except StreamFailure as failure:
            self.reset(failure.stream_id, failure.code)

    # -- header blocks

    def _on_block(self, stream_id: int, flags: int, block: bytes, depends_on_itself: bool) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._on_trailers(stream, flags, block)
            return
        if stream_id <= self._last_stream_id:
            self._blocks.skip(block)
            if stream_id not in self._reset_here:
                raise ConnectionFailure(ErrorCode.STREAM_CLOSED, f"HEADERS on stream {stream_id}, which has ended")
            return
        if self._closing:
            self._blocks.skip(block)  # above the number that our GOAWAY named: the client tries elsewhere
            return
        self._last_stream_id = stream_id
        request = self._blocks.request(block, stream_id)
        if depends_on_itself:
            raise StreamFailure(ErrorCode.PROTOCOL_ERROR, stream_id, "a stream that depends on itself")
        if len(self.streams) >= MAX_CONCURRENT_STREAMS:
            raise StreamFailure(ErrorCode.REFUSED_STREAM, stream_id, "too many streams")
        stream = Stream(stream_id, self.sender.initial_window, STREAM_WINDOW)
        self.streams[stream_id] = stream
        stream.call = self._open_call(self, stream, request)
        if flags & END_STREAM:
            self._half_close(stream)

    def _on_trailers(self, stream: Stream, flags: int, block: bytes) -> None:
        self._blocks.skip(block)
        if stream.is_half_closed:
            raise StreamFailure(ErrorCode.STREAM_CLOSED, stream.id, "HEADERS after END_STREAM")
        if not flags & END_STREAM:
            raise StreamFailure(ErrorCode.PROTOCOL_ERROR, stream.id, "trailers that do not end the stream")
        self._half_close(stream)

    # -- data

    def on_data_begin(self, stream_id: int, length: int) -> None:
        """Does it belong anywhere, and was there room for it?"""
        if not stream_id or (stream_id > self._last_stream_id and not self._closing):
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"DATA on stream {stream_id}, which is idle")
        if not self.receiver.window.receive(length):
            raise ConnectionFailure(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        stream = self.streams.get(stream_id)
        if stream is not None and not stream.is_half_closed:
            if not stream.receive_window.receive(length):
                self.reset(stream_id, ErrorCode.FLOW_CONTROL_ERROR)
        elif stream_id not in self._reset_here and not self._closing:
            self.reset(stream_id, ErrorCode.STREAM_CLOSED)

    def on_data(self, stream_id: int, data: memoryview, padding: int, is_last: bool) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None and stream.call is not None and not stream.is_half_closed:
            try:
                stream.call.receive(data)
            except ServerError as error:
                stream.call.refuse(error)
        self.receiver.credit(stream, len(data) + padding)
        if is_last and stream is not None and stream_id in self.streams:
            self._half_close(stream)

    def _half_close(self, stream: Stream) -> None:
        if stream.is_half_closed:
            return
        stream.is_half_closed = True
        if stream.call is not None:
            try:
                stream.call.finish()
            except ServerError as error:
                stream.call.refuse(error)

    # -- the other frames

    def _on_window_update(self, stream_id: int, increment: int) -> None:
        if not stream_id:
            if not increment:
                raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
            if not self.sender.window.widen(increment):
                raise ConnectionFailure(ErrorCode.FLOW_CONTROL_ERROR, "a window larger than there can be")
            self.sender.pump_all()
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            self._check_not_idle(stream_id, "WINDOW_UPDATE")
            return
        if not increment:
            raise StreamFailure(ErrorCode.PROTOCOL_ERROR, stream_id, "WINDOW_UPDATE of nothing")
        if not stream.send_window.widen(increment):
            raise StreamFailure(ErrorCode.FLOW_CONTROL_ERROR, stream_id, "a window larger than there can be")
        self.sender.pump(stream)

    def _on_rst_stream(self, stream_id: int, payload: memoryview) -> None:
        read_uint32(bytes(payload), "RST_STREAM")
        self._check_not_idle(stream_id, "RST_STREAM")
        stream = self.streams.pop(stream_id, None)
        if stream is None:
            return
        if not self._resets.take(time.monotonic_ns()):
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "streams that are opened and reset without end")
        self.sender.forget(stream)
        if stream.call is not None:
            stream.call.abort()
        self._end_if_done()

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, f"PING of {len(payload)} bytes")
        self._heard_ns = time.monotonic_ns()
        if flags & ACK:
            return
        if not self._pings.receive(self._heard_ns, bool(self.streams)):
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings")
        self._allow_control()
        self.write(ping(payload, ack=True))

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            if payload:
                raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement with settings")
            return
        self._allow_control()
        self.sender.apply(read_settings(payload), self.streams.values())
        self.write(SETTINGS_ACK)  # before data that a wider window lets pass: until then the client counts by the old
        self.sender.pump_all()

    def _on_priority(self, stream_id: int, payload: memoryview) -> None:
        if not stream_id:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "PRIORITY on no stream")
        if len(payload) != 5:
            raise StreamFailure(ErrorCode.FRAME_SIZE_ERROR, stream_id, f"PRIORITY of {len(payload)} bytes")
        if int.from_bytes(payload[:4], "big") & MAX_WINDOW == stream_id:
            raise StreamFailure(ErrorCode.PROTOCOL_ERROR, stream_id, "a stream that depends on itself")
        self._allow_control()

    def _check_not_idle(self, stream_id: int, what: str) -> None:
        if not stream_id & 1 or (stream_id > self._last_stream_id and not self._closing):
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"{what} on stream {stream_id}, which is idle")

    def _allow_control(self) -> None:
        if not self._controls.take(time.monotonic_ns()):
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "control frames without end")

    # -- for calls

    def write(self, data: bytes) -> None:
        if self._outlet is not None:
            self._outlet.write(data)

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """End a stream without an answer."""
        self._reset_here[stream_id] = None
        if len(self._reset_here) > MAX_CONCURRENT_STREAMS:
            del self._reset_here[next(iter(self._reset_here))]
        self.write(rst_stream(stream_id, code))
        stream = self.streams.pop(stream_id, None)
        if stream is not None:
            self.sender.forget(stream)
            if stream.call is not None:
                stream.call.abort()
        self._end_if_done()

    def _sent_all(self, stream: Stream) -> None:
        """The answer has been sent to its end."""
        self.streams.pop(stream.id, None)
        if not stream.is_half_closed:
            # The client need not send the rest of its request.
            self._reset_here[stream.id] = None
            self.write(rst_stream(stream.id, ErrorCode.NO_ERROR))
        self._end_if_done()

    # -- the end

    def probe(self) -> int:
        """Ping the client; it answered at the time that this returns the next time, in ns, or has sent one itself."""
        self.write(ping(b"atoll-ka", ack=False))
        return self._heard_ns

    @property
    def heard_ns(self) -> int:
        return self._heard_ns

    def shut_down(self) -> None:
        """Take no more streams; end when those that there are have been answered."""
        if not self._closing:
            self._closing = True
            self.write(goaway(self._last_stream_id, ErrorCode.NO_ERROR))
            self._end_if_done()

    def abort(self) -> None:
        """End now."""
        self._abort_calls()
        if self._transport is not None:
            self._transport.abort()

    def _end_if_done(self) -> None:
        if self._closing and not self.streams and self._outlet is not None:
            self._outlet.close()

    def _fail(self, failure: ConnectionFailure) -> None:
        self._closing = True
        self.write(goaway(self._last_stream_id, failure.code, failure.reason))
        self._abort_calls()
        if self._outlet is not None:
            self._outlet.close()

    def _abort_calls(self) -> None:
        streams, self.streams = list(self.streams.values()), {}
        for stream in streams:
            self.sender.forget(stream)
            if stream.call is not None:
                stream.call.abort()
