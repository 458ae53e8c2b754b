"""What a frontend notes of a traced request: when it was received, and when its responses were sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from atoll.inference import Request, Response
from atoll.observe.tracer import Header, Tracer
from atoll.trace import Trace

__all__ = ["GRPC", "HTTP", "WhenSent", "soon", "trace_request"]

WhenSent = Callable[[Callable[[Any], None]], object]
"""Has a function called (with anything) when what was written before has been sent."""


def soon(told: Callable[[Any], None]) -> None:
    """When what was written to a socket before has been sent, or its buffer is full: in the loop's next turn."""
    asyncio.get_running_loop().call_soon(told, None)


class _Activities(NamedTuple):
    receive: str
    send: str


HTTP = _Activities("HTTP_RECV", "HTTP_SEND")
GRPC = _Activities("GRPC_WAITREAD", "GRPC_SEND")


def trace_request(
    tracer: Tracer, request: Request, activities: _Activities, began_ns: int, header: Header, when_sent: WhenSent
) -> None:
    """Trace ``request``, which was received since ``began_ns``, if it is one of those to be traced."""
    trace = request.trace = tracer.sample(request.model_name, header)
    if trace is not None:
        if began_ns:  # else tracing was turned on while the request came in
            trace.stamp(f"{activities.receive}_START", began_ns)
        trace.stamp(f"{activities.receive}_END")
        request.respond = partial(_respond, trace, activities, when_sent, request.respond)


def _respond(
    trace: Trace,
    activities: _Activities,
    when_sent: WhenSent,
    respond: Callable[[Response], None],
    response: Response,
) -> None:
    trace.stamp(f"{activities.send}_START")
    respond(response)
    when_sent(partial(_sent, trace, f"{activities.send}_END", response.final))


def _sent(trace: Trace, activity: str, final: bool, _: object = None) -> None:
    trace.stamp(activity)
    if final:
        trace.end()
