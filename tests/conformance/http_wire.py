"""HTTP by hand over one TCP connection, for tests of what no well-behaved client would send."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["Reply", "Wire", "frame"]

_TYPES = {
    "application/json": "J",
    "text/plain": "T",
    "application/octet-stream": "O",
    "text/event-stream; charset=utf-8": "S",
}


@dataclass(frozen=True)
class Reply:
    """One response as it came. The body of a chunked one is that of all chunks, which ``chunks`` has one by one."""

    version: str
    status: int
    reason: str
    headers: dict[str, str]
    body: bytes
    chunks: tuple[bytes, ...] = ()

    @property
    def letter(self) -> str:
        """The content type, by the letter that the specification's tables use."""
        return _TYPES[self.headers["Content-Type"]]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of an error body, which holds nothing else."""
        document = self.json
        assert list(document) == ["error"], document
        return str(document["error"])


def frame(
    method: str, target: str, body: bytes = b"", headers: Mapping[str, object] | None = None, version: str = "1.1"
) -> bytes:
    """The bytes of one request. A ``Content-Length`` is added to a body unless ``headers`` say how long it is."""
    lines = {"Host": "test", **(headers or {})}
    if (body or method == "POST") and "Content-Length" not in lines and "Transfer-Encoding" not in lines:
        lines["Content-Length"] = len(body)
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {target} HTTP/{version}\r\n{head}\r\n".encode("latin-1") + body


class Wire:
    """A connection, over TLS if a context for that is given; a context manager."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self._received = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes | memoryview) -> None:
        self.socket.sendall(data)

    def request(
        self, method: str, target: str, body: bytes = b"", headers: Mapping[str, object] | None = None
    ) -> Reply:
        self.send(frame(method, target, body, headers))
        return self.receive()

    def receive(self) -> Reply:
        """The next response."""
        reply = self.receive_head()
        if reply.headers.get("Transfer-Encoding") == "chunked":
            chunks = tuple(iter(self.receive_chunk, b""))
            return replace(reply, body=b"".join(chunks), chunks=chunks)
        return replace(reply, body=self._read_exactly(int(reply.headers.get("Content-Length", 0))))

    def receive_chunk(self) -> bytes:
        """The next chunk of a body; the last one is empty."""
        chunk = self._read_exactly(int(self._read_until(b"\r\n"), 16))
        assert self._read_exactly(2) == b"\r\n"
        return chunk

    def receive_head(self) -> Reply:
        """The next response, without its body."""
        head = self._read_until(b"\r\n\r\n").decode("latin-1")
        status_line, *lines = head[:-4].split("\r\n")
        version, status, reason = status_line.split(" ", 2)
        headers = dict(line.split(": ", 1) for line in lines)
        return Reply(version.removeprefix("HTTP/"), int(status), reason, headers, b"")

    def read_to_the_end(self) -> bytes:
        """All that comes until the server closes the connection."""
        while data := self.socket.recv(65536):
            self._received += data
        return self._received

    def is_closed(self) -> bool:
        """Whether the server ends the connection without another byte (waits for it to do something)."""
        if self._received:
            return False
        try:
            self._received = self.socket.recv(65536)
        except ConnectionError:
            return True
        return not self._received

    def _read_until(self, mark: bytes) -> bytes:
        while mark not in self._received:
            self._fill()
        head, _, self._received = self._received.partition(mark)
        return head + mark

    def _read_exactly(self, nbytes: int) -> bytes:
        parts = [self._received[:nbytes]]
        self._received = self._received[nbytes:]
        missing = nbytes - len(parts[0])
        while missing:
            part = self.socket.recv(min(missing, 1 << 20))
            if not part:
                raise EOFError(f"the connection ended {missing} bytes before the end of a body")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _fill(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError(f"the connection ended after {self._received!r}")
        self._received += data
