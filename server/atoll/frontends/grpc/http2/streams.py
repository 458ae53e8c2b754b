"""One HTTP/2 stream: which of its halves are open, its windows, and what waits to be sent on it.

::

                 HEADERS                    END_STREAM from the client
    idle ──────────────────► open ─────────────────────────────────► half-closed (remote)
                               │  trailers sent, then RST_STREAM                 │  trailers sent
                               └────────────► closed ◄──────────────────────────┘        (RST_STREAM either way: closed)

A stream that is closed is no object any more: the connection knows by the number that there was one.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from atoll.errors import ServerError
from atoll.frontends.grpc.http2.windows import ReceiveWindow, SendWindow

__all__ = ["Call", "Stream"]

_ENTRY_NBYTES = 256
"""What an entry of the outbox weighs besides its bytes."""


class Call(Protocol):
    """What a stream carries. All calls come from the connection."""

    def receive(self, data: memoryview) -> None:
        """Data came; it is valid during the call only. Raises ServerError where the call cannot go on."""

    def finish(self) -> None:
        """The client has sent all it will. Raises ServerError as well."""

    def abort(self) -> None:
        """The client has given up, or is gone: nothing more can be sent."""

    def refuse(self, error: ServerError) -> None:
        """End the call with this error."""

    def give_up(self) -> None:
        """The server goes away: tell the client that the call is cancelled."""

    def drained(self) -> None:
        """All that was to be sent so far has been."""

    def sent(self) -> None:
        """The answer has been sent to its end."""

    @property
    def is_arriving(self) -> bool:
        """Whether something the client began to send is not complete."""


class Stream:
    """Open from the client's HEADERS on."""

    __slots__ = (
        "call",
        "has_moved",
        "id",
        "is_half_closed",
        "outbox",
        "owed",
        "promised_nbytes",
        "receive_window",
        "send_window",
        "trailers",
        "waiting_nbytes",
    )

    def __init__(self, id: int, send_nbytes: int, receive_nbytes: int) -> None:
        self.id = id
        self.call: Call | None = None
        """None before it is opened and from its end on, so that nothing goes round in circles."""
        self.is_half_closed = False
        """Whether the client has ended its side."""
        self.promised_nbytes: int | None = None
        """What a content-length says is still to come; None without."""
        self.send_window = SendWindow(send_nbytes)
        self.receive_window = ReceiveWindow(receive_nbytes)
        self.owed: int | None = None
        """Credit held back while the call takes nothing; None while it does."""
        self.outbox: deque[tuple[memoryview, object]] = deque()
        """Data that waits for a window, each with what is to be held until it is sent."""
        self.waiting_nbytes = 0
        """In the outbox."""
        self.trailers: bytes | None = None
        """The block that ends the stream, once the outbox is empty."""
        self.has_moved = True
        """Whether data came or went since somebody last looked."""

    @property
    def weight(self) -> int:
        """What the outbox takes of memory."""
        return self.waiting_nbytes + len(self.outbox) * _ENTRY_NBYTES
