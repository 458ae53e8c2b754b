"""HTTP as a protocol, by hand: appendix A.5 (transport), A.11 (odd requests), pipelining, pieces, half-closed ends.

See also: ``test_http_faults``, for bodies that lie and clients that vanish.
"""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

import numpy as np
import pytest
from http_wire import Wire, frame
from infer_rows import DEDUCED, RID, SYNTAX, TWO_IN, two_in
from serving import Served

pytestmark = pytest.mark.usefixtures("nothing_stays")

LIVE = "/v2/health/live"
RAW = {"Inference-Header-Content-Length": 0}
IDENTITY = "/v2/models/ident_uint8/infer"
VALID = json.dumps(two_in()).encode()


def numbered(number: int) -> bytes:
    return frame("POST", TWO_IN, json.dumps(two_in(id=str(number))).encode())


def blob(nbytes: int, seed: int = 0) -> bytes:
    return np.resize(np.arange(seed, seed + 251, dtype=np.uint8), nbytes).tobytes()


def payload(reply: Any) -> bytes:
    """The binary data of a response."""
    assert reply.status == 200, reply.body
    return bytes(reply.body[int(reply.headers["Inference-Header-Content-Length"]) :])


# -- what is no HTTP


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(b"FOO BAR\r\n\r\n", id="no HTTP", marks=pytest.mark.spec("server:A36")),
        pytest.param(
            frame("POST", TWO_IN, headers={"Content-Length": -5}),
            id="negative length",
            marks=pytest.mark.spec("server:A200"),
        ),
        pytest.param(frame("POST", TWO_IN, headers={"Content-Length": "5x"}), id="length is no number"),
        pytest.param(frame("POST", TWO_IN, headers={"Content-Length": "+5"}), id="length with a sign"),
        pytest.param(frame("POST", TWO_IN, headers={"Content-Length": "9" * 30}), id="length beyond 64 bits"),
        pytest.param(
            frame("POST", TWO_IN, headers={"Content-Length": 5, "content-length": 6}) + b"hello", id="two lengths"
        ),
        pytest.param(  # the original goes by the chunks, and a proxy before it by whatever it likes better
            frame("POST", TWO_IN, b"5\r\nhello\r\n0\r\n\r\n", {"Content-Length": 5, "Transfer-Encoding": "chunked"}),
            id="a length and chunks",
            marks=pytest.mark.spec("server:A354"),
        ),
        pytest.param(
            frame("POST", TWO_IN, b"ZZ\r\nhello\r\n0\r\n\r\n", {"Transfer-Encoding": "chunked"}),
            id="chunk size ZZ",
            marks=pytest.mark.spec("server:A355"),
        ),
        pytest.param(
            frame("POST", TWO_IN, b"-5\r\nhello\r\n0\r\n\r\n", {"Transfer-Encoding": "chunked"}), id="chunk size -5"
        ),
        pytest.param(
            frame("POST", TWO_IN, b"3\r\nhello\r\n0\r\n\r\n", {"Transfer-Encoding": "chunked"}),
            id="chunk longer than its size",
        ),
        pytest.param(
            frame("GET", LIVE, headers={"X": "y" * 100_000}),
            id="header of 100,000 bytes",
            marks=pytest.mark.spec("server:A351"),
        ),
        pytest.param(frame("GET", LIVE, headers={"Bad Name": 1}), id="space in a header name"),
        pytest.param(b"GET " + b"/" * 300_000, id="endless request line"),
        pytest.param(frame("GET", LIVE, version="3.7"), id="HTTP 3.7"),
    ],
)
@pytest.mark.spec("server:5")
def test_connection_is_closed_without_a_response(server: Served, wire: Wire, request_bytes: bytes) -> None:
    wire.send(request_bytes)
    assert wire.is_closed()
    with Wire(server.http_port) as other:
        assert other.request("GET", LIVE).status == 200


@pytest.mark.spec("server:A352")
def test_two_thousand_headers_are_fine(wire: Wire) -> None:
    headers = {f"X-{number}": number for number in range(2000)}
    assert wire.request("GET", LIVE, headers=headers).status == 200


@pytest.mark.spec("server:A353")
def test_host_is_not_required(wire: Wire) -> None:
    wire.send(b"GET /v2/health/live HTTP/1.1\r\n\r\n")
    assert wire.receive().status == 200


@pytest.mark.spec("server:A356")
@pytest.mark.parametrize("target", ["http://test/v2/health/live", "http://test:8000/v2/health/live?x=1"])
def test_absolute_form_of_the_target(wire: Wire, target: str) -> None:
    assert wire.request("GET", target).status == 200


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "GET"])
def test_other_methods_are_not_allowed(wire: Wire, method: str) -> None:
    for target in (TWO_IN, "/v2/repository/index"):
        reply = wire.request(method, target, b"ignored" if method != "GET" else b"")
        assert (reply.status, reply.error) == (405, "Method Not Allowed")
    assert wire.request("POST", TWO_IN, VALID).status == 200


def test_invented_method_is_not_allowed_or_ends_the_connection(server: Served, wire: Wire) -> None:
    wire.send(frame("FROBNICATE", LIVE))
    try:
        assert wire.receive().status == 405
    except (EOFError, ConnectionError):
        with Wire(server.http_port) as other:
            assert other.request("GET", LIVE).status == 200


# -- persistence


@pytest.mark.spec("server:A201")
@pytest.mark.spec("server:1")
def test_connection_close_is_honoured(wire: Wire) -> None:
    reply = wire.request("POST", TWO_IN, VALID, {"Connection": "close"})
    assert reply.status == 200
    assert reply.headers["Connection"] == "close"
    assert wire.is_closed()


def test_http_1_0_closes_unless_asked_not_to(server: Served) -> None:
    with Wire(server.http_port) as wire:
        wire.send(frame("POST", TWO_IN, VALID, version="1.0"))
        assert wire.receive().status == 200
        assert wire.is_closed()
    with Wire(server.http_port) as wire:
        for _ in range(2):
            wire.send(frame("POST", TWO_IN, VALID, {"Connection": "keep-alive"}, version="1.0"))
            reply = wire.receive()
            assert (reply.status, reply.headers["Connection"]) == (200, "keep-alive")


def test_connection_serves_many_requests(wire: Wire) -> None:
    for number in range(50):
        wire.send(numbered(number))
        assert wire.receive().json["id"] == str(number)


# -- pipelining


def test_two_requests_in_one_packet_are_answered_in_order(wire: Wire) -> None:
    wire.send(numbered(1) + numbered(2))
    assert [wire.receive().json["id"] for _ in range(2)] == ["1", "2"]


def test_pipelined_requests_of_every_kind_are_answered_in_order(wire: Wire) -> None:
    large = frame("POST", IDENTITY, blob(100_000), RAW)
    chunked = frame("POST", TWO_IN, b"3\r\n{}x\r\n0\r\n\r\n", {"Transfer-Encoding": "chunked"})
    wire.send(
        numbered(1) + large + frame("GET", LIVE) + frame("GET", "/nowhere") + chunked + large + frame("PUT", TWO_IN)
        + numbered(2)
    )  # fmt: skip
    assert wire.receive().json["id"] == "1"
    assert payload(wire.receive()) == blob(100_000)
    assert [wire.receive().status for _ in range(3)] == [200, 404, 400]
    assert payload(wire.receive()) == blob(100_000)
    assert wire.receive().status == 405
    assert wire.receive().json["id"] == "2"


def test_hundreds_of_pipelined_requests(wire: Wire) -> None:
    wire.send(b"".join(map(numbered, range(500))))
    assert [wire.receive().json["id"] for _ in range(500)] == list(map(str, range(500)))


@pytest.mark.parametrize("option", ["close", "Close", "x-other, close"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_requests_after_connection_close_are_not_answered(wire: Wire, method: str, option: str) -> None:
    wire.send(frame(method, LIVE, headers={"Connection": option}) + frame("GET", LIVE))
    assert wire.receive().headers["Connection"] == "close"
    assert wire.is_closed()


def test_client_that_reads_late_gets_every_byte(server: Served, wire: Wire) -> None:
    """The server stops reading from a client that does not read, rather than hoard what it could not send."""
    count, nbytes = 40, 1 << 20
    sender = threading.Thread(
        target=lambda: [wire.send(frame("POST", IDENTITY, blob(nbytes, seed), RAW)) for seed in range(count)]
    )
    sender.start()
    with Wire(server.http_port) as other:  # is served meanwhile
        assert other.request("POST", TWO_IN, VALID).status == 200
    for seed in range(count):
        assert payload(wire.receive()) == blob(nbytes, seed)
    sender.join(20)
    assert not sender.is_alive()


# -- pieces


@pytest.mark.parametrize("headers", [{}, {"Transfer-Encoding": "chunked"}], ids=["length", "chunked"])
def test_request_may_come_byte_by_byte(wire: Wire, headers: dict[str, object]) -> None:
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(VALID), VALID) if headers else VALID
    wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in frame("POST", TWO_IN, body, headers):
        wire.send(bytes([byte]))
    assert wire.receive().status == 200
    assert wire.request("GET", LIVE).status == 200


@pytest.mark.parametrize("nbytes", [(32 << 10) - 1, 32 << 10, (32 << 10) + 1, 200_000])
@pytest.mark.parametrize("piece", [997, 65536])
def test_body_may_come_in_pieces(wire: Wire, nbytes: int, piece: int) -> None:
    request = frame("POST", IDENTITY, blob(nbytes), RAW) + numbered(1)
    for start in range(0, len(request), piece):
        wire.send(request[start : start + piece])
    assert payload(wire.receive()) == blob(nbytes)
    assert wire.receive().json["id"] == "1"


@pytest.mark.parametrize("cut", [1, 10, 100, 30_000])
def test_body_may_begin_in_the_packet_of_its_head(wire: Wire, cut: int) -> None:
    request = frame("POST", IDENTITY, blob(50_000), RAW)
    head = request.index(b"\r\n\r\n") + 4
    wire.send(request[: head + cut])
    with Wire(wire.socket.getpeername()[1]) as other:  # once that is answered, the first part was received
        assert other.request("GET", LIVE).status == 200
    wire.send(request[head + cut :])
    assert payload(wire.receive()) == blob(50_000)


# -- chunked bodies


def chunked(data: bytes, nbytes: int, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    chunks = [data[start : start + nbytes] for start in range(0, len(data), nbytes)]
    encoded = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    return encoded + b"0\r\n" + trailer + b"\r\n"


@pytest.mark.spec("server:A198")
@pytest.mark.spec("server:7")
@pytest.mark.parametrize("nbytes", [1, 7, 100, 100_000])
def test_chunked_request(wire: Wire, nbytes: int) -> None:
    headers = {"Transfer-Encoding": "chunked"}
    assert wire.request("POST", TWO_IN, chunked(VALID, nbytes), headers).json["outputs"][1]["data"] == [5, 6]
    assert wire.request("POST", "/v2/repository/index", chunked(b'{"ready":true}', nbytes), headers).status == 200


def test_chunk_extensions_and_trailers_are_skipped(wire: Wire) -> None:
    body = chunked(VALID, 50, b';name="value"', b"X-Trailer: 1\r\nX-Other: 2\r\n")
    wire.send(frame("POST", TWO_IN, body, {"Transfer-Encoding": "chunked"}) + numbered(1))
    assert wire.receive().status == 200
    assert wire.receive().json["id"] == "1"


@pytest.mark.parametrize("nbytes", [40_000, 1_000_000])
def test_large_chunked_request(wire: Wire, nbytes: int) -> None:
    headers = {"Transfer-Encoding": "chunked", **RAW}
    assert payload(wire.request("POST", IDENTITY, chunked(blob(nbytes), 10_007), headers)) == blob(nbytes)


def test_empty_chunked_body_is_a_raw_request(wire: Wire) -> None:
    reply = wire.request("POST", TWO_IN, b"0\r\n\r\n", {"Transfer-Encoding": "chunked"})
    assert (reply.status, reply.error) == (400, RID + DEDUCED)


@pytest.mark.spec("server:8")
def test_more_than_65536_chunks_are_refused(wire: Wire) -> None:
    wire.send(frame("POST", TWO_IN, b"1\r\nx\r\n" * 65537, {"Transfer-Encoding": "chunked"}))
    reply = wire.receive()
    assert reply.status == 400
    assert reply.error == (
        "Chunked request body exceeds maximum of 65536 non-empty chunks. Send fewer or larger HTTP chunks."
    )
    assert reply.headers["Connection"] == "close"


@pytest.mark.spec("server:A199")
def test_post_without_a_length_is_a_raw_request(wire: Wire) -> None:
    wire.send(f"POST {TWO_IN} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    reply = wire.receive()
    assert (reply.status, reply.letter, reply.error) == (400, "J", RID + DEDUCED)


# -- Expect: 100-continue


@pytest.mark.spec("server:6")
@pytest.mark.parametrize("nbytes", [10, 50_000, 2_000_000])
def test_client_that_asks_is_told_to_go_on(wire: Wire, nbytes: int) -> None:
    wire.send(frame("POST", IDENTITY, headers={"Content-Length": nbytes, "Expect": "100-continue", **RAW}))
    reply = wire.receive()
    assert (reply.status, reply.reason, reply.headers) == (100, "Continue", {})
    wire.send(blob(nbytes))
    assert payload(wire.receive()) == blob(nbytes)


def test_client_that_asks_but_does_not_wait_is_served(wire: Wire) -> None:
    wire.send(frame("POST", TWO_IN, VALID, {"Expect": "100-continue"}))
    reply = wire.receive()
    if reply.status == 100:
        reply = wire.receive()
    assert reply.status == 200
    assert wire.request("GET", LIVE).status == 200


def test_chunked_client_that_asks_is_told_to_go_on(wire: Wire) -> None:
    wire.send(frame("POST", TWO_IN, headers={"Transfer-Encoding": "chunked", "Expect": "100-continue"}))
    assert wire.receive().status == 100
    wire.send(chunked(VALID, 20))
    assert wire.receive().status == 200


def test_client_that_asks_is_refused_at_once_and_for_good(wire: Wire) -> None:
    """Whether a body follows a refusal only the client knows, so nothing that follows can be taken for a request."""
    target = "/v2/models/nope/infer"
    wire.send(frame("POST", target, headers={"Content-Length": 2_000_000, "Expect": "100-continue"}))
    reply = wire.receive()
    assert (reply.status, reply.error) == (404, "Request for unknown model: 'nope' is not found")
    assert reply.headers["Connection"] == "close"
    assert wire.is_closed()


# -- JSON by hand


@pytest.mark.parametrize(
    ("body", "error"),
    [
        pytest.param(
            b"\xef\xbb\xbf{}",
            "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'",
            id="A360 BOM",
            marks=pytest.mark.spec("server:A360"),
        ),
        pytest.param(
            VALID + b"xx",
            f"{SYNTAX}The document root must not be followed by other values. at {len(VALID)}",
            id="A361 text behind",
            marks=pytest.mark.spec("server:A361"),
        ),
        pytest.param(
            b'{"inputs":[],}',
            f"{SYNTAX}Missing a name for object member. at 13",
            id="A362 trailing comma",
            marks=pytest.mark.spec("server:A362"),
        ),
        pytest.param(
            b"{/* c */}",
            f"{SYNTAX}Missing a name for object member. at 1",
            id="A363 comment",
            marks=pytest.mark.spec("server:A363"),
        ),
        pytest.param(
            b"{'a':1}",
            f"{SYNTAX}Missing a name for object member. at 1",
            id="A364 single quotes",
            marks=pytest.mark.spec("server:A364"),
        ),
        pytest.param(
            b'{"inputs":5,"inputs":[]}',
            f"{RID}expected 2 inputs but got 0 inputs for model 'two_in'. Got input(s) [], but missing required "
            "input(s) ['INPUT0','INPUT1']. Please provide all required input(s).",
            id="A365 last of two members",
            marks=pytest.mark.spec("server:A365"),  # the original takes the first
        ),
        pytest.param(
            b'{"id":"\\ud800"}',
            f"{SYNTAX}The surrogate pair in string is invalid. at 7",
            id="A366 lone surrogate",
            marks=pytest.mark.spec("server:A366"),
        ),
        pytest.param(
            b'{"id":"\x01"}',
            f"{SYNTAX}Invalid escape character in string. at 7",
            id="A367 control character",
            marks=pytest.mark.spec("server:A367"),
        ),
        pytest.param(
            b'{"id":"abc',
            f"{SYNTAX}Missing a closing quotation mark in string. at 10",
            id="A368 open string",
            marks=pytest.mark.spec("server:A368"),
        ),
        pytest.param(
            b'{"id":"\\q"}',
            f"{SYNTAX}Invalid escape character in string. at 7",
            id="A369 bad escape",
            marks=pytest.mark.spec("server:A369"),
        ),
        pytest.param(
            b'{"inputs":[1 2]}',
            f"{SYNTAX}Missing a comma or ']' after an array element. at 13",
            id="A370 missing comma",
            marks=pytest.mark.spec("server:A370"),
        ),
    ],
)
@pytest.mark.spec("server:52")
def test_odd_json(wire: Wire, body: bytes, error: str) -> None:
    reply = wire.request("POST", TWO_IN, body)
    assert (reply.status, reply.letter, reply.error) == (400, "J", error)
    assert wire.request("POST", TWO_IN, VALID).status == 200
