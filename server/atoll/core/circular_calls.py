"""Calls of models that could never be answered, found when they are made.

An instance whose model calls another takes no other request meanwhile. It is *stuck* when whoever could answer is
stuck too: the one instance that executes the call, or while the call is queued, every instance of the called model. A
call of an ensemble waits for every step that runs.
Only the last call of such a circle makes it one, so it is enough to look where a call is about to be queued.

Calls from threads and coroutines of a model, and calls with a stream of responses, which another thread may read, hold
nobody up for certain. They are never refused.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from atoll.core.model import Model
from atoll.errors import Code, ServerError
from atoll.inference import Request
from atoll.instances.instance import Instance

__all__ = ["check_calls"]


def check_calls(model: Model, request: Request) -> None:
    """Raises ServerError UNAVAILABLE when ``request``, which an execution waits for, would itself wait for ever."""
    if request.callers and _would_wait_for_ever(model, request):
        chain = " -> ".join([*reversed(request.callers), model.name])
        raise ServerError(
            Code.UNAVAILABLE,
            f"circular call with no instance to spare: {chain}. Every instance of '{model.name}' waits for this call; "
            "raise the count of its instance_group",
        )


def _would_wait_for_ever(model: Model, request: Request) -> bool:
    instances = model.serving
    if not instances or any(not instance.waits_for() for instance in instances):
        return False  # mostly
    waits = _find_waits(instances, request)
    free: set[Instance | Request] = set()
    before = -1
    while len(free) > before:
        before = len(free)
        free.update(waiter for waiter, wait in waits.items() if wait.is_over(free))
    return free.isdisjoint(instances)


@dataclass(frozen=True)
class _Wait:
    """What an instance or a call waits for: any of it will do, or all of it must come free."""

    on: Collection[Instance | Request]
    for_all: bool = False

    def is_over(self, free: set[Instance | Request]) -> bool:
        return free.issuperset(self.on) if self.for_all else not free.isdisjoint(self.on)


_NO_WAIT = _Wait((), for_all=True)


def _find_waits(instances: Sequence[Instance], request: Request) -> dict[Instance | Request, _Wait]:
    """Whatever ``instances`` wait for, directly or not. ``request`` is about to wait for them, so it is never over."""
    waits: dict[Instance | Request, _Wait] = {request: _Wait(())}
    pending: list[Instance | Request] = list(instances)
    while pending:
        waiter = pending.pop()
        if waiter not in waits:
            waits[waiter] = wait = _wait_of(waiter)
            pending += wait.on
    return waits


def _wait_of(waiter: Instance | Request) -> _Wait:
    if isinstance(waiter, Instance):
        calls = waiter.waits_for()
        return _Wait(calls) if calls else _NO_WAIT
    model = waiter.accepted_by
    assert model is None or isinstance(model, Model)
    if model is None:
        return _NO_WAIT  # it is on its way
    steps = model.calls_for(waiter)
    if steps:
        return _Wait(list(steps), for_all=True)
    for instance in model.serving:
        if any(waiter in execution.requests for execution in instance.executions):
            return _Wait([instance])
    return _Wait(model.serving) if model.is_queued(waiter) else _NO_WAIT
