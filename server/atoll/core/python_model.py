"""A model whose versions are ``model.py`` files: its instances, and what they tell."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

from atoll.core.instance_set import InstanceSet
from atoll.core.instance_settings import instance_settings
from atoll.core.model import Model, ModelHost, epoch_ms
from atoll.core.reshape import fill, fits
from atoll.core.schedulers import demands, make_scheduler, make_sequence_scheduler
from atoll.core.warm_up import WarmUpSample, read_samples
from atoll.errors import Code, ServerError
from atoll.inference import Request, Response
from atoll.instances.exchange import Execution
from atoll.instances.instance import Answer, Instance, State
from atoll.instances.warm_parent import WarmParent
from atoll.observe.log import log_from, log_verbose, model_output
from atoll.observe.statistics import Failure
from atoll.repository.config import ModelConfig
from atoll.scheduling.scheduler import Scheduler
from atoll.scheduling.sequences.inputs import NullRequest

__all__ = ["PythonModel"]

_log = logging.getLogger(__name__)


class PythonModel(Model):
    """A version with instances of its own. ``start`` loads it in all of them."""

    def __init__(
        self,
        config: ModelConfig,
        version: int,
        version_dir: Path,
        model_dir: Path,
        host: ModelHost,
        warm_parent: WarmParent,
        backend: Path | None = None,
    ) -> None:
        """``backend`` is the file of a Python-based backend; without it, the model has a file of its own."""
        super().__init__(config, version, model_dir, host)
        self._reshaped = {name: spec for name, spec in self.outputs.items() if spec.reshape is not None}
        self._set = InstanceSet(
            config,
            partial(
                instance_settings,
                version=version,
                version_dir=version_dir,
                model_dir=model_dir,
                backend=backend,
                arena=host.arena_settings,
                start_timeout_s=host.start_timeout_s,
                host_policies=host.host_policies,
            ),
            lambda settings: Instance(settings, warm_parent, self, host.take_chunk_ids),
        )
        self._instances = self._set.all
        self._retiring = False
        self.warm_parent = warm_parent
        self._all_passive = not self.serving
        self._warm_up_samples = read_samples(config, model_dir)
        self._sequences = make_sequence_scheduler(config, model_dir, self._instances, self, host.rate_limiter)
        self._scheduler: Scheduler = self._sequences or make_scheduler(config, self._instances, self, host.rate_limiter)

    # -- life

    async def start(self) -> None:
        """Load the model in all instances at once. Raises the first failure, after all were ended."""
        began = time.monotonic()
        self._accepting = self.is_loading = True
        try:
            await self._set.start()
        except BaseException:
            self._scheduler.stop()
            self._ended()
            raise
        finally:
            self.is_loading = False
        self.statistics.load_duration_s = time.monotonic() - began

    async def stop(self, timeout_s: float) -> bool:
        """Answer what is still queued with an error, finalize every instance; True when all ended by themselves."""
        self._accepting = False
        for request in self._scheduler.stop():
            self._fail(request, ServerError(Code.UNAVAILABLE, f"Model '{self.name}' is being unloaded"))
        clean = await self._set.stop(timeout_s)
        self._ended()
        return clean

    def _ended(self) -> None:
        self._host.ended(self)
        self._host.warm_parents.release(self.warm_parent)
        self._host.environments.release(self.warm_parent.interpreter)

    @property
    def is_resizable(self) -> bool:
        return "sequence_batching" not in self.config  # whose sequences are bound to instances

    async def grow(self, config: ModelConfig) -> None:
        if self._host.rate_limiter is not None:
            self._host.rate_limiter.check(demands(config))
        self.is_loading = True
        try:
            await self._set.grow(config)
        finally:
            self.is_loading = False

    def settle(self, config: ModelConfig | None) -> None:
        self._set.settle(config)
        self._all_passive = all(instance.passive for instance in self._set.config.instances)
        self.config = self._set.config.json

    async def warm_up(self, instance: Instance) -> None:
        """Have an instance execute the samples of ``model_warmup``. Raises ServerError INVALID_ARG when one fails."""
        for sample in self._warm_up_samples:
            log_verbose(1, f"model '{self.name}', instance {instance.name} is running warmup sample '{sample.name}'")
            for _ in range(sample.count):
                error = await self._run_sample(sample, instance)
                if error is not None:
                    text = f"failed to run warmup sample '{sample.name}': {error.message}; "
                    raise ServerError(Code.INVALID_ARG, text)

    async def _run_sample(self, sample: WarmUpSample, instance: Instance) -> ServerError | None:
        """One execution of a sample; the first error among its responses."""
        failures: list[ServerError] = []
        left = sample.batch_size
        done = asyncio.get_running_loop().create_future()

        def respond(response: Response) -> None:
            nonlocal left
            if response.error is not None:
                failures.append(response.error)
            left -= response.final
            if not left:
                done.set_result(None)

        now = time.monotonic_ns()
        requests = sample.requests(self.name, respond)
        for request in requests:
            request.received_ns = request.queued_ns = now
            request.accepted_by = self
            self._place_large(request)
        self._in_flight += len(requests)
        instance.execute(requests, now)
        await done
        return failures[0] if failures else None

    async def retire(self, replaced: bool) -> None:
        self._retiring = True
        if self._sequences is not None and not replaced:
            await self._sequences.finish()
        await self.drained()

    @property
    def has_begun_sequences(self) -> bool:
        return self._sequences is not None and self._sequences.open_count > 0

    @property
    def is_ready(self) -> bool:
        return (
            self._accepting and not self._retiring and any(instance.state is State.READY for instance in self.serving)
        )

    @property
    def has_check(self) -> bool:
        """Whether the model says itself if it is ready."""
        return any(instance.has_check for instance in self._instances)

    async def not_ready_reason(self) -> str | None:
        """Ask the instances one after another; the first reason against readiness, or None."""
        for instance in self._set.staying():
            if instance.has_check and (reason := await instance.check()) is not None:
                return reason
        return None if self.is_ready else f"Stub process '{self._instances[0].name}' is not healthy."

    @property
    def instances(self) -> list[Instance]:
        return self._instances

    @property
    def serving(self) -> list[Instance]:
        return [instance for instance in self._instances if not instance.settings.passive]

    def pending(self) -> int:
        return self._scheduler.pending

    def is_queued(self, request: Request) -> bool:
        return self._scheduler.is_queued(request)

    # -- requests

    def _accept(self, request: Request) -> None:
        if self._all_passive:
            raise ServerError(Code.UNAVAILABLE, f"all instances of model '{self.name}' are passive")
        self._scheduler.submit(request)

    def cancel(self, request: Request) -> None:
        """A queued request is taken out, an executing one is only marked."""
        if request.cancelled:
            return
        request.cancelled = True
        if self._scheduler.cancel(request) or any(instance.cancel(request) for instance in self._instances):
            self._fail(request, ServerError(Code.CANCELLED, "Request cancelled"), Failure.CANCELED)

    # -- what the scheduler tells (atoll.scheduling.scheduler.SchedulerOwner)

    def dropped(self, request: Request, error: ServerError) -> None:
        self._fail(request, error, Failure.CANCELED if error.code is Code.CANCELLED else Failure.REJECTED)

    # -- what instances tell (atoll.instances.instance.Owner)

    def executed(
        self, instance: Instance, execution: Execution, responses: list[Response], times_ns: tuple[int, int, int]
    ) -> None:
        if instance.state is not State.STARTING:  # it is warming up then
            self._scheduler.freed(instance)
        now = time.monotonic_ns()
        requests = execution.requests
        if self._sequences is not None:
            requests = [request for request in requests if not isinstance(request, NullRequest)]
        batch_size = total_ns = queue_ns = 0
        for request in requests:
            batch_size += request.batch_size
            total_ns += now - request.received_ns
            queue_ns += execution.began_ns - request.queued_ns
            if request.on_executed is not None:
                request.on_executed(execution.began_ns - request.queued_ns, times_ns)
            if request.trace is not None:
                request.trace.executed(request.queued_ns, execution.stub_began_ns, times_ns)
        began_ms = epoch_ms(request.received_ns)
        self.statistics.executed(batch_size, len(requests), total_ns, queue_ns, times_ns, began_ms)
        distributions = self.statistics.distributions
        if distributions is not None:
            for request in requests:
                waited_ns = execution.began_ns - request.queued_ns
                distributions.executed(now - request.received_ns, waited_ns, times_ns, now)
            distributions.waiting(self.pending())
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

    def dropped_ended(self, instance: Instance) -> None:
        self._scheduler.freed(instance)

    def execution_failed(self, instance: Instance, execution: Execution, error: ServerError) -> None:
        if instance.state is State.READY:
            self._scheduler.freed(instance)
        _log.error(error.message)
        for request in execution.requests:
            if request.trace is not None:
                request.trace.failed(request.queued_ns, execution.began_ns)
            self._fail(request, error, Failure.BACKEND)

    def responded(self, instance: Instance, request: Request, response: Response, output_ns: int) -> None:
        if self.decoupled:
            self._count_response(request, response, output_ns)
        else:
            # One response is all there may be: the final flag, should it come later and alone, says nothing new.
            response.final = True
            if response.empty:
                return
        if self._reshaped:
            self._restore_shapes([response])
        self._answer(response)

    def rescheduled(self, instance: Instance, requests: list[Request]) -> None:
        if self._sequences is None or not self._sequences.iterative:
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
        self._sequences.again(requests)

    def infer_for(self, instance: Instance, request: Request, *, streaming: bool) -> None:
        self._host.infer_nested(request, streaming)

    def cancel_for(self, instance: Instance, request: Request) -> None:
        self._host.cancel(request)

    def log(self, instance: Instance, level: int, origin: str, text: str) -> None:
        log_from(origin, instance.name, _LOG_LEVELS.get(level, logging.INFO), text)

    def ask(self, instance: Instance, topic: str, arguments: list[Any], answer: Answer) -> None:
        def tell(value: Any, error: str | None) -> None:
            prefix = f"Failed to process the request for model '{instance.name}', message: "
            answer(value, None if error is None else prefix + error)

        self._host.ask(self, topic, arguments, tell)

    def instance_ready(self, instance: Instance) -> None:
        if not instance.settings.passive:
            self._scheduler.freed(instance)

    def instance_died(self, instance: Instance, unstarted: list[Request], reason: str) -> None:
        error = ServerError(Code.INTERNAL, f"Stub process '{instance.name}' is not healthy. {reason}")
        for request in self._scheduler.died(instance, unstarted):
            self._fail(request, error, Failure.BACKEND)

    def chunks_gone(self, chunk_ids: list[int]) -> None:
        self._host.chunks_gone(chunk_ids)

    def output(self, instance: Instance, stream: str, line: str) -> None:
        model_output(instance.name, stream, line)


_LOG_LEVELS = {0: logging.INFO, 1: logging.WARNING, 2: logging.ERROR, 3: logging.INFO - 1}  # as LogLevel numbers them
