"""One HTTP connection: bytes in, requests to the core, responses out in the order of the requests.

Written against ``asyncio.BufferedProtocol``: the socket is read straight into where the bytes belong. While a head is
awaited that is a buffer which all connections share (one read and its callback are never interrupted); while a large
body is awaited it is the shared-memory block the model will read it from, placed so that the first tensor behind the
JSON lies on a 64-byte boundary.

::

    HEAD ──► BODY (length, chunked, or discarded after a refusal) ──► BUSY (in the core) ──► write ──► HEAD

One request is in progress at a time; what a client pipelines waits in ``_pending``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from atoll.errors import Code, ServerError
from atoll.frontends.http.body import BLOCK_NBYTES, IncomingBody, make_room
from atoll.frontends.http.chunked import BadChunk, ChunkedBody
from atoll.frontends.http.codec import JSON, InferCodec, parse_header_length
from atoll.frontends.http.head import MAX_HEAD_NBYTES, BadHead, Head
from atoll.frontends.http.plan import InferPlan
from atoll.frontends.http.routes import TEXT, Answer, Route, error_answer, find_route
from atoll.inference import Request, Response, TensorData

if TYPE_CHECKING:
    from atoll.frontends.http.listener import HttpFrontend

__all__ = ["Connection"]

Taker = Callable[[int, int], TensorData]

_MAX_DISCARD_NBYTES = 1 << 30
_JOIN_NBYTES = 64 << 10

_REASONS = {
    200: b"OK",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Not Allowed",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    503: b"Service Unavailable",
}
_STATUS_LINES = {status: b"HTTP/1.1 %d %b\r\nContent-Type: " % (status, reason) for status, reason in _REASONS.items()}
_OK = _STATUS_LINES[200]


class Connection(asyncio.BufferedProtocol):
    """The protocol object of one accepted socket."""

    def __init__(self, frontend: HttpFrontend) -> None:
        self._frontend = frontend
        self._server = frontend.server
        self._transport: asyncio.Transport | None = None
        self._shared = frontend.receive_buffer
        self._pending = b""  # received and not yet looked at
        self._head: Head | None = None
        self._body: IncomingBody | None = None
        self._discarding = 0
        self._chunked: ChunkedBody | None = None
        self._refusal: Answer | None = None
        self._busy = False
        self._looping = False
        self._request: Request | None = None
        self._codec: InferCodec | None = None
        self._plan: InferPlan | None = None
        self._answering: asyncio.Future[None] | None = None
        self._write_paused = False
        self._closing = False

    # -- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._frontend.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._frontend.connections.discard(self)
        self._body = None
        if self._request is not None:
            self._server.cancel(self._request)

    def get_buffer(self, sizehint: int) -> memoryview:
        body = self._body
        return self._shared if body is None else body.view[body.filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._busy:
            self._pending += self._shared[:nbytes]
            if len(self._pending) > MAX_HEAD_NBYTES and self._transport is not None:
                self._transport.pause_reading()
        elif self._body is not None:
            self._body.filled += nbytes
            self._dispatch_complete(self._body)
        elif self._pending:
            self._pending += self._shared[:nbytes]
            self._read_pending()
        else:
            self._read(self._shared[:nbytes])

    def eof_received(self) -> bool:
        return False  # most likely the client went away: what it asked for is cancelled, what is answered is still sent

    def pause_writing(self) -> None:
        # Who does not read answers need not be read either, or they would pile up here.
        self._write_paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            if not self._busy:
                self._read_pending()

    # -- reading

    def _read_pending(self) -> None:
        if self._looping:
            return  # an answer given at once, below
        self._looping = True
        while self._pending and not self._busy and not self._write_paused and self._transport is not None:
            data, self._pending = self._pending, b""
            before = len(data)
            self._read(memoryview(data))
            if len(self._pending) == before:
                break  # an incomplete head
        self._looping = False

    def _read(self, data: memoryview) -> None:
        """Look at received bytes: a head, the rest of a discarded body, a chunk."""
        if self._chunked is not None:
            self._read_chunks(bytes(data))
            return
        if self._discarding:
            taken = min(self._discarding, len(data))
            self._discarding -= taken
            self._pending = bytes(data[taken:])
            if not self._discarding:
                self._respond_refusal()
            return
        raw = bytes(data) if len(data) <= BLOCK_NBYTES else bytes(data[:BLOCK_NBYTES])
        end = raw.find(b"\r\n\r\n")
        if end < 0:
            self._pending = raw = bytes(data)
            if b"\r\n\r\n" not in raw:
                if len(raw) > MAX_HEAD_NBYTES:
                    self._abort()
                return
            end = raw.find(b"\r\n\r\n")
            self._pending = b""
        end += 4
        try:
            head = self._frontend.heads.read(raw[:end])
        except BadHead:
            self._abort()
            return
        self._head = head
        if head.target is None:
            head.target = find_route(head.method, head.path)
        length = head.content_length
        if head.chunked:
            self._begin_chunked(head, bytes(data[end:]))
        elif length <= len(data) - end and length <= BLOCK_NBYTES:
            stop = end + length
            self._pending = bytes(data[stop:])
            self._dispatch(head, bytes(data[end:stop]))
        else:
            self._begin_body(head, data[end:])

    def _begin_body(self, head: Head, first: memoryview) -> None:
        """The body is large, or not all here yet."""
        route = head.target
        if isinstance(route, Answer):
            self._refuse(route, head.content_length, first)
            return
        assert isinstance(route, Route)
        try:
            body = self._body = make_room(self._server, route, head, self._frontend.options.max_input_size)
        except ServerError as error:
            self._refuse(error_answer(error, TEXT), head.content_length, first)
            return
        if head.expects_continue and not first and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        taken = body.write(first)
        self._pending = bytes(first[taken:])
        self._dispatch_complete(body)

    def _dispatch_complete(self, body: IncomingBody) -> None:
        if body.is_complete:
            assert self._head is not None
            self._body = None
            self._dispatch(self._head, body.view, body.taker())

    def _refuse(self, answer: Answer, length: int, first: memoryview) -> None:
        """Answer a request without its body: after the rest has gone by; if it is huge, at once and for good."""
        self._refusal = answer
        if length > _MAX_DISCARD_NBYTES or (self._head is not None and self._head.expects_continue and not first):
            self._closing = True  # who waits for a word may send the body all the same: what follows could be that
            self._respond_refusal()
            return
        taken = min(length, len(first))
        self._discarding = length - taken
        self._pending = bytes(first[taken:])
        if not self._discarding:
            self._respond_refusal()

    def _respond_refusal(self) -> None:
        answer, self._refusal = self._refusal, None
        assert answer is not None
        self._write_answer(answer)

    def _begin_chunked(self, head: Head, first: bytes) -> None:
        if head.expects_continue and not first and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._chunked = ChunkedBody(max(self._frontend.options.max_input_size, _MAX_DISCARD_NBYTES))
        if first:
            self._read_chunks(first)

    def _read_chunks(self, data: bytes) -> None:
        assert self._chunked is not None
        assert self._head is not None
        try:
            rest = self._chunked.feed(data)
        except BadChunk:
            self._abort()
            return
        except ServerError as error:
            self._closing = True
            self._write_answer(error_answer(error, JSON))
            return
        if rest is not None:
            body = bytes(self._chunked.body)
            self._chunked = None
            self._pending = rest
            self._dispatch(self._head, body)

    # -- answering

    def _dispatch(self, head: Head, body: bytes | memoryview, take: Taker | None = None) -> None:
        """A request is complete."""
        route = head.target
        if type(route) is Route:
            if route.answer is None:
                self._infer(head, route, body, take)
                return
            try:
                answer = route.answer(self._server, route, bytes(body))
            except ServerError as error:
                answer = error_answer(error, route.content_type)
            if not isinstance(answer, Answer):
                self._busy = True
                self._answering = asyncio.ensure_future(self._answer_later(route, answer))
                return
        else:
            assert isinstance(route, Answer)
            answer = route
        self._write_answer(answer)

    async def _answer_later(self, route: Route, coming: Awaitable[Answer]) -> None:
        try:
            answer = await coming
        except ServerError as error:
            answer = error_answer(error, route.content_type)
        self._write_answer(answer)

    def _infer(self, head: Head, route: Route, body: bytes | memoryview, take: Taker | None) -> None:
        content_type = TEXT
        self._busy = True
        try:
            model = self._server.model(route.model, route.version)
            if model.decoupled:
                raise ServerError(
                    Code.UNSUPPORTED, "HTTP end point doesn't support models with decoupled transaction policy"
                )
            if head.content_encoding and head.content_encoding != b"identity":
                raise ServerError(Code.UNSUPPORTED, "Unsupported compression type")
            json_nbytes = head.json_nbytes
            if head.json_length is not None and (json_nbytes is None or json_nbytes > len(body)):
                json_nbytes = parse_header_length(head.json_length, len(body))
            content_type = JSON
            codec = self._codec
            if codec is None or codec.model is not model:
                codec = self._codec = self._frontend.codec(model)
            request, self._plan = codec.decode(body, json_nbytes, take, self._on_response)
            self._request = request
            self._server.submit(model, request)
        except ServerError as error:
            self._request = None
            self._write_answer(error_answer(error, content_type))

    def _on_response(self, response: Response) -> None:
        """Called by the core, once."""
        plan, codec = self._plan, self._codec
        self._request = self._plan = None
        if self._transport is None:
            return
        if response.error is not None:
            self._write_answer(error_answer(response.error, TEXT))
            return
        assert plan is not None
        assert codec is not None
        try:
            content_type, json_nbytes, parts = codec.encode(response, plan)
        except ServerError as error:
            self._write_answer(error_answer(error, TEXT))
            return
        length = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
        if json_nbytes is None:
            head = b"%b%b\r\nContent-Length: %d\r\n%b\r\n" % (_OK, content_type, length, self._connection_header())
        else:
            head = b"%b%b\r\nInference-Header-Content-Length: %d\r\nContent-Length: %d\r\n%b\r\n" % (
                _OK,
                content_type,
                json_nbytes,
                length,
                self._connection_header(),
            )
        if length <= _JOIN_NBYTES:
            self._transport.write(b"".join((head, *parts)))
        else:
            self._transport.writelines([head, *parts])
        self._done()

    def _write_answer(self, answer: Answer) -> None:
        if self._transport is None:
            return
        self._transport.write(
            b"%b%b\r\nContent-Length: %d\r\n%b\r\n%b"
            % (
                _STATUS_LINES[answer.status],
                answer.content_type,
                len(answer.body),
                self._connection_header(),
                answer.body,
            )
        )
        self._done()

    def _connection_header(self) -> bytes:
        head = self._head
        if self._closing or (head is not None and not head.keep_alive):
            return b"Connection: close\r\n"
        return b"Connection: keep-alive\r\n" if head is not None and head.http_1_0 else b""

    def _done(self) -> None:
        """A response was written: on to the next request, or the end."""
        assert self._transport is not None
        self._busy = False
        if self._closing or self._head is None or not self._head.keep_alive:
            self._pending = b""
            self._transport.close()
        elif self._pending and not self._write_paused:
            self._transport.resume_reading()
            self._read_pending()

    # -- the end

    def close_when_idle(self) -> None:
        """The server stops: finish the request in progress, take no other."""
        self._closing = True
        if not self._busy and self._transport is not None:
            self._transport.close()

    def _abort(self) -> None:
        """What came is no HTTP that can be answered."""
        if self._transport is not None:
            self._transport.abort()
