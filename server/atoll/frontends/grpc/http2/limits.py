"""What a client may do how often, and how much of it may be under way: against what costs it little and us much.

An allowance is a bucket: full at first, it refills by the second. Honest clients never see its bottom.
"""

from __future__ import annotations

__all__ = [
    "Allowance",
    "LINGER_S",
    "MAX_ARRIVING_NBYTES",
    "MAX_BLOCK_NBYTES",
    "MAX_CONCURRENT_STREAMS",
    "MAX_CONTINUATIONS",
    "MAX_EMPTY_FRAMES",
    "STALL_S",
    "control_allowance",
    "reset_allowance",
    "settings_allowance",
]

MAX_CONCURRENT_STREAMS = 10_000
MAX_BLOCK_NBYTES = 32 << 10
"""Of a header block as it comes, in all its frames."""
MAX_CONTINUATIONS = 16
MAX_EMPTY_FRAMES = 100
"""DATA frames in a row that hold nothing and end nothing."""
MAX_ARRIVING_NBYTES = 4 << 30
"""Of all large messages of a connection that are not passed on yet: room for each is taken as it begins."""
STALL_S = 150.0
"""A request or an answer that has begun, and of which nothing moves in this time, up to twice: its stream is reset."""
LINGER_S = 1.0
"""How long a connection that was ended waits for its client to end it as well, once all it had to say is sent."""

_NS = 1_000_000_000


class Allowance:
    """``burst`` at once, ``per_s`` in the long run."""

    __slots__ = ("_burst", "_left", "_per_s", "_refilled_ns")

    def __init__(self, burst: int, per_s: int) -> None:
        self._burst = burst
        self._per_s = per_s
        self._left = float(burst)
        self._refilled_ns = 0

    def take(self, now_ns: int) -> bool:
        """False when there is none left."""
        self._left = min(self._burst, self._left + (now_ns - self._refilled_ns) * self._per_s / _NS)
        self._refilled_ns = now_ns
        self._left -= 1
        return self._left >= 0


def reset_allowance() -> Allowance:
    """Streams that end before their answer, whoever resets them: each is work begun for nothing."""
    return Allowance(burst=1000, per_s=1000)


def control_allowance() -> Allowance:
    """Frames that ask for an answer, or are for nobody."""
    return Allowance(burst=1000, per_s=200)


def settings_allowance() -> Allowance:
    """SETTINGS may change the window of every stream."""
    return Allowance(burst=100, per_s=10)
