"""What one connection sends: DATA within the windows of stream and connection, and while the socket takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from atoll.frontends.grpc.http2.frames import (
    END_HEADERS,
    END_STREAM,
    MAX_WINDOW,
    ConnectionFailure,
    ErrorCode,
    FrameType,
    Setting,
    head,
)
from atoll.frontends.grpc.http2.outlet import Outlet
from atoll.frontends.grpc.http2.streams import Stream
from atoll.frontends.grpc.http2.windows import SendWindow
from atoll.frontends.grpc.wire import Buffer, total_bytes

__all__ = ["Sender"]

_LARGEST_FRAME_NBYTES = 1 << 20
"""Whatever the peer allows: gRPC's clients allow 16 MiB and then take 4 MiB for a fault."""
_DEFAULT_WINDOW = 65535
_DEFAULT_FRAME_NBYTES = 1 << 14
_JOIN_NBYTES = 64 << 10
_SMALL_NBYTES = 4 << 10


class Sender:
    """Keeps the streams whose data waits for what they share, and sends for each in turn when it may.

    A stream that waits for its own window is not among them: that window's opening is a frame that names it. So what
    a frame of the client costs does not depend on how many streams it has let wait.
    """

    def __init__(self, on_data: Callable[[], None], on_end: Callable[[Stream], None]) -> None:
        """``on_data`` is called when something of an answer was sent, ``on_end`` when all of it was."""
        self.outlet: Outlet | None = None
        self.window = SendWindow(_DEFAULT_WINDOW)
        self.initial_window = _DEFAULT_WINDOW
        self.max_frame_nbytes = _DEFAULT_FRAME_NBYTES
        self.is_paused = False
        self._on_data = on_data
        self._on_end = on_end
        self._ready: dict[Stream, None] = {}

    def apply(self, settings: Iterable[tuple[int, int]], streams: Iterable[Stream]) -> bool:
        """The client's settings, as far as they concern what it is sent; whether streams may send more now.

        Raises ConnectionFailure.
        """
        before = self.initial_window
        for name, value in settings:
            if name == Setting.INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise ConnectionFailure(ErrorCode.FLOW_CONTROL_ERROR, f"an initial window of {value}")
                change, self.initial_window = value - self.initial_window, value
                too_wide = [stream for stream in streams if not stream.send_window.widen(change)]
                if too_wide:
                    raise ConnectionFailure(ErrorCode.FLOW_CONTROL_ERROR, "a window larger than there can be")
            elif name == Setting.MAX_FRAME_SIZE:
                if not 1 << 14 <= value < 1 << 24:
                    raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"a largest frame of {value} bytes")
                self.max_frame_nbytes = min(value, _LARGEST_FRAME_NBYTES)
            elif name == Setting.ENABLE_PUSH and value > 1:
                raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH of {value}")
        return self.initial_window > before

    # -- answers

    def head(self, stream: Stream, block: bytes) -> None:
        """The head of an answer; its data and trailers follow by :meth:`data` and :meth:`trailers`."""
        self._write([head(len(block), FrameType.HEADERS, END_HEADERS, stream.id), block], len(block))

    def data(self, stream: Stream, parts: list[Buffer], receipt: object = None) -> None:
        """Data, now or when there is room; ``receipt`` is held until then."""
        nbytes = total_bytes(parts)
        if nbytes <= _SMALL_NBYTES:
            parts = [b"".join(parts)]
        stream.outbox.extend((memoryview(part), None) for part in parts if len(part))
        stream.waiting_nbytes += nbytes
        if receipt is not None and stream.outbox:
            stream.outbox[-1] = (stream.outbox[-1][0], receipt)
        self.pump(stream)

    def trailers(self, stream: Stream, block: bytes) -> None:
        """The end of an answer, behind what of it still waits."""
        stream.trailers = block
        self.pump(stream)

    def status(self, stream: Stream, block: bytes) -> None:
        """An answer that is a status and nothing else."""
        self._write([head(len(block), FrameType.HEADERS, END_HEADERS | END_STREAM, stream.id), block], len(block))
        self._on_end(stream)

    def answer(self, stream: Stream, block: bytes, parts: list[Buffer], trailers: bytes) -> None:
        """A whole answer; in one write, where windows and socket let it pass."""
        if self._send_whole(stream, block, parts, trailers):
            self._on_end(stream)
        else:
            self.head(stream, block)
            stream.trailers = trailers
            self.data(stream, parts)

    # -- what waits

    def forget(self, stream: Stream) -> None:
        """The stream has ended: what waits is dropped."""
        stream.outbox.clear()
        stream.waiting_nbytes = 0
        self._ready.pop(stream, None)

    def _send_whole(self, stream: Stream, block: bytes, parts: list[Buffer], trailers: bytes) -> bool:
        """A whole answer of one DATA frame; False, and nothing is sent, where it does not fit."""
        nbytes = sum(map(len, parts))
        if (
            nbytes > self.max_frame_nbytes
            or nbytes > stream.send_window.left
            or nbytes > self.window.left
            or self.is_paused
            or stream.outbox
            or self.outlet is None
        ):
            return False
        stream.send_window.left -= nbytes
        self.window.left -= nbytes
        number = stream.id
        self.outlet.write(
            b"".join(
                (
                    head(len(block), FrameType.HEADERS, END_HEADERS, number),
                    block,
                    head(nbytes, FrameType.DATA, 0, number),
                    *parts,
                    head(len(trailers), FrameType.HEADERS, END_HEADERS | END_STREAM, number),
                    trailers,
                )
            )
        )
        self._on_data()
        return True

    def pump_ready(self) -> None:
        """The connection's window or the socket opened."""
        while self._ready and self.window.left > 0 and not self.is_paused and self.outlet is not None:
            self.pump(next(iter(self._ready)))

    def pump(self, stream: Stream) -> None:
        """Send what may be sent of a stream, its trailers too when nothing else waits."""
        if self.outlet is None:
            return
        outbox = stream.outbox
        out: list[Buffer] = []
        nbytes = 0
        while outbox and not self.is_paused:
            data, _ = outbox[0]
            room = min(stream.send_window.left, self.window.left, self.max_frame_nbytes)
            if room <= 0:
                break
            piece = data[:room]
            out += (head(len(piece), FrameType.DATA, 0, stream.id), piece)
            nbytes += len(piece)
            stream.send_window.left -= len(piece)
            self.window.left -= len(piece)
            if len(piece) == len(data):
                outbox.popleft()
            else:
                outbox[0] = (data[room:], outbox[0][1])
            if nbytes >= _JOIN_NBYTES:
                self._moved(stream, nbytes)
                self._write(out, nbytes)
                out, nbytes = [], 0
        self._ready.pop(stream, None)
        if outbox:
            if stream.send_window.left > 0:
                self._ready[stream] = None  # behind the others
        elif stream.trailers is not None:
            flags = END_HEADERS | END_STREAM
            out += (head(len(stream.trailers), FrameType.HEADERS, flags, stream.id), stream.trailers)
        if nbytes:
            self._moved(stream, nbytes)
        self._write(out, nbytes)
        if not outbox:
            if stream.trailers is not None:
                self._on_end(stream)
            elif stream.call is not None:
                stream.call.drained()

    def _moved(self, stream: Stream, nbytes: int) -> None:
        stream.waiting_nbytes -= nbytes
        stream.has_moved = True

    def _write(self, out: list[Buffer], nbytes: int) -> None:
        if not out or self.outlet is None:
            return
        if nbytes < _JOIN_NBYTES:
            self.outlet.write(b"".join(out))
        else:
            self.outlet.write_large(out)
        self._on_data()
