"""One request's trip through an ensemble: the shell around :class:`atoll.core.ensemble_plan.Run`.

Makes the steps' requests and takes their responses. Tensors go from step to step by reference: what is handed on is the
:class:`Slice` that names the block where a stub has put them, never its bytes. The models of all steps are found when
the trip begins and stay up until it ends, so that a reload or an unload breaks no request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Protocol

from atoll_ipc.memory import Slice

from atoll.core.circular_calls import check_calls
from atoll.core.ensemble_plan import Answer, Plan, Progress, Step, Task
from atoll.core.model import Model
from atoll.core.reshape import between_steps
from atoll.errors import Code, ServerError
from atoll.inference import SEQUENCE_END, SEQUENCE_START, Parameter, Request, Response, Tensor
from atoll.repository.config import TensorSpec

__all__ = ["Trip", "TripOwner"]

_log = logging.getLogger(__name__)


class TripOwner(Protocol):
    """The ensemble."""

    name: str
    version: int
    plan: Plan
    outputs: dict[str, TensorSpec]
    max_batch_size: int

    def find_model(self, step: Step) -> Model:
        """Raises ServerError when it does not serve."""

    def answered(self, trip: Trip, response: Response) -> None:
        """Of several answers, the last one is final."""

    def failed(self, trip: Trip, error: ServerError) -> None:
        """Instead of the final answer."""


class Trip:
    """All calls come on the event loop. Nothing is answered before ``begin`` has returned."""

    def __init__(self, owner: TripOwner, request: Request) -> None:
        self.request = request
        self.queue_ns = 0
        self.compute_ns = [0, 0, 0]
        self._owner = owner
        self._batching = owner.max_batch_size > 0
        self._run = owner.plan.run(request.outputs or tuple(owner.outputs))
        self._models: dict[int, Model] = {}
        self._requests: dict[Task, Request] = {}
        self._error: ServerError | None = None
        self._has_ended = False
        self._late: Callable[[int, tuple[int, int, int]], None] | None = None

    @property
    def requests(self) -> Collection[Request]:
        """The steps' requests that are under way."""
        return self._requests.values()

    def begin(self) -> None:
        request = self.request
        for index in self._run.steps:
            try:
                model = self._owner.find_model(self._owner.plan.steps[index])
            except ServerError as error:
                self._refuse(error)
                self._end()
                return
            model.hold()
            self._models[index] = model
        batch_size = request.batch_size if self._batching else 0
        values = {tensor.name: (tensor, batch_size) for tensor in request.inputs}
        request.inputs = []  # a tensor is given back as soon as no step wants it any more
        self._go_on(self._run.begin(values))

    def cancel(self, error: ServerError) -> None:
        """Nobody waits for the answer: tell the steps that run, and start no others."""
        if self._error is None:
            self._error = error
        self._run.stop()
        for request in list(self._requests.values()):
            assert isinstance(request.accepted_by, Model)
            request.accepted_by.cancel(request)

    def give_up(self, error: ServerError) -> None:
        """The steps' answers will not be waited for."""
        self.cancel(error)
        self._last_word()

    def count_late(self, count: Callable[[int, tuple[int, int, int]], None]) -> None:
        """The trip was counted; what its steps tell from now on goes there."""
        self._late = count

    # -- going on

    def _go_on(self, progress: Progress) -> None:
        is_last = not progress.starts and self._run.is_done and self._error is None
        for index, answer in enumerate(progress.answers, 1):
            self._answer(answer, final=is_last and index == len(progress.answers))
        for task in progress.starts:
            if self._error is None:
                self._start(task)
            else:
                self._run.failed(task, final=True)
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._has_ended or not self._run.is_done:
            return
        if self._run.is_deadlocked:
            text = "unexpected deadlock, at least one output is not set while no more ensemble steps can be made"
            rid = f"[request id: {self.request.id or '<id_unknown>'}] "
            self._error = self._named(ServerError(Code.INVALID_ARG, rid + text))
        self._end()

    def _end(self) -> None:
        """By something else than an answer; not at once, for it may be that the trip has just begun."""
        self._has_ended = True
        asyncio.get_running_loop().call_soon(self._last_word)

    def _last_word(self) -> None:
        if self.request.answered:
            return
        self._part()
        if self._error is not None:
            self._owner.failed(self, self._error)
        else:
            self._owner.answered(self, Response(self.request, self._owner.version, [], empty=True))

    def _part(self) -> None:
        """From all models."""
        models, self._models = self._models, {}
        for model in models.values():
            model.release()

    def _answer(self, answer: Answer, final: bool) -> None:
        owner, request = self._owner, self.request
        if request.cancelled:
            return
        outputs = []
        for name, value in answer.values.items():
            if value is not None:  # else the step left it out
                tensor, batch_size = value
                shape = between_steps(tensor.shape, batch_size, owner.outputs[name].dims, self._batching)
                outputs.append(Tensor(name, tensor.datatype, shape, tensor.data))
        parameters: dict[str, Parameter] = {
            "sequence_id": request.correlation_id,
            "sequence_start": bool(request.flags & SEQUENCE_START),
            "sequence_end": bool(request.flags & SEQUENCE_END),
        }
        if final:
            self._has_ended = True
            self._part()
        response = Response(request, owner.version, outputs, parameters=parameters, final=final)
        response.receipt = answer.receipt
        owner.answered(self, response)

    # -- steps

    def _start(self, task: Task) -> None:
        index, trip = task.step, self.request
        step, model = self._owner.plan.steps[index], self._models[index]
        request = Request(
            step.model_name,
            self._inputs(task, model),
            partial(self._on_response, task, step),
            model_version=model.version,
            id=trip.id,
            outputs=self._run.wanted(index),
            parameters=trip.parameters,
            correlation_id=trip.correlation_id,
            flags=trip.flags,
            priority=trip.priority,
            timeout_us=trip.timeout_us,
        )
        if trip.placements is not None:
            request.placements = self._placements(step, trip.placements)
        request.on_executed = self._on_executed
        request.callers = trip.callers
        if trip.trace is not None:
            request.trace = trip.trace.child()
        self._requests[task] = request
        try:
            if request.callers:
                check_calls(model, request)
            model.infer(request)
        except ServerError as error:
            del self._requests[task]
            self._refuse(error)
            self._run.failed(task, final=True)

    def _inputs(self, task: Task, model: Model) -> list[Tensor]:
        batching = model.max_batch_size > 0
        inputs = []
        for name, value in task.take_inputs().items():
            if value is not None:  # else the client, or the step before, left it out
                tensor, batch_size = value
                spec = model.inputs.get(name)
                shape = between_steps(tensor.shape, batch_size, spec.dims, batching) if spec else tensor.shape
                inputs.append(Tensor(name, tensor.datatype, shape, tensor.data))
        return inputs

    def _placements(self, step: Step, places: Mapping[str, Slice]) -> dict[str, Slice] | None:
        """Where the client wants what a step makes for it alone: steps must not read what a client can change."""
        placements = {
            name: places[tensor]
            for name, tensor in step.outputs.items()
            if tensor in places and self._run.is_only_answered(tensor)
        }
        return placements or None

    def _on_response(self, task: Task, step: Step, response: Response) -> None:
        if response.final:
            self._requests.pop(task, None)
        if response.error is not None:
            if self._error is None:
                self._error = self._named(response.error)
            self._run.failed(task, response.final)
            self._end_if_done()
            return
        values = None
        if not response.empty:
            batch_size = response.request.batch_size if self._models_batch(task) else 0
            values = {
                step.outputs[tensor.name]: (tensor, batch_size)
                for tensor in response.outputs
                if tensor.name in step.outputs
            }
        self._go_on(self._run.responded(task, values, response.final, response.receipt))

    def _models_batch(self, task: Task) -> bool:
        model = self._models.get(task.step)
        return model is not None and model.max_batch_size > 0

    def _on_executed(self, queue_ns: int, compute_ns: tuple[int, int, int]) -> None:
        if self._late is not None:
            self._late(queue_ns, compute_ns)
            return
        self.queue_ns += queue_ns
        for index, ns in enumerate(compute_ns):
            self.compute_ns[index] += ns

    # -- errors

    def _refuse(self, error: ServerError) -> None:
        _log.warning(f"Ensemble '{self._owner.name}' failed to schedule step : {error.message}")
        if self._error is None:
            self._error = self._named(error)

    def _named(self, error: ServerError) -> ServerError:
        return ServerError(error.code, f"in ensemble '{self._owner.name}', {error.message}")
