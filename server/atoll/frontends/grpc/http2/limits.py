"""What a client may do how often, against floods that cost it little and us much.

An allowance is a bucket: full at first, it refills by the second. Honest clients never see its bottom.
"""

from __future__ import annotations

__all__ = [
    "Allowance",
    "MAX_BLOCK_NBYTES",
    "MAX_CONCURRENT_STREAMS",
    "MAX_CONTINUATIONS",
    "MAX_EMPTY_FRAMES",
    "PingPolicy",
]

MAX_CONCURRENT_STREAMS = 1000
MAX_BLOCK_NBYTES = 64 << 10
"""Of a header block as it comes, in all its frames."""
MAX_CONTINUATIONS = 16
MAX_EMPTY_FRAMES = 100
"""DATA frames in a row that hold nothing and end nothing."""

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


class PingPolicy:
    """gRPC's: a client that pings more often than allowed gets strikes, and after too many the connection ends.

    What we send a client in between wipes the slate: it pings then to measure the line. Without a call in
    progress, pings count as too early unless two hours apart, where such pings are not permitted at all.
    """

    __slots__ = ("_last_ns", "_max_strikes", "_min_interval_ns", "_permit_without_calls", "_strikes")

    _IDLE_INTERVAL_NS = 2 * 3600 * _NS

    def __init__(self, min_interval_ms: int, max_strikes: int, permit_without_calls: bool) -> None:
        self._min_interval_ns = min_interval_ms * 1_000_000
        self._max_strikes = max_strikes
        self._permit_without_calls = permit_without_calls
        self._strikes = 0
        self._last_ns: int | None = None

    def sent_data(self) -> None:
        self._last_ns = None
        self._strikes = 0

    def receive(self, now_ns: int, has_calls: bool) -> bool:
        """False when the connection is to end: too many pings."""
        interval_ns = self._min_interval_ns
        if not has_calls and not self._permit_without_calls:
            interval_ns = max(interval_ns, self._IDLE_INTERVAL_NS)
        early = self._last_ns is not None and now_ns - self._last_ns < interval_ns
        self._last_ns = now_ns
        if early:
            self._strikes += 1
        return not self._max_strikes or self._strikes <= self._max_strikes
