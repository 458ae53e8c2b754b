"""What a dispatcher sees around it, as objects that remember; and the loop it runs on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from atoll.errors import ServerError
from atoll.inference import Request
from atoll.instances.exchange import Execution
from atoll.instances.instance import State
from atoll.scheduling.dispatcher import Dispatcher

__all__ = ["LONG_NS", "SHORT_NS", "InstanceTwin", "OwnerTwin", "names", "on_loop", "request"]

SHORT_NS, LONG_NS = 50_000, 5_000_000


class InstanceTwin:
    """What a dispatcher sees of an instance; an execution ends when the test says so."""

    def __init__(self, recent_execution_ns: int = LONG_NS) -> None:
        self.state = State.READY
        self.executions: deque[Execution] = deque()
        self.recent_execution_ns = recent_execution_ns
        self.taken: list[list[Request]] = []
        self.executed = asyncio.Event()

    def execute(self, requests: list[Request], now_ns: int) -> None:
        assert self.state is State.READY
        self.executions.append(Execution(len(self.taken), requests, now_ns))
        self.taken.append(requests)
        self.executed.set()

    def finish(self, dispatcher: Dispatcher) -> list[Request]:
        done = self.executions.popleft().requests
        dispatcher.freed(self)  # type: ignore[arg-type]
        return done

    def die(self, dispatcher: Dispatcher) -> None:
        """The current execution fails, what was sent ahead goes back."""
        self.state = State.DEAD
        unstarted = [request for execution in list(self.executions)[1:] for request in execution.requests]
        self.executions.clear()
        assert dispatcher.died(self, unstarted) == []  # type: ignore[arg-type]

    def restart(self, dispatcher: Dispatcher) -> None:
        self.state = State.READY
        dispatcher.freed(self)  # type: ignore[arg-type]


def request(name: str = "", size: int = 1) -> Request:
    made = Request("m", [], lambda response: None, id=name)
    made.batch_size = size
    return made


class OwnerTwin:
    """Remembers what was dropped, and why."""

    def __init__(self) -> None:
        self.dropped_requests: list[tuple[str, str]] = []
        self.told = asyncio.Event()

    def dropped(self, request: Request, error: ServerError) -> None:
        self.dropped_requests.append((request.id, str(error)))
        self.told.set()


def names(batches: list[list[Request]]) -> list[str]:
    return ["".join(request.id for request in batch) for batch in batches]


Test = Callable[..., Coroutine[Any, Any, None]]


def on_loop(test: Test) -> Callable[[], None]:
    """Run a test on an event loop of its own, as the dispatcher runs."""

    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 10))

    run.__name__ = test.__name__
    return run
