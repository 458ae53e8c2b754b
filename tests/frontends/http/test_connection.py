"""A connection on a transport that the test holds: what waits for a client that does not read, and when it ends."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any, NoReturn

import pytest
from atoll.frontends.http.connection import Connection
from atoll.frontends.http.listener import HttpFrontend, HttpOptions
from atoll.observe.trace_settings import TraceOptions
from atoll.observe.tracer import Tracer

REQUEST = b"GET /v2/health/live HTTP/1.1\r\n\r\n"
LAST = b"GET /v2/health/live HTTP/1.1\r\nConnection: close\r\n\r\n"


class TwinServer:
    live = True
    tracer = Tracer(TraceOptions(), bool)

    def is_live(self) -> bool:
        return self.live


class TwinTransport:
    """Sends nothing: remembers what it was told."""

    def __init__(self) -> None:
        self.written = b""
        self.reading = True
        self.ended = ""

    def write(self, data: bytes) -> None:
        self.written += data

    def writelines(self, parts: list[bytes]) -> None:
        self.written += b"".join(parts)

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return bool(self.ended)

    def close(self) -> None:
        self.ended = "closed"


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

    async def receive_and_wait(self, data: bytes) -> None:
        self.receive(data)
        while not self.transport.written:
            await asyncio.sleep(0)

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


def test_a_defect_of_the_server_is_an_answer(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> NoReturn:
        raise ZeroDivisionError("by chance")

    async def broken_later() -> NoReturn:
        broken()

    monkeypatch.setattr(driver.server, "is_live", broken)
    monkeypatch.setattr(driver.server, "check_ready", broken_later, raising=False)
    for path in (b"live", b"ready"):
        asyncio.run(driver.receive_and_wait(REQUEST.replace(b"live", path)))
        head, _, body = driver.sent().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert body == b'{"error":"ZeroDivisionError: by chance"}'
        [record] = caplog.records
        assert record.exc_info is not None
        assert record.exc_info[0] is ZeroDivisionError
        caplog.clear()


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


class Receipt:
    """What holds back the sender of a chunk while anything refers to it."""


def begin_stream(driver: Driver) -> None:
    driver.receive(REQUEST)
    driver.sent()
    driver.connection.begin_chunks(b"HTTP/1.1 200 OK\r\n")
    assert driver.sent() == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("end", ["read", "leave"])
def test_receipts_are_kept_until_the_client_reads(driver: Driver, end: str) -> None:
    begin_stream(driver)
    receipts = [Receipt() for _ in range(3)]
    kept = [weakref.ref(receipt) for receipt in receipts]
    driver.connection.send_chunk(b"x" * 20, receipts.pop(0))
    assert driver.sent() == b"14\r\n" + b"x" * 20 + b"\r\n"
    driver.connection.pause_writing()
    driver.connection.send_chunk(b"y", receipts.pop(0))
    driver.connection.send_chunk(b"z", receipts.pop(0))
    assert [reference() is not None for reference in kept] == [False, True, True]
    if end == "read":
        driver.connection.resume_writing()
    else:
        driver.connection.connection_lost(None)
    assert not any(reference() for reference in kept)


def test_what_comes_after_the_client_has_left_is_dropped(driver: Driver) -> None:
    begin_stream(driver)
    driver.connection.connection_lost(None)
    driver.connection.begin_chunks(b"HTTP/1.1 200 OK\r\n")
    driver.connection.send_chunk(b"x", None)
    driver.connection.end_chunks()
    driver.connection.respond(b"HTTP/1.1 200 OK\r\n", [b"x"], 1)
    assert driver.sent() == b""
