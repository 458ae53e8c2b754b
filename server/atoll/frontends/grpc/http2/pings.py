"""PINGs of both sides, as gRPC bounds them (its proposals A8 and A9), by events and a clock's value.

1. A client that pings more often than allowed gets strikes, and after too many the connection ends. What we send a
   client in between wipes the slate: it pings then to measure the line. Without a call in progress pings count as too
   early unless two hours apart, where such pings are not permitted at all.
2. A client that was silent for some time is asked whether it is still there, where a call is in progress or that is
   permitted without; but only so many times while there is nothing to send it. No sign of life in time ends the
   connection.
"""

from __future__ import annotations

import enum

from atoll.frontends.grpc.options import GrpcOptions

__all__ = ["Pings", "Step"]

_IDLE_INTERVAL_NS = 2 * 3600 * 1_000_000_000


class Step(enum.Enum):
    """What the keepalive's clock asks for."""

    WAIT = enum.auto()
    ASK = enum.auto()
    END = enum.auto()


class Pings:
    """Of one connection."""

    __slots__ = ("_asked", "_last_ns", "_options", "_strikes", "_unanswered_by_data")

    def __init__(self, options: GrpcOptions) -> None:
        self._options = options
        self._strikes = 0
        self._last_ns: int | None = None
        self._asked = False
        self._unanswered_by_data = 0

    def sent_data(self) -> None:
        """Headers, data or credit went to the client."""
        self._last_ns = None
        self._strikes = 0
        self._unanswered_by_data = 0

    def receive(self, now_ns: int, has_calls: bool) -> bool:
        """The client pings. False when the connection is to end: too many of them."""
        options = self._options
        interval_ns = options.http2_min_recv_ping_interval_without_data_ms * 1_000_000
        if not has_calls and not options.keepalive_permit_without_calls:
            interval_ns = max(interval_ns, _IDLE_INTERVAL_NS)
        early = self._last_ns is not None and now_ns - self._last_ns < interval_ns
        self._last_ns = now_ns
        if early:
            self._strikes += 1
        return not options.http2_max_ping_strikes or self._strikes <= options.http2_max_ping_strikes

    def tick(self, heard: bool, has_calls: bool) -> tuple[Step, float]:
        """What to do now, and in how many seconds to come again. ``heard``: of the client, since the last time."""
        options = self._options
        if self._asked and not heard:
            return Step.END, 0
        asks = (
            not self._asked
            and not heard
            and (has_calls or options.keepalive_permit_without_calls)
            and not 0 < options.http2_max_pings_without_data <= self._unanswered_by_data
        )
        self._asked = asks
        if asks:
            self._unanswered_by_data += 1
            return Step.ASK, options.keepalive_timeout_ms / 1000
        return Step.WAIT, options.keepalive_time_ms / 1000
