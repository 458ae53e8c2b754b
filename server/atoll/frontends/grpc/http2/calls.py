"""gRPC on a stream: messages in, by what kind of call it is, and a head, data and trailers out.

A call lives from the stream's HEADERS until its trailers are sent or its client gives up. Whatever ends it early (a
reset, the connection's end, the deadline) cancels what the core does for it.

See also: ``rpcs`` for the kinds of calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from atoll_ipc.memory import Block

from atoll.errors import Code, ServerError
from atoll.frontends.grpc.http2 import statuses
from atoll.frontends.grpc.http2.frames import ErrorCode
from atoll.frontends.grpc.http2.header_blocks import RequestHead
from atoll.frontends.grpc.http2.limits import MAX_ARRIVING_NBYTES
from atoll.frontends.grpc.http2.messages import (
    MAX_MESSAGE_NBYTES,
    Message,
    MessageReader,
    compressed,
    inflated,
    prefix,
)
from atoll.frontends.grpc.http2.streams import Stream
from atoll.frontends.grpc.service import InferenceService
from atoll.frontends.grpc.status import status_of
from atoll.frontends.grpc.wire import Parts, total_bytes

if TYPE_CHECKING:
    from atoll.frontends.grpc.http2.session import Session

__all__ = ["GrpcCall", "Opening", "UnaryCall"]

_MAX_OUTBOX_WEIGHT = 4 << 20
_INFLATED_AT_ONCE_NBYTES = 1 << 20
"""Inflating more than that takes so long that a thread does it."""


class Opening(NamedTuple):
    """What every kind of call begins with. ``encoding`` is how answers are compressed, b"" for not at all."""

    service: InferenceService
    session: Session
    stream: Stream
    head: RequestHead
    encoding: bytes
    zlib_level: int


class GrpcCall:
    """What all kinds have in common: messages in, one status out."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._service = opening.service
        self._session = opening.session
        self._stream = opening.stream
        self._reader = MessageReader()
        self._ended = False
        self._head_sent = False
        self._is_inflating = False
        self._finish_waits = False  # the client's end has come, and messages before it are not passed on yet
        self._arriving_nbytes = 0  # of those that the connection counts
        self._deadline: asyncio.TimerHandle | None = None
        if opening.head.timeout:
            timeout_s = statuses.timeout_s(opening.head.timeout)
            if timeout_s is not None:
                self._deadline = asyncio.get_running_loop().call_later(timeout_s, self._expire)

    # -- from the connection

    def receive(self, data: memoryview) -> None:
        if not self._ended:
            self._pass_on(self._reader.feed(data, self._room))

    def finish(self) -> None:
        if self._ended:
            return
        if self._reader.is_held:
            self._finish_waits = True
            return
        if not self._reader.is_empty:
            raise ServerError(Code.INTERNAL, "the request ends within a message")
        self._on_end()

    def abort(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if not self._ended:
            self._end()
            self._cancel()

    def sent(self) -> None:
        # Not when there was an answer: a client that does not read it has its deadline all the same.
        if self._deadline is not None:
            self._deadline.cancel()

    def give_up(self) -> None:
        if not self._ended:
            self.refuse(ServerError(Code.CANCELLED, "CANCELLED"))
            self._cancel()

    def drained(self) -> None:
        if self._reader.is_held and not self._ended:
            try:
                self._release()
            except ServerError as error:
                self.refuse(error)

    @property
    def is_arriving(self) -> bool:
        return not self._reader.is_empty

    # -- what kinds do

    def _on_message(self, message: Message) -> None:
        raise NotImplementedError

    def _on_end(self) -> None:
        raise NotImplementedError

    def _cancel(self) -> None:
        """Nobody waits for the answer any more."""

    def _block(self, first: memoryview, nbytes: int) -> tuple[Block, int] | None:
        """Where a large message may go instead of ordinary memory."""
        return None

    # -- messages

    def metadata(self) -> Iterable[tuple[str, str | bytes]]:
        for name, value in self._opening.head.metadata:
            if name.endswith(b"-bin"):
                yield name.decode("latin-1"), statuses.from_base64(value)
            else:
                yield name.decode("latin-1"), value.decode("latin-1")

    def _pass_on(self, messages: Iterator[Message]) -> None:
        for message in messages:
            if message.is_compressed:
                self._inflate(message)
            else:
                self._on_message(message)
            if self._ended:
                return

    def _inflate(self, message: Message) -> None:
        encoding = self._opening.head.encoding
        data = inflated(message.body, encoding, _INFLATED_AT_ONCE_NBYTES)
        if data is not None:
            self._on_message(Message(data, False))
            return
        self._is_inflating = True
        self._hold()
        inflating = asyncio.get_running_loop().run_in_executor(None, inflated, message.body, encoding)
        inflating.add_done_callback(self._inflated)

    def _inflated(self, inflating: asyncio.Future[bytes | None]) -> None:
        self._is_inflating = False
        if self._ended:
            inflating.exception()  # nobody wants to know
            return
        try:
            data = inflating.result()
            if data is None:
                raise ServerError(Code.INVALID_ARG, f"Received message larger than max ({MAX_MESSAGE_NBYTES})")
            self._count_arriving(len(data))
            self._on_message(Message(data, False))
            self._release()
        except ServerError as failure:
            self.refuse(failure)

    def _hold_if_full(self) -> None:
        """A client that does not read its answers is asked for no more requests."""
        if self._stream.weight > _MAX_OUTBOX_WEIGHT and not self._reader.is_held:
            self._hold()

    def _hold(self) -> None:
        """Take no more messages for now, and have the client send no more than it may already."""
        self._reader.is_held = True
        self._session.receiver.hold(self._stream)

    def _release(self) -> None:
        """Go on, unless something else holds. Raises ServerError as :meth:`receive` and :meth:`finish` do."""
        if self._is_inflating or self._stream.weight > _MAX_OUTBOX_WEIGHT:
            return
        self._pass_on(self._reader.release(self._room))
        if self._reader.is_held or self._ended:
            return
        self._session.receiver.resume(self._stream)
        if self._finish_waits:
            self.finish()

    def _room(self, first: memoryview, nbytes: int, is_compressed: bool) -> tuple[Block, int] | None:
        self._count_arriving(nbytes)
        return None if is_compressed else self._block(first, nbytes)

    def _count_arriving(self, nbytes: int) -> None:
        self._arriving_nbytes += nbytes
        self._session.arriving_nbytes += nbytes
        if self._session.arriving_nbytes > MAX_ARRIVING_NBYTES:
            raise ServerError(
                Code.UNAVAILABLE,
                f"more than {MAX_ARRIVING_NBYTES >> 30} GiB of requests arrive on one connection at a time",
            )

    def _arrived(self) -> None:
        """What arrived of large messages is the core's now, or nobody's."""
        self._session.arriving_nbytes -= self._arriving_nbytes
        self._arriving_nbytes = 0

    # -- answering

    def answer(self, parts: Parts, encoding: bytes = b"") -> None:
        """The one message of a call that succeeded."""
        if self._ended:
            return
        head = statuses.compressed_head(encoding) if encoding else statuses.HEAD
        parts = self._framed(parts, encoding)
        self._end()
        self._session.sender.answer(self._stream, head, parts, statuses.OK)

    def refuse(self, error: ServerError) -> None:
        """The call ends with a status other than OK."""
        self._close(*status_of(error))

    def _close(self, code: str, details: str) -> None:
        if self._ended:
            return
        self._end()
        if self._head_sent:
            self._session.sender.trailers(self._stream, statuses.status_block(code, details))
        else:
            self._session.sender.status(self._stream, statuses.trailers_only(code, details))

    def _framed(self, parts: Parts, encoding: bytes) -> Parts:
        if encoding:
            data = compressed(b"".join(parts), encoding, self._opening.zlib_level)
            return [prefix(len(data), True), data]
        return [prefix(total_bytes(parts)), *parts]

    def _end(self) -> None:
        self._ended = True
        self._reader = MessageReader() if self.is_arriving else self._reader  # a block that was to be filled
        if self._arriving_nbytes:
            self._arrived()

    def _expire(self) -> None:
        if not self._ended:
            self._close("DEADLINE_EXCEEDED", "Deadline Exceeded")
            self._cancel()
        if self._stream.call is self:  # behind what the client does not read
            self._session.reset(self._stream.id, ErrorCode.CANCEL)


class UnaryCall(GrpcCall):
    """One message in, one out."""

    def __init__(self, opening: Opening) -> None:
        super().__init__(opening)
        self._message: Message | None = None

    @property
    def is_arriving(self) -> bool:
        return not self._stream.is_half_closed

    def _on_message(self, message: Message) -> None:
        if self._message is not None:
            raise ServerError(Code.INTERNAL, "more than one message for a call that takes one")
        self._message = message

    def _on_end(self) -> None:
        message, self._message = self._message, None
        if message is None:
            raise ServerError(Code.INTERNAL, "no message for a call that takes one")
        if self._arriving_nbytes:
            self._arrived()
        self._begin(message)

    def _end(self) -> None:
        super()._end()
        self._message = None

    def _begin(self, message: Message) -> None:
        raise NotImplementedError
