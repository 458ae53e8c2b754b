"""gRPC on a stream: from a request's head and data to an RPC of the service, and back to head, data and trailers.

A call lives from the stream's HEADERS until its trailers are sent or its client gives up. Whatever ends it early (a
reset, the connection's end, the deadline) cancels what the core does for it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from atoll_ipc.memory import Block, Slice

from atoll.errors import Code, ServerError
from atoll.frontends.grpc.http2.header_blocks import RequestHead, literal, percent_encoded
from atoll.frontends.grpc.http2.messages import Message, MessageReader, compressed, inflated, prefix
from atoll.frontends.grpc.http2.streams import Stream
from atoll.frontends.grpc.service import INFER, STREAM, InferenceService
from atoll.frontends.grpc.status import status_of
from atoll.frontends.grpc.wire import Parts, Take, total_bytes
from atoll.frontends.tracing import soon
from atoll.inference import Request

if TYPE_CHECKING:
    from atoll.frontends.grpc.http2.connection import Connection

__all__ = ["CallOpener"]

_CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
_NUMBERS = {name: str(number).encode() for number, name in enumerate(_CODES)}
_HEAD_FIELDS = [
    (b":status", b"200"),
    (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", b"identity,deflate,gzip"),
]
_HEAD = literal(_HEAD_FIELDS)
_OK = literal([(b"grpc-status", b"0")])
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
# By level: zlib's, and the encodings in order of preference, which is gRPC core's.
_COMPRESSION: dict[str, tuple[int, tuple[bytes, ...]]] = {
    "none": (0, ()),
    "low": (1, (b"gzip", b"deflate")),
    "medium": (6, (b"deflate", b"gzip")),
    "high": (9, (b"deflate", b"gzip")),
}
_MAX_OUTBOX_NBYTES = 4 << 20
_DEADLINE = ("DEADLINE_EXCEEDED", "Deadline Exceeded")


class CallOpener:
    """What stands behind the paths: one service. ``level`` is that of ``--grpc-infer-response-compression-level``."""

    def __init__(self, service: InferenceService, level: str) -> None:
        self.service = service
        self.zlib_level, self._encodings = _COMPRESSION[level]

    def open(self, connection: Connection, stream: Stream, head: RequestHead) -> _Call | None:
        """The call that a stream begins; None where it is refused, which it has been told then."""
        if head.method != b"POST" or not head.content_type.startswith(b"application/grpc"):
            status = b"405" if head.method != b"POST" else b"415"
            fields = [(b":status", status), (b"grpc-status", _NUMBERS["UNKNOWN"])]
            connection.sender.status(stream, literal(fields))
            return None
        path = head.path
        if path == INFER:
            return _InferCall(self, connection, stream, head)
        if path == STREAM:
            return _StreamCall(self, connection, stream, head)
        if path in self.service.control:
            return _ControlCall(self, connection, stream, head)
        connection.sender.status(stream, _trailers_only("UNIMPLEMENTED", "Method not found!"))
        return None

    def encoding_for(self, head: RequestHead) -> bytes:
        """How responses to a client are compressed; b"" for not at all."""
        if not self._encodings:
            return b""
        accepted = dict(head.headers).get(b"grpc-accept-encoding", b"").replace(b" ", b"").split(b",")
        return next((encoding for encoding in self._encodings if encoding in accepted), b"")


class _Call:
    """What all kinds have in common: messages in, one status out."""

    def __init__(self, opener: CallOpener, connection: Connection, stream: Stream, head: RequestHead) -> None:
        self._opener = opener
        self._service = opener.service
        self._connection = connection
        self._stream = stream
        self._head = head
        self._reader = MessageReader(self._room)
        self._ended = False
        self._head_sent = False
        self._deadline: asyncio.TimerHandle | None = None
        if head.timeout:
            timeout_s = _timeout_s(head.timeout)
            if timeout_s is not None:
                self._deadline = asyncio.get_running_loop().call_later(timeout_s, self._expire)

    # -- from the connection

    def receive(self, data: memoryview) -> None:
        if self._ended:
            return
        for message in self._reader.feed(data):
            if message.is_compressed:
                message = Message(inflated(message.body, self._head.encoding), False)
            self._on_message(message)

    def finish(self) -> None:
        if self._ended:
            return
        if not self._reader.is_empty:
            raise ServerError(Code.INTERNAL, "the request ends within a message")
        self._on_end()

    def abort(self) -> None:
        if not self._ended:
            self._end()
            self._cancel()

    def drained(self) -> None:
        """Only streams care."""

    # -- what kinds do

    def _on_message(self, message: Message) -> None:
        raise NotImplementedError

    def _on_end(self) -> None:
        raise NotImplementedError

    def _cancel(self) -> None:
        """Nobody waits for the answer any more."""

    def _room(self, first: memoryview, nbytes: int) -> tuple[Block, int] | None:
        """Where a large message may go instead of ordinary memory."""
        return None

    # -- answering

    def metadata(self) -> Iterable[tuple[str, str | bytes]]:
        for name, value in self._head.headers:
            if name.endswith(b"-bin"):
                yield name.decode("latin-1"), _from_base64(value)
            else:
                yield name.decode("latin-1"), value.decode("latin-1")

    def answer(self, parts: Parts, encoding: bytes = b"") -> None:
        """The one message of a call that succeeded."""
        if self._ended:
            return
        self._end()
        parts = self._framed(parts, encoding)
        head = literal([*_HEAD_FIELDS, (b"grpc-encoding", encoding)]) if encoding else _HEAD
        self._connection.sender.answer(self._stream, head, parts, _OK)

    def refuse(self, error: ServerError) -> None:
        """The call ends with a status other than OK."""
        self._close(*status_of(error))

    def _close(self, code: str, details: str) -> None:
        if self._ended:
            return
        self._end()
        if self._head_sent:
            self._connection.sender.trailers(self._stream, _status_block(code, details))
        else:
            self._connection.sender.status(self._stream, _trailers_only(code, details))

    def _framed(self, parts: Parts, encoding: bytes) -> Parts:
        if encoding:
            data = compressed(b"".join(parts), encoding, self._opener.zlib_level)
            return [prefix(len(data), True), data]
        return [prefix(total_bytes(parts)), *parts]

    def _end(self) -> None:
        self._ended = True
        if self._deadline is not None:
            self._deadline.cancel()

    def _expire(self) -> None:
        if not self._ended:
            self._close(*_DEADLINE)
            self._cancel()


class _UnaryCall(_Call):
    """One message in, one out."""

    def __init__(self, opener: CallOpener, connection: Connection, stream: Stream, head: RequestHead) -> None:
        super().__init__(opener, connection, stream, head)
        self._message: Message | None = None

    def _on_message(self, message: Message) -> None:
        if self._message is not None:
            raise ServerError(Code.INTERNAL, "more than one message for a call that takes one")
        self._message = message

    def _on_end(self) -> None:
        message, self._message = self._message, None
        if message is None:
            raise ServerError(Code.INTERNAL, "no message for a call that takes one")
        self._begin(message)

    def _begin(self, message: Message) -> None:
        raise NotImplementedError


class _InferCall(_UnaryCall):
    """ModelInfer."""

    def __init__(self, opener: CallOpener, connection: Connection, stream: Stream, head: RequestHead) -> None:
        super().__init__(opener, connection, stream, head)
        self._began_ns = opener.service.now_if_traced()
        self._request: Request | None = None

    def _begin(self, message: Message) -> None:
        self._request = self._service.infer(
            message.body, self.metadata, self._done, soon, self._began_ns, _taker(message)
        )

    def _done(self, answer: Parts | ServerError) -> None:
        if isinstance(answer, ServerError):
            self.refuse(answer)
        else:
            self.answer(answer, self._opener.encoding_for(self._head))

    def _cancel(self) -> None:
        if self._request is not None:
            self._service.server.cancel(self._request)

    def _room(self, first: memoryview, nbytes: int) -> tuple[Block, int] | None:
        return self._service.room(first, nbytes)


class _ControlCall(_UnaryCall):
    """Everything that is not inference."""

    _task: asyncio.Future[None] | None = None

    def _begin(self, message: Message) -> None:
        self._task = asyncio.ensure_future(self._run(bytes(message.body)))

    async def _run(self, body: bytes) -> None:
        try:
            self.answer(await self._service.control[self._head.path](body, self.metadata))
        except ServerError as error:
            self.refuse(error)

    # What was asked of the server is done all the same: a load goes on without its client.


class _StreamCall(_Call):
    """ModelStreamInfer."""

    def __init__(self, opener: CallOpener, connection: Connection, stream: Stream, head: RequestHead) -> None:
        super().__init__(opener, connection, stream, head)
        self._encoding = opener.encoding_for(head)
        self._infer = self._service.open_stream(self.metadata, self._send, self._on_close, soon)

    def _on_message(self, message: Message) -> None:
        self._infer.receive(message.body, _taker(message))

    def _on_end(self) -> None:
        self._infer.half_close()

    def _send(self, parts: Parts, receipt: object) -> None:
        if self._ended:
            return
        if not self._head_sent:
            self._head_sent = True
            fields = [*_HEAD_FIELDS, (b"grpc-encoding", self._encoding)] if self._encoding else _HEAD_FIELDS
            self._connection.sender.head(self._stream, literal(fields))
        self._connection.sender.data(self._stream, self._framed(parts, self._encoding), receipt)
        if self._stream.outbox and self._stream.waiting_nbytes > _MAX_OUTBOX_NBYTES:
            self._connection.receiver.hold(self._stream)

    def drained(self) -> None:
        self._connection.receiver.resume(self._stream)

    def _on_close(self, error: ServerError | None) -> None:
        if error is not None:
            self.refuse(error)
        elif not self._ended:
            self._end()
            if not self._head_sent:
                self._connection.sender.head(self._stream, _HEAD)
            self._connection.sender.trailers(self._stream, _OK)

    def _cancel(self) -> None:
        self._infer.close()

    def _room(self, first: memoryview, nbytes: int) -> tuple[Block, int] | None:
        return self._service.room(first, nbytes)


def _taker(message: Message) -> Take | None:
    """What gives part of a message as tensor data, by reference; None where a copy will do."""
    block, start = message.block, message.start
    if block is None:
        return None
    return lambda offset, nbytes: Slice(block, start + offset, nbytes)


def _status_block(code: str, details: str) -> bytes:
    fields = [(b"grpc-status", _NUMBERS[code])]
    if details:
        fields.append((b"grpc-message", percent_encoded(details)))
    return literal(fields)


def _trailers_only(code: str, details: str) -> bytes:
    return literal(_HEAD_FIELDS[:2]) + _status_block(code, details)


def _timeout_s(text: bytes) -> float | None:
    """Of a ``grpc-timeout``; None where it is none."""
    match = re.fullmatch(rb"([0-9]{1,8})([HMSmun])", text)
    return int(match[1]) * _UNITS_S[match[2].decode()] if match is not None else None


def _from_base64(value: bytes) -> bytes:
    """Of a binary header; the padding may be missing."""
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4))
    except binascii.Error:
        return b""
