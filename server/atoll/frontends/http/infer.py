"""The infer requests of one connection: from a complete body to the core, and from its response to the bytes sent.

The hot path of the HTTP frontend. See also: ``codec`` for what the bytes mean, ``connection`` for the socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from atoll.core.model import Model
from atoll.errors import Code, ServerError
from atoll.frontends.forwarding import forward
from atoll.frontends.http.answer import JSON, OK, TEXT, error_answer
from atoll.frontends.http.codec import InferCodec, parse_header_length
from atoll.frontends.http.compression import CODINGS, UNSUPPORTED, deflated, inflated
from atoll.frontends.http.head import Head
from atoll.frontends.http.plan import InferPlan
from atoll.frontends.http.routes import Route
from atoll.frontends.tracing import HTTP, soon, trace_request
from atoll.inference import Request, Response, TensorData

if TYPE_CHECKING:
    from atoll.frontends.http.connection import Connection
    from atoll.frontends.http.listener import HttpFrontend

__all__ = ["Inference", "Taker"]

Buffer = bytes | bytearray | memoryview
Taker = Callable[[int, int], TensorData]


class Inference:
    """One request at a time; the connection is told the answer."""

    __slots__ = ("_codec", "_coding", "_connection", "_frontend", "_head", "_plan", "_request", "_server")

    def __init__(self, frontend: HttpFrontend, connection: Connection) -> None:
        self._frontend = frontend
        self._server = frontend.server
        self._connection = connection
        self._request: Request | None = None
        self._codec: InferCodec | None = None
        self._head: Head | None = None
        self._plan: InferPlan | None = None
        self._coding: asyncio.Future[None] | None = None  # of a body, aside

    def begin(self, head: Head, route: Route, body: bytes | memoryview, take: Taker | None) -> None:
        """``take`` gives parts of the body by reference; None where a copy will do."""
        try:
            model = self._server.model(route.model, route.version)
            if model.decoupled:
                raise ServerError(
                    Code.UNSUPPORTED, "HTTP end point doesn't support models with decoupled transaction policy"
                )
        except ServerError as error:
            self._connection.answer(error_answer(error, TEXT))
            return
        if not head.content_encoding:
            self._submit(model, head, body, take)
        elif head.content_encoding in CODINGS:
            self._coding = asyncio.ensure_future(self._submit_inflated(route, head, body))
        else:
            self._connection.answer(UNSUPPORTED)

    def cancel(self) -> None:
        """The client is gone."""
        if self._request is not None:
            self._server.cancel(self._request)

    async def _submit_inflated(self, route: Route, head: Head, body: bytes | memoryview) -> None:
        try:
            data = memoryview(await inflated(body, self._frontend.options.max_input_size))
            model = self._server.model(route.model, route.version)  # another may have taken its place meanwhile
        except ServerError as error:
            self._connection.answer(error_answer(error, TEXT))
            return
        if self._connection.is_open:
            self._submit(model, head, data, lambda offset, nbytes: data[offset : offset + nbytes])

    def _submit(self, model: Model, head: Head, body: bytes | memoryview, take: Taker | None) -> None:
        content_type = TEXT
        try:
            json_nbytes = head.json_nbytes
            if head.json_length is not None and (json_nbytes is None or json_nbytes > len(body)):
                json_nbytes = parse_header_length(head.json_length, len(body))
            content_type = JSON
            codec = self._codec
            if codec is None or codec.model is not model:
                codec = self._codec = self._frontend.codec(model)
            request, self._plan = codec.decode(body, json_nbytes, take, self._on_response)
            if head.forwarded:
                forward(head.forwarded, request)
            self._request = request
            self._head = head
            if self._server.tracer.is_on:
                trace_request(
                    self._server.tracer, request, HTTP, self._connection.began_ns, head.header, self._when_sent
                )
            self._server.submit(model, request)
        except ServerError as error:
            self._request = None
            self._connection.answer(error_answer(error, content_type))

    def _when_sent(self, told: Callable[[None], None]) -> None:
        if self._coding is None or self._coding.done():
            soon(told)
        else:
            self._coding.add_done_callback(lambda _: soon(told))

    def _on_response(self, response: Response) -> None:
        """Called by the core, once."""
        plan, codec, connection = self._plan, self._codec, self._connection
        self._request = self._plan = None
        if not connection.is_open:
            return
        if response.error is not None:
            connection.answer(error_answer(response.error, TEXT))
            return
        assert plan is not None
        assert codec is not None
        try:
            content_type, json_nbytes, parts = codec.encode(response, plan)
        except ServerError as error:
            connection.answer(error_answer(error, TEXT))
            return
        length = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
        if json_nbytes is None:
            head = b"%b%b\r\n" % (OK, content_type)
        else:
            head = b"%b%b\r\nInference-Header-Content-Length: %d\r\n" % (OK, content_type, json_nbytes)
        assert self._head is not None
        if self._head.reply_coding:
            self._coding = asyncio.ensure_future(self._respond_deflated(self._head.reply_coding, head, parts, length))
        else:
            connection.respond(head, parts, length)

    async def _respond_deflated(self, coding: bytes, head: bytes, parts: list[Buffer], length: int) -> None:
        body = await deflated(coding, parts, length)
        if len(body) < length:
            self._connection.respond(b"%bContent-Encoding: %b\r\n" % (head, coding), [body], len(body))
        else:
            self._connection.respond(head, parts, length)
