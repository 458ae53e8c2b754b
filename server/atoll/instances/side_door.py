"""The supervisor's end of a stub's side door: the processes that a model forked, as far as they call other models.

See :mod:`atoll_ipc.side_door` for how they come in. Each has a channel of its own, a *branch* of the stub's: it brings
only what :class:`~atoll.instances.calls.Calls` understands, its blocks are accounted for with the stub's, and it ends
with the child, or with the stub.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from atoll_ipc.side_door import admit

from atoll.instances.calls import Calls
from atoll.instances.channel import Channel

__all__ = ["SideDoor"]


class SideDoor:
    """The side door of one stub process. ``theirs`` is the stub's end."""

    def __init__(self, make_calls: Callable[[], Calls], take_chunk_ids: Callable[[], int]) -> None:
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._make_calls = make_calls
        self._take_chunk_ids = take_chunk_ids
        self._loop = asyncio.get_running_loop()
        self._trunk: Channel | None = None
        self._entering: set[asyncio.Task[None]] = set()

    def open(self, trunk: Channel) -> None:
        """The stub has its end and ``trunk`` is its channel."""
        self.theirs.close()
        self._trunk = trunk
        self._loop.add_reader(self._ours.fileno(), self._on_knock)

    def close(self) -> None:
        """The stub is gone: whatever it forked calls no more. Idempotent."""
        if self._ours.fileno() < 0:
            return
        self._loop.remove_reader(self._ours.fileno())
        self._ours.close()
        self.theirs.close()
        if self._trunk is not None:
            for branch in list(self._trunk.branches):
                branch.close()

    def _on_knock(self) -> None:
        try:
            connection, lane = admit(self._ours, self._take_chunk_ids())
        except BlockingIOError:
            return
        except (EOFError, OSError):
            self._loop.remove_reader(self._ours.fileno())  # who could knock has ended
            return
        calls = self._make_calls()

        def closed() -> None:
            self._loop.call_soon(self._left, branch, calls)  # what it had sent last is read after this

        branch = Channel(lane, lambda message: calls.on_message(message, branch), closed)
        entering = self._loop.create_task(self._enter(branch, connection))
        self._entering.add(entering)
        entering.add_done_callback(self._entering.discard)

    async def _enter(self, branch: Channel, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            await self._loop.create_unix_connection(lambda: branch, sock=connection)
        assert self._trunk is not None
        self._trunk.branches.add(branch)
        if self._ours.fileno() < 0:
            branch.close()

    def _left(self, branch: Channel, calls: Calls) -> None:
        assert self._trunk is not None
        self._trunk.branches.discard(branch)
        calls.end()
        calls.chunks_gone(branch.chunk_ids)
