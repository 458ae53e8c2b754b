"""One model instance: its stub process from fork to exit, what it is executing, and its rebirth after a death.

A stub's life: ``fork -> LOAD -> ready -> EXECUTE … -> FINALIZE -> gone``. Death shows as the end of the channel; the
warm parent reports the exit status a moment later. What was executing is answered with the cause; what had been sent
ahead goes back to the front of the queue; the stub is started again, after a delay that doubles with each life that
ended without an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from atoll_ipc.memory import ArenaSettings
from atoll_ipc.wire import Kind

from atoll.errors import Code, ServerError
from atoll.inference import Request
from atoll.instances.calls import Answer, CallOwner, Calls
from atoll.instances.channel import Channel
from atoll.instances.exchange import Exchange, RequestOwner
from atoll.instances.side_door import SideDoor
from atoll.instances.stub_process import StubProcess
from atoll.instances.warm_parent import WarmParent
from atoll.trace import Trace

__all__ = ["Answer", "Instance", "InstanceSettings", "Owner", "RateLimit", "State"]

_log = logging.getLogger(__name__)

_FIRST_DELAY_S = 0.05
_LONGEST_DELAY_S = 30.0
_SETTLED_AFTER_S = 30.0
_CHECK_TIMEOUT_S = 5.0
_FAILED_WARM_UP_END_S = 5.0


class State(enum.Enum):
    STARTING = "starting"
    READY = "ready"
    DEAD = "dead"
    LEAVING = "leaving"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class RateLimit:
    """How an instance's executions weigh, and what each takes of resources: their names, devices and units."""

    priority: int
    resources: tuple[tuple[str, int | None, int], ...]


@dataclass(frozen=True, slots=True)
class InstanceSettings:
    """What one instance is, and what its stub is told in LOAD."""

    name: str
    title: str
    model_name: str
    version: int
    version_dir: str
    filename: str
    backend_file: str | None
    args: dict[str, str]
    outputs: list[str]
    decoupled: bool
    passive: bool
    rate_limit: RateLimit
    arena: ArenaSettings
    start_timeout_s: float
    surroundings: dict[str, Any]
    """What atoll.core.surroundings says of the stub's process."""


class Owner(RequestOwner, CallOwner, Protocol):
    """Who an instance works for. All calls come on the event loop."""

    async def warm_up(self, instance: Instance) -> None:
        """The model is initialized: have it execute what it shall have executed first. Raises ServerError."""

    def instance_ready(self, instance: Instance) -> None: ...

    def instance_died(self, instance: Instance, unstarted: list[Request], reason: str) -> None: ...

    def output(self, instance: Instance, stream: str, line: str) -> None: ...


class Instance:
    """One stub and its successors."""

    def __init__(
        self, settings: InstanceSettings, warm_parent: WarmParent, owner: Owner, take_chunk_ids: Callable[[], int]
    ) -> None:
        self.settings = settings
        self.name = settings.name
        self.state = State.STARTING
        self.restarts = 0
        self.has_check = False  # the model has an is_ready of its own
        self._exchange = Exchange(self, owner, settings.version)
        self._calls = Calls(self, owner)
        self.executions = self._exchange.executions
        self.execute = self._exchange.execute
        self._checking: asyncio.Future[str | None] | None = None
        self._warm_parent = warm_parent
        self._owner = owner
        self._take_chunk_ids = take_chunk_ids
        self._process: StubProcess | None = None
        self._loaded: asyncio.Future[str | None] | None = None
        self._buried: asyncio.Future[None] | None = None
        self._ready_since = 0.0
        self._deaths_in_a_row = 0
        self._restarting: asyncio.Task[None] | None = None

    # -- life

    async def start(self) -> None:
        """Fork a stub and load the model in it. Raises ServerError with the model's traceback or the cause of death."""
        loop = asyncio.get_running_loop()
        self._loaded = loop.create_future()
        self._buried = loop.create_future()
        settings = self.settings
        self._process = await StubProcess.spawn(
            settings.name,
            settings.title,
            self._warm_parent,
            self._take_chunk_ids(),
            settings.arena,
            settings.start_timeout_s,
            on_message=self._on_message,
            on_closed=self._on_closed,
            on_line=partial(self._owner.output, self),
            side_door=SideDoor(partial(Calls, self, self._owner), self._take_chunk_ids),
        )
        self._exchange.attach(self._process.channel, loop.call_soon_threadsafe)
        load = {
            "name": settings.name,
            "auto_complete": False,
            "decoupled": settings.decoupled,
            "version_dir": settings.version_dir,
            "filename": settings.filename,
            "backend_file": settings.backend_file,
            "args": settings.args,
            "outputs": settings.outputs,
            "surroundings": settings.surroundings,
        }
        self._process.channel.send([Kind.LOAD, load])
        error = await self._loaded
        if error is not None:
            await self._end(timeout_s=1.0)
            raise ServerError(Code.INTERNAL, error)
        try:
            await self._owner.warm_up(self)
        except ServerError:
            self._process.channel.send([Kind.FINALIZE])
            await self._end(timeout_s=_FAILED_WARM_UP_END_S)
            raise
        self.state = State.READY
        self._ready_since = time.monotonic()
        self._owner.instance_ready(self)

    async def leave(self, timeout_s: float) -> bool:
        """Get nothing new, finish what is under way, then stop; True when all of it went well in time."""
        if self.state is State.READY:
            self.state = State.LEAVING
            await asyncio.wait([self._exchange.idle()], timeout=timeout_s)
        return await self.stop(timeout_s)

    def hurry(self) -> None:
        """Who is leaving stops after what it executes, and does not wait for responses that come later."""
        self._exchange.pretend_idle()

    async def stop(self, timeout_s: float) -> bool:
        """Finalize the model and end the stub; True when it ended by itself within ``timeout_s``."""
        if self._restarting is not None:
            self._restarting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._restarting
        process = self._process
        if process is None or not process.channel.is_open:
            self.state = State.STOPPED
            return True
        was_ready = self.state in (State.READY, State.LEAVING)
        self.state = State.STOPPING
        if was_ready:
            process.channel.send([Kind.FINALIZE])
            return await self._end(timeout_s)
        process.kill()  # it has not come so far that there were anything to finalize
        await self._end(timeout_s)
        return True

    async def _end(self, timeout_s: float) -> bool:
        """Wait for the process to go, and kill it when it does not."""
        assert self._process is not None
        assert self._buried is not None
        self.state = State.STOPPING
        clean = True
        try:
            await asyncio.wait_for(asyncio.shield(self._buried), timeout_s)
        except asyncio.TimeoutError:
            clean = False
            self._process.kill()
            await self._buried
        self.state = State.STOPPED
        return clean

    @property
    def recent_execution_ns(self) -> int:
        return self._exchange.recent_execution_ns

    def trace(self, id: int) -> Trace | None:
        """The trace of that number, of a request that is here."""
        return self._exchange.trace(id)

    def waits_for(self) -> list[Request]:
        """The calls that what it executes waits for."""
        return self._calls.waits_for()

    @property
    def open_count(self) -> int:
        """Requests whose execution has ended and whose last response is still to come."""
        return self._exchange.open_count

    @property
    def pid(self) -> int:
        return self._process.fork.pid if self._process is not None else 0

    @property
    def channel(self) -> Channel | None:
        return self._process.channel if self._process is not None else None

    # -- death

    def _on_closed(self) -> None:
        if self.state is State.READY:
            self.state = State.DEAD  # from this moment on nothing is sent to it
        task = asyncio.ensure_future(self._bury())
        task.add_done_callback(_log_failure)

    async def _bury(self) -> None:
        """Find out what the stub died of, answer what it was executing, and start it again."""
        assert self._process is not None
        assert self._buried is not None
        assert self._loaded is not None
        self._owner.chunks_gone(self._process.channel.chunk_ids)
        reason = await self._process.cause_of_death()
        if not self._loaded.done():
            self._loaded.set_result(f"Stub process '{self.name}' is not healthy. {reason}")
        self._buried.set_result(None)
        error = ServerError(
            Code.INTERNAL,
            f"Failed to process the request(s) for model instance '{self.name}', message: "
            f"Stub process '{self.name}' is not healthy. {reason}",
        )
        if self._checking is not None and not self._checking.done():
            self._checking.set_result("Stub process is not healthy while waiting for user-defined is_ready() response")
        unstarted = self._exchange.end(error)
        self._calls.end()
        if self.state is State.LEAVING:
            self._owner.instance_died(self, unstarted, reason)
        elif self.state is State.DEAD:
            _log.error(f"Stub process is unhealthy and it will be restarted. Instance '{self.name}': {reason}")
            self._owner.instance_died(self, unstarted, reason)
            self._restarting = asyncio.ensure_future(self._restart())
            self._restarting.add_done_callback(_log_failure)

    async def _restart(self) -> None:
        while True:
            if time.monotonic() - self._ready_since > _SETTLED_AFTER_S:
                self._deaths_in_a_row = 0
            if self._deaths_in_a_row:
                await asyncio.sleep(min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2 ** (self._deaths_in_a_row - 1)))
            self._deaths_in_a_row += 1
            self.restarts += 1
            self.state = State.STARTING
            try:
                await self.start()
            except ServerError as error:
                self.state = State.DEAD
                _log.error(f"instance '{self.name}' failed to start again: {error.message}")
            else:
                _log.info(f"instance '{self.name}' serves again, as process {self.pid}")
                return

    # -- work

    def cancel(self, request: Request) -> bool:
        """The client of a request that was sent here has given up; True when it will not be executed any more."""
        return self._exchange.cancel(request)

    def trim(self) -> None:
        """Ask the stub to give back idle chunks, when it has any to spare."""
        channel = self.channel
        if channel is not None and len(channel.chunk_ids) > 1:
            channel.send([Kind.TRIM])

    async def check(self) -> str | None:
        """Ask the model's own ``is_ready``: None, or the reason why not. Who asks while it is being asked shares it."""
        if self.state is not State.READY:
            return f"Stub process '{self.name}' is not healthy."
        if not self.has_check:
            return None
        shared = self._checking is not None and not self._checking.done()
        if not shared:
            assert self.channel is not None
            self._checking = asyncio.get_running_loop().create_future()
            self.channel.send([Kind.CHECK, 0])
        assert self._checking is not None
        try:
            return await asyncio.wait_for(asyncio.shield(self._checking), _CHECK_TIMEOUT_S)
        except asyncio.TimeoutError:
            which = "in-flight is_ready()" if shared else "user-defined is_ready()"
            return f"Timed out waiting for {which} response"

    def _on_message(self, message: list[Any]) -> None:
        kind = message[0]
        if kind == Kind.RESULT:
            self._deaths_in_a_row = 0  # a stub that answers is in no crash loop, whatever a request may do to it later
            self._exchange.on_result(message)
            return
        assert self._process is not None
        channel = self._process.channel
        if kind == Kind.RESPONSE:
            self._exchange.on_response(message)
        elif kind == Kind.FAILED:
            self._deaths_in_a_row = 0
            self._exchange.on_failed(message)
        elif kind == Kind.LOADED:
            if self._loaded is not None and not self._loaded.done():
                self.has_check = message[2].get("is_ready", False)
                self._loaded.set_result(message[1])
        elif kind == Kind.CHECKED:
            if self._checking is not None and not self._checking.done():
                self._checking.set_result(_not_ready(self.name, message[2]))
        elif kind == Kind.GONE:
            channel.gone(message[1])
            self._owner.chunks_gone(message[1])
        else:
            self._calls.on_message(message, channel)


def _not_ready(name: str, outcome: bool | str) -> str | None:
    if outcome is True:
        return None
    return outcome if isinstance(outcome, str) else f"Model '{name}' is not ready (user-defined check failed)."


def _log_failure(task: asyncio.Future[Any]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("a task of the supervisor failed", exc_info=task.exception())
