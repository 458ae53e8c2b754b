"""The writing end of one connection: what is small waits for the end of the loop's turn.

A read from a stub often brings the responses to several calls of one connection, and a read from a client several
calls. A system call costs more than building a frame, and each may wake the client; so the frames of one turn leave
together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

__all__ = ["Outlet"]

_MOST_UNSENT_NBYTES = 64 << 10
"""What waits for the end of the turn: beyond, the transport shall say when it is full."""


class Outlet:
    """Around a transport. Order is kept."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._unsent: list[bytes] = []
        self._unsent_nbytes = 0

    def write(self, data: bytes) -> None:
        """Soon."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(data)
        self._unsent_nbytes += len(data)
        if self._unsent_nbytes > _MOST_UNSENT_NBYTES:
            self._flush()

    def write_large(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        """Now: the parts are not copied."""
        self._flush()
        self._transport.writelines(list(parts))

    def close(self) -> None:
        """Our side of the connection, behind what was written; all of it where there are no sides, as with TLS."""
        self._flush()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _flush(self) -> None:
        if self._unsent:
            data = b"".join(self._unsent)
            self._unsent.clear()
            self._unsent_nbytes = 0
            self._transport.write(data)
