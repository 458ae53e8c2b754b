"""gRPC's messages within a stream's data: five bytes before each, a flag for compression and a length.

A small message is copied out of what was received. A large ``ModelInferRequest`` goes into a block of its model's arena
while it arrives, placed so that its first tensor lies on a 64-byte boundary: that is the only copy. Which model, and
where the first tensor begins, is read from the first bytes of the message.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from atoll_ipc.memory import Block, Slice

from atoll.errors import Code, ServerError
from atoll.frontends.grpc.wire import Buffer

__all__ = ["MAX_MESSAGE_NBYTES", "MessageReader", "PREFIX_NBYTES", "compressed", "inflated", "prefix"]

_PREFIX = struct.Struct(">BI")
PREFIX_NBYTES = _PREFIX.size
MAX_MESSAGE_NBYTES = (1 << 31) - 1
_LARGE_NBYTES = 64 << 10
_ALIGNMENT = 64

Room = Callable[[memoryview, int, bool], "tuple[Block, int] | None"]
"""Given the first bytes of a large message, its length, and whether it is compressed: a block and where in its chunk it
goes, or None for ordinary memory."""


def prefix(nbytes: int, is_compressed: bool = False) -> bytes:
    return _PREFIX.pack(is_compressed, nbytes)


class Message:
    """One that is complete. ``block`` is where it lies if that is shared memory, ``start`` its place in the chunk."""

    __slots__ = ("block", "body", "is_compressed", "start")

    def __init__(self, body: Buffer, is_compressed: bool, block: Block | None = None, start: int = 0) -> None:
        self.body = body
        self.is_compressed = is_compressed
        self.block = block
        self.start = start


class MessageReader:
    """The data of one stream, in pieces of any size, as messages.

    While it :attr:`is_held` it only keeps what comes: its user takes no more messages for now, and gives its client no
    more credit, which bounds what is kept by the stream's window.
    """

    __slots__ = ("_block", "_filled", "_head", "_is_compressed", "_kept", "_start", "_view", "is_held")

    def __init__(self) -> None:
        self.is_held = False
        self._kept = bytearray()
        self._head = b""
        self._view: memoryview | None = None
        self._filled = 0
        self._is_compressed = False
        self._block: Block | None = None
        self._start = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing of a message waits for its rest."""
        return self._view is None and not self._head and not self._kept

    def release(self, room: Room) -> Iterator[Message]:
        """Take messages again: those that what was kept completes, until it is held once more."""
        self.is_held = False
        kept, self._kept = self._kept, bytearray()
        return self.feed(memoryview(kept), room)

    def feed(self, data: memoryview, room: Room) -> Iterator[Message]:
        """The messages that ``data`` completes. Raises ServerError where it is none, or one too large."""
        while len(data):
            if self.is_held:
                self._kept += data
                return
            if self._view is not None:
                taken = min(len(self._view) - self._filled, len(data))
                self._view[self._filled : self._filled + taken] = data[:taken]
                self._filled += taken
                data = data[taken:]
                if self._filled == len(self._view):
                    yield self._complete()
                continue
            if self._head:
                missing = PREFIX_NBYTES - len(self._head)
                self._head += bytes(data[:missing])
                data = data[missing:]
                if len(self._head) < PREFIX_NBYTES:
                    return
                head, self._head = self._head, b""
            elif len(data) < PREFIX_NBYTES:
                self._head = bytes(data)
                return
            else:
                head, data = bytes(data[:PREFIX_NBYTES]), data[PREFIX_NBYTES:]
            flag, length = _PREFIX.unpack(head)
            if flag > 1:
                raise ServerError(Code.INTERNAL, f"a message with flags {flag:#x}, which gRPC does not have")
            if length > MAX_MESSAGE_NBYTES:
                raise ServerError(
                    Code.INVALID_ARG, f"Received message larger than max ({length} vs. {MAX_MESSAGE_NBYTES})"
                )
            if length <= len(data):
                yield Message(bytes(data[:length]), flag == 1)
                data = data[length:]
            else:
                self._begin(data, length, flag == 1, room)

    def _begin(self, data: memoryview, length: int, is_compressed: bool, room: Room) -> None:
        self._is_compressed = is_compressed
        self._filled = 0
        found = None
        if length >= _LARGE_NBYTES:
            found = room(data, length, is_compressed)
        if found is None:
            # Pages of it are there once they are written: a length alone takes no memory.
            try:
                self._view = np.empty(length, np.uint8).data
            except MemoryError:
                raise ServerError(Code.UNAVAILABLE, f"no memory for a request of {length} bytes") from None
        else:
            self._block, self._start = found
            self._view = Slice(self._block, self._start, length).view()

    def _complete(self) -> Message:
        assert self._view is not None
        message = Message(self._view, self._is_compressed, self._block, self._start)
        self._view = self._block = None
        return message


def inflated(body: Buffer, encoding: bytes, most_nbytes: int = MAX_MESSAGE_NBYTES) -> bytes | None:
    """A message that was sent compressed; None where it is larger than ``most_nbytes``. Raises ServerError."""
    if encoding not in (b"gzip", b"deflate"):
        raise ServerError(
            Code.INTERNAL, f"a compressed message, though its grpc-encoding is {encoding.decode('latin-1')}"
        )
    inflate = zlib.decompressobj(wbits=31 if encoding == b"gzip" else 15)
    try:
        data = inflate.decompress(body, most_nbytes + 1)
    except zlib.error as error:
        raise ServerError(Code.INTERNAL, f"a message that cannot be decompressed: {error}") from None
    if len(data) > most_nbytes:
        return None
    if not inflate.eof:
        raise ServerError(Code.INTERNAL, "a message that cannot be decompressed: it is cut short")
    return data


def compressed(body: Buffer, encoding: bytes, level: int) -> bytes:
    deflate = zlib.compressobj(level, wbits=31 if encoding == b"gzip" else 15)
    return deflate.compress(body) + deflate.flush()
