"""What a model asks of others: BLS, seen from the caller's side, and what the server itself answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from atoll_ipc.wire import Kind

from atoll.errors import Code, ServerError
from atoll.inference import Request, Response
from atoll.instances.channel import Channel
from atoll.instances.receipts import Receipt

if TYPE_CHECKING:
    from atoll.instances.exchange import Execution
    from atoll.instances.instance import Instance

__all__ = ["Answer", "CallOwner", "Calls"]

Answer = Callable[[Any, str | None], None]


class CallOwner(Protocol):
    """Who does what models ask for. All calls come on the event loop."""

    def infer_for(self, instance: Instance, request: Request, *, streaming: bool) -> None:
        """Queue a request of the model in ``instance``. Raises ServerError when it is refused."""

    def cancel_for(self, instance: Instance, request: Request) -> None:
        """Nobody waits for the rest of a request's responses."""

    def chunks_gone(self, chunk_ids: list[int]) -> None: ...

    def log(self, instance: Instance, level: int, origin: str, text: str) -> None:
        """The model logs a line."""

    def ask(self, instance: Instance, topic: str, arguments: list[Any], answer: Answer) -> None:
        """The model uses a metric or controls a model; ``answer`` gets a value, or an error's text."""


class Calls:
    """The calls of one process that are under way: a stub's, or those of a process that its model forked."""

    def __init__(self, instance: Instance, owner: CallOwner) -> None:
        self._instance = instance
        self._owner = owner
        self._requests: dict[int, Request] = {}
        self._blocking: dict[int, Execution] = {}  # the calls that hold up an execution
        self._unread: dict[int, deque[Receipt]] = {}  # of the calls with a stream of responses

    def on_message(self, message: list[Any], channel: Channel) -> None:
        """Raises ValueError for a kind that does not belong here."""
        kind = message[0]
        if kind == Kind.INFER:
            self._on_infer(message, channel)
        elif kind == Kind.RELEASE:
            channel.release(message[1])
        elif kind == Kind.READ:
            self._on_read(message)
        elif kind == Kind.CANCEL_CALL:
            self._on_cancel(message)
        elif kind == Kind.LOG:
            self._owner.log(self._instance, *message[1:])
        elif kind == Kind.ASK:
            _, call_id, topic, arguments = message
            self._owner.ask(self._instance, topic, arguments, partial(self._answer, channel, call_id))
        else:
            raise ValueError(f"unknown kind of message: {kind}")

    def _on_infer(self, message: list[Any], channel: Channel) -> None:
        _, call_id, fields, released = message
        (
            request_id,
            correlation_id,
            flags,
            timeout_us,
            parameters,
            outputs,
            tensors,
            model_name,
            model_version,
            streaming,
            blocking,
            trace_id,
        ) = fields
        request = Request(
            model_name,
            channel.tensors(tensors),
            partial(self._reply, channel, call_id),
            model_version=model_version,
            id=request_id,
            outputs=outputs,
            parameters=parameters,
            correlation_id=correlation_id,
            flags=flags,
            timeout_us=timeout_us,
        )
        channel.release(released)
        if trace_id:
            parent = self._instance.trace(trace_id)
            request.trace = None if parent is None else parent.child()
        executions = self._instance.executions
        if blocking and executions:
            request.callers = (self._instance.name, *executions[0].requests[0].callers)
            self._blocking[call_id] = executions[0]
        self._requests[call_id] = request
        if streaming:
            self._unread[call_id] = deque()
        try:
            self._owner.infer_for(self._instance, request, streaming=streaming)
        except ServerError as error:
            text = f"Model {model_name} - Error when running inference: {error.message}"
            refusal = Response(request, -1, [], error=ServerError(Code.INTERNAL, text))
            self._reply(channel, call_id, refusal)

    def _on_read(self, message: list[Any]) -> None:
        _, call_id, nbytes = message
        unread = self._unread.get(call_id)
        while unread and nbytes > 0:
            nbytes -= unread.popleft().nbytes

    def _on_cancel(self, message: list[Any]) -> None:
        _, call_id, dropped = message
        if dropped:
            self._unread.pop(call_id, None)
        request = self._requests.get(call_id)
        if request is not None:
            self._owner.cancel_for(self._instance, request)

    def waits_for(self) -> list[Request]:
        """The calls that the current execution waits for; with several, it may go on after any of them."""
        executions = self._instance.executions
        current = executions[0] if executions else None
        return [self._requests[call_id] for call_id, holding in self._blocking.items() if holding is current]

    def end(self) -> None:
        """The process is gone: nobody waits any more."""
        requests, self._requests = list(self._requests.values()), {}
        self._blocking.clear()
        self._unread.clear()
        for request in requests:
            self._owner.cancel_for(self._instance, request)

    def chunks_gone(self, chunk_ids: list[int]) -> None:
        """And so is its arena."""
        self._owner.chunks_gone(chunk_ids)

    @staticmethod
    def _answer(channel: Channel, call_id: int, value: Any, error: str | None) -> None:
        if call_id:
            channel.send([Kind.ANSWER, call_id, value, error])

    def _reply(self, channel: Channel, call_id: int, response: Response) -> None:
        if response.final:
            self._requests.pop(call_id, None)
            self._blocking.pop(call_id, None)
            self._unread.pop(call_id, None)
        elif isinstance(response.receipt, Receipt) and call_id in self._unread:
            self._unread[call_id].append(response.receipt)
        failure = response.error
        answer = None
        if not response.empty:
            answer = [
                [channel.describe(tensor) for tensor in response.outputs],
                None if failure is None else [int(failure.code), failure.message],
                response.parameters,
            ]
        channel.send([Kind.REPLY, call_id, answer, channel.take_freed(), response.final])
