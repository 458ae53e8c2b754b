"""What waits to be written to one stream: a client that reads slowly is sent no more, and asked for no more.

A message keeps its receipt until it was written, which holds back the model that sends. Answers that nobody holds back,
one for each request, are bounded by not reading further requests: see :meth:`Outbox.room`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from atoll.errors import ServerError
from atoll.frontends.grpc.wire import Parts

__all__ = ["Outbox"]

_MOST_UNWRITTEN_NBYTES = 16 << 20

Told = Callable[[None], None]


class Outbox:
    """Messages in their order, and the end."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[tuple[bytes, object] | Told | ServerError | None] = asyncio.Queue()
        self._nbytes = 0
        self._has_room = asyncio.Event()
        self._has_room.set()

    def put(self, parts: Parts, receipt: object) -> None:
        data = b"".join(parts)
        self._queue.put_nowait((data, receipt))
        self._count(len(data))

    def when_written(self, told: Told) -> None:
        """Have ``told`` called when what was put before has been written, or will never be."""
        self._queue.put_nowait(told)

    def end(self, error: ServerError | None) -> None:
        self._queue.put_nowait(error)

    async def write(self, write: Callable[[bytes], Awaitable[None]]) -> ServerError | None:
        """Write what comes until the end; the error that ends it, or None."""
        while True:
            item = await self._queue.get()
            if isinstance(item, tuple):
                await write(item[0])
                self._count(-len(item[0]))
                del item  # the receipt must not wait here for the next message
            elif callable(item):
                item(None)
            else:
                return item

    async def room(self) -> None:
        """Return when so little waits that another request may be read."""
        await self._has_room.wait()

    def clear(self) -> None:
        """Nothing will be written any more: let go of what waits."""
        while not self._queue.empty():
            item = self._queue.get_nowait()
            if callable(item):
                item(None)

    def _count(self, nbytes: int) -> None:
        self._nbytes += nbytes
        if self._nbytes > _MOST_UNWRITTEN_NBYTES:
            self._has_room.clear()
        else:
            self._has_room.set()
