"""Decodes a chunked request body (RFC 9112, 7.1), strictly: what two parsers could read differently is refused."""

from __future__ import annotations

import re

from atoll.errors import Code, ServerError

__all__ = ["BadChunk", "ChunkedBody", "MAX_CHUNKS"]

MAX_CHUNKS = 65536
_MAX_LINE_NBYTES = 4096
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[^\r\n]*)?\Z")


class BadChunk(Exception):
    """Not a chunked body: the connection is closed."""


class ChunkedBody:
    """Collects one body from the bytes of a stream."""

    def __init__(self, limit_nbytes: int) -> None:
        self.body = bytearray()
        self._limit_nbytes = limit_nbytes
        self._rest = b""
        self._chunks = 0
        self._missing = 0  # bytes of the current chunk that have not come yet
        self._after_data = False
        self._in_trailer = False

    def feed(self, data: bytes) -> bytes | None:
        """Take ``data``; the bytes behind the body when it is complete, else None. Raises BadChunk, ServerError."""
        data = self._rest + data
        self._rest = b""
        position = 0
        while True:
            if self._missing:
                piece = data[position : position + self._missing]
                self.body += piece
                self._missing -= len(piece)
                position += len(piece)
                if self._missing:
                    return None
                self._after_data = True
            end = data.find(b"\r\n", position)
            if end < 0:
                self._rest = data[position:]
                if len(self._rest) > _MAX_LINE_NBYTES:
                    raise BadChunk("a chunk's size line is too long")
                return None
            line = data[position:end]
            position = end + 2
            if self._after_data:
                if line:
                    raise BadChunk("data beyond a chunk's size")
                self._after_data = False
            elif self._in_trailer:
                if not line:
                    return data[position:]
            else:
                self._begin(line)

    def _begin(self, line: bytes) -> None:
        match = _SIZE_LINE.match(line)
        if match is None:
            raise BadChunk("a chunk's size is no number")
        self._missing = int(match[1], 16)
        if not self._missing:
            self._in_trailer = True
            return
        self._chunks += 1
        if self._chunks > MAX_CHUNKS:
            raise ServerError(
                Code.INVALID_ARG,
                f"Chunked request body exceeds maximum of {MAX_CHUNKS} non-empty chunks. Send fewer or larger HTTP "
                "chunks.",
            )
        if len(self.body) + self._missing > self._limit_nbytes:
            raise ServerError(
                Code.INVALID_ARG,
                f"chunked request body exceeds {self._limit_nbytes} bytes; send it with a Content-Length",
            )
