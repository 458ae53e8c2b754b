"""A model whose requests are answered by other models, one step after another; see also ``ensemble_plan``."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

from atoll.core.ensemble_plan import Plan, Step
from atoll.core.ensemble_trip import Trip
from atoll.core.model import Model, ModelHost, epoch_ms
from atoll.errors import Code, ServerError
from atoll.inference import Request, Response
from atoll.observe.statistics import Failure
from atoll.repository.config import ModelConfig

__all__ = ["EnsembleModel"]


class EnsembleModel(Model):
    """A version of an ensemble. It has no instances; its steps' models are looked up for each request."""

    def __init__(self, config: ModelConfig, version: int, model_dir: Path, host: ModelHost, plan: Plan) -> None:
        super().__init__(config, version, model_dir, host)
        self.plan = plan
        self._trips: dict[Request, Trip] = {}
        for step, model in zip(plan.steps, self._models(), strict=True):
            for name, tensor in step.outputs.items():
                if name in model.labels and tensor in self.outputs:
                    self.labels.setdefault(tensor, model.labels[name])

    # -- life

    async def start(self) -> None:
        self._accepting = True

    async def stop(self, timeout_s: float) -> bool:
        self._accepting = False
        for trip in list(self._trips.values()):
            trip.give_up(ServerError(Code.UNAVAILABLE, f"Model '{self.name}' is being unloaded"))
        self._host.ended(self)
        return True

    def _models(self) -> list[Model]:
        """The models of all steps. Raises ServerError when one is not there."""
        return [self.find_model(step) for step in self.plan.steps]

    @property
    def is_ready(self) -> bool:
        try:
            return self._accepting and all(model.is_ready for model in self._models())
        except ServerError:
            return False

    @property
    def has_check(self) -> bool:
        """Whether one of its steps says itself if it is ready."""
        try:
            return any(model.has_check for model in self._models())
        except ServerError:
            return False

    async def not_ready_reason(self) -> str | None:
        if not self._accepting:
            return await super().not_ready_reason()
        try:
            for model in self._models():
                if (reason := await model.not_ready_reason()) is not None:
                    return reason
        except ServerError as error:
            return error.message
        return None

    # -- requests

    def _accept(self, request: Request) -> None:
        request.began_ns = request.received_ns
        trip = self._trips[request] = Trip(self, request)
        trip.begin()

    def cancel(self, request: Request) -> None:
        if request.cancelled:
            return
        request.cancelled = True
        trip = self._trips.get(request)
        if trip is not None:
            trip.cancel(ServerError(Code.CANCELLED, "Request cancelled"))

    def calls_for(self, request: Request) -> Collection[Request]:
        trip = self._trips.get(request)
        return trip.requests if trip is not None else ()

    # -- what a trip asks and tells (atoll.core.ensemble_trip.TripOwner)

    def find_model(self, step: Step) -> Model:
        return self._host.find(step.model_name, step.model_version, step.namespace)

    def answered(self, trip: Trip, response: Response) -> None:
        if self.decoupled:
            self._count_response(response.request, response, 0)
        if response.final:
            del self._trips[response.request]
            self._count(trip)
        self._answer(response)

    def failed(self, trip: Trip, error: ServerError) -> None:
        del self._trips[trip.request]
        self._fail(trip.request, error, Failure.CANCELED if error.code is Code.CANCELLED else Failure.OTHER)

    def _count(self, trip: Trip) -> None:
        request = trip.request
        now = time.monotonic_ns()
        total_ns = now - request.received_ns
        compute_ns = (trip.compute_ns[0], trip.compute_ns[1], trip.compute_ns[2])
        began_ms = epoch_ms(request.received_ns)
        self.statistics.executed(request.batch_size, 1, total_ns, trip.queue_ns, compute_ns, began_ms)
        trip.count_late(self.statistics.executed_late)
        if self.statistics.distributions is not None:
            self.statistics.distributions.executed(total_ns, trip.queue_ns, compute_ns, now)
