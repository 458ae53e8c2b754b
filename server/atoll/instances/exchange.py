"""The requests at one instance: sent to its stub in executions, answered by RESULT, FAILED and RESPONSE messages.

Most requests are answered by what ``execute`` returns, in RESULT. One that is not (a decoupled model, a response
sender) stays *open* after its execution has ended, until its last response has come.
"""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from atoll_ipc.wire import Kind, response_nbytes

from atoll.errors import Code, ServerError
from atoll.inference import Request, Response
from atoll.instances.channel import Channel
from atoll.instances.receipts import Receipt, Receipts
from atoll.trace import Trace

if TYPE_CHECKING:
    from atoll.instances.instance import Instance

__all__ = ["Exchange", "Execution", "RequestOwner"]

Key = tuple[int, int]


class Execution:
    """One batch at the stub. ``began_ns`` is when it was sent, or when the one before it ended.

    ``stub_began_ns`` is when the stub took it up; known when it was executed. One that ``was_sent_ahead`` waits at the
    stub, where it may still be dropped.
    """

    __slots__ = ("began_ns", "ended", "id", "is_dropped", "requests", "stub_began_ns", "was_sent_ahead")

    def __init__(self, id: int, requests: list[Request], began_ns: int) -> None:
        self.id = id
        self.requests = requests
        self.began_ns = began_ns
        self.stub_began_ns = 0
        self.was_sent_ahead = False
        self.is_dropped = False  # its request was cancelled, and answered, before it began
        self.ended: set[int] = set()  # which of them a response sender has ended already


class RequestOwner(Protocol):
    """Whose requests they are. All calls come on the event loop."""

    def executed(
        self, instance: Instance, execution: Execution, responses: list[Response], times_ns: tuple[int, int, int]
    ) -> None:
        """An execution ended; requests without a response here are open, or were answered before."""

    def dropped_ended(self, instance: Instance) -> None:
        """The turn of an execution that was dropped is over."""

    def execution_failed(self, instance: Instance, execution: Execution, error: ServerError) -> None:
        """None of the execution's requests will get another response."""

    def responded(self, instance: Instance, request: Request, response: Response, output_ns: int) -> None:
        """A response sender answered; the request is done when the response is final.

        ``output_ns`` is the time that the stub took to put the outputs in their place.
        """

    def rescheduled(self, instance: Instance, requests: list[Request]) -> None:
        """The model wants to see these again."""


class Exchange:
    """What is at the stub. ``executions`` are in the order in which the stub runs them."""

    def __init__(self, instance: Instance, owner: RequestOwner, version: int) -> None:
        self.executions: collections.deque[Execution] = collections.deque()
        self.recent_execution_ns = 0  # moving average; decides whether requests are sent ahead
        self._instance = instance
        self._owner = owner
        self._version = version
        self._open: dict[Key, Request] = {}
        self._next_id = 0
        self._channel: Channel | None = None
        self._receipts: Receipts | None = None
        self._idle: asyncio.Future[None] | None = None  # who waits for the end of all that is at the stub

    def attach(self, channel: Channel, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """A new stub is there to talk to. ``call_soon`` is the event loop's, from any thread."""
        self._channel = channel
        self._receipts = Receipts(channel, call_soon)

    @property
    def open_count(self) -> int:
        return len(self._open)

    def idle(self) -> asyncio.Future[None]:
        """Done when nothing is at the stub any more; asked for once nothing new comes."""
        self._idle = asyncio.get_running_loop().create_future()
        self._check_idle()
        return self._idle

    def pretend_idle(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _check_idle(self) -> None:
        if not self.executions and not self._open:
            self.pretend_idle()

    def execute(self, requests: list[Request], now_ns: int) -> None:
        """Send a batch to the stub."""
        channel = self._channel
        assert channel is not None
        self._next_id += 1
        alone = not self.executions
        self.executions.append(Execution(self._next_id, requests, now_ns))
        describe = channel.describe
        batch: list[list[Any]] = []
        placements: list[list[Any]] = []
        for request in requests:
            request.began_ns = now_ns
            if request.cancelled:  # since it was rescheduled; the model shall know before it sees the request again
                channel.send([Kind.CANCEL, self._next_id, len(batch), False])
            if request.placements is not None:
                placements += channel.describe_placements(len(batch), request.placements)
            batch.append(
                [
                    request.id,
                    request.correlation_id,
                    request.flags,
                    request.timeout_us,
                    request.parameters,
                    request.outputs,
                    [describe(tensor) for tensor in request.inputs],
                    None if request.trace is None else request.trace.for_stub(),
                ]
            )
        send = channel.send if alone else channel.send_soon
        send([Kind.EXECUTE, self._next_id, batch, channel.take_freed(), alone, placements])

    def cancel(self, request: Request) -> bool:
        """Tell the stub that the client of a request has given up; True when it is not to be executed any more."""
        key = next((key for key, known in self._open.items() if known is request), None)
        if key is not None and self._channel is not None:
            self._channel.send([Kind.CANCEL, *key, False])
        for position, execution in enumerate(self.executions):
            if request in execution.requests and self._channel is not None:
                execution.is_dropped = execution.was_sent_ahead and position > 0
                index = execution.requests.index(request)
                self._channel.send([Kind.CANCEL, execution.id, index, execution.is_dropped])
                return execution.is_dropped
        return False

    def trace(self, id: int) -> Trace | None:
        """The trace of that number, of a request that is executed or open."""
        executed = [request for execution in self.executions for request in execution.requests]
        traces = (request.trace for request in (*executed, *self._open.values()))
        return next((trace for trace in traces if trace is not None and trace.id == id), None)

    def end(self, error: ServerError) -> list[Request]:
        """The stub is gone: fail what it had begun; returns what it had not."""
        open_requests, self._open = list(self._open.values()), {}
        executions = list(self.executions)
        self.executions.clear()
        if executions:
            self._owner.execution_failed(self._instance, executions[0], error)
        for request in open_requests:
            self._owner.responded(self._instance, request, Response(request, self._version, [], error=error), 0)
        self._check_idle()
        return [request for execution in executions[1:] if not execution.is_dropped for request in execution.requests]

    # -- messages

    def on_result(self, message: list[Any]) -> None:
        _, execution_id, results, released, times, rescheduled, began_ns = message
        execution = self._executing(execution_id)
        execution.stub_began_ns = began_ns
        channel = self._channel
        assert channel is not None
        if execution.is_dropped:
            self._take_dropped(channel, execution, results, released)
            return
        responses = []
        for index, (request, result) in enumerate(zip(execution.requests, results, strict=True)):
            if result is not None:
                responses.append(self._response(channel, request, result))
            elif index not in execution.ended and index not in rescheduled:
                self._open[(execution_id, index)] = request
        if released:
            channel.release(released)
        self.recent_execution_ns = (3 * self.recent_execution_ns + times[1]) >> 2
        if rescheduled:
            again = [execution.requests[index] for index in rescheduled]
            self._finished(execution, keep=again)
            self._owner.executed(self._instance, execution, responses, times)
            self._owner.rescheduled(self._instance, again)
        else:
            self._finished(execution)
            self._owner.executed(self._instance, execution, responses, times)

    def _take_dropped(
        self, channel: Channel, execution: Execution, results: list[Any], released: list[list[int]]
    ) -> None:
        """Nobody wants to know; it may have been run all the same, when the news came too late."""
        for result in results:
            if result is not None:
                channel.discard(result[0])
        channel.release(released)
        self._finished(execution)
        self._owner.dropped_ended(self._instance)

    def on_failed(self, message: list[Any]) -> None:
        _, execution_id, text, released = message
        execution = self._executing(execution_id)
        assert self._channel is not None
        if execution.is_dropped:
            self._take_dropped(self._channel, execution, [], released)
            return
        self._channel.release(released)
        self._finished(execution)
        text = f"Failed to process the request(s) for model '{self._instance.name}', message: {text}"
        self._owner.execution_failed(self._instance, execution, ServerError(Code.INTERNAL, text))

    def on_response(self, message: list[Any]) -> None:
        _, execution_id, index, result, final, released, output_ns = message
        channel = self._channel
        assert channel is not None
        request = self._open.get((execution_id, index))
        if request is None:
            execution = next((known for known in self.executions if known.id == execution_id), None)
            if execution is not None and index not in execution.ended:
                request = execution.requests[index]
                if final:
                    execution.ended.add(index)
        elif final:
            del self._open[(execution_id, index)]
            if self._idle is not None:
                self._check_idle()
        response = None
        if request is not None:
            if result is None:
                response = Response(request, self._version, [], empty=True)
            else:
                response = self._response(channel, request, result, final)
        elif result is not None:
            channel.discard(result[0])  # of a request that failed meanwhile; its blocks are given back at once
        channel.release(released)
        receipt = None
        if not final and result is not None:
            assert self._receipts is not None
            receipt = Receipt(self._receipts, (execution_id, index), response_nbytes(result[0]))
        if response is not None:
            assert request is not None
            response.receipt = receipt
            self._owner.responded(self._instance, request, response, output_ns)

    def _response(self, channel: Channel, request: Request, result: list[Any], final: bool = True) -> Response:
        tensors, error, parameters = result
        failure = None if error is None else ServerError(Code(error[0]), error[1])
        placements = request.placements
        outputs = channel.tensors(tensors) if placements is None else channel.placed(tensors, placements)
        return Response(request, self._version, outputs, parameters=parameters, error=failure, final=final)

    def _executing(self, execution_id: int) -> Execution:
        """The execution that a message answers. It stays listed, so that it is failed should the rest make no sense."""
        execution = self.executions[0]
        if execution.id != execution_id:
            raise ValueError(f"answer to execution {execution_id}, expected {execution.id}")
        return execution

    def _finished(self, execution: Execution, keep: list[Request] | None = None) -> None:
        self.executions.popleft()
        for request in execution.requests:
            if keep is None or request not in keep:
                request.inputs = []  # not needed for another attempt any more
        if self.executions:
            self.executions[0].began_ns = time.monotonic_ns()
        elif self._idle is not None:
            self._check_idle()
