"""HTTP clients that lie, send nonsense or vanish: they are told so, nothing of theirs stays, others notice nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from clients import Client
from http_wire import Wire, frame
from infer_rows import RID, SYNTAX, TWO_IN, binary, first, second, spell, strings, two_in
from serving import Served
from waiting import Gate, wait_for_metrics

pytestmark = pytest.mark.usefixtures("nothing_stays")

LIVE = "/v2/health/live"
RAW = {"Inference-Header-Content-Length": 0}
IDENTITY = "/v2/models/ident_fp32/infer"
VALID = json.dumps(two_in()).encode()
LARGE = 400_000
"""Bytes of a body that is received into shared memory."""
CUT_JSON = b'{"inputs":' + b" " * LARGE


def large(**changes: Any) -> dict[str, Any]:
    """A valid binary request with a large tensor, changed; body and headers."""
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [1, LARGE // 4], "parameters": {"binary_data_size": LARGE}}
    return binary({"inputs": [{**tensor, **changes}]}, bytes(LARGE))


def test_large_request_is_valid_until_it_is_changed(wire: Wire) -> None:
    assert wire.request("POST", IDENTITY, **large()).status == 200


@pytest.mark.parametrize(
    ("target", "request_", "status", "error"),
    [
        ("/v2/models/nope/infer", large(), 404, "Request for unknown model: 'nope' is not found"),
        (
            "/v2/models/ident_fp32/versions/7/infer",
            large(),
            404,
            "Request for unknown model: 'ident_fp32' version 7 is not found",
        ),
        ("/v2/nowhere", large(), 404, "Not Found"),
        (LIVE, large(), 405, "Method Not Allowed"),
        (IDENTITY, large(name="X"), 400, "unexpected inference input 'X' for model 'ident_fp32'"),
        (IDENTITY, large(datatype="FP99"), 400, "invalid datatype for input INPUT0"),
        (
            IDENTITY,
            large(datatype="INT32"),
            400,
            f"{RID}inference input 'INPUT0' data-type is 'INT32', but model 'ident_fp32' expects 'FP32'",
        ),
        (
            IDENTITY,
            large(shape=[1, 5]),
            400,
            f"{RID}input byte size mismatch for input 'INPUT0' for model 'ident_fp32'. Expected 20, got {LARGE}",
        ),
        (
            IDENTITY,
            large(parameters={"binary_data_size": LARGE + 1}),
            400,
            "unexpected size for input 'INPUT0', expecting 1 additional bytes for model 'ident_fp32'",
        ),
        (
            IDENTITY,
            large(parameters={"binary_data_size": LARGE - 1}),
            400,
            "unexpected additional input data for model 'ident_fp32'",
        ),
        (
            IDENTITY,
            {**large(), "headers": {"Inference-Header-Content-Length": 10**9}},
            400,
            f"inference header size should be in range (0, {len(large()['body'])}), got: 1000000000",
        ),
        (IDENTITY, {"body": b"x" * LARGE}, 400, f"{SYNTAX}Invalid value. at 0"),
        (
            IDENTITY,
            {"body": CUT_JSON},
            400,
            f"{SYNTAX}Invalid value. at {len(CUT_JSON)}",
        ),
    ],
)
def test_large_request_that_is_wrong_leaves_nothing_but_a_usable_connection(
    wire: Wire, target: str, request_: dict[str, Any], status: int, error: str
) -> None:
    for _ in range(2):
        reply = wire.request("POST", target, **request_)
        assert (reply.status, reply.error) == (status, error)
    assert wire.request("POST", IDENTITY, **large()).status == 200


@pytest.mark.parametrize("target", [IDENTITY, "/v2/models/nope/infer", LIVE, "/v2/repository/index"])
@pytest.mark.parametrize("length", [10**15, 2**63 - 1])
def test_absurd_content_length_is_refused_at_once(server: Served, wire: Wire, target: str, length: int) -> None:
    reserved = shared_memory(server)
    wire.send(frame("POST", target, b"a few bytes", headers={"Content-Length": length, **RAW}))
    reply = wire.receive()
    assert reply.status in (400, 404, 405, 503)
    assert reply.headers["Connection"] == "close"
    assert wire.is_closed()
    assert shared_memory(server) == reserved
    with Wire(server.http_port) as other:
        assert other.request("POST", IDENTITY, **large()).status == 200


def shared_memory(server: Served) -> float:
    lines = server.metrics().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("atoll_shared_memory_bytes{"))


@pytest.mark.parametrize("nbytes", [100, 40_000, 50_000_000])
@pytest.mark.parametrize("sent", [0, 50, 39_000])
@pytest.mark.spec("server:A197")
def test_client_that_leaves_inside_its_body_leaves_nothing(server: Served, nbytes: int, sent: int) -> None:
    with Wire(server.http_port) as wire:
        wire.send(frame("POST", IDENTITY, bytes(min(sent, nbytes - 1)), headers={"Content-Length": nbytes, **RAW}))
    with Wire(server.http_port) as wire:
        wire.send(frame("POST", IDENTITY, b"5\r\nab", headers={"Transfer-Encoding": "chunked"}))


HOLD = "/v2/models/hold_large/infer"


def held(gate: Gate) -> bytes:
    """A request to ``hold_large`` that waits at a gate with a large input."""
    path = strings(gate.path.encode())
    tensors = [
        {"name": "INPUT0", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(path)}},
        {"name": "INPUT1", "datatype": "UINT8", "shape": [LARGE], "parameters": {"binary_data_size": LARGE}},
    ]
    request = binary({"inputs": tensors}, path, bytes(LARGE))
    return frame("POST", HOLD, request["body"], request["headers"])


def test_client_that_leaves_while_its_request_executes_leaves_nothing(
    server: Served, make_gate: Callable[[], Gate], settled: Callable[[], None]
) -> None:
    gate = make_gate()
    with Wire(server.http_port) as wire:
        wire.send(held(gate))
        gate.wait_for_arrival()
        wait_for_metrics(server, lambda page: page["atoll_shared_memory_used_bytes", "hold_large"] > LARGE)
    gate.open()
    settled()
    gate = make_gate()
    with Wire(server.http_port) as wire:
        wire.send(held(gate))
        gate.open()
        assert wire.receive().status == 200


@pytest.mark.spec("server:9")
def test_client_that_leaves_the_queue_is_never_executed(
    server: Served, make_gate: Callable[[], Gate], wait_for_pending: Callable[[str, int], None]
) -> None:
    executing, queued = make_gate(), make_gate()
    with Client("http", server) as client, Wire(server.http_port) as first_one:
        before = client.statistics("hold_large")
        first_one.send(held(executing))
        executing.wait_for_arrival()
        with Wire(server.http_port) as wire:
            wire.send(held(queued))
            wait_for_pending("hold_large", 1)
        wait_for_pending("hold_large", 0)
        executing.open()
        assert first_one.receive().status == 200
        after = client.statistics("hold_large")
    assert after["execution_count"] == before["execution_count"] + 1
    assert after["fail"] == before["fail"] + 1
    assert queued.path not in server.log


@pytest.mark.spec("server:13")
def test_slow_clients_hold_up_nobody(server: Served, make_gate: Callable[[], Gate]) -> None:
    """One inside its head, one inside its body, one whose model takes its time."""
    gate = make_gate()
    with Wire(server.http_port) as head, Wire(server.http_port) as body, Wire(server.http_port) as model:
        head.send(frame("POST", TWO_IN, VALID)[:20])
        request = large()
        body.send(frame("POST", IDENTITY, **request)[:50_000])
        model.send(held(gate))
        gate.wait_for_arrival()
        with Wire(server.http_port) as other:
            for _ in range(20):
                assert other.request("POST", TWO_IN, VALID).status == 200
        head.send(frame("POST", TWO_IN, VALID)[20:])
        body.send(frame("POST", IDENTITY, **request)[50_000:])
        assert head.receive().status == 200
        assert body.receive().status == 200
        gate.open()
        assert model.receive().status == 200


# -- what is not UTF-8


@pytest.mark.parametrize("name", [b"\xff\xfe", b"\xc3", "żółć".encode(), b"a\0b", b"%00", b"%ff", b"'", b"{}"])
def test_odd_bytes_in_the_path_name_no_model(server: Served, wire: Wire, name: bytes) -> None:
    wire.send(b"GET /v2/models/%b HTTP/1.1\r\nHost: test\r\n\r\n" % name)
    if not name.isascii() or b"\0" in name:  # no HTTP any more
        assert wire.is_closed()
        return
    assert wire.receive().status == 404
    assert wire.request("GET", LIVE).status == 200


@pytest.mark.parametrize(
    ("document", "status"),
    [
        (two_in(first(name="odd"), second()), 400),
        (two_in(first(datatype="odd"), second()), 400),
        (two_in(outputs=[{"name": "odd"}]), 400),
        (two_in(id="odd"), 200),
        (two_in(parameters={"odd": 1}), 200),
        (two_in(parameters={"key": "odd"}), 200),
        (two_in(parameters={"odd": None}), 400),
        (two_in(parameters={"sequence_id": "odd"}), 200),
    ],
)
@pytest.mark.parametrize("odd", [b"\xff\xfe", b"\xc3(", b"\xed\xa0\x80", b"\\u0000", b"\\n"])
def test_odd_bytes_in_a_string_are_answered(wire: Wire, document: dict[str, Any], status: int, odd: bytes) -> None:
    reply = wire.request("POST", TWO_IN, json.dumps(document).encode().replace(b"odd", odd))
    assert reply.status == status
    assert wire.request("POST", TWO_IN, VALID).status == 200


def test_odd_bytes_reach_the_model_and_come_back_readable(wire: Wire) -> None:
    tensor = {"name": "INPUT0", "datatype": "INT32", "shape": [1], "data": [1]}
    document = {"id": "<odd>", "parameters": {"key <odd>": "value <odd>"}, "inputs": [tensor]}
    reply = wire.request("POST", "/v2/models/params/infer", json.dumps(document).encode().replace(b"<odd>", b"\xff"))
    assert reply.status == 200
    seen = json.loads(reply.json["outputs"][0]["data"][0])
    assert seen["id"] == reply.json["id"] == "\ufffd"
    assert seen["parameters"] == reply.json["parameters"] == {"key \ufffd": "value \ufffd"}


# -- nonsense at random


@pytest.mark.parametrize("seed", range(4))
def test_damaged_requests_are_answered(server: Served, seed: int) -> None:
    """Bytes of valid bodies are changed, dropped and repeated; whatever comes of it has a proper answer."""
    chance = random.Random(seed)
    shm = first(data=..., parameters={"shared_memory_region": "r", "shared_memory_byte_size": 16})
    both = two_in(
        first(data=..., parameters={"binary_data_size": 16}),
        second(),
        id="1",
        parameters={"sequence_id": 5, "custom": 1.5, "binary_data_output": True},
        outputs=[{"name": "OUTPUT0", "parameters": {"classification": 2}}, {"name": "OUTPUT1"}],
    )
    bodies = [VALID, spell(two_in(first(data=["x", 2, 3, 4]), second()), x="NaN"), json.dumps(two_in(shm)).encode()]
    with Wire(server.http_port) as wire:
        for number in range(250):
            if number % 4:
                body, headers = bytearray(chance.choice(bodies)), {}
            else:
                request = binary(both, bytes(16))
                body, headers = bytearray(request["body"]), request["headers"]
            for _ in range(chance.randint(1, 4)):
                at = chance.randrange(len(body))
                action = chance.randrange(4)
                if action == 0:
                    body[at] = chance.randrange(256)
                elif action == 1:
                    del body[at : at + chance.randint(1, 9)]
                elif action == 2:
                    body[at:at] = body[at : at + chance.randint(1, 30)]
                else:
                    body[at:at] = chance.choice([b"9" * 30, b"-", b"[" * 200, b"1e999", b'"', b"\\u12", b"null,", b"}"])
                if not body:
                    body = bytearray(b"{")
            reply = wire.request("POST", TWO_IN, bytes(body), headers)
            assert reply.status in (200, 400, 404), bytes(body)
            if reply.status != 200:
                assert reply.error
        assert wire.request("POST", TWO_IN, VALID).status == 200
