"""The frames of one connection as streams: which there are, what may come for them, and how each is answered.

Rules, by RFC 9113:

1. The client's preface and SETTINGS come first (3.4); ours are sent at once.
2. A header block is HEADERS and its CONTINUATIONs with nothing between them (4.3); every block is decoded, of
   refused streams too, for the table's sake.
3. Streams of clients are odd and rise (5.1.1). What comes for one that was reset here meanwhile is dropped.
4. A violation that concerns one stream resets it, any other ends the connection, with the code that the RFC names.
   A stream that is idle cannot be reset: there, too, it is the connection (5.1).
5. Retiring (6.8): GOAWAY that refuses nothing yet, and a PING; when that is answered the client has read of it. Then,
   or at once when the server stops: GOAWAY with the last stream, no more streams, and the end when that is answered.

See also: ``limits`` for what a client may do how often, ``calls`` for gRPC, ``connection`` for the socket.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from atoll.errors import ServerError
from atoll.frontends.grpc.http2 import limits
from atoll.frontends.grpc.http2.frames import (
    ACK,
    END_STREAM,
    MAX_WINDOW,
    PRIORITY_NBYTES,
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
from atoll.frontends.grpc.http2.limits import MAX_CONCURRENT_STREAMS
from atoll.frontends.grpc.http2.pings import Pings
from atoll.frontends.grpc.http2.receiving import STREAM_WINDOW, Receiver
from atoll.frontends.grpc.http2.sending import Sender
from atoll.frontends.grpc.http2.streams import Call, Stream

if TYPE_CHECKING:
    from atoll.frontends.grpc.http2.connection import Connection

__all__ = ["OpenCall", "Session"]

OpenCall = Callable[["Session", Stream, RequestHead], "Call | None"]
"""What a stream's request begins; None when it is answered already."""

_RETIRING = b"retiring"


class Session:
    """A ``reading.FrameHandler`` over one connection."""

    def __init__(self, connection: Connection, pings: Pings, open_call: OpenCall) -> None:
        self._connection = connection
        self._open_call = open_call
        self._blocks = BlockReader()
        self._last_stream_id = 0
        self._reset_here: dict[int, None] = {}
        self._resets = limits.reset_allowance()
        self._controls = limits.control_allowance()
        self._settings = limits.settings_allowance()
        self._pings = pings
        self._retiring = False
        self._closing = False
        self.is_over = False
        """Whether nothing that comes matters any more."""
        self.arriving_nbytes = 0
        """Of large messages that calls have begun to receive."""
        self.streams: dict[int, Stream] = {}
        self.receiver = Receiver(self._give_credit)
        self.sender = Sender(pings.sent_data, self._sent_all)

    # -- header blocks

    def on_block(self, stream_id: int, flags: int, block: bytes) -> None:
        try:
            self._on_block(stream_id, flags, block)
        except StreamFailure as failure:
            self._fail_stream(failure)

    def _on_block(self, stream_id: int, flags: int, block: bytes) -> None:
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
        if len(self.streams) >= MAX_CONCURRENT_STREAMS:
            raise StreamFailure(ErrorCode.REFUSED_STREAM, stream_id, "too many streams")
        stream = Stream(stream_id, self.sender.initial_window, STREAM_WINDOW)
        self.streams[stream_id] = stream
        stream.promised_nbytes = request.content_length
        call = self._open_call(self, stream, request)
        if stream_id in self.streams:
            stream.call = call
            if flags & END_STREAM:
                self._half_close(stream)
        elif call is not None:
            call.sent()

    def _on_trailers(self, stream: Stream, flags: int, block: bytes) -> None:
        if stream.is_half_closed:
            self._blocks.skip(block)
            raise StreamFailure(ErrorCode.STREAM_CLOSED, stream.id, "HEADERS after END_STREAM")
        self._blocks.trailers(block, stream.id)
        if not flags & END_STREAM:
            raise StreamFailure(ErrorCode.PROTOCOL_ERROR, stream.id, "trailers that do not end the stream")
        self._half_close(stream)

    # -- data

    def on_data_begin(self, stream_id: int, length: int) -> None:
        """Does it belong anywhere, and was there room for it?"""
        self._check_not_idle(stream_id, "DATA")
        if not self.receiver.window.receive(length):
            raise ConnectionFailure(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        stream = self.streams.get(stream_id)
        if stream is not None and not stream.is_half_closed:
            if not stream.receive_window.receive(length):
                self._fail_stream(StreamFailure(ErrorCode.FLOW_CONTROL_ERROR, stream_id, "more DATA than its window"))
        elif stream_id not in self._reset_here and not self._closing:
            self._fail_stream(StreamFailure(ErrorCode.STREAM_CLOSED, stream_id, "DATA after the end"))

    def on_data(self, stream_id: int, data: memoryview, padding: int, is_last: bool) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None and not stream.is_half_closed:
            stream.has_moved = True
            if stream.promised_nbytes is not None:
                stream.promised_nbytes -= len(data)
            call = stream.call
            if call is not None:
                try:
                    call.receive(data)
                except ServerError as error:
                    call.refuse(error)
        self.receiver.credit(stream, len(data) + padding)
        if is_last and stream is not None and stream_id in self.streams:
            try:
                self._half_close(stream)
            except StreamFailure as failure:
                self._fail_stream(failure)

    def _half_close(self, stream: Stream) -> None:
        if stream.is_half_closed:
            return
        stream.is_half_closed = True
        if stream.promised_nbytes:
            raise StreamFailure(ErrorCode.PROTOCOL_ERROR, stream.id, "not as much data as its content-length says")
        call = stream.call
        if call is not None:
            try:
                call.finish()
            except ServerError as error:
                call.refuse(error)

    # -- the other frames

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
            else:
                self._on_other(kind, stream_id, payload)
        except StreamFailure as failure:
            self._fail_stream(failure)

    def _on_window_update(self, stream_id: int, increment: int) -> None:
        if not stream_id:
            if not increment:
                raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
            if not self.sender.window.widen(increment):
                raise ConnectionFailure(ErrorCode.FLOW_CONTROL_ERROR, "a window larger than there can be")
            self.sender.pump_ready()
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
        if stream_id in self.streams:
            self._allow_reset()
            self._drop(stream_id)

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, f"PING of {len(payload)} bytes")
        self._allow_control()
        if flags & ACK:
            if self._retiring and payload == _RETIRING:
                self.shut_down()
            return
        if not self._pings.receive(time.monotonic_ns(), bool(self.streams)):
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings")
        self._connection.write(ping(payload, ack=True))

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            if payload:
                raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement with settings")
            self._allow_control()
            return
        if not self._settings.take(time.monotonic_ns()):
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "SETTINGS without end")
        is_wider = self.sender.apply(read_settings(payload), self.streams.values())
        self._connection.write(
            SETTINGS_ACK
        )  # before data that a wider window lets pass: until then the client counts by the old
        if is_wider:
            for stream in list(self.streams.values()):
                if stream.outbox:
                    self.sender.pump(stream)

    def _on_other(self, kind: int, stream_id: int, payload: memoryview) -> None:
        """What asks for nothing; of unknown types too, which are ignored (4.1)."""
        self._allow_control()
        if kind == FrameType.PRIORITY:
            if not stream_id:
                raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "PRIORITY on no stream")
            if len(payload) != PRIORITY_NBYTES:
                raise StreamFailure(ErrorCode.FRAME_SIZE_ERROR, stream_id, f"PRIORITY of {len(payload)} bytes")
        elif kind == FrameType.GOAWAY:
            if stream_id:
                raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
            if len(payload) < 8:
                raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, f"GOAWAY of {len(payload)} bytes")
        elif kind == FrameType.PUSH_PROMISE:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")

    def _check_not_idle(self, stream_id: int, what: str) -> None:
        if not stream_id & 1 or (stream_id > self._last_stream_id and not self._closing):
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"{what} on stream {stream_id}, which is idle")

    def _give_credit(self, frame: bytes) -> None:
        self._pings.sent_data()
        self._connection.write(frame)

    def _allow_control(self) -> None:
        if not self._controls.take(time.monotonic_ns()):
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "control frames without end")

    def _allow_reset(self) -> None:
        if not self._resets.take(time.monotonic_ns()):
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "streams that are opened and reset without end")

    # -- for calls

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """End a stream without an answer."""
        self._say_reset(stream_id, code)
        self._drop(stream_id)

    def _fail_stream(self, failure: StreamFailure) -> None:
        if failure.stream_id > self._last_stream_id or not failure.stream_id & 1:
            raise ConnectionFailure(failure.code, failure.reason)
        self._allow_reset()
        self.reset(failure.stream_id, failure.code)

    def _sent_all(self, stream: Stream) -> None:
        """The answer has been sent to its end."""
        call, stream.call = stream.call, None
        if call is not None:
            call.sent()
        self.streams.pop(stream.id, None)
        if not stream.is_half_closed:
            self._say_reset(stream.id, ErrorCode.NO_ERROR)  # the client need not send the rest of its request
        if self._closing:
            self._end_if_done()

    def _say_reset(self, stream_id: int, code: ErrorCode) -> None:
        self._reset_here[stream_id] = None
        if len(self._reset_here) > MAX_CONCURRENT_STREAMS:
            del self._reset_here[next(iter(self._reset_here))]
        self._connection.write(rst_stream(stream_id, code))

    def _drop(self, stream_id: int) -> None:
        """The stream is no more, whoever ended it."""
        stream = self.streams.pop(stream_id, None)
        if stream is not None:
            self.sender.forget(stream)
            call, stream.call = stream.call, None
            if call is not None:
                call.abort()
        if self._closing:
            self._end_if_done()

    # -- the end

    def end_stalled(self) -> None:
        """Reset the streams whose request or answer has begun and has not moved since the last time."""
        for stream in list(self.streams.values()):
            if stream.has_moved:
                stream.has_moved = False
            elif stream.outbox or (stream.call is not None and stream.call.is_arriving):
                self.reset(stream.id, ErrorCode.CANCEL)

    def retire(self) -> None:
        """Have the client take its next calls elsewhere; those that it has begun meanwhile are taken."""
        if not self._closing and not self._retiring:
            self._retiring = True
            self._connection.write(goaway(MAX_WINDOW, ErrorCode.NO_ERROR) + ping(_RETIRING, ack=False))

    def shut_down(self) -> None:
        """Take no more streams; end when those that there are have been answered."""
        if not self._closing:
            self._closing = True
            self._connection.write(goaway(self._last_stream_id, ErrorCode.NO_ERROR))
            self._end_if_done()

    def give_up(self) -> None:
        """The same at once: every client is told that its call is cancelled."""
        for stream in list(self.streams.values()):
            if stream.call is not None:
                stream.call.give_up()
        self.shut_down()

    def fail(self, failure: ConnectionFailure) -> None:
        """Tell the client why, and end."""
        self._connection.write(goaway(self._last_stream_id, failure.code, failure.reason))
        self._connection.close()
        self.abort_calls()

    def abort_calls(self) -> None:
        for stream_id in list(self.streams):
            self._drop(stream_id)

    def _end_if_done(self) -> None:
        if not self.streams:
            self._connection.close()
