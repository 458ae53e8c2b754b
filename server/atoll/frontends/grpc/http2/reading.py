"""The bytes of one connection as frames: checked by their heads, DATA in pieces, header blocks whole.

A DATA frame may be as large as a megabyte and its content goes elsewhere at once; so it is begun, and handed on in
whatever pieces come. Its padding, and frames of unknown types, are dropped in such pieces. Every other frame is small
and handed on when it is whole; what is missing waits in ``_rest``.
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
    PRIORITY_NBYTES,
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
        """Some of its content; ``padding`` bytes come besides. ``is_last``: and the end of the client's side."""

    def on_block(self, stream_id: int, flags: int, block: bytes) -> None:
        """A header block is complete; the flags are those of its HEADERS."""

    def on_frame(self, kind: int, flags: int, stream_id: int, payload: memoryview) -> None:
        """Any other frame; of those of unknown types the payload is dropped."""

    @property
    def is_over(self) -> bool:
        """Whether nothing that comes matters any more."""


class FrameReader:
    """The reading side of one connection."""

    def __init__(self, handler: FrameHandler) -> None:
        self._handler = handler
        self._rest = b""
        self._expects = "preface"
        self._block: tuple[int, int, list[bytes]] | None = None  # stream, flags, parts of a block
        self._data = (0, 0, 0)  # of the DATA frame that is coming: bytes left, stream, flags
        self._dropped = 0  # bytes that come next and are for nobody, once that DATA is there
        self._empty_frames = 0

    @property
    def is_begun(self) -> bool:
        """Whether the client has said what it must say first."""
        return not self._expects

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
            if self._dropped:
                taken = min(self._dropped, end - position)
                self._dropped -= taken
                position += taken
                continue
            if end - position < HEAD_NBYTES:
                break
            upper, lower, kind, flags, stream_id = HEAD.unpack_from(data, position)
            length = upper << 8 | lower
            stream_id &= MAX_WINDOW
            self._check(kind, flags, length)
            start = position + HEAD_NBYTES
            if kind == FrameType.DATA:
                if not flags & PADDED:
                    self._begin_data(stream_id, flags, length, 0)
                elif not length:
                    raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "DATA too short for its padding")
                elif start == end:
                    break
                else:
                    self._begin_data(stream_id, flags, length, 1 + data[start])
                    start += 1
                position = start
                continue
            if kind > FrameType.CONTINUATION:
                handler.on_frame(kind, flags, stream_id, data[:0])
                self._dropped = length
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
        if self._expects:
            if kind != FrameType.SETTINGS or flags & ACK:
                raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self._expects = ""
        if self._block is not None and kind != FrameType.CONTINUATION:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "a header block that another frame interrupts")
        if length > MAX_BLOCK_NBYTES and FrameType.DATA < kind <= FrameType.CONTINUATION:
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, f"a frame of type {kind} with {length} bytes")

    def _begin_data(self, stream_id: int, flags: int, length: int, padding: int) -> None:
        """``padding`` counts the byte that tells its length as well."""
        content = length - padding
        if content < 0:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "padding as long as the frame, or longer")
        self._handler.on_data_begin(stream_id, length)
        self._dropped = max(0, padding - 1)
        is_end = bool(flags & END_STREAM)
        if content:
            self._empty_frames = 0
            self._data = (content, stream_id, flags)
        elif not is_end:
            self._empty_frames += 1
            if self._empty_frames > MAX_EMPTY_FRAMES:
                raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "empty DATA frames without end")
        if padding or not content:
            self._handler.on_data(stream_id, memoryview(b""), padding, is_end and not content)

    def _dispatch(self, kind: int, flags: int, stream_id: int, payload: memoryview) -> None:
        if kind == FrameType.HEADERS:
            self._on_headers(flags, stream_id, payload)
        elif kind == FrameType.CONTINUATION:
            self._on_continuation(flags, stream_id, payload)
        else:
            self._handler.on_frame(kind, flags, stream_id, payload)

    def _on_headers(self, flags: int, stream_id: int, payload: memoryview) -> None:
        if not stream_id & 1:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}")
        fragment = unpadded(payload, flags)
        if flags & PRIORITY:
            if len(fragment) < PRIORITY_NBYTES:
                raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            fragment = fragment[PRIORITY_NBYTES:]
        if flags & END_HEADERS:
            self._handler.on_block(stream_id, flags, bytes(fragment))
        else:
            self._block = (stream_id, flags, [bytes(fragment)])

    def _on_continuation(self, flags: int, stream_id: int, payload: memoryview) -> None:
        if self._block is None or self._block[0] != stream_id:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without a header block to continue")
        _, first_flags, parts = self._block
        parts.append(bytes(payload))
        if len(parts) > MAX_CONTINUATIONS or sum(map(len, parts)) > MAX_BLOCK_NBYTES:
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "a header block without end")
        if flags & END_HEADERS:
            self._block = None
            self._handler.on_block(stream_id, first_flags, b"".join(parts))
