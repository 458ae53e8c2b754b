"""ModelStreamInfer: one bidirectional stream, its requests, and the order of what is sent back.

1. Requests to models that are not decoupled are answered in request order, whichever finishes first, and so are
   refusals. Each holds a *turn*; the answers of turns that are done are sent from the head of the line.
2. Responses of decoupled models take no turn: they are sent as they are produced.
3. An error is a message, not the end of the stream. If the client asked for status codes (``triton_grpc_error``), a
   failed execution ends it; a refusal never does.
4. After the client's half-close the stream ends once every request has its final response.
5. When the stream ends early, whatever is outstanding is cancelled and nothing more is sent.

No IO here: bytes come in by :meth:`InferStream.receive`, and go out by the two callbacks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from atoll.errors import ServerError
from atoll.frontends.grpc.reply import Reply, refusal, stream_answer
from atoll.frontends.grpc.wire import Buffer, Parts, Take
from atoll.frontends.tracing import WhenSent
from atoll.inference import Request, Response

if TYPE_CHECKING:
    from atoll.frontends.grpc.service import Headers, InferenceService

__all__ = ["InferStream"]


class _Turn:
    """A place in the line; ``answer`` is None until there is one."""

    __slots__ = ("answer",)

    def __init__(self, answer: Parts | ServerError | None = None) -> None:
        self.answer = answer


class InferStream:
    """One stream. ``send`` is called with each serialized message and what to keep until it was read; ``end`` is called
    once, with an error or None for OK.
    """

    def __init__(
        self,
        service: InferenceService,
        headers: Headers,
        send: Callable[[Parts, object], None],
        end: Callable[[ServerError | None], None],
        when_sent: WhenSent,
    ) -> None:
        self._service = service
        self._headers = headers
        self._send = send
        self._end = end
        self._when_sent = when_sent
        self._status_codes = any(key == "triton_grpc_error" and value == "true" for key, value in headers())
        self._line: deque[_Turn] = deque()
        self._outstanding: set[Request] = set()
        self._half_closed = False
        self._ended = False

    def receive(self, body: Buffer, take: Take | None = None) -> None:
        """The client sent a request; ``take`` as for ``InferenceService.infer``."""
        if self._ended:
            return
        began_ns = self._service.now_if_traced()
        try:
            incoming = self._service.read(body, take)
        except ServerError as error:
            self.close(error)
            return
        try:
            model = self._service.server.model(incoming.model_name, incoming.model_version)
            turn = None if model.decoupled else _Turn()
            request = self._service.submit(
                incoming, model, self._headers, partial(self._respond, turn), began_ns, self._when_sent
            )
        except ServerError as error:
            turn = _Turn(refusal(incoming.id, error))
        else:
            self._outstanding.add(request)
        if turn is not None:
            self._line.append(turn)
            self._advance()

    def half_close(self) -> None:
        """The client will send no more requests."""
        self._half_closed = True
        self._end_if_drained()

    def close(self, error: ServerError | None = None) -> None:
        """End the stream now, cancelling what is outstanding. Does nothing after the end."""
        if self._ended:
            return
        self._ended = True
        self._line.clear()
        while self._outstanding:
            self._service.server.cancel(self._outstanding.pop())
        self._end(error)

    def _respond(self, turn: _Turn | None, reply: Reply, response: Response) -> None:
        """Called by the core with each response."""
        if response.final:
            self._outstanding.discard(response.request)
        if self._ended:
            return
        answer: Parts | ServerError
        if response.error is not None and self._status_codes:
            answer = response.error
        else:
            answer = stream_answer(response, reply)
        if turn is None:
            self._deliver(answer, response.receipt)
        else:
            turn.answer = answer
            self._advance()
        self._end_if_drained()

    def _advance(self) -> None:
        """Send the answers at the head of the line that are there."""
        while self._line and (answer := self._line[0].answer) is not None:
            self._line.popleft().answer = None  # the request, which may live on, must not keep the tensors
            self._deliver(answer)

    def _deliver(self, answer: Parts | ServerError, receipt: object = None) -> None:
        if isinstance(answer, ServerError):
            self.close(answer)
        elif answer:
            self._send(answer, receipt)

    def _end_if_drained(self) -> None:
        if self._half_closed and not self._outstanding:
            self.close()
