"""What is noted of a traced request on its way through a model; nothing here is called for any other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from atoll.inference import Request, Response
from atoll.trace import Trace

__all__ = ["trace_in_model"]

Respond = Callable[[Response], None]


def trace_in_model(request: Request, trace: Trace, model_version: int) -> None:
    """A model has taken ``request``; from now on its responses are noted before they go on."""
    trace.begin(request.model_name, model_version, request.id, request.received_ns)
    trace.queued(request.inputs)
    request.respond = partial(_respond, trace, request.respond)


def _respond(trace: Trace, respond: Respond, response: Response) -> None:
    error = "" if response.error is None else response.error.message
    trace.responded(response.outputs, error, empty=response.empty, final=response.final)
    try:
        respond(response)
    finally:
        if response.final and trace.parent is not None:
            trace.end()
