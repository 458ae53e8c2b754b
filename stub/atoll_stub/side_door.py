"""The channel of this process: the stub's own, or in a process that the model forked one through the side door.

What a child of a fork inherits is its parent's: channel, leases, lent blocks. It may read the tensors, as long as the
parent keeps them, and sends copies of them; it answers no requests, and its finalizers tell nobody anything. Locks may
have been held by threads that do not exist in the child, so none of the parent's is taken.
"""

import socket
import threading
from typing import List, Optional

from atoll_ipc.side_door import knock
from triton_python_backend_utils import Tensor, TritonModelException

from atoll_stub.channel import Channel
from atoll_stub.memory import Store

__all__ = ["Line", "copy_foreign"]


class Line:
    """Gives each process the channel that it may use."""

    def __init__(self, channel: Channel, door: Optional[socket.socket]) -> None:
        self.is_forked = False
        self._channel: Optional[Channel] = channel
        self._arena = channel.store.arena.settings
        self._door = door
        self._opening = threading.Lock()

    def after_fork(self) -> None:
        """Called in the child of a fork, before any of its code."""
        if self._channel is not None:
            self._channel.disown()
        self._channel = None
        self._opening = threading.Lock()
        self.is_forked = True

    def channel(self) -> Channel:
        """In a forked child, opened by its first call."""
        channel = self._channel
        if channel is not None:
            return channel
        with self._opening:
            if self._channel is None:
                self._channel = self._open()
            return self._channel

    def _open(self) -> Channel:
        if self._door is None:
            raise TritonModelException("BLS is not supported from a process that the model forked.")
        connection, lane, first_chunk_id = knock(self._door)
        store = Store(lane, first_chunk_id, self._arena)
        store.executing_thread = 0  # no thread here waits for commands and tells of what was released before
        return Channel(connection, store)


def copy_foreign(tensors: List[Tensor], store: Store) -> None:
    """Let tensors that refer to blocks of the parent's have copies instead; only the parent can send references."""
    for tensor in tensors:
        data = tensor._data
        if not isinstance(data, bytes) and getattr(data, "store", store) is not store:
            tensor._data = data.pristine()
