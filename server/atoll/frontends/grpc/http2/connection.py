"""One accepted socket: bytes in, for the session to act on, and the session's frames out.

What comes is read into a buffer that all connections share. Nothing here waits: an answer is written when a call gives
it, or, when a window is closed or the socket full, when that opens again (``sending``).

The end: our side is closed and what still comes is dropped, until the client closes its own or some time has passed.
Closing both at once would have the kernel answer late frames with a reset, which can overtake our last words.

See also: ``session`` for the rules of HTTP/2, ``frontend`` for the clock.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from atoll.frontends.grpc.http2.frames import ConnectionFailure, ping
from atoll.frontends.grpc.http2.outlet import Outlet
from atoll.frontends.grpc.http2.pings import Pings, Step
from atoll.frontends.grpc.http2.reading import FrameReader
from atoll.frontends.grpc.http2.receiving import OUR_SETTINGS
from atoll.frontends.grpc.http2.session import OpenCall, Session

if TYPE_CHECKING:
    from atoll.frontends.grpc.http2.frontend import Http2Frontend

__all__ = ["Connection"]

_KEEPALIVE = b"keep-on?"


class Connection(asyncio.BufferedProtocol):
    """The protocol object of one socket."""

    def __init__(self, frontend: Http2Frontend, open_call: OpenCall) -> None:
        self._frontend = frontend
        self._shared = frontend.receive_buffer
        self._transport: asyncio.Transport | None = None
        self._outlet: Outlet | None = None  # None when nothing more can be said
        self._pings = Pings(frontend.options)
        self.session = Session(self, self._pings, open_call)
        self._sender = self.session.sender
        self._reader = FrameReader(self.session)
        self._is_heard = False  # since the keepalive's last tick
        self._is_swept = False  # once at least
        self._unsent_nbytes = 0  # at the last sweep

    # -- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._outlet = self._sender.outlet = Outlet(transport)  # type: ignore[arg-type]
        self._frontend.opened(self)
        self.write(OUR_SETTINGS)

    def connection_lost(self, exc: Exception | None) -> None:
        self.session.is_over = True
        self._transport = self._outlet = self._sender.outlet = None
        self._frontend.closed(self)
        self.session.abort_calls()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._shared

    def buffer_updated(self, nbytes: int) -> None:
        if self.session.is_over:
            return
        self._is_heard = True
        try:
            self._reader.feed(self._shared[:nbytes])
        except ConnectionFailure as failure:
            self.session.fail(failure)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._sender.is_paused = True
        # Who does not read what we say may not make us say more.
        if self._transport is not None and not self.session.is_over:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._sender.is_paused = False
        if self._transport is not None and not self.session.is_over:
            self._transport.resume_reading()
            self._sender.pump_ready()

    # -- for the session

    def write(self, data: bytes) -> None:
        if self._outlet is not None:
            self._outlet.write(data)

    def close(self) -> None:
        """Say no more; end when the client has heard it, or some time has passed."""
        if self._outlet is None or self._transport is None:
            return
        self.session.is_over = True
        outlet, self._outlet = self._outlet, None
        self._sender.outlet = None
        if self._sender.is_paused:
            self._transport.resume_reading()
        outlet.close()
        self._frontend.closing(self)

    # -- for the frontend

    def abort(self) -> None:
        """End now."""
        self.session.abort_calls()
        if self._transport is not None:
            self._transport.abort()

    def abort_if_sent(self) -> bool:
        """End now, unless there is still something on its way."""
        if self._transport is not None and self._transport.get_write_buffer_size():
            return False
        self.abort()
        return True

    def keep_alive(self) -> float:
        """Look whether the client is still there, if it is time; when to look again, in seconds."""
        heard, self._is_heard = self._is_heard, False
        step, delay_s = self._pings.tick(heard, bool(self.session.streams))
        if step is Step.ASK:
            self.write(ping(_KEEPALIVE, ack=False))
        elif step is Step.END:
            self.abort()
        return delay_s

    def sweep(self) -> None:
        """End what has not moved since the last time: what a client has begun and left, and what it does not read."""
        if self._transport is None:
            return
        unsent_nbytes, before = self._transport.get_write_buffer_size(), self._unsent_nbytes
        has_begun = self._reader.is_begun or not self._is_swept
        self._unsent_nbytes, self._is_swept = unsent_nbytes, True
        if not has_begun or 0 < unsent_nbytes == before:
            self.abort()
        else:
            self.session.end_stalled()
