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
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, cast

from atoll.errors import ServerError, unforeseen
from atoll.frontends.http.answer import CLOSING, JSON, Answer, error_answer, response_opening
from atoll.frontends.http.body import BLOCK_NBYTES, IncomingBody, make_room
from atoll.frontends.http.chunked import BadChunk, ChunkedBody
from atoll.frontends.http.generation import Generation
from atoll.frontends.http.head import MAX_HEAD_NBYTES, BadHead, Head
from atoll.frontends.http.infer import Inference, Taker
from atoll.frontends.http.routes import Route, Task

if TYPE_CHECKING:
    from atoll.frontends.http.listener import HttpFrontend

__all__ = ["Connection"]

_MAX_DISCARD_NBYTES = 1 << 30
_JOIN_NBYTES = 64 << 10
_HIGH_WATER_NBYTES = 64 << 10
_INFER = Task.INFER


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
        self._inference = Inference(frontend, self)
        self._generation: Generation | None = None
        self._answering: asyncio.Future[None] | None = None
        self._write_paused = False
        self._receipts: list[object] = []  # of what the client has not read
        self._closing = False  # after the request in progress
        self._silent: asyncio.Transport | None = None  # in place of the other, once nobody gets an answer any more
        self._leaving = False  # as soon as what was written is on its way
        self.began_ns = 0  # when the head of the request in progress was there; noted only while requests are traced

    # -- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(_HIGH_WATER_NBYTES)  # that of a TLS transport is another one
        self._frontend.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = self._silent = None
        self._frontend.connections.discard(self)
        self._body = None
        self._receipts.clear()
        self._inference.cancel()
        if self._generation is not None:
            self._generation.cancel()

    def get_buffer(self, sizehint: int) -> memoryview:
        body = self._body
        return self._shared if body is None else body.view[body.filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._busy:
            if self._silent is not None:
                return
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
        self._receipts.clear()
        if self._leaving and self._transport is not None:
            self._transport.close()
        elif self._transport is not None and not self._transport.is_closing():
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
        self.began_ns = time.monotonic_ns() if self._server.tracer.is_on else 0
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
            self._refuse(error_answer(error, route.content_type), head.content_length, first)
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
        self.answer(answer)

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
            self.answer(error_answer(error, JSON))
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
            answer_to = route.answer
            if answer_to is _INFER:
                self._busy = True
                self._inference.begin(head, route, body, take)
                return
            if isinstance(answer_to, Task):
                self._busy = True
                self._generation = Generation(self._frontend, self)
                self._generation.begin(head, route, body)
                return
            try:
                answer = answer_to(self._server, route, bytes(body))
            except ServerError as error:
                answer = error_answer(error, route.content_type)
            except Exception as error:
                answer = error_answer(unforeseen(error), route.content_type)
            if not isinstance(answer, Answer):
                self._busy = True
                self._answering = asyncio.ensure_future(self._answer_later(route, answer))
                return
        else:
            assert isinstance(route, Answer)
            answer = route
        self.answer(answer)

    async def _answer_later(self, route: Route, coming: Awaitable[Answer]) -> None:
        try:
            answer = await coming
        except ServerError as error:
            answer = error_answer(error, route.content_type)
        except Exception as error:  # unanswered, its client would wait for ever
            answer = error_answer(unforeseen(error), route.content_type)
        self.answer(answer)

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def answer(self, answer: Answer) -> None:
        opening = response_opening(answer.status, answer.content_type, answer.headers)
        self.respond(opening, [answer.body], len(answer.body))

    def respond(self, opening: bytes, parts: list[bytes | bytearray | memoryview], nbytes: int) -> None:
        """Write the one response to the request in progress. ``nbytes``: of all ``parts`` of the body."""
        transport, head = self._transport, self._head
        if transport is None:
            return
        assert head is not None
        ending = CLOSING if self._closing else head.ending
        opening = b"%bContent-Length: %d\r\n%b" % (opening, nbytes, ending)
        if nbytes <= _JOIN_NBYTES:
            transport.write(b"".join((opening, *parts)))
        else:
            transport.writelines([opening, *parts])
        self._done(transport, head)

    def begin_chunks(self, opening: bytes) -> None:
        """Write the head of a response whose length nobody knows yet."""
        if self._transport is None:
            return
        assert self._head is not None
        if self._head.http_1_0:
            self._closing = True  # which knows no chunks: the connection ends with the body
        else:
            opening += b"Transfer-Encoding: chunked\r\n"
        self._transport.write(opening + (CLOSING if self._closing else self._head.ending))

    def send_chunk(self, data: bytes, receipt: object) -> None:
        """``receipt`` is kept as long as the client does not read: it holds back who sends the next one."""
        transport = self._transport
        if transport is None:
            return
        assert self._head is not None
        transport.write(data if self._head.http_1_0 else b"%x\r\n%b\r\n" % (len(data), data))
        if self._write_paused:
            self._receipts.append(receipt)

    def end_chunks(self) -> None:
        transport = self._transport
        if transport is None:
            return
        assert self._head is not None
        if not self._head.http_1_0:
            transport.write(b"0\r\n\r\n")
        self._done(transport, self._head)

    def _done(self, transport: asyncio.Transport, head: Head) -> None:
        """A response was written: on to the next request, or the end."""
        self._busy = False
        if self._closing or not head.keep_alive:
            self._pending = b""
            self._leave(transport)
        elif self._pending and not self._write_paused:
            transport.resume_reading()
            self._read_pending()

    # -- the end

    def close_when_idle(self) -> None:
        """The server stops: finish the request in progress, take no other."""
        self._closing = True
        if not self._busy and self._transport is not None:
            self._leave(self._transport)

    def fall_silent(self) -> None:
        """Close, unless a request is in progress: then the client is neither answered nor sent away."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        if self._busy:
            self._silent = transport
        else:
            transport.close()

    def _leave(self, transport: asyncio.Transport) -> None:
        """Close, once what was written is on its way: a TLS transport that is closed waits only so long for that."""
        if self._write_paused:
            self._leaving = True
        else:
            transport.close()

    def _abort(self) -> None:
        """What came is no HTTP that can be answered."""
        if self._transport is not None:
            self._transport.abort()
