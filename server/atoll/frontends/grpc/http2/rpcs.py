"""What stands behind the paths, as kinds of calls: ModelInfer, ModelStreamInfer, and all that is not inference."""

from __future__ import annotations

import asyncio

from atoll_ipc.memory import Block, Slice

from atoll.errors import Code, ServerError
from atoll.frontends.grpc.http2 import statuses
from atoll.frontends.grpc.http2.calls import GrpcCall, Opening, UnaryCall
from atoll.frontends.grpc.http2.header_blocks import RequestHead
from atoll.frontends.grpc.http2.messages import Message
from atoll.frontends.grpc.http2.session import Session
from atoll.frontends.grpc.http2.streams import Stream
from atoll.frontends.grpc.service import INFER, STREAM, InferenceService
from atoll.frontends.grpc.wire import Parts, Take
from atoll.frontends.tracing import soon
from atoll.inference import Request

__all__ = ["CallOpener"]

# By level: zlib's, and the encodings in order of preference, which is gRPC core's.
_COMPRESSION: dict[str, tuple[int, tuple[bytes, ...]]] = {
    "none": (0, ()),
    "low": (1, (b"gzip", b"deflate")),
    "medium": (6, (b"deflate", b"gzip")),
    "high": (9, (b"deflate", b"gzip")),
}


class CallOpener:
    """Calls of one service. ``level`` is that of ``--grpc-infer-response-compression-level``."""

    def __init__(self, service: InferenceService, level: str) -> None:
        self._service = service
        self._zlib_level, self._encodings = _COMPRESSION[level]

    def open(self, session: Session, stream: Stream, head: RequestHead) -> GrpcCall | None:
        """The call that a stream begins; None where it is answered already."""
        if head.method != b"POST" or not head.is_grpc:
            session.sender.status(stream, statuses.not_grpc(b"405" if head.method != b"POST" else b"415"))
            return None
        encoding = b""
        if self._encodings:
            encoding = next((encoding for encoding in self._encodings if encoding in head.accepted), b"")
        opening = Opening(self._service, session, stream, head, encoding, self._zlib_level)
        path = head.path
        if path == INFER:
            return _InferCall(opening)
        if path == STREAM:
            return _StreamCall(opening)
        if path in self._service.control:
            return _ControlCall(opening)
        session.sender.status(stream, statuses.trailers_only("UNIMPLEMENTED", "Method not found!"))
        return None


class _InferCall(UnaryCall):
    """ModelInfer."""

    def __init__(self, opening: Opening) -> None:
        super().__init__(opening)
        self._began_ns = opening.service.now_if_traced()
        self._request: Request | None = None

    def _begin(self, message: Message) -> None:
        self._request = self._service.infer(
            message.body, self.metadata, self._done, soon, self._began_ns, _taker(message)
        )
        if self._ended:
            self._request = None  # answered at once

    def _done(self, answer: Parts | ServerError) -> None:
        self._request = None
        if isinstance(answer, ServerError):
            self.refuse(answer)
        else:
            self.answer(answer, self._opening.encoding)

    def _cancel(self) -> None:
        request, self._request = self._request, None
        if request is not None:
            self._service.server.cancel(request)

    def _block(self, first: memoryview, nbytes: int) -> tuple[Block, int] | None:
        return self._service.room(first, nbytes)


class _ControlCall(UnaryCall):
    """Everything that is not inference. It is done all the same when its client goes away: a load goes on."""

    _task: asyncio.Future[None] | None = None

    def _begin(self, message: Message) -> None:
        self._task = asyncio.ensure_future(self._run(bytes(message.body)))

    async def _run(self, body: bytes) -> None:
        try:
            self.answer(await self._service.control[self._opening.head.path](body, self.metadata))
        except ServerError as error:
            self.refuse(error)
        except Exception as error:
            self.refuse(ServerError(Code.UNKNOWN, f"Unexpected {type(error)}: {error}"))
            raise


class _StreamCall(GrpcCall):
    """ModelStreamInfer."""

    def __init__(self, opening: Opening) -> None:
        super().__init__(opening)
        try:
            self._infer = self._service.open_stream(self.metadata, self._send, self._on_close, soon)
        except ServerError as error:
            self.refuse(error)

    def _on_message(self, message: Message) -> None:
        if self._arriving_nbytes:
            self._arrived()
        self._infer.receive(message.body, _taker(message))

    def _on_end(self) -> None:
        self._infer.half_close()

    def _send(self, parts: Parts, receipt: object) -> None:
        if self._ended:
            return
        self._begin_answer()
        self._session.sender.data(self._stream, self._framed(parts, self._opening.encoding), receipt)
        self._hold_if_full()

    def _on_close(self, error: ServerError | None) -> None:
        if error is not None:
            self.refuse(error)
        elif not self._ended:
            self._end()
            self._begin_answer()
            self._session.sender.trailers(self._stream, statuses.OK)

    def _begin_answer(self) -> None:
        if not self._head_sent:
            self._head_sent = True
            encoding = self._opening.encoding
            head = statuses.compressed_head(encoding) if encoding else statuses.HEAD
            self._session.sender.head(self._stream, head)

    def _cancel(self) -> None:
        self._infer.close()

    def _block(self, first: memoryview, nbytes: int) -> tuple[Block, int] | None:
        return self._service.room(first, nbytes)


def _taker(message: Message) -> Take | None:
    """What gives part of a message as tensor data, by reference; None where a copy will do."""
    block, start = message.block, message.start
    if block is None:
        return None
    return lambda offset, nbytes: Slice(block, start + offset, nbytes)
