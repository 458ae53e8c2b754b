"""The gzip and deflate content codings of infer bodies.

A large body is inflated or deflated in a thread: zlib lets go of the interpreter's lock, and other connections are
served meanwhile. What a request's headers ask for is decided once per distinct head (see ``head``).
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Sequence

from atoll.errors import ServerError
from atoll.frontends.http.answer import TEXT, Answer, error_body
from atoll.frontends.http.members import invalid
from atoll.frontends.http.plan import too_large

__all__ = ["CODINGS", "IDENTITY", "UNSUPPORTED", "chosen_coding", "deflated", "inflated", "inflated_too_large"]

IDENTITY = b"identity"
CODINGS = {b"gzip": 31, b"deflate": 15}
"""With zlib's number for the format that is written. Either name may stand for either format when it is read."""
UNSUPPORTED = Answer(501, TEXT, error_body("Unsupported compression type"), b"Accept-Encoding: gzip, deflate\r\n")

_EITHER_FORMAT = 47
_LEVEL = 1  # clients that name a coding in every request hardly mean to wait for the last percent
_INFLATED_AT_ONCE_NBYTES = 4 << 10  # at most 1032 times as many come out
_DEFLATED_AT_ONCE_NBYTES = 32 << 10

_QUALITY = re.compile(rb"[ \t]*q=([0-9]+\.?[0-9]*|\.[0-9]+)[ \t]*")


def chosen_coding(accepted: bytes) -> bytes:
    """The coding of a response to a request with this ``Accept-Encoding``; empty for none.

    The one that weighs most, the first of equals. What is unknown or spelt otherwise does not count.
    """
    best, most = b"", 0.0
    for item in accepted.split(b","):
        name, given, quality = item.partition(b";")
        name = name.strip(b" \t")
        if name in CODINGS or name == IDENTITY:
            match = _QUALITY.fullmatch(quality)
            weight = float(match[1]) if match is not None else 0.0 if given else 1.0
            if weight > most:
                best, most = name, weight
    return b"" if best == IDENTITY else best


async def inflated(body: bytes | memoryview, limit_nbytes: int) -> bytes:
    """The body that was meant. Raises ServerError for one that is none, or more than the limit."""
    if len(body) <= _INFLATED_AT_ONCE_NBYTES:
        return _inflate(body, limit_nbytes)
    if len(body) > limit_nbytes:
        raise inflated_too_large(limit_nbytes)
    return await asyncio.to_thread(_inflate, body, limit_nbytes)


def inflated_too_large(limit_nbytes: int) -> ServerError:
    return too_large("Decompressed data size exceeds the maximum allowed value", limit_nbytes)


def _inflate(body: bytes | memoryview, limit_nbytes: int) -> bytes:
    if not body:
        raise invalid("nothing to be decompressed")
    stream = zlib.decompressobj(_EITHER_FORMAT)
    try:
        data = stream.decompress(body, limit_nbytes + 1)
    except zlib.error as error:
        raise _undecodable(str(error).rpartition(": ")[2]) from None
    if len(data) > limit_nbytes:
        raise inflated_too_large(limit_nbytes)
    if not stream.eof:
        raise _undecodable("it ends too early")
    if stream.unused_data:
        raise _undecodable("something follows its end")
    return data


def _undecodable(reason: str) -> ServerError:
    return invalid(f"failed to decompress the request body: {reason}")


async def deflated(coding: bytes, parts: Sequence[bytes | bytearray | memoryview], nbytes: int) -> bytes:
    """A body of ``nbytes`` in a coding of :data:`CODINGS`."""
    if nbytes <= _DEFLATED_AT_ONCE_NBYTES:
        return _deflate(coding, parts)
    return await asyncio.to_thread(_deflate, coding, parts)


def _deflate(coding: bytes, parts: Sequence[bytes | bytearray | memoryview]) -> bytes:
    stream = zlib.compressobj(_LEVEL, wbits=CODINGS[coding])
    return b"".join([*map(stream.compress, parts), stream.flush()])
