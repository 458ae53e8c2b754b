"""The head of an HTTP request: request line and headers, parsed once per distinct sequence of bytes.

A client repeats itself: of a keep-alive connection's requests most have the same head, byte for byte. What a head means
follows from its bytes alone, so it is parsed by httptools the first time and looked up afterwards, which costs a
fiftieth. Heads longer than ``_MEMO_NBYTES`` are parsed each time; the memo starts anew when it is full.
"""

from __future__ import annotations

from collections.abc import Callable

import httptools

from atoll.frontends.http.answer import CLOSING
from atoll.frontends.http.compression import IDENTITY, chosen_coding

__all__ = ["BadHead", "Head", "HeadReader", "MAX_HEAD_NBYTES"]

MAX_HEAD_NBYTES = 256 << 10
_MAX_LINE_NBYTES = 64 << 10
_MEMO_NBYTES = 2048
_MEMO_ENTRIES = 1024


class BadHead(Exception):
    """Not HTTP, or not HTTP that can be answered: the connection is closed."""


class Head:
    """What one head says. Immutable once read; shared by every request that has the same."""

    __slots__ = (
        "accept_encoding",
        "chunked",
        "content_encoding",
        "content_length",
        "ending",
        "expects_continue",
        "forwarded",
        "headers",
        "http_1_0",
        "json_length",
        "json_nbytes",
        "keep_alive",
        "method",
        "path",
        "reply_coding",
        "target",
    )

    def __init__(self, data: bytes) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.path = b""
        self.content_length = 0
        self.chunked = False
        self.expects_continue = False
        self.json_length: bytes | None = None
        self.json_nbytes: int | None = None  # the same as a number, where it is a plain one
        self.content_encoding = b""  # but for identity
        self.accept_encoding = b""
        self.target: object = None  # where it leads; this and the next are filled in by the frontend
        self.forwarded: list[tuple[str, str]] = []  # headers that the model gets to see
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise BadHead("an upgrade is not supported") from None
        except httptools.HttpParserError as error:
            raise BadHead(str(error)) from None
        self.method: bytes = parser.get_method()
        self.http_1_0: bool = parser.get_http_version() == "1.0"
        self.keep_alive: bool = self._is_persistent()
        self.reply_coding = chosen_coding(self.accept_encoding) if self.accept_encoding else b""
        self.ending = _ending(self.keep_alive, self.http_1_0)  # of the head of a response to it

    # -- called by httptools

    def on_url(self, url: bytes) -> None:
        self.path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(value) > _MAX_LINE_NBYTES:
            raise BadHead("a header line is too long")
        value = value.rstrip(b" \t")  # the parser takes away only what stands before
        self.headers.append((name, value))
        key = name.lower()
        if key == b"content-length":
            if not value.isdigit():
                raise BadHead("Content-Length is no number")
            self.content_length = int(value)
        elif key == b"transfer-encoding":
            self.chunked = value.lower().endswith(b"chunked")
        elif key == b"inference-header-content-length":
            self.json_length = value
            self.json_nbytes = int(value) if value.isdigit() and len(value) < 19 else None
        elif key == b"expect":
            self.expects_continue = value.lower() == b"100-continue"
        elif key == b"content-encoding":
            self.content_encoding = b"" if value == IDENTITY else value
        elif key == b"accept-encoding":
            self.accept_encoding += b"," + value

    def on_headers_complete(self) -> None:
        # An absolute-form target names the server first.
        if self.path.startswith(b"http://"):
            self.path = b"/" + self.path[7:].partition(b"/")[2]
        self.path = self.path.partition(b"?")[0]

    def header(self, name: str) -> str:
        """A header's value by its name in small letters; empty when there is none."""
        key = name.encode()
        return next((value.decode("latin-1") for known, value in self.headers if known.lower() == key), "")

    def _is_persistent(self) -> bool:
        """Whether another request may follow; httptools would answer for the message after a head that has no body."""
        given = b",".join(value.lower() for name, value in self.headers if name.lower() == b"connection")
        options = {option.strip() for option in given.split(b",")}
        return b"close" not in options and (not self.http_1_0 or b"keep-alive" in options)


def _ending(keep_alive: bool, http_1_0: bool) -> bytes:
    if not keep_alive:
        return CLOSING
    return b"Connection: keep-alive\r\n\r\n" if http_1_0 else b"\r\n"


class HeadReader:
    """Heads by their bytes. ``complete`` adds what follows from a new one, and is as true for every other like it."""

    def __init__(self, complete: Callable[[Head], None]) -> None:
        self._memo: dict[bytes, Head] = {}
        self._complete = complete

    def read(self, data: bytes) -> Head:
        """The head that ``data`` is, from request line to empty line. Raises :class:`BadHead`."""
        head = self._memo.get(data)
        if head is None:
            head = Head(data)
            self._complete(head)
            if len(data) <= _MEMO_NBYTES:
                if len(self._memo) >= _MEMO_ENTRIES:
                    self._memo.clear()
                self._memo[data] = head
        return head
