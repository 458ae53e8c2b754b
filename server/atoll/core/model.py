"""One served version of a model, of whatever kind: what clients may know of it, its requests and its statistics.

How requests are answered is the business of the kinds: :mod:`atoll.core.python_model` has instances that execute
them, in an order that a scheduler decides. Here is what all have in common: a request is checked, put where stubs can
read it, counted as long as it is in flight, and answered once for the last time.
"""

from __future__ import annotations

import abc
import asyncio
import logging
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

from atoll_ipc.memory import Arena, ArenaSettings, Block, OutOfSharedMemory, Slice
from atoll_ipc.wire import INLINE_NBYTES

from atoll.caching.response_cache import ResponseCache
from atoll.core.cached_requests import CachedRequests
from atoll.core.host_policies import HostPolicies
from atoll.core.labels import read_labels
from atoll.core.traced import trace_in_model
from atoll.core.validation import Validator
from atoll.environments.environments import Environments
from atoll.errors import Code, ServerError
from atoll.inference import Form, Request, Response, Tensor
from atoll.instances.instance import Answer, Instance
from atoll.instances.warm_parents import WarmParents
from atoll.observe.metrics import ModelSeries
from atoll.observe.statistics import Failure, ModelStatistics, ResponseOutcome
from atoll.repository.config import ModelConfig, TensorSpec
from atoll.scheduling.ordering import ResponseOrder
from atoll.scheduling.rate_limiter import RateLimiter
from atoll.scheduling.scheduler import Rejected

__all__ = ["Model", "ModelHost", "epoch_ms"]

_log = logging.getLogger(__name__)


class ModelHost(Protocol):
    """What a model needs of the server it is part of."""

    warm_parents: WarmParents
    environments: Environments
    arena_settings: ArenaSettings
    start_timeout_s: float
    rate_limiter: RateLimiter | None
    host_policies: HostPolicies
    response_cache: ResponseCache | None

    def find(self, name: str, version: int, namespace: str) -> Model: ...

    def infer_nested(self, request: Request, streaming: bool) -> None: ...

    def cancel(self, request: Request) -> None: ...

    def ask(self, model: Model, topic: str, arguments: list[Any], answer: Answer) -> None: ...

    def ended(self, model: Model) -> None: ...

    def take_chunk_ids(self) -> int: ...

    def chunks_gone(self, chunk_ids: list[int]) -> None: ...


class Model(abc.ABC):
    """A model version. ``start`` brings it up, ``infer`` takes a request, ``stop`` ends it."""

    def __init__(self, config: ModelConfig, version: int, model_dir: Path, host: ModelHost) -> None:
        self.name = config.name
        self.namespace = ""
        self.version = version
        self.config = config.json
        self.metadata = config.metadata([version])
        self.inputs: dict[str, TensorSpec] = config.inputs
        self.outputs: dict[str, TensorSpec] = config.outputs
        self.max_batch_size = config.max_batch_size
        self.decoupled = config.decoupled
        self.labels = read_labels(config, model_dir)
        self.statistics = ModelStatistics()
        self.series: ModelSeries | None = None  # on the metrics page
        self.metric_tags: dict[str, str] = config.json["metric_tags"]
        self.metric_buckets = _metric_buckets(config)
        self.arena = Arena(host.take_chunk_ids(), host.arena_settings)
        self.is_loading = False
        self._host = host
        self._validator = Validator(config)
        self._cached: CachedRequests | None = None
        self._accepting = False
        self._batching = config.dynamic_batching is not None
        self._order = ResponseOrder() if config.preserves_ordering else None
        self._in_flight = 0
        self._drained: asyncio.Future[None] | None = None

    # -- what the kinds do

    @abc.abstractmethod
    async def start(self) -> None:
        """Bring it up. Raises ServerError, after what had come up was ended."""

    @abc.abstractmethod
    async def stop(self, timeout_s: float) -> bool:
        """Answer what is still queued with an error and end everything; True when all ended by itself."""

    @abc.abstractmethod
    def cancel(self, request: Request) -> None:
        """The client of a request is gone."""

    @abc.abstractmethod
    def _accept(self, request: Request) -> None:
        """A request that was found right; it is answered by :meth:`_answer` or :meth:`_fail`. Raises ServerError."""

    @property
    def identifier(self) -> str:
        """What tells it from all other models, and what the log calls it."""
        return f"{self.namespace}::{self.name}" if self.namespace else self.name

    @property
    def is_ready(self) -> bool:
        return self._accepting

    @property
    def is_resizable(self) -> bool:
        """Whether it may get other instances while it serves."""
        return False

    async def grow(self, config: ModelConfig) -> None:
        """Bring up the instances that a new configuration adds; the others stay. Raises ServerError."""
        assert not self.is_resizable  # then there are none to add

    def settle(self, config: ModelConfig | None) -> None:
        """From now on be what ``config`` says, after :meth:`grow`; with None, what it was before that."""
        if config is not None:
            self.config = {**self.config, "version_policy": config.json["version_policy"]}

    @property
    def instances(self) -> list[Instance]:
        """The instances that execute its requests; none for a kind that has others do the work."""
        return []

    @property
    def serving(self) -> list[Instance]:
        """Those of the instances that take requests; the others are passive."""
        return []

    @property
    def has_check(self) -> bool:
        """Whether the model says itself if it is ready."""
        return False

    async def not_ready_reason(self) -> str | None:
        """The first reason against readiness, or None."""
        return None if self.is_ready else f"Model '{self.name}' is not ready."

    def calls_for(self, request: Request) -> Collection[Request]:
        """The requests to other models that must all be answered before it can answer this one."""
        return ()

    def pending(self) -> int:
        """Requests that wait for an execution."""
        return 0

    def is_queued(self, request: Request) -> bool:
        """Whether no instance has the request yet."""
        return False

    @property
    def leased_blocks(self) -> int:
        return sum(instance.channel.held_blocks for instance in self.instances if instance.channel is not None)

    @property
    def restarts(self) -> int:
        return sum(instance.restarts for instance in self.instances)

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

    def answer_from(self, cache: ResponseCache, fingerprint: bytes) -> None:
        """Use the response cache from now on; ``fingerprint`` stands for the model as it is loaded."""
        self.statistics.cached = True
        self._cached = CachedRequests(
            cache,
            fingerprint,
            self.version,
            self.outputs,
            self.statistics,
            accept=self._accept,
            answer=self._answer,
            fail=self._fail,
        )

    def prepare(self, request: Request) -> None:
        """In any thread: check a request and put its tensors where stubs can read them, so that :meth:`infer` need not.

        Raises ServerError INVALID_ARG, or UNAVAILABLE when there is no memory.
        """
        form = Form()
        self._validator.check(request)
        self._place_large(request)
        form.batch_size = request.batch_size
        request.form = form

    def infer(self, request: Request) -> None:
        """Check and take a request. Raises ServerError; then nothing of it stays."""
        request.received_ns = time.monotonic_ns()
        if not self._accepting:
            text = "Server is stopping, scheduler for model has stopped accepting new inference requests"
            raise ServerError(Code.UNAVAILABLE, request.rid + text if self._batching else text)
        try:
            self._validator.check(request)
            self._place_large(request)
        except ServerError:
            self.statistics.refused()
            raise
        if request.trace is not None:
            trace_in_model(request, request.trace, self.version)
        self._in_flight += 1
        request.accepted_by = self
        if self._order is not None:
            self._order.enlist(request)
        try:
            if self._cached is None:
                self._accept(request)
            else:
                self._cached.accept(request)
        except ServerError as error:
            request.answered = True
            self._left()
            if self._order is not None:
                self._order.forget(request)
            if isinstance(error, Rejected):
                self.statistics.failed(Failure.REJECTED, time.monotonic_ns() - request.received_ns)
            else:
                self.statistics.refused()
            raise

    @property
    def in_flight(self) -> int:
        return self._in_flight

    async def retire(self, replaced: bool) -> None:
        """It is being unloaded: return when all is answered that it has accepted.

        Unless another is found in its place already, it goes on with sequences that it has begun.
        """
        await self.drained()

    @property
    def has_begun_sequences(self) -> bool:
        """Whether there are sequences that more requests may belong to, even while it is being unloaded."""
        return False

    async def drained(self) -> None:
        """Return when nothing that was accepted is unanswered."""
        if self._in_flight:
            if self._drained is None or self._drained.done():
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)

    def hold(self) -> None:
        """Stay up for a request that is still to come, such as that of an ensemble's later step."""
        self._in_flight += 1

    def release(self) -> None:
        """It came, or it never will; once for each :meth:`hold`."""
        self._left()

    def allocate(self, nbytes: int) -> Block:
        """Memory for a request's body. Raises ServerError UNAVAILABLE when there is none."""
        try:
            return self.arena.allocate(nbytes)
        except OutOfSharedMemory as error:
            raise ServerError(Code.UNAVAILABLE, str(error)) from None

    def _place_large(self, request: Request) -> None:
        """Large inputs go where stubs can read them, small ones into the message."""
        for tensor in request.inputs:
            data = tensor.data
            if type(data) is bytes and len(data) <= INLINE_NBYTES:
                continue
            if type(data) is Slice:
                if data.nbytes <= INLINE_NBYTES:
                    tensor.data = bytes(data.view())
            elif tensor.nbytes > INLINE_NBYTES:
                self.place(tensor)

    def place(self, tensor: Tensor) -> None:
        """Put a tensor's bytes where stubs can read them. Raises ServerError UNAVAILABLE when there is no memory."""
        data = tensor.buffer()
        block = self.allocate(len(data))
        block.chunk.map[block.start : block.start + len(data)] = data
        tensor.data = Slice(block, block.start, len(data))

    def _fail(self, request: Request, error: ServerError, reason: Failure = Failure.OTHER) -> None:
        if request.answered:
            return
        self.statistics.failed(reason, time.monotonic_ns() - request.received_ns)
        self._answer(Response(request, self.version, [], error=error))

    def _count_response(self, request: Request, response: Response, output_ns: int) -> None:
        """For the statistics of a decoupled model."""
        if request.answered:
            return
        now = time.monotonic_ns()
        infer_ns = max(0, now - request.began_ns - output_ns)
        if not request.response_count and not response.empty and self.statistics.distributions is not None:
            self.statistics.distributions.first_response(now - request.received_ns)
        self.statistics.responded(request.response_count, _outcome(response), infer_ns, output_ns)
        request.response_count += 1
        request.began_ns = now

    def _answer(self, response: Response) -> None:
        request = response.request
        if request.answered:
            return  # what comes after the final response reaches nobody
        if response.final:
            request.answered = True
            self._left()
        try:
            request.respond(response)
        except Exception:
            _log.exception(f"a response of model '{self.name}' could not be delivered")

    def _left(self) -> None:
        """A request is in flight no longer."""
        self._in_flight -= 1
        if not self._in_flight and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)


def _metric_buckets(config: ModelConfig) -> dict[str, list[float]]:
    """The buckets that a configuration's ``model_metrics`` give histograms, by family."""
    controls = config.json.get("model_metrics", {}).get("metric_control", ())
    return {control["metric_identifier"]["family"]: control["histogram_options"]["buckets"] for control in controls}


def _outcome(response: Response) -> ResponseOutcome:
    if response.error is None:
        return ResponseOutcome.EMPTY if response.empty else ResponseOutcome.SUCCESS
    return ResponseOutcome.CANCEL if response.error.code is Code.CANCELLED else ResponseOutcome.FAIL


_EPOCH_OFFSET_NS = time.time_ns() - time.monotonic_ns()


def epoch_ms(monotonic_ns: int) -> int:
    """The time of day of a moment on the monotonic clock."""
    return (monotonic_ns + _EPOCH_OFFSET_NS) // 1_000_000
