"""The shell around the :class:`~atoll.scheduling.sequences.book.Book`: executes batches, watches the clock.

What happens (a request, an answer, a free instance) only goes into the book; batches are made in a turn of the event
loop of its own. So whatever one message of a stub or one read of a socket brings is there when a batch is made, and a
sequence's next request is not executed before the answer to the last one has left its state here.

See also: ``inputs`` for what is added to requests.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from atoll.errors import Code, ServerError
from atoll.inference import SEQUENCE_END, SEQUENCE_START, Request, Response, Tensor
from atoll.instances.instance import Instance, State
from atoll.scheduling.rate_limiter import RateLimiter
from atoll.scheduling.scheduler import SchedulerOwner
from atoll.scheduling.sequences.book import Book, Lane
from atoll.scheduling.sequences.inputs import AddedInputs, NullRequest, Zeros
from atoll.scheduling.turns import Turns

__all__ = ["SequenceOwner", "SequenceScheduler", "SequenceSettings"]

_log = logging.getLogger(__name__)

Respond = Callable[[Response], None]


@dataclass(frozen=True)
class SequenceSettings:
    """What a model's configuration says of its sequences."""

    model_name: str
    outputs: tuple[str, ...]
    """Those that clients get when they name none."""
    slots: int
    """Of each instance."""
    pads: bool
    """A sequence has the same place in every batch; null requests keep those that are empty."""
    idle_ns: int
    iterative: bool
    added: AddedInputs


class SequenceOwner(SchedulerOwner, Protocol):
    """Whose sequences they are."""

    def place(self, tensor: Tensor) -> None:
        """Put a large tensor where the instances can read it. Raises ServerError."""


class SequenceScheduler:
    """The scheduler of a model with sequences. A request of an iterative model is a sequence of its own."""

    def __init__(
        self,
        settings: SequenceSettings,
        make_lane: Callable[[], Lane],
        instances: list[Instance],
        owner: SequenceOwner,
        limiter: RateLimiter | None = None,
    ) -> None:
        self._settings = settings
        self.iterative = settings.iterative
        self._added = settings.added
        self._added_names = settings.added.names
        self._instances = instances
        self._lanes = [make_lane() for _ in instances]
        self._book = Book(self._lanes, settings.slots, settings.idle_ns)
        self._owner = owner
        self._zeros = Zeros(owner.place)
        self._input_names = {state.output_name: state.initial.name for state in settings.added.states}
        self._new_ids = itertools.count(1)
        self._pump_handle: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._finished: asyncio.Future[None] | None = None
        self._stopped = False
        self._turns = None if limiter is None else Turns(limiter, self._start)
        self._freed: list[Instance] = []  # instances whose turns are over

    # -- what a model asks (atoll.scheduling.scheduler.Scheduler)

    @property
    def pending(self) -> int:
        return self._book.waiting_count

    def submit(self, request: Request) -> None:
        iterative = self.iterative
        if iterative:
            request.correlation_id = request.correlation_id or self._new_id()
            request.flags |= SEQUENCE_START
        key: Hashable = request if iterative else request.correlation_id
        self._check(request, key)
        if self._settings.pads:
            for tensor in request.inputs:
                self._zeros.reserve(tensor.nbytes)
        request.queued_ns = time.monotonic_ns()
        request.respond = self._responder(request)
        self._book.add(key, request, last=iterative or bool(request.flags & SEQUENCE_END))
        self._pump_soon()

    def cancel(self, request: Request) -> bool:
        if self.iterative and not request.flags & SEQUENCE_START:
            return False  # the model shall hear of it, when it sees the request again
        removed = self._book.remove(request)
        for other in removed:
            if other is not request:
                other.cancelled = True
                self._owner.dropped(other, ServerError(Code.CANCELLED, "Request cancelled"))
        self._pump_soon()
        return bool(removed)

    def is_queued(self, request: Request) -> bool:
        return self._book.is_waiting(request)

    def freed(self, instance: Instance) -> None:
        if instance.state is State.READY:
            self._book.open_lane(self._instances.index(instance))
            if self._turns is not None:
                self._freed.append(instance)
            self._pump_soon()

    def died(self, instance: Instance, unstarted: list[Request]) -> list[Request]:
        if self._turns is not None:
            self._turns.died(instance)
        lost = self._book.close_lane(self._instances.index(instance))
        self._pump_soon()
        return lost

    def stop(self) -> list[Request]:
        self._stopped = True
        if self._turns is not None:
            self._turns.end()
        for handle in (self._pump_handle, self._timer):
            if handle is not None:
                handle.cancel()
        return self._book.drain()

    # -- what only a model with sequences asks

    def again(self, requests: list[Request]) -> None:
        """Requests of an iterative model that were executed and shall be once more."""
        now = time.monotonic_ns()
        for request in requests:
            request.flags &= ~SEQUENCE_START
            request.inputs = [tensor for tensor in request.inputs if tensor.name not in self._added_names]
            request.queued_ns = now
            self._book.again(request)
        self._pump_soon()

    @property
    def open_count(self) -> int:
        """Sequences that more requests may belong to."""
        return self._book.open_count

    async def finish(self) -> None:
        """Begin no sequence any more; return when none is open."""
        self._finished = asyncio.get_running_loop().create_future()
        self._pump_soon()
        await self._finished

    # -- requests

    def _check(self, request: Request, key: Hashable) -> None:
        name, correlation_id = self._settings.model_name, request.correlation_id
        if request.batch_size > 1:
            raise _refused(
                f"inference request to model '{name}' must specify batch-size 1 due to requirements of sequence batcher"
            )
        if not correlation_id:
            raise _refused(f"inference request to model '{name}' must specify a non-zero or non-empty correlation ID")
        control = self._added.correlation
        if control is not None and (control.datatype == "BYTES") != isinstance(correlation_id, str):
            given = "BYTES" if isinstance(correlation_id, str) else "UINT64"
            raise _refused(
                f"{request.rid}sequence batching control '{control.name}' data-type is "
                f"'{given}', but model '{name}' expects '{control.datatype}'"
            )
        is_open, starts = self._book.is_open(key), request.flags & SEQUENCE_START
        if not is_open and not starts:
            raise _refused(
                f"inference request for sequence {correlation_id} to model '{name}' must specify the START flag on the "
                "first request of the sequence"
            )
        if not is_open and self._finished is not None:
            raise ServerError(
                Code.UNAVAILABLE,
                "Server is stopping, scheduler for model has stopped accepting new inference requests",
            )
        if is_open and starts:
            _log.warning(
                f"sequence {correlation_id} for model '{name}' has a conflict. The previous sequence did not end "
                "before this sequence start. Previous sequence will be terminated early."
            )

    def _new_id(self) -> int | str:
        control = self._added.correlation
        number = next(self._new_ids)
        return str(number) if control is not None and control.datatype == "BYTES" else number

    def _responder(self, request: Request) -> Respond:
        """What takes the answers to a request from now on; states are asked for, and kept from the client."""
        shown = request.outputs or self._settings.outputs
        hidden = frozenset(name for name in self._input_names if name not in shown)
        if hidden:
            request.outputs = [*shown, *hidden]
        return partial(self._respond, request.respond, hidden)

    def _respond(self, respond: Respond, hidden: frozenset[str], response: Response) -> None:
        request = response.request
        if self._input_names and self._book.is_known(request):
            states = self._book.sequence(request).states
            for tensor in response.outputs:
                name = self._input_names.get(tensor.name)
                if name is not None:
                    states[name] = Tensor(name, tensor.datatype, tensor.shape, tensor.data)
            response.outputs = [tensor for tensor in response.outputs if tensor.name not in hidden]
        if response.final:
            self._book.answered(request, time.monotonic_ns())
            self._pump_soon()
        respond(response)

    # -- batches

    def _pump_soon(self) -> None:
        if self._pump_handle is None and not self._stopped:
            self._pump_handle = asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Hand out what may run now."""
        self._pump_handle = None
        now = time.monotonic_ns()
        for request in self._book.expire(now):
            text = "timeout of the corresponding sequence has been expired"
            self._owner.dropped(request, ServerError(Code.UNAVAILABLE, text))
        idle = [one for one in self._instances if one.state is State.READY and not one.executions]
        due = [instance for instance in idle if self._lane(instance).is_due(now)]
        if self._turns is not None:
            self._pass_turns_on(self._turns, now)
            self._turns.set_waiting(due)
        else:
            for instance in due:
                self._start(instance)
        wakes = [self._book.wake_ns(), *(self._lane(instance).wake_ns() for instance in idle if instance not in due)]
        self._wake_at(min((wake for wake in wakes if wake is not None), default=None), now)
        if self._finished is not None and not self._book.open_count and not self._finished.done():
            self._finished.set_result(None)

    def _pass_turns_on(self, turns: Turns, now: int) -> None:
        freed, self._freed = self._freed, []
        for instance in freed:
            turns.freed(instance, has_work=self._lane(instance).is_due(now))

    def _lane(self, instance: Instance) -> Lane:
        return self._lanes[self._instances.index(instance)]

    def _start(self, instance: Instance) -> bool:
        """Have an idle instance execute what is due; whether there was anything."""
        now = time.monotonic_ns()
        batch = self._lane(instance).next_batch(now)
        if batch is not None:
            instance.execute(self._completed(batch), now)
        return batch is not None

    def _completed(self, batch: list[Request | None]) -> list[Request]:
        """The batch as it is executed: what is added to its requests, null requests where there are none."""
        requests = [request for request in batch if request is not None]
        pads = self._settings.pads and len(requests) < len(batch)
        null_inputs = [*map(self._zeros.like, requests[0].inputs), *self._added.of_null] if pads else []
        for request in requests:
            sequence = self._book.begin(request)
            if request.flags & SEQUENCE_START:
                sequence.states = self._added.initial_states
            request.inputs = [*request.inputs, *self._added.of(request, sequence.states)]
        if not pads:
            return requests
        return [NullRequest(self._settings.model_name, null_inputs) if one is None else one for one in batch]

    def _wake_at(self, wake_ns: int | None, now: int) -> None:
        if wake_ns is None or (self._timer is not None and self._timer_ns <= wake_ns):
            return  # a timer that rings too early is set anew then
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns = wake_ns
        self._timer = asyncio.get_running_loop().call_later(max(0, wake_ns - now) / 1e9, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._pump_soon()


def _refused(message: str) -> ServerError:
    return ServerError(Code.INVALID_ARG, message)
