"""The bytes of one connection as frames: checked by their heads, DATA in pieces, header blocks whole.

A DATA frame may be as large as a megabyte and its content goes elsewhere at once; so it is begun, and handed on in
whatever pieces come. Every other frame is small and handed on when it is whole; what is missing waits in ``_rest``.
"""

from __future__ import annotations

from typing import Protocol

from atoll.frontends.grpc.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    HEAD,
    HEAD_NBYTES,
    MAX_WINDOW,
    PADDED,
    PREFACE,
    PRIORITY,
    ConnectionFailure,
    ErrorCode,
    FrameType,
    unpadded,
)
from atoll.frontends.grpc.http2.limits import MAX_BLOCK_NBYTES, MAX_CONTINUATIONS, MAX_EMPTY_FRAMES

__all__ = ["FrameHandler", "FrameReader", "MAX_FRAME_NBYTES"]

MAX_FRAME_NBYTES = 1 << 20


class FrameHandler(Protocol):
    """Who acts on frames. Raises ConnectionFailure; what concerns one stream alone it settles itself."""

    def on_data_begin(self, stream_id: int, length: int) -> None:
        """A DATA frame begins; ``length`` is what it takes of the windows."""

    def on_data(self, stream_id: int, data: memoryview, padding: int, is_last: bool) -> None:
        """Some of its content; ``padding`` bytes came besides. ``is_last``: and the end of the client's side."""

    def on_block(self, stream_id: int, flags: int, block: bytes, depends_on_itself: bool) -> None:
        """A header block is complete; the flags are those of its HEADERS."""

    def on_frame(self, kind: int, flags: int, stream_id: int, payload: memoryview) -> None:
        """Any other frame."""

    @property
    def is_over(self) -> bool:
        """Whether nothing that comes matters any more."""


class FrameReader:
    """The reading side of one connection."""

    def __init__(self, handler: FrameHandler) -> None:
        self._handler = handler
        self._rest = b""
        self._expects = "preface"
        self._block: tuple[int, int, bool, list[bytes]] | None = None  # stream, flags, dependence, parts of a block
        self._data = (0, 0, 0)  # of the DATA frame that is coming: bytes left, stream, flags
        self._empty_frames = 0

    def feed(self, data: memoryview) -> None:
        """Act on what ``data`` completes; it need not live longer than the call. Raises ConnectionFailure."""
        if self._rest:
            data = memoryview(self._rest + bytes(data))
            self._rest = b""
        position = 0
        if self._expects == "preface":
            if bytes(data[: len(PREFACE)]) != PREFACE[: len(data)]:
                raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "not the preface of HTTP/2")
            if len(data) < len(PREFACE):
                self._rest = bytes(data)
                return
            self._expects = "settings"
            position = len(PREFACE)
        end = len(data)
        handler = self._handler
        while position < end and not handler.is_over:
            left, stream_id, flags = self._data
            if left:
                taken = min(left, end - position)
                self._data = (left - taken, stream_id, flags)
                is_last = taken == left and bool(flags & END_STREAM)
                handler.on_data(stream_id, data[position : position + taken], 0, is_last)
                position += taken
                continue
            if end - position < HEAD_NBYTES:
                break
            upper, lower, kind, flags, stream_id = HEAD.unpack_from(data, position)
            length = upper << 8 | lower
            stream_id &= MAX_WINDOW
            self._check(kind, flags, length)
            start = position + HEAD_NBYTES
            if kind == FrameType.DATA and not flags & PADDED:
                self._begin_data(stream_id, flags, length)
                position = start
                continue
            if end - start < length:
                break
            position = start + length
            self._dispatch(kind, flags, stream_id, data[start:position])
        if position < end:
            self._rest = bytes(data[position:])

    def _check(self, kind: int, flags: int, length: int) -> None:
        """What can be said of a frame by its head alone."""
        if length > MAX_FRAME_NBYTES:
            raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
        if self._expects == "settings":
            if kind != FrameType.SETTINGS or flags & ACK:
                raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self._expects = ""
        if self._block is not None and kind != FrameType.CONTINUATION:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "a header block that another frame interrupts")
        if length > MAX_BLOCK_NBYTES and (kind != FrameType.DATA or flags & PADDED):
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, f"a frame of type {kind} with {length} bytes")

    def _begin_data(self, stream_id: int, flags: int, length: int) -> None:
        self._handler.on_data_begin(stream_id, length)
        if length:
            self._empty_frames = 0
            self._data = (length, stream_id, flags)
        elif flags & END_STREAM:
            self._handler.on_data(stream_id, memoryview(b""), 0, True)
        else:
            self._empty_frames += 1
            if self._empty_frames > MAX_EMPTY_FRAMES:
                raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "empty DATA frames without end")

    def _dispatch(self, kind: int, flags: int, stream_id: int, payload: memoryview) -> None:
        if kind == FrameType.HEADERS:
            self._on_headers(flags, stream_id, payload)
        elif kind == FrameType.CONTINUATION:
            self._on_continuation(flags, stream_id, payload)
        elif kind == FrameType.DATA:
            content = unpadded(payload, flags)
            self._handler.on_data_begin(stream_id, len(payload))
            self._handler.on_data(stream_id, content, len(payload) - len(content), bool(flags & END_STREAM))
        else:
            self._handler.on_frame(kind, flags, stream_id, payload)

    def _on_headers(self, flags: int, stream_id: int, payload: memoryview) -> None:
        if not stream_id & 1:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}")
        fragment = unpadded(payload, flags)
        depends_on_itself = False
        if flags & PRIORITY:
            if len(fragment) < 5:
                raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            depends_on_itself = int.from_bytes(fragment[:4], "big") & MAX_WINDOW == stream_id
            fragment = fragment[5:]
        if flags & END_HEADERS:
            self._handler.on_block(stream_id, flags, bytes(fragment), depends_on_itself)
        else:
            self._block = (stream_id, flags, depends_on_itself, [bytes(fragment)])

    def _on_continuation(self, flags: int, stream_id: int, payload: memoryview) -> None:
        if self._block is None or self._block[0] != stream_id:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without a header block to continue")
        _, first_flags, depends_on_itself, parts = self._block
        parts.append(bytes(payload))
        if len(parts) > MAX_CONTINUATIONS or sum(map(len, parts)) > MAX_BLOCK_NBYTES:
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "a header block without end")
        if flags & END_HEADERS:
            self._block = None
            self._handler.on_block(stream_id, first_flags, b"".join(parts), depends_on_itself)
