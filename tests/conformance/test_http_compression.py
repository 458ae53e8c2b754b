"""Infer bodies in gzip and deflate, both ways: appendix A.5 and the real client."""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from clients import Client, inputs_of
from http_wire import Reply, Wire, frame
from infer_rows import TWO_IN, binary, two_in
from rendezvous import identity
from serving import Served, serve

pytestmark = pytest.mark.usefixtures("nothing_stays")

VALID = json.dumps(two_in()).encode()
IDENTITY = "/v2/models/ident_fp32/infer"
COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}
CODINGS = pytest.mark.parametrize("coding", COMPRESS)


def decoded(reply: Reply) -> bytes:
    """The body that was meant."""
    coding = reply.headers.get("Content-Encoding")
    return reply.body if coding is None else DECOMPRESS[coding](reply.body)


def large(count: int, seed: int = 0) -> tuple[bytes, dict[str, object], bytes]:
    """A binary request of numbers that repeat; its body, headers and tensor."""
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [1, count], "parameters": {"binary_data_size": 4 * count}}
    data = np.resize(np.arange(seed, seed + 1000, dtype=np.float32), count).tobytes()
    request = binary({"inputs": [tensor], "parameters": {"binary_data_output": True}}, data)
    return request["body"], request["headers"], data


# -- requests


@pytest.mark.spec("server:78")
@pytest.mark.parametrize(
    ("label", "coding"),
    [
        pytest.param("gzip", "gzip", marks=pytest.mark.spec("server:A186")),
        pytest.param("deflate", "deflate", marks=pytest.mark.spec("server:A187")),
        pytest.param("deflate", "gzip", marks=pytest.mark.spec("server:A188")),
        ("gzip", "deflate"),
    ],
)
def test_compressed_request(wire: Wire, label: str, coding: str) -> None:
    reply = wire.request("POST", TWO_IN, COMPRESS[coding](VALID), {"Content-Encoding": label})
    assert (reply.status, reply.letter) == (200, "J")
    assert [output["data"] for output in reply.json["outputs"]] == [[1.0, 2.0, 3.0, 4.0], [5, 6]]
    assert "Content-Encoding" not in reply.headers


@pytest.mark.spec("server:81")
@CODINGS
@pytest.mark.parametrize("count", [1, 100, 5_000, 1_000_000])
def test_header_length_of_a_compressed_request_counts_what_is_inflated(wire: Wire, coding: str, count: int) -> None:
    body, headers, data = large(count)
    for _ in range(2):
        reply = wire.request("POST", IDENTITY, COMPRESS[coding](body), {**headers, "Content-Encoding": coding})
        assert reply.status == 200, reply.body
        assert reply.body[int(reply.headers["Inference-Header-Content-Length"]) :] == data
    assert wire.request("POST", IDENTITY, body, headers).status == 200


@CODINGS
def test_compressed_chunks(wire: Wire, coding: str) -> None:
    body = COMPRESS[coding](VALID)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:20], body[20:])) + b"0\r\n\r\n"
    headers = {"Content-Encoding": coding, "Transfer-Encoding": "chunked"}
    assert wire.request("POST", TWO_IN, chunks, headers).status == 200


def test_compressed_requests_in_one_packet_are_answered_in_order(wire: Wire) -> None:
    requests = [
        frame("POST", TWO_IN, gzip.compress(json.dumps(two_in(id=str(number))).encode()), {"Content-Encoding": "gzip"})
        for number in range(20)
    ]
    wire.send(b"".join(requests))
    assert [wire.receive().json["id"] for _ in requests] == [str(number) for number in range(20)]


@pytest.mark.spec("server:80")
@pytest.mark.parametrize(
    "encoding",
    [
        pytest.param("br", marks=pytest.mark.spec("server:A190")),
        pytest.param("GZIP", marks=pytest.mark.spec("server:A192")),
        "gzip, deflate",
    ],
)
@pytest.mark.parametrize("body", [VALID, bytes(100_000)], ids=["small", "large"])
def test_unknown_content_encoding(wire: Wire, encoding: str, body: bytes) -> None:
    reply = wire.request("POST", TWO_IN, body, {"Content-Encoding": encoding})
    assert (reply.status, reply.letter, reply.error) == (501, "T", "Unsupported compression type")
    assert reply.headers["Accept-Encoding"] == "gzip, deflate"


@pytest.mark.spec("server:A191")
def test_identity_encoding(wire: Wire) -> None:
    assert wire.request("POST", TWO_IN, VALID, {"Content-Encoding": "identity"}).status == 200


@pytest.mark.spec("server:82")
@pytest.mark.parametrize(
    ("body", "error"),
    [
        pytest.param(b"", "nothing to be decompressed", marks=pytest.mark.spec("server:A194")),
        pytest.param(
            b"garbage",
            "failed to decompress the request body: incorrect header check",
            marks=pytest.mark.spec("server:A193"),
        ),
        pytest.param(
            zlib.compress(VALID, wbits=-15),
            "failed to decompress the request body: incorrect header check",
            marks=pytest.mark.spec("server:A189"),
        ),
        pytest.param(
            gzip.compress(VALID)[:-10],
            "failed to decompress the request body: it ends too early",
            marks=pytest.mark.spec("server:A195"),
        ),
        (b"x" * 100_000, "failed to decompress the request body: incorrect header check"),
    ],
    ids=["empty", "garbage", "raw deflate", "cut", "much garbage"],
)
def test_what_cannot_be_decompressed(wire: Wire, body: bytes, error: str) -> None:
    reply = wire.request("POST", TWO_IN, body, {"Content-Encoding": "gzip"})
    assert (reply.status, reply.letter, reply.error) == (400, "T", error)
    assert wire.request("POST", TWO_IN, VALID).status == 200


@pytest.mark.spec("server:81")
def test_header_length_beyond_what_is_inflated(wire: Wire) -> None:
    body, headers, _ = large(10)
    headers = {"Inference-Header-Content-Length": len(body) + 1, "Content-Encoding": "gzip"}
    reply = wire.request("POST", IDENTITY, gzip.compress(body), headers)
    assert (reply.status, reply.letter) == (400, "T")
    assert reply.error == f"inference header size should be in range (0, {len(body)}), got: {len(body) + 1}"


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that takes 100,000 bytes."""
    folder = tmp_path_factory.mktemp("narrow")
    identity(folder)
    with serve(folder, "--http-max-input-size=100000") as served:
        yield served


@pytest.mark.spec("server:83")
def test_bombs_are_refused(narrow: Served) -> None:
    target = "/v2/models/identity/infer"
    limit = "Decompressed data size exceeds the maximum allowed value of 100000 bytes. Use --http-max-input-size to "
    limit += "increase the limit."
    with Wire(narrow.http_port) as wire:
        for body in (gzip.compress(bytes(100_001)), gzip.compress(bytes(50_000_000)), bytes(100_001)):
            reply = wire.request("POST", target, body, {"Content-Encoding": "gzip"})
            assert (reply.status, reply.letter, reply.error) == (400, "T", limit)
        headers = {"Content-Encoding": "gzip", "Inference-Header-Content-Length": 0}
        assert wire.request("POST", target, gzip.compress(bytes(100_000)), headers).status == 200


def test_client_that_leaves_while_its_body_is_inflated_leaves_nothing(server: Served) -> None:
    body, headers, _ = large(2_000_000)
    request = frame("POST", IDENTITY, gzip.compress(body, 1), {**headers, "Content-Encoding": "gzip"})
    for _ in range(5):
        with Wire(server.http_port) as wire:
            wire.send(request)
            wire.socket.shutdown(socket.SHUT_RDWR)
    with Wire(server.http_port) as wire:
        assert wire.request("POST", TWO_IN, VALID).status == 200


# -- responses


@pytest.mark.spec("server:79")
@pytest.mark.spec("server:81")
@CODINGS
@pytest.mark.parametrize("count", [100, 5_000, 1_000_000])
def test_compressed_response(wire: Wire, coding: str, count: int) -> None:
    body, headers, data = large(count)
    for _ in range(2):
        reply = wire.request("POST", IDENTITY, body, {**headers, "Accept-Encoding": coding})
        assert (reply.status, reply.letter, reply.headers["Content-Encoding"]) == (200, "O", coding)
        plain = decoded(reply)
        assert plain[int(reply.headers["Inference-Header-Content-Length"]) :] == data
        assert len(reply.body) < len(plain)


@pytest.mark.spec("server:79")
@pytest.mark.parametrize(
    ("accepted", "coding"),
    [("deflate;q=0.2, gzip;q=0.1", "deflate"), ("gzip;q=0", None), ("*", None), ("br, gzip", "gzip"), ("GZIP", None)],
)
def test_coding_that_weighs_most_is_taken(wire: Wire, accepted: str, coding: str | None) -> None:
    reply = wire.request("POST", TWO_IN, VALID, {"Accept-Encoding": accepted})
    assert reply.headers.get("Content-Encoding") == coding
    assert json.loads(decoded(reply))["outputs"][1]["data"] == [5, 6]
    assert reply.letter == "J"


def test_header_may_come_twice(wire: Wire) -> None:
    request = frame("POST", TWO_IN, VALID, {"Accept-Encoding": "br", "accept-encoding": "gzip"})
    wire.send(request)
    assert wire.receive().headers["Content-Encoding"] == "gzip"


def test_what_does_not_become_smaller_is_sent_plain(wire: Wire) -> None:
    data = np.random.default_rng(1).bytes(40_000)
    tensor = {"name": "INPUT0", "datatype": "UINT8", "shape": [1, len(data)]}
    tensor["parameters"] = {"binary_data_size": len(data)}
    request = binary({"inputs": [tensor], "parameters": {"binary_data_output": True}}, data)
    headers = {**request["headers"], "Accept-Encoding": "gzip"}
    reply = wire.request("POST", "/v2/models/ident_uint8/infer", request["body"], headers)
    assert "Content-Encoding" not in reply.headers
    assert reply.body.endswith(data)


@pytest.mark.spec("server:82")
@pytest.mark.parametrize(
    ("target", "body", "status"),
    [
        pytest.param(TWO_IN, b"{}", 400, marks=pytest.mark.spec("server:A196")),
        ("/v2/models/nope/infer", b"{}", 404),
        ("/v2/nowhere", b"", 404),
        ("/v2", b"", 405),
        ("/v2/models/ident_fp16/infer", b'{"inputs":5}', 400),
        ("/v2/models/err/infer", json.dumps(
            {"inputs": [{"name": "INPUT0", "datatype": "BYTES", "shape": [1, 1], "data": ["crash:" + "x" * 500]}]}
        ).encode(), 500),
    ],
)  # fmt: skip
def test_errors_are_never_compressed(wire: Wire, target: str, body: bytes, status: int) -> None:
    reply = wire.request("POST", target, body, {"Accept-Encoding": "gzip"})
    assert reply.status == status
    assert reply.error
    assert "Content-Encoding" not in reply.headers


@pytest.mark.parametrize("target", ["/v2", "/v2/models/two_in", "/v2/models/two_in/config"])
def test_what_is_not_inference_is_never_compressed(wire: Wire, target: str) -> None:
    assert "Content-Encoding" not in wire.request("GET", target, headers={"Accept-Encoding": "gzip"}).headers


@pytest.mark.spec("server:78")
@pytest.mark.spec("server:79")
@pytest.mark.parametrize("request_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_coding", [None, "gzip", "deflate"])
def test_real_client(server: Served, request_coding: str | None, response_coding: str | None) -> None:
    values = np.resize(np.arange(100, dtype=np.float32), (2, 30_000))
    with Client("http", server) as client:
        inputs: Any = inputs_of(client.module, {"INPUT0": values})
        result = client.raw.infer(
            "ident_fp32",
            inputs,
            request_compression_algorithm=request_coding,
            response_compression_algorithm=response_coding,
        )
        assert np.array_equal(result.as_numpy("OUTPUT0"), values)
