"""Flow control (RFC 9113, 5.2): how much may still be sent, and what to tell the peer about what was received."""

from __future__ import annotations

from atoll.frontends.grpc.http2.frames import MAX_WINDOW

__all__ = ["ReceiveWindow", "SendWindow"]


class SendWindow:
    """What the peer lets us send; negative after it lowered its initial window."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left

    def widen(self, increment: int) -> bool:
        """False when the window would be larger than there can be."""
        self.left += increment
        return self.left <= MAX_WINDOW


class ReceiveWindow:
    """What we let the peer send. Credit is given back in large steps: a frame for each would be noise."""

    __slots__ = ("_size", "_taken", "left")

    def __init__(self, size: int) -> None:
        self.left = size
        self._size = size
        self._taken = 0

    def receive(self, nbytes: int) -> bool:
        """False when the peer sends more than it may."""
        self.left -= nbytes
        return self.left >= 0

    def take(self, nbytes: int) -> int:
        """So much of it was taken in: the credit to give now, 0 for none yet."""
        self._taken += nbytes
        if self._taken * 2 < self._size:
            return 0
        credit, self._taken = self._taken, 0
        self.left += credit
        return credit
