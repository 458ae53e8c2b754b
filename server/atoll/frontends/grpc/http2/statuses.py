"""The heads and trailers of answers as header blocks, and the two header fields of gRPC that need parsing."""

from __future__ import annotations

import base64
import binascii
import re

from atoll.frontends.grpc.http2.header_blocks import literal, percent_encoded

__all__ = ["HEAD", "OK", "compressed_head", "from_base64", "not_grpc", "status_block", "timeout_s", "trailers_only"]

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
_FIELDS = [
    (b":status", b"200"),
    (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", b"identity,deflate,gzip"),
]
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

HEAD = literal(_FIELDS)
OK = literal([(b"grpc-status", b"0")])


def compressed_head(encoding: bytes) -> bytes:
    """The head of an answer whose messages are compressed."""
    return literal([*_FIELDS, (b"grpc-encoding", encoding)])


def status_block(code: str, details: str) -> bytes:
    """The trailers of a call that failed."""
    fields = [(b"grpc-status", _NUMBERS[code])]
    if details:
        fields.append((b"grpc-message", percent_encoded(details)))
    return literal(fields)


def trailers_only(code: str, details: str) -> bytes:
    """An answer that is nothing but a failure's status."""
    return literal(_FIELDS[:2]) + status_block(code, details)


def not_grpc(status: bytes) -> bytes:
    """The answer to a request that is none of gRPC: HTTP's status."""
    return literal([(b":status", status), (b"grpc-status", _NUMBERS["UNKNOWN"])])


def timeout_s(text: bytes) -> float | None:
    """Of a ``grpc-timeout``; None where it is none, or past a year."""
    match = re.fullmatch(rb"([0-9]{1,8})([HMSmun])", text)
    if match is None:
        return None
    seconds = int(match[1]) * _UNITS_S[match[2].decode()]
    return seconds if seconds < 365 * 24 * 3600 else None


def from_base64(value: bytes) -> bytes:
    """Of a binary header; the padding may be missing. Nothing where it is no base64."""
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4))
    except binascii.Error:
        return b""
