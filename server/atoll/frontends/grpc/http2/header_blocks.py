"""Header blocks: HPACK in, by the ``hpack`` package; fixed bytes out.

A client repeats itself: once its dynamic table is filled, every request of it has the same block of a few bytes. What
such a block stands for is kept as long as the table does not change, so that most requests cost one dictionary look-up.

What we send needs no table at all: responses and trailers are literals without indexing, the common ones constants.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

import hpack

from atoll.frontends.grpc.http2.frames import ConnectionFailure, ErrorCode, StreamFailure

__all__ = ["BlockReader", "Headers", "MAX_LIST_NBYTES", "RequestHead", "literal", "percent_encoded"]

MAX_LIST_NBYTES = 32 << 10
"""Of a decoded block, as RFC 9113 counts them; what is announced to clients."""
_MAX_KNOWN_BLOCKS = 64
_MAX_KNOWN_NBYTES = 512
"""Of a block that is kept: a longer one is none that a client repeats."""

Headers = list[tuple[bytes, bytes]]

_CONNECTION_SPECIFIC = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_FORBIDDEN_IN_VALUE = re.compile(rb"[\0\r\n]|^[ \t]|[ \t]$")
_OF_THE_CALL = (b"content-type", b"te")
"""What is about the transport, as all names that begin with ``grpc-`` are, and no metadata."""
_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))


class RequestHead:
    """What the header block of a request says. Shared by all requests with the same block: do not change it."""

    __slots__ = ("accepted", "content_length", "content_type", "encoding", "metadata", "method", "path", "timeout")

    def __init__(self, pseudo: dict[bytes, bytes], headers: Headers, content_length: int | None) -> None:
        self.method = pseudo[b":method"]
        self.path = pseudo[b":path"].decode("latin-1")
        named = dict(headers)
        self.content_type = named.get(b"content-type", b"")
        self.content_length = content_length
        self.encoding = named.get(b"grpc-encoding", b"identity")
        self.accepted = named.get(b"grpc-accept-encoding", b"").replace(b" ", b"").split(b",")
        self.timeout = named.get(b"grpc-timeout", b"")
        self.metadata = [
            field for field in headers if field[0] not in _OF_THE_CALL and not field[0].startswith(b"grpc-")
        ]

    @property
    def is_grpc(self) -> bool:
        return self.content_type[:16] == b"application/grpc" and self.content_type[16:17] in (b"", b"+", b";")


class BlockReader:
    """The decoding side of one connection."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=MAX_LIST_NBYTES)
        self._known: dict[bytes, RequestHead] = {}

    def request(self, block: bytes, stream_id: int) -> RequestHead:
        """Raises ConnectionFailure where the table is lost, StreamFailure where only this request is no request."""
        found = self._known.get(block)
        if found is not None:
            return found
        headers, unchanged = self._decode(block)
        head = _request_head(headers, stream_id)
        if unchanged and len(block) <= _MAX_KNOWN_NBYTES:
            if len(self._known) >= _MAX_KNOWN_BLOCKS:
                self._known.clear()
            self._known[block] = head
        return head

    def trailers(self, block: bytes, stream_id: int) -> None:
        """What ends a request; none of it means anything to gRPC. Raises as :meth:`request` does."""
        for name, value in self._decode(block)[0]:
            _check_field(name, value, stream_id)

    def skip(self, block: bytes) -> None:
        """Of a request that is refused: only the table matters."""
        self._decode(block)

    def _decode(self, block: bytes) -> tuple[Headers, bool]:
        """The headers, and whether the dynamic table is what it was."""
        table = self._decoder.header_table
        before = (
            len(table.dynamic_entries),
            table.dynamic_entries[0] if table.dynamic_entries else None,
            table.maxsize,
        )
        try:
            headers = self._decoder.decode(block, raw=True)
        except hpack.OversizedHeaderListError as error:
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, f"header list: {error}") from error
        except (hpack.HPACKError, UnicodeDecodeError) as error:
            raise ConnectionFailure(ErrorCode.COMPRESSION_ERROR, str(error)) from error
        after = (len(table.dynamic_entries), table.dynamic_entries[0] if table.dynamic_entries else None, table.maxsize)
        same = before[0] == after[0] and before[1] is after[1] and before[2] == after[2]
        if not same:
            self._known.clear()
        return [(bytes(name), bytes(value)) for name, value in headers], same


def _request_head(fields: Headers, stream_id: int) -> RequestHead:
    """Raises StreamFailure for a malformed request (RFC 9113, 8.2 and 8.3)."""
    pseudo: dict[bytes, bytes] = {}
    headers: Headers = []
    length: int | None = None
    for name, value in fields:
        if name.startswith(b":"):
            if headers or name in pseudo or name not in _PSEUDO:
                raise _malformed(stream_id, f"misplaced, repeated or unknown {name!r}")
            pseudo[name] = value
            continue
        _check_field(name, value, stream_id)
        if name == b"content-length":
            if not value.isdigit() or len(value) > 18 or length not in (None, int(value)):
                raise _malformed(stream_id, f"content-length: {value!r}")
            length = int(value)
        headers.append((name, value))
    if not {b":method", b":scheme", b":path"} <= pseudo.keys() or not pseudo[b":path"]:
        raise _malformed(stream_id, "a pseudo-header field is missing")
    return RequestHead(pseudo, headers, length)


def _check_field(name: bytes, value: bytes, stream_id: int) -> None:
    if not _NAME.fullmatch(name) or name in _CONNECTION_SPECIFIC:
        raise _malformed(stream_id, f"field name {name!r}")
    if name == b"te" and value != b"trailers":
        raise _malformed(stream_id, f"te: {value!r}")
    if _FORBIDDEN_IN_VALUE.search(value):
        raise _malformed(stream_id, f"value of {name!r}")


def _malformed(stream_id: int, reason: str) -> StreamFailure:
    return StreamFailure(ErrorCode.PROTOCOL_ERROR, stream_id, reason)


def literal(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A block of literals without indexing, without Huffman coding: what any decoder reads without a table."""
    return b"".join(b"\0" + _string(name) + _string(value) for name, value in fields)


def _string(text: bytes) -> bytes:
    """A length with a prefix of seven bits (RFC 7541, 5.1), and the bytes."""
    length = len(text)
    if length < 0x7F:
        return bytes((length,)) + text
    length -= 0x7F
    digits = bytearray((0x7F,))
    while length >= 0x80:
        digits.append(length & 0x7F | 0x80)
        length >>= 7
    digits.append(length)
    return bytes(digits) + text


def percent_encoded(message: str) -> bytes:
    """A status message for ``grpc-message``: printable ASCII but the percent sign stays as it is."""
    return quote(
        message.encode("utf-8", "backslashreplace"), safe="".join(map(chr, range(0x20, 0x7F))).replace("%", "")
    ).encode()
