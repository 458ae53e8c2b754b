"""Who reads slowly is not sent more: what was read of the streams of one stub, told to it in steps.

A response that more will follow carries a :class:`Receipt`. Whoever keeps the response back for a reader (a frontend
whose client takes its time, a model that iterates over the responses of a call) keeps the receipt with it. When the
last reference goes, the response counts as taken; the stub lets a sender be only so far ahead of that.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from functools import partial

from atoll_ipc.wire import Kind

from atoll.instances.channel import Channel

__all__ = ["Receipt", "Receipts"]

_STEP_NBYTES = 4 << 20  # the stub is told this often; a sender may be ahead by much more

Key = tuple[int, int]


class Receipts:
    """Of one stub process, at the end of ``channel``. ``call_soon`` is the event loop's, from any thread."""

    def __init__(self, channel: Channel, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._channel = channel
        self._call_soon = call_soon
        self._thread = threading.get_ident()
        self._untold: dict[Key, int] = {}
        self._untold_nbytes = 0

    def taken(self, key: Key, nbytes: int) -> None:
        """Called by finalizers, which run in any thread and in the midst of anything: nothing is sent from here."""
        if threading.get_ident() != self._thread:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the stub with it
                self._call_soon(partial(self.taken, key, nbytes))
            return
        self._untold[key] = self._untold.get(key, 0) + nbytes
        before, self._untold_nbytes = self._untold_nbytes, self._untold_nbytes + nbytes
        if before < _STEP_NBYTES <= self._untold_nbytes:
            self._call_soon(self._tell)

    def _tell(self) -> None:
        taken = [[*key, nbytes] for key, nbytes in self._untold.items()]
        self._untold.clear()
        self._untold_nbytes = 0
        self._channel.send([Kind.TAKEN, taken, self._channel.take_freed()])


class Receipt:
    """Kept as long as a response was not read. ``nbytes`` is what it counts for."""

    __slots__ = ("_key", "_receipts", "nbytes")

    def __init__(self, receipts: Receipts, key: Key, nbytes: int) -> None:
        self._receipts = receipts
        self._key = key
        self.nbytes = nbytes

    def __del__(self) -> None:
        self._receipts.taken(self._key, self.nbytes)
