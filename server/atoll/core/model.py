"""One served version of a model: its instances, its queue, its memory, its statistics."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Protocol

from atoll_ipc.memory import Arena, ArenaSettings, Block, OutOfSharedMemory, Slice
from atoll_ipc.wire import INLINE_NBYTES

from atoll.core.instance_settings import instance_settings
from atoll.core.labels import read_labels
from atoll.core.reshape import fill, fits
from atoll.core.validation import Validator
from atoll.errors import Code, ServerError
from atoll.inference import SEQUENCE_START, Request, Response, Tensor
from atoll.instances.exchange import Execution
from atoll.instances.instance import Answer, Instance, State
from atoll.instances.warm_parent import WarmParent
from atoll.observe.log import log_from, model_output
from atoll.observe.metrics import ModelSeries
from atoll.observe.statistics import Failure, ModelStatistics
from atoll.repository.config import ModelConfig, TensorSpec
from atoll.scheduling.dispatcher import Dispatcher
from atoll.scheduling.queues import DynamicBatcher, FifoQueue, Queue

__all__ = ["Model", "ModelHost"]

_log = logging.getLogger(__name__)


class ModelHost(Protocol):
    """What a model needs of the server it is part of."""

    warm_parent: WarmParent
    arena_settings: ArenaSettings
    start_timeout_s: float

    def infer_nested(self, request: Request, streaming: bool) -> None: ...

    def cancel(self, request: Request) -> None: ...

    def ask(self, model: Model, topic: str, arguments: list[Any], answer: Answer) -> None: ...

    def ended(self, model: Model) -> None: ...

    def take_chunk_ids(self) -> int: ...

    def chunks_gone(self, chunk_ids: list[int]) -> None: ...


class Model:
    """A model version. ``start`` loads it in its instances, ``infer`` queues a request, ``stop`` finalizes."""

    def __init__(
        self,
        config: ModelConfig,
        version: int,
        version_dir: Path,
        model_dir: Path,
        host: ModelHost,
        backend: Path | None = None,
    ) -> None:
        """``backend`` is the file of a Python-based backend; without it, the model has a file of its own."""
        self.name = config.name
        self.version = version
        self.config = config.json
        self.metadata = config.metadata([version])
        self.inputs: dict[str, TensorSpec] = config.inputs
        self.outputs: dict[str, TensorSpec] = config.outputs
        self._reshaped = {name: spec for name, spec in self.outputs.items() if spec.reshape is not None}
        self.max_batch_size = config.max_batch_size
        self.decoupled = config.decoupled
        self.labels = read_labels(config, model_dir)
        self.statistics = ModelStatistics()
        self.series: ModelSeries | None = None  # on the metrics page
        self.metric_tags: dict[str, str] = config.json["metric_tags"]
        self.arena = Arena(host.take_chunk_ids(), host.arena_settings)
        self._host = host
        self._validator = Validator(config)
        self._iterative = "sequence_batching" in config.json  # the only sequences that are served yet
        self._sequence_ids = itertools.count(1)
        self._in_flight = 0
        self._drained: asyncio.Future[None] | None = None
        self._accepting = False
        self.is_loading = False
        self.instances = [
            Instance(settings, host.warm_parent, self, host.take_chunk_ids)
            for settings in instance_settings(
                config, version, version_dir, model_dir, backend, host.arena_settings, host.start_timeout_s
            )
        ]
        self._dispatcher = Dispatcher(_queue(config), self.instances)

    # -- life

    async def start(self) -> None:
        """Load the model in all instances at once. Raises the first failure, after all were ended."""
        began = time.monotonic()
        self._accepting = self.is_loading = True
        results = await asyncio.gather(*(instance.start() for instance in self.instances), return_exceptions=True)
        self.is_loading = False
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            await asyncio.gather(*(instance.stop(5.0) for instance in self.instances))
            self._host.ended(self)
            raise failures[0]
        self.statistics.load_duration_s = time.monotonic() - began

    async def drained(self) -> None:
        """Return when nothing that was accepted is unanswered."""
        if self._in_flight:
            if self._drained is None or self._drained.done():
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)

    async def stop(self, timeout_s: float) -> bool:
        """Answer what is still queued with an error, finalize every instance; True when all ended by themselves."""
        self._accepting = False
        for request in self._dispatcher.stop():
            self._fail(request, ServerError(Code.UNAVAILABLE, f"Model '{self.name}' is being unloaded"))
        clean = await asyncio.gather(*(instance.stop(timeout_s) for instance in self.instances))
        self._host.ended(self)
        return all(clean)

    @property
    def is_ready(self) -> bool:
        return self._accepting and any(instance.state is State.READY for instance in self.instances)

    @property
    def has_check(self) -> bool:
        """Whether the model says itself if it is ready."""
        return any(instance.has_check for instance in self.instances)

    async def not_ready_reason(self) -> str | None:
        """Ask the instances one after another; the first reason against readiness, or None."""
        for instance in self.instances:
            if instance.has_check and (reason := await instance.check()) is not None:
                return reason
        return None if self.is_ready else f"Stub process '{self.instances[0].name}' is not healthy."

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @property
    def leased_blocks(self) -> int:
        return sum(instance.channel.held_blocks for instance in self.instances if instance.channel is not None)

    @property
    def restarts(self) -> int:
        return sum(instance.restarts for instance in self.instances)

    def pending(self) -> int:
        """Requests that wait for an execution."""
        return self._dispatcher.pending

    def trim(self) -> list[int]:
        """Give back idle shared memory; returns the ids of the chunks that are gone."""
        for instance in self.instances:
            instance.trim()
        return self.arena.trim()

    def forget(self, chunk_ids: list[int]) -> None:
        for instance in self.instances:
            if instance.channel is not None:
                instance.channel.forget(chunk_ids)

    # -- requests

    def infer(self, request: Request) -> None:
        """Check and queue a request. Raises ServerError; then nothing of it stays."""
        request.received_ns = time.monotonic_ns()
        if not self._accepting:
            raise ServerError(
                Code.UNAVAILABLE,
                "Server is stopping, scheduler for model has stopped accepting new inference requests",
            )
        try:
            self._validator.check(request)
            for tensor in request.inputs:
                data = tensor.data
                if type(data) is bytes and len(data) <= INLINE_NBYTES:
                    continue
                if type(data) is Slice:
                    if data.nbytes <= INLINE_NBYTES:
                        tensor.data = bytes(data.view())
                elif tensor.nbytes > INLINE_NBYTES:
                    self._place(tensor)
        except ServerError:
            self.statistics.refused()
            raise
        if self._iterative and not request.correlation_id:
            request.correlation_id = next(self._sequence_ids)
            request.flags |= SEQUENCE_START
        self._in_flight += 1
        request.accepted_by = self
        self._dispatcher.submit(request)

    def is_queued(self, request: Request) -> bool:
        """Whether no instance has the request yet."""
        return request in self._dispatcher.queue.requests

    def allocate(self, nbytes: int) -> Block:
        """Memory for a request's body. Raises ServerError UNAVAILABLE when there is none."""
        try:
            return self.arena.allocate(nbytes)
        except OutOfSharedMemory as error:
            raise ServerError(Code.UNAVAILABLE, str(error)) from None

    def cancel(self, request: Request) -> None:
        """Its client is gone: a queued request is taken out, an executing one is only marked."""
        if request.cancelled:
            return
        request.cancelled = True
        if self._dispatcher.queue.remove(request):
            self._fail(request, ServerError(Code.CANCELLED, "Request cancelled"), Failure.CANCELED)
        else:
            for instance in self.instances:
                instance.cancel(request)

    def _place(self, tensor: Tensor) -> None:
        data = tensor.buffer()
        block = self.allocate(len(data))
        block.chunk.map[block.start : block.start + len(data)] = data
        tensor.data = Slice(block, block.start, len(data))

    def _fail(self, request: Request, error: ServerError, reason: Failure = Failure.OTHER) -> None:
        if request.answered:
            return
        self.statistics.failed(reason, time.monotonic_ns() - request.received_ns)
        self._answer(Response(request, self.version, [], error=error))

    def _answer(self, response: Response) -> None:
        request = response.request
        if request.answered:
            return  # what comes after the final response reaches nobody
        if response.final:
            request.answered = True
            self._in_flight -= 1
            if not self._in_flight and self._drained is not None and not self._drained.done():
                self._drained.set_result(None)
        try:
            request.respond(response)
        except Exception:
            _log.exception(f"a response of model '{self.name}' could not be delivered")

    # -- what instances tell (atoll.instances.instance.Owner)

    def executed(
        self, instance: Instance, execution: Execution, responses: list[Response], times_ns: tuple[int, int, int]
    ) -> None:
        self._dispatcher.freed(instance)
        now = time.monotonic_ns()
        batch_size = total_ns = queue_ns = 0
        for request in execution.requests:
            batch_size += request.batch_size
            total_ns += now - request.received_ns
            queue_ns += execution.began_ns - request.queued_ns
        began_ms = (request.received_ns + _EPOCH_OFFSET_NS) // 1_000_000
        self.statistics.executed(batch_size, len(execution.requests), total_ns, queue_ns, times_ns, began_ms)
        if self._reshaped:
            self._restore_shapes(responses)
        for response in responses:
            self._answer(response)

    def _restore_shapes(self, responses: list[Response]) -> None:
        """Outputs that the configuration reshapes, as clients know them. One of another shape is nobody's business."""
        leading = 1 if self.max_batch_size > 0 else 0
        for response in responses:
            for tensor in response.outputs:
                spec = self._reshaped.get(tensor.name)
                if spec is not None and spec.reshape is not None and fits(tensor.shape[leading:], spec.reshape):
                    tensor.shape = [*tensor.shape[:leading], *fill(spec.dims, spec.reshape, tensor.shape[leading:])]

    def execution_failed(self, instance: Instance, execution: Execution, error: ServerError) -> None:
        if instance.state is State.READY:
            self._dispatcher.freed(instance)
        _log.error(error.message)
        for request in execution.requests:
            self._fail(request, error, Failure.BACKEND)

    def responded(self, instance: Instance, request: Request, response: Response) -> None:
        if not self.decoupled:
            # One response is all there may be: the final flag, should it come later and alone, says nothing new.
            response.final = True
            if response.empty:
                return
        if self._reshaped:
            self._restore_shapes([response])
        self._answer(response)

    def rescheduled(self, instance: Instance, requests: list[Request]) -> None:
        if not self._iterative:
            error = ServerError(
                Code.INVALID_ARG,
                "Request is released with TRITONSERVER_REQUEST_RELEASE_RESCHEDULE, while the model is not configured "
                "to handle such a flag.",
            )
            for request in requests:
                self._fail(request, error)
            return
        if instance.state is not State.READY:
            for request in requests:
                self._fail(request, ServerError(Code.UNAVAILABLE, f"Model '{self.name}' is being unloaded"))
            return
        for request in requests:
            request.flags &= ~SEQUENCE_START
        self._dispatcher.again(instance, requests)

    def infer_for(self, instance: Instance, request: Request, *, streaming: bool) -> None:
        self._host.infer_nested(request, streaming)

    def cancel_for(self, instance: Instance, request: Request) -> None:
        self._host.cancel(request)

    def log(self, instance: Instance, level: int, origin: str, text: str) -> None:
        log_from(f"{origin} {instance.name}", _LOG_LEVELS.get(level, logging.INFO), text)

    def ask(self, instance: Instance, topic: str, arguments: list[Any], answer: Answer) -> None:
        def tell(value: Any, error: str | None) -> None:
            prefix = f"Failed to process the request for model '{instance.name}', message: "
            answer(value, None if error is None else prefix + error)

        self._host.ask(self, topic, arguments, tell)

    def instance_ready(self, instance: Instance) -> None:
        self._dispatcher.freed(instance)

    def instance_died(self, instance: Instance, unstarted: list[Request], reason: str) -> None:
        if self._iterative:
            # What a sequence has come to, only that instance knew.
            error = ServerError(Code.INTERNAL, f"Stub process '{instance.name}' is not healthy. {reason}")
            for request in unstarted:
                if not request.flags & SEQUENCE_START:
                    self._fail(request, error, Failure.BACKEND)
            unstarted = [request for request in unstarted if request.flags & SEQUENCE_START]
        self._dispatcher.give_back(unstarted)

    def chunks_gone(self, chunk_ids: list[int]) -> None:
        self._host.chunks_gone(chunk_ids)

    def output(self, instance: Instance, stream: str, line: str) -> None:
        model_output(instance.name, stream, line)


_LOG_LEVELS = {0: logging.INFO, 1: logging.WARNING, 2: logging.ERROR, 3: logging.INFO - 1}  # as LogLevel numbers them
_EPOCH_OFFSET_NS = time.time_ns() - time.monotonic_ns()


def _queue(config: ModelConfig) -> Queue:
    batching = config.dynamic_batching
    if batching is None:
        return FifoQueue()
    return DynamicBatcher(
        max(1, config.max_batch_size),
        batching.preferred_batch_sizes,
        batching.max_queue_delay_us * 1000,
        _signature(config),
    )


def _signature(config: ModelConfig) -> Callable[[Request], Hashable]:
    """What must be equal in one batch: shapes of inputs that may vary, and which optional inputs there are."""
    varying = {
        spec.name
        for spec in config.inputs.values()
        if not spec.allow_ragged_batch and (-1 in spec.dims or spec.optional)
    }
    if not varying:
        return lambda request: None
    return lambda request: tuple(
        sorted((tensor.name, tuple(tensor.shape[1:])) for tensor in request.inputs if tensor.name in varying)
    )
