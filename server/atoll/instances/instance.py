"""One model instance: its stub process from fork to exit, what it is executing, and its rebirth after a death.

A stub's life: ``fork -> LOAD -> ready -> EXECUTE … -> FINALIZE -> gone``. Death shows as the end of the channel; the
warm parent reports the exit status a moment later. What was executing is answered with the cause; what had been sent
ahead goes back to the front of the queue; the stub is started again, after a delay that doubles with each life that
ended without an answer.
"""

from __future__ import annotations

import asyncio
import collections
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
from atoll.inference import Request, Response
from atoll.instances.channel import Channel
from atoll.instances.stub_process import StubProcess
from atoll.instances.warm_parent import WarmParent

__all__ = ["Execution", "Instance", "InstanceSettings", "Owner", "State"]

_log = logging.getLogger(__name__)

_FIRST_DELAY_S = 0.05
_LONGEST_DELAY_S = 30.0
_SETTLED_AFTER_S = 30.0


class State(enum.Enum):
    STARTING = "starting"
    READY = "ready"
    DEAD = "dead"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class InstanceSettings:
    """What one instance is, and what its stub is told in LOAD."""

    name: str
    title: str
    model_name: str
    version: int
    version_dir: str
    filename: str
    args: dict[str, str]
    outputs: list[str]
    arena: ArenaSettings
    start_timeout_s: float


class Execution:
    """One batch at the stub. ``began_ns`` is when it was sent, or when the one before it ended."""

    __slots__ = ("began_ns", "id", "requests")

    def __init__(self, id: int, requests: list[Request], began_ns: int) -> None:
        self.id = id
        self.requests = requests
        self.began_ns = began_ns


class Owner(Protocol):
    """Who an instance works for. All calls come on the event loop."""

    def executed(
        self, instance: Instance, execution: Execution, responses: list[Response], times_ns: tuple[int, int, int]
    ) -> None: ...

    def execution_failed(self, instance: Instance, execution: Execution, error: ServerError) -> None: ...

    def infer_for(self, instance: Instance, request: Request) -> None:
        """A model in this instance calls another model. Raises ServerError when the call is refused."""

    def instance_ready(self, instance: Instance) -> None: ...

    def instance_died(self, instance: Instance, unstarted: list[Request], reason: str) -> None: ...

    def chunks_gone(self, chunk_ids: list[int]) -> None: ...

    def output(self, instance: Instance, stream: str, line: str) -> None: ...


class Instance:
    """One stub and its successors."""

    def __init__(
        self, settings: InstanceSettings, warm_parent: WarmParent, owner: Owner, take_chunk_ids: Callable[[], int]
    ) -> None:
        self.settings = settings
        self.name = settings.name
        self.state = State.STARTING
        self.executions: collections.deque[Execution] = collections.deque()
        self.recent_execution_ns = 0  # moving average; decides whether a batch is sent ahead
        self.restarts = 0
        self._warm_parent = warm_parent
        self._owner = owner
        self._take_chunk_ids = take_chunk_ids
        self._process: StubProcess | None = None
        self._loaded: asyncio.Future[str | None] | None = None
        self._buried: asyncio.Future[None] | None = None
        self._next_execution_id = 0
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
        )
        load = {
            "version_dir": settings.version_dir,
            "filename": settings.filename,
            "args": settings.args,
            "outputs": settings.outputs,
        }
        self._process.channel.send([Kind.LOAD, load])
        error = await self._loaded
        if error is not None:
            await self._end(timeout_s=1.0)
            raise ServerError(Code.INTERNAL, error)
        self.state = State.READY
        self._ready_since = time.monotonic()
        self._owner.instance_ready(self)

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
        was_ready = self.state is State.READY
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
        executions, self.executions = self.executions, collections.deque()
        if executions:
            self._owner.execution_failed(self, executions.popleft(), error)
        unstarted = [request for execution in executions for request in execution.requests]
        if self.state is State.DEAD:
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

    def execute(self, requests: list[Request], now_ns: int) -> None:
        """Send a batch to the stub. The owner hears of its end through ``executed`` or ``execution_failed``."""
        assert self._process is not None
        channel = self._process.channel
        self._next_execution_id += 1
        self.executions.append(Execution(self._next_execution_id, requests, now_ns))
        describe = channel.describe
        batch = []
        for request in requests:
            batch.append(
                [
                    request.id,
                    request.correlation_id,
                    request.flags,
                    request.timeout_us,
                    request.parameters,
                    request.outputs,
                    [describe(tensor) for tensor in request.inputs],
                ]
            )
        channel.send([Kind.EXECUTE, self._next_execution_id, batch, channel.take_freed()])

    def trim(self) -> None:
        """Ask the stub to give back idle chunks, when it has any to spare."""
        channel = self.channel
        if channel is not None and len(channel.chunk_ids) > 1:
            channel.send([Kind.TRIM])

    def _on_message(self, message: list[Any]) -> None:
        kind = message[0]
        if kind == Kind.RESULT:
            self._on_result(message)
        elif kind == Kind.INFER:
            self._on_infer(message)
        elif kind == Kind.FAILED:
            _, execution_id, text, released = message
            execution = self._executing(execution_id)
            assert self._process is not None
            self._process.channel.release(released)
            self._finished(execution)
            text = f"Failed to process the request(s) for model '{self.name}', message: {text}"
            self._owner.execution_failed(self, execution, ServerError(Code.INTERNAL, text))
        elif kind == Kind.RELEASE:
            assert self._process is not None
            self._process.channel.release(message[1])
        elif kind == Kind.LOADED:
            if self._loaded is not None and not self._loaded.done():
                self._loaded.set_result(message[1])
        elif kind == Kind.GONE:
            assert self._process is not None
            self._process.channel.gone(message[1])
            self._owner.chunks_gone(message[1])
        else:
            raise ValueError(f"unknown kind of message: {kind}")

    def _executing(self, execution_id: int) -> Execution:
        """The execution that a message answers. It stays listed, so that it is failed should the rest make no sense."""
        execution = self.executions[0]
        if execution.id != execution_id:
            raise ValueError(f"answer to execution {execution_id}, expected {execution.id}")
        return execution

    def _finished(self, execution: Execution) -> None:
        self.executions.popleft()
        self._deaths_in_a_row = 0  # a stub that answers is in no crash loop, whatever one request may do to it later
        for request in execution.requests:
            request.inputs = []  # not needed for another attempt any more
        if self.executions:
            self.executions[0].began_ns = time.monotonic_ns()

    def _on_result(self, message: list[Any]) -> None:
        _, execution_id, results, released, times = message
        execution = self._executing(execution_id)
        assert self._process is not None
        channel = self._process.channel
        version = self.settings.version
        responses = []
        for request, (tensors, error, parameters) in zip(execution.requests, results, strict=True):
            failure = None if error is None else ServerError(Code(error[0]), error[1])
            responses.append(Response(request, version, channel.tensors(tensors), parameters=parameters, error=failure))
        if released:
            channel.release(released)
        self.recent_execution_ns = (3 * self.recent_execution_ns + times[1]) >> 2
        self._finished(execution)
        self._owner.executed(self, execution, responses, times)

    def _on_infer(self, message: list[Any]) -> None:
        _, call_id, fields, released = message
        assert self._process is not None
        channel = self._process.channel
        request_id, correlation_id, flags, timeout_us, parameters, outputs, tensors, model_name, model_version = fields

        def reply(response: Response) -> None:
            failure = response.error
            answer = [
                [channel.describe(tensor) for tensor in response.outputs],
                None if failure is None else [int(failure.code), failure.message],
                response.parameters,
            ]
            channel.send([Kind.REPLY, call_id, answer, channel.take_freed()])

        request = Request(
            model_name,
            channel.tensors(tensors),
            reply,
            model_version=model_version,
            id=request_id,
            outputs=outputs,
            parameters=parameters,
            correlation_id=correlation_id,
            flags=flags,
            timeout_us=timeout_us,
        )
        channel.release(released)
        try:
            self._owner.infer_for(self, request)
        except ServerError as error:
            text = f"Model {model_name} - Error when running inference: {error.message}"
            reply(Response(request, -1, [], error=ServerError(Code.INTERNAL, text)))


def _log_failure(task: asyncio.Future[Any]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("a task of the supervisor failed", exc_info=task.exception())
