"""Which spans a trace becomes: their names, and the caller's where a request says it (W3C Trace Context)."""

from __future__ import annotations

import random
import re

from atoll.trace import SpanIds

__all__ = ["child_spans", "new_spans", "propagated_spans"]

_TRACEPARENT = re.compile(r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


def propagated_spans(traceparent: str, tracestate: str) -> SpanIds | None:
    """Spans below the caller's; None where the header names none, or makes no sense."""
    match = _TRACEPARENT.fullmatch(traceparent.strip())
    if match is None or match["version"] == "ff" or (match["version"] == "00" and match[4] is not None):
        return None
    trace, parent = int(match["trace"], 16), int(match["span"], 16)
    if not trace or not parent:
        return None
    return SpanIds(trace, parent, _random(64), _random(64), _random(64), tracestate)


def new_spans() -> SpanIds:
    return SpanIds(_random(128), 0, _random(64), _random(64), _random(64))


def child_spans(parent: SpanIds, *, computing: bool) -> SpanIds:
    """Spans of a request that is made for another's sake: by its computation, or beside it."""
    caller = parent.compute if computing else parent.model
    return SpanIds(parent.trace, caller, 0, _random(64), _random(64), parent.state)


def _random(bits: int) -> int:
    return random.getrandbits(bits) or 1
