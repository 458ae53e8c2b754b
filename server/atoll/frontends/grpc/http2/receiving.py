"""What one connection lets its client send: the windows, and the credit that widens them again."""

from __future__ import annotations

from collections.abc import Callable

from atoll.frontends.grpc.http2.frames import Setting, settings, window_update
from atoll.frontends.grpc.http2.header_blocks import MAX_LIST_NBYTES
from atoll.frontends.grpc.http2.limits import MAX_CONCURRENT_STREAMS
from atoll.frontends.grpc.http2.reading import MAX_FRAME_NBYTES
from atoll.frontends.grpc.http2.streams import Stream
from atoll.frontends.grpc.http2.windows import ReceiveWindow

__all__ = ["OUR_SETTINGS", "STREAM_WINDOW", "Receiver"]

STREAM_WINDOW = 4 << 20
_CONNECTION_WINDOW = 32 << 20
_DEFAULT_WINDOW = 65535

OUR_SETTINGS = settings(
    {
        Setting.MAX_CONCURRENT_STREAMS: MAX_CONCURRENT_STREAMS,
        Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
        Setting.MAX_FRAME_SIZE: MAX_FRAME_NBYTES,
        Setting.MAX_HEADER_LIST_SIZE: MAX_LIST_NBYTES,
    }
) + window_update(0, _CONNECTION_WINDOW - _DEFAULT_WINDOW)
"""The first that a client hears of us."""


class Receiver:
    """``send`` takes the frames that give credit."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self.window = ReceiveWindow(_CONNECTION_WINDOW)
        self._send = send

    def credit(self, stream: Stream | None, nbytes: int) -> None:
        """These bytes have been taken in: tell the client, now or together with more."""
        credit = self.window.take(nbytes)
        if credit:
            self._send(window_update(0, credit))
        if stream is None or stream.is_half_closed:
            return
        if stream.owed is not None:
            stream.owed += nbytes
            return
        self._widen(stream, nbytes)

    def hold(self, stream: Stream) -> None:
        """The stream's call takes no more for now: its client may send what its window has left."""
        stream.owed = stream.owed or 0

    def resume(self, stream: Stream) -> None:
        if stream.owed is not None:
            nbytes, stream.owed = stream.owed, None
            self._widen(stream, nbytes)

    def _widen(self, stream: Stream, nbytes: int) -> None:
        credit = stream.receive_window.take(nbytes)
        if credit:
            self._send(window_update(stream.id, credit))
