"""The services on the wire, whatever transport carries them: bytes of a message in, bytes of a message out.

Owns admission (shutdown, restricted protocols, header forwarding) and the RPCs. A transport finds them by path in
:attr:`InferenceService.control`, and at :data:`INFER` and :data:`STREAM`; every failure is a ServerError that it
maps to a status. It must call everything here on the server's event loop.
See also: ``control`` for what is not inference, ``stream`` for a stream's life, ``grpcio_transport``, a transport.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from atoll_ipc.memory import Block

from atoll.errors import Code, ServerError, unforeseen
from atoll.frontends.forwarding import compile_pattern, forward, matching
from atoll.frontends.grpc.codec import parse
from atoll.frontends.grpc.control import CONTROL_RPCS, SERVICE, ControlRpc
from atoll.frontends.grpc.incoming import Incoming, RequestReader
from atoll.frontends.grpc.reply import Reply, single_answer
from atoll.frontends.grpc.stream import InferStream
from atoll.frontends.grpc.wire import Buffer, Parts, Take, first_raw_input
from atoll.frontends.tracing import GRPC, WhenSent, trace_request
from atoll.inference import Request, Response

if TYPE_CHECKING:
    from atoll.core.model import Model
    from atoll.core.server import Server

__all__ = ["Headers", "INFER", "InferenceService", "STREAM"]

INFER = f"/{SERVICE}/ModelInfer"
STREAM = f"/{SERVICE}/ModelStreamInfer"

Headers = Callable[[], Iterable[tuple[str, "str | bytes"]]]
"""Gives a call's metadata; a function, because most calls never look at it and reading it costs."""

_ALIGNMENT = 64
_SHUTTING_DOWN = "GRPC server is shutting down and has stopped accepting new requests."
_RESTRICTED_PREFIX = "triton-grpc-protocol-"


class InferenceService:
    """The RPCs over one server.

    ``restricted`` maps a category of RPCs to the metadata key and value that its callers must send; metadata whose key
    matches ``forward_pattern`` becomes parameters of inference requests.
    """

    def __init__(
        self, server: Server, *, restricted: Mapping[str, tuple[str, str]] | None = None, forward_pattern: str = ""
    ) -> None:
        self.server = server
        self.control: dict[str, Callable[[Buffer, Headers], Awaitable[Parts]]] = {
            path: partial(self._control, rpc) for path, rpc in CONTROL_RPCS.items()
        }
        self._restricted = restricted or {}
        self._forwarded = compile_pattern(forward_pattern)
        self._accepting = True
        self.read = RequestReader().read

    def refuse_new_calls(self) -> None:
        """From now on every new call is told that the server shuts down."""
        self._accepting = False

    def room(self, beginning: Buffer, nbytes: int) -> tuple[Block, int] | None:
        """Where a large infer request goes while it arrives, by how it begins: a block, and the place in its chunk.

        The place is such that the first tensor lies on a 64-byte boundary. None where the request says too late, or
        wrongly, which model it is for. Raises ServerError when the model has no memory left.
        """
        found = first_raw_input(beginning)
        if found is None:
            return None
        name, version, offset = found
        try:
            model = self.server.model(name, version)
        except ServerError:
            return None
        pad = -offset % _ALIGNMENT
        block = model.allocate(pad + nbytes)
        return block, block.start + pad

    def infer(
        self,
        body: Buffer,
        headers: Headers,
        done: Callable[[Parts | ServerError], None],
        when_sent: WhenSent,
        began_ns: int,
        take: Take | None = None,
    ) -> Request:
        """ModelInfer. Raises when the request is refused; else ``done`` is called later, once.

        ``began_ns`` is when the request began to come in, or 0. ``take`` gives parts of a ``body`` that lies in shared
        memory by reference. The request that is returned is for ``server.cancel``, should the client go away.
        """
        self._admit("inference", headers)
        incoming = self.read(body, take)
        model = self.server.model(incoming.model_name, incoming.model_version)
        if model.decoupled:
            raise ServerError(
                Code.UNSUPPORTED, "ModelInfer RPC doesn't support models with decoupled transaction policy"
            )

        def respond(reply: Reply, response: Response) -> None:
            if response.error is not None:
                done(response.error)
                return
            try:
                done(single_answer(response, reply))
            except ServerError as error:
                # As data: its traceback would keep this frame, and so the tensors, in a cycle.
                done(error.with_traceback(None))

        return self.submit(incoming, model, headers, respond, began_ns, when_sent)

    def open_stream(
        self,
        headers: Headers,
        send: Callable[[Parts, object], None],
        end: Callable[[ServerError | None], None],
        when_sent: WhenSent,
    ) -> InferStream:
        """ModelStreamInfer. Raises when the call is refused."""
        self._admit("inference", headers)
        return InferStream(self, headers, send, end, when_sent)

    def submit(
        self,
        incoming: Incoming,
        model: Model,
        headers: Headers,
        respond: Callable[[Reply, Response], None],
        began_ns: int,
        when_sent: WhenSent,
    ) -> Request:
        """Hand a parsed request for ``model`` to the core. Raises when it is refused."""
        reply = Reply(model, incoming.model_version)
        request = incoming.decode(reply, partial(respond, reply), self.server.regions)
        if self._forwarded is not None:
            forward(matching(self._forwarded, headers()), request)
        if self.server.tracer.is_on:
            trace_request(self.server.tracer, request, GRPC, began_ns, partial(_header, headers), when_sent)
        self.server.infer(request)
        return request

    def now_if_traced(self) -> int:
        """The time, where somebody may want to know it."""
        return time.monotonic_ns() if self.server.tracer.is_on else 0

    async def _control(self, rpc: ControlRpc, body: Buffer, headers: Headers) -> Parts:
        self._admit(rpc.category, headers)
        try:
            message = await rpc.answer(self.server, parse(rpc.request, body))
            return [message.SerializeToString()]
        except ServerError:
            raise
        except Exception as error:  # unanswered, its client would wait for ever
            raise unforeseen(error) from None

    def _admit(self, category: str, headers: Headers) -> None:
        if not self._accepting:
            raise ServerError(Code.UNAVAILABLE, _SHUTTING_DOWN)
        if category in self._restricted:
            key, value = self._restricted[category]
            key = f"{_RESTRICTED_PREFIX}{key}".lower()
            if (key, value) not in headers():
                raise ServerError(Code.UNAVAILABLE, f"This protocol is restricted, expecting header '{key}'")


def _header(headers: Headers, name: str) -> str:
    value = next((value for key, value in headers() if key == name), "")
    return value if isinstance(value, str) else value.decode("latin-1")
