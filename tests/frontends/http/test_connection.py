"""A connection on a transport that the test holds: what waits for a client that does not read, and when it ends."""

from __future__ import annotations

from typing import Any

import pytest
from atoll.frontends.http.connection import Connection
from atoll.frontends.http.listener import HttpFrontend, HttpOptions

REQUEST = b"GET /v2/health/live HTTP/1.1\r\n\r\n"
LAST = b"GET /v2/health/live HTTP/1.1\r\nConnection: close\r\n\r\n"
MAX_UNSENT_NBYTES = 64 << 20


class TwinServer:
    live = True

    def is_live(self) -> bool:
        return self.live


class TwinTransport:
    """Sends nothing: remembers what it was told."""

    def __init__(self) -> None:
        self.written = b""
        self.unsent_nbytes = 0
        self.reading = True
        self.ended = ""

    def write(self, data: bytes) -> None:
        self.written += data

    def writelines(self, parts: list[bytes]) -> None:
        self.written += b"".join(parts)

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.unsent_nbytes

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return bool(self.ended)

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "aborted"


class Driver:
    """A connection and both its ends."""

    def __init__(self) -> None:
        self.server: Any = TwinServer()
        self.transport: Any = TwinTransport()
        self.connection = Connection(HttpFrontend(self.server, HttpOptions()))
        self.connection.connection_made(self.transport)

    def receive(self, data: bytes) -> None:
        self.connection.get_buffer(-1)[: len(data)] = data
        self.connection.buffer_updated(len(data))

    def sent(self) -> bytes:
        written, self.transport.written = self.transport.written, b""
        return bytes(written)


@pytest.fixture
def driver() -> Driver:
    return Driver()


@pytest.mark.spec("server:15")
def test_liveness(driver: Driver) -> None:
    driver.receive(REQUEST)
    assert driver.sent() == b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n"
    driver.server.live = False
    driver.receive(REQUEST)
    assert driver.sent() == b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n"


def test_client_that_does_not_read_is_not_read_from(driver: Driver) -> None:
    driver.connection.pause_writing()
    assert not driver.transport.reading
    driver.receive(REQUEST)
    assert driver.sent()  # it had been read already
    driver.connection.resume_writing()
    assert driver.transport.reading


def test_last_response_is_sent_before_the_connection_is_closed(driver: Driver) -> None:
    """A TLS transport would drop what a slow client has not read some seconds after it was closed."""
    driver.connection.pause_writing()
    driver.receive(LAST)
    assert driver.sent().endswith(b"\r\nConnection: close\r\n\r\n")
    assert not driver.transport.ended
    driver.connection.resume_writing()
    assert driver.transport.ended == "closed"


@pytest.mark.parametrize("unread", [False, True])
def test_idle_connection_is_closed_when_the_server_stops(driver: Driver, unread: bool) -> None:
    if unread:
        driver.connection.pause_writing()
    driver.connection.close_when_idle()
    assert driver.transport.ended == ("" if unread else "closed")
    driver.connection.resume_writing()
    assert driver.transport.ended == "closed"


def test_chunks_pile_up_only_so_high(driver: Driver) -> None:
    driver.receive(REQUEST)
    driver.sent()
    driver.connection.begin_chunks(b"HTTP/1.1 200 OK\r\n")
    driver.transport.unsent_nbytes = MAX_UNSENT_NBYTES
    driver.connection.send_chunk(b"x" * 20)
    assert driver.sent() == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n" + b"x" * 20 + b"\r\n"
    driver.transport.unsent_nbytes += 1
    driver.connection.send_chunk(b"y")
    assert driver.sent() == b""
    assert driver.transport.ended == "aborted"


def test_what_comes_after_the_client_has_left_is_dropped(driver: Driver) -> None:
    driver.receive(REQUEST)
    driver.sent()
    driver.connection.connection_lost(None)
    driver.connection.begin_chunks(b"HTTP/1.1 200 OK\r\n")
    driver.connection.send_chunk(b"x")
    driver.connection.end_chunks()
    driver.connection.respond(b"HTTP/1.1 200 OK\r\n", [b"x"], 1)
    assert driver.sent() == b""
