"""Calls of models that could never be answered, found when they are made.

An instance whose model calls another takes no other request meanwhile. It is *stuck* when whoever could answer is
stuck too: the one instance that executes the call, or while the call is queued, every instance of the called model.
Only the last call of such a circle makes it one, so it is enough to look where a call is about to be queued.

Calls from threads and coroutines of a model, and calls with a stream of responses, which another thread may read, hold
nobody up for certain. They are never refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from atoll.core.model import Model
from atoll.errors import Code, ServerError
from atoll.inference import Request
from atoll.instances.instance import Instance

__all__ = ["check_calls"]


def check_calls(model: Model, request: Request) -> None:
    """Raises ServerError UNAVAILABLE when ``request``, which an execution waits for, would itself wait for ever."""
    if request.callers and _all_stuck(model.instances, request):
        chain = " -> ".join([*reversed(request.callers), model.name])
        raise ServerError(
            Code.UNAVAILABLE,
            f"circular call with no instance to spare: {chain}. Every instance of '{model.name}' waits for this call; "
            "raise the count of its instance_group",
        )


def _all_stuck(instances: Sequence[Instance], request: Request) -> bool:
    seen: set[Instance] = set()
    pending = list(instances)
    while pending:
        instance = pending.pop()
        if instance in seen:
            continue
        seen.add(instance)
        calls = instance.waits_for()
        if not calls:
            return False
        for call in calls:
            if call is request:
                continue  # it is about to wait for those that we began with
            answerers = _answerers(call)
            if not answerers:
                return False
            pending += answerers
    return True


def _answerers(call: Request) -> Sequence[Instance]:
    """The instances one of which must come free for a call to be answered; none for one that is on its way."""
    model = call.accepted_by
    assert model is None or isinstance(model, Model)
    if model is None:
        return ()
    for instance in model.instances:
        if any(call in execution.requests for execution in instance.executions):
            return (instance,)
    return model.instances if model.is_queued(call) else ()
