"""What goes back on the wire apart from tensors: status lines, headers, short bodies, errors."""

from __future__ import annotations

from typing import NamedTuple

import orjson

from atoll.errors import HTTP_STATUS, ServerError

__all__ = [
    "CLOSING",
    "EVENT_STREAM",
    "JSON",
    "OCTET_STREAM",
    "OK",
    "TEXT",
    "Answer",
    "error_answer",
    "error_body",
    "response_opening",
]

JSON = b"application/json"
TEXT = b"text/plain"
OCTET_STREAM = b"application/octet-stream"
EVENT_STREAM = b"text/event-stream; charset=utf-8"

CLOSING = b"Connection: close\r\n\r\n"
"""The end of the head of a connection's last response."""

_REASONS = {
    200: b"OK",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Not Allowed",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    503: b"Service Unavailable",
}
_OPENINGS = {status: b"HTTP/1.1 %d %b\r\nContent-Type: " % (status, reason) for status, reason in _REASONS.items()}
OK = _OPENINGS[200]
"""A response's head up to its content type."""


class Answer(NamedTuple):
    """A complete response without tensors. ``headers``: lines beyond the usual, each with its end."""

    status: int
    content_type: bytes
    body: bytes = b""
    headers: bytes = b""


def response_opening(status: int, content_type: bytes, headers: bytes = b"") -> bytes:
    """The first lines of a response's head."""
    return b"%b%b\r\n%b" % (_OPENINGS[status], content_type, headers)


def error_answer(error: ServerError, content_type: bytes) -> Answer:
    return Answer(HTTP_STATUS[error.code], content_type, error_body(error.message))


def error_body(message: str) -> bytes:
    return b'{"error":%b}' % orjson.dumps(message.encode("utf-8", "backslashreplace").decode())
