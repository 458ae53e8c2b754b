"""Where the responses to one request wait for a reader in a thread of the host, or in a coroutine on its loop.

Responses are put by the server's loop thread. A reader that goes away closes the inbox: what comes later is dropped,
so that a model that waits for its reader (a response's ``receipt``) can go on to its end.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import queue
import threading
from typing import Generic, TypeVar

__all__ = ["AsyncInbox", "Inbox"]

T = TypeVar("T")


class Inbox(Generic[T]):
    """Read by one thread at a time."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._closed = False
        self._reading = threading.Lock()

    def put(self, response: T) -> None:
        if not self._closed:
            self._queue.put(response)

    def get(self) -> T:
        """The next response, waited for. Raises RuntimeError when another thread waits already."""
        if not self._reading.acquire(blocking=False):
            raise RuntimeError("another thread is waiting for the next response")
        try:
            return self._queue.get()
        finally:
            self._reading.release()

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()


class AsyncInbox(Generic[T]):
    """Read by one coroutine at a time, on whatever loop that runs."""

    def __init__(self) -> None:
        self._responses: collections.deque[T] = collections.deque()
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self._lock = threading.Lock()

    def put(self, response: T) -> None:
        with self._lock:
            if self._closed:
                return
            self._responses.append(response)
            waiter = self._waiter
        if waiter is not None:
            with contextlib.suppress(RuntimeError):  # the reader's loop was closed
                waiter.get_loop().call_soon_threadsafe(_wake, waiter)

    async def get(self) -> T:
        """The next response, waited for. Raises RuntimeError when another coroutine waits already."""
        with self._lock:
            if self._waiter is not None:
                raise RuntimeError("another coroutine is waiting for the next response")
            if self._responses:
                return self._responses.popleft()
            waiter = self._waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        finally:
            self._waiter = None
        return self._responses.popleft()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._responses.clear()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
