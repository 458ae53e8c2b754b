"""generate and generate_stream: appendices A.7 and A.8, and what they do when clients leave or do not read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from http_wire import Reply, Wire, frame
from infer_rows import RID, SYNTAX
from rendezvous import identity
from serving import Served, serve
from waiting import Gate

pytestmark = pytest.mark.usefixtures("nothing_stays")

NOT_ONE = (
    "generate expects model to produce exactly 1 response, use generate stream for model that generates various number "
    "of responses"
)
UNFIT = "The schema can not convert input '{}' to tensor with proper shape"
NO_INPUT = (
    f"{RID}expected number of inputs between 1 and 3 but got 0 inputs for model 'gen'. Got input(s) [], but missing "
    "required input(s) ['text_input']. Please provide all required input(s)."
)


def ask(wire: Wire, document: Any, model: str = "gen", what: str = "generate", **headers: object) -> Reply:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return wire.request("POST", f"/v2/models/{model}/{what}", body, headers)


def stream(wire: Wire, document: Any, model: str = "gend") -> Reply:
    return ask(wire, document, model, "generate_stream")


def events(reply: Reply) -> list[Any]:
    """The documents of a stream; each is a chunk of its own."""
    found = []
    for chunk in reply.chunks:
        assert chunk.startswith(b"data: ")
        assert chunk.endswith(b"\n\n")
        found.append(json.loads(chunk[6:]))
    return found


def text(value: Any, model: str = "gen", **more: Any) -> dict[str, Any]:
    return {**more, "model_name": model, "model_version": "1", "text_output": value}


# -- generate: requests


@pytest.mark.spec("server:84")
@pytest.mark.spec("server:86")
@pytest.mark.spec("server:87")
@pytest.mark.parametrize(
    ("document", "answer"),
    [
        pytest.param(
            {"text_input": "hello"},
            b'{"model_name":"gen","model_version":"1","text_output":"hello"}',
            marks=pytest.mark.spec("server:A233"),
        ),
        pytest.param(
            {"id": "77", "text_input": "hello"},
            b'{"id":"77","model_name":"gen","model_version":"1","text_output":["hello","{\\"id\\": \\"77\\"}"]}',
            marks=pytest.mark.spec("server:A234"),
        ),
        pytest.param(
            {"text_input": "hello", "parameters": {"temperature": 0.5, "n": 3, "s": "x", "b": True}},
            text(["hello", '{"temperature": 0.5, "n": 3, "s": "x", "b": true}']),
            marks=pytest.mark.spec("server:A235"),
        ),
        pytest.param({"parameters": {"text_input": "inner"}}, text("inner"), marks=pytest.mark.spec("server:A236")),
        pytest.param({"text_input": "x", "VEC": [1, 2, 3, 4]}, text("x"), marks=pytest.mark.spec("server:A241")),
        ({"text_input": ["hello"]}, text("hello")),
        ({"text_input": "x", "temperature": 1}, text(["x", '{"temperature": 1}'])),
        ({"text_input": "x", "priority": 1, "sequence_id": 2}, text(["x", '{"priority": 1, "sequence_id": 2}'])),
        ({"text_input": "x", "id": 5}, text(["x", '{"id": 5}'])),
        ({"text_input": "ż\n"}, text("ż\n")),
    ],
)
def test_generate(wire: Wire, document: Any, answer: Any) -> None:
    reply = ask(wire, document)
    assert (reply.status, reply.letter, len(reply.chunks)) == (200, "J", 1)
    assert "Content-Length" not in reply.headers
    if isinstance(answer, bytes):
        assert reply.body == answer
    else:
        assert reply.json == answer


@pytest.mark.spec("server:85")
@pytest.mark.parametrize(
    ("model", "document", "shapes"),
    [
        ("gen", {"text_input": "facts", "VEC": [1, 2]}, {"text_input": [1], "VEC": [2, 1]}),
        ("gen", {"text_input": "facts", "VEC": [1, 2, 3, 4, 5, 6]}, {"text_input": [1], "VEC": [2, 3]}),
        ("gen", {"text_input": "facts", "VEC": []}, {"text_input": [1], "VEC": [2, 0]}),
        ("gen", {"text_input": "facts", "REPEAT": 3}, {"text_input": [1], "REPEAT": [1]}),
        ("gen_odd", {"DEEP": [1, 2, 3, 4, 5, 6]}, {"DEEP": [1, 2, 3]}),
        ("gen_odd", {"id": "text"}, {"id": [1]}),
    ],
)
def test_shapes_follow_from_the_configuration(wire: Wire, model: str, document: Any, shapes: Any) -> None:
    answer = ask(wire, document, model).json
    seen = json.loads(answer["text_output"] if model == "gen" else answer["FACTS"])
    assert seen["shapes"] == shapes
    assert seen["id"] == ""
    assert "id" not in answer


@pytest.mark.spec("server:85")
@pytest.mark.parametrize("count", [1, 2, 3])
def test_batch_takes_what_no_other_dimension_does(wire: Wire, count: int) -> None:
    values = list(range(2 * count))
    reply = ask(wire, {"INPUT0": values}, "gen_batch")
    assert reply.json == {"OUTPUT0": values, "model_name": "gen_batch", "model_version": "1"}


@pytest.mark.spec("server:94")
@pytest.mark.parametrize(
    ("document", "error"),
    [
        pytest.param(
            {"text_input": "x", "parameters": 5},
            "Expected JSON object for keyword: 'parameters': attempt to access JSON non-object as object",
            marks=pytest.mark.spec("server:A237"),
        ),
        pytest.param(
            {"text_input": "x", "parameters": {"a": [1]}},
            "Converting keyword: 'parameters': parameter 'a' has invalid type. It should be either 'int', 'bool', or "
            "'string'.",
            marks=pytest.mark.spec("server:A238"),
        ),
        pytest.param(
            {"text_input": "x", "REPEAT": [1, 2]}, UNFIT.format("REPEAT"), marks=pytest.mark.spec("server:A239")
        ),
        pytest.param(
            {"text_input": "x", "REPEAT": "1"},
            "Unable to parse 'data': attempt to access JSON non-signed-integer as signed-integer",
            marks=pytest.mark.spec("server:A240"),
        ),
        pytest.param({"text_input": "x", "VEC": [1, 2, 3]}, UNFIT.format("VEC"), marks=pytest.mark.spec("server:A242")),
        pytest.param(
            {"text_input": "x", "VEC": [[1, 2], [3, 4]]},
            "Unable to parse 'data': Shape does not match true shape of 'data' field",
            marks=pytest.mark.spec("server:A243"),
        ),
        pytest.param(
            {"text_input": 5},
            "Unable to parse JSON bytes array: attempt to access JSON non-string as string",
            marks=pytest.mark.spec("server:A244"),
        ),
        pytest.param({"text_input": []}, UNFIT.format("text_input"), marks=pytest.mark.spec("server:A245")),
        pytest.param({}, NO_INPUT, marks=pytest.mark.spec("server:A246")),
        pytest.param(b"", f"{SYNTAX}The document is empty. at 0", marks=pytest.mark.spec("server:A247")),
        pytest.param(
            b'{"a"',
            f"{SYNTAX}Missing a colon after a name of object member. at 4",
            marks=pytest.mark.spec("server:A248"),
        ),
        pytest.param([], "attempt to get members for non-object", marks=pytest.mark.spec("server:A249")),
        (
            {"text_input": "x", "a": None},
            "parameter 'a' has invalid type. It should be either 'int', 'bool', or 'string'.",
        ),
        (
            {"text_input": "x", "parameters": {"REPEAT": [1, 2]}},
            "Converting keyword: 'parameters': " + UNFIT.format("REPEAT"),
        ),
        ({"text_input": "x", "parameters": {"text_input": "y"}}, f"{RID}input 'text_input' already exists in request"),
        ({"text_input": None}, "Unable to parse JSON bytes array: attempt to access JSON non-string as string"),
    ],
)
@pytest.mark.parametrize("what", ["generate", "generate_stream"])
def test_request_that_is_wrong_gets_an_ordinary_error(wire: Wire, what: str, document: Any, error: str) -> None:
    reply = ask(wire, document, what=what)
    assert (reply.status, reply.letter, reply.error) == (400, "J", error)
    assert int(reply.headers["Content-Length"]) == len(reply.body)
    assert ask(wire, {"text_input": "hello"}).json == text("hello")


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({"parameters": {}}, "Keyword 'parameters' for nested schema also given as input tensor name"),
        (
            {"HALF": 1},
            "receiving FP16 data via JSON is not supported. Please use the binary data format for input HALF",
        ),
        ({"DEEP": [1, 2, 3]}, UNFIT.format("DEEP")),
    ],
)
def test_odd_inputs(wire: Wire, document: Any, error: str) -> None:
    reply = ask(wire, document, "gen_odd")
    assert (reply.status, reply.letter, reply.error) == (400, "J", error)


@pytest.mark.parametrize("what", ["generate", "generate_stream"])
@pytest.mark.parametrize(
    ("method", "model", "headers", "status", "error"),
    [
        pytest.param("GET", "gen", {}, 405, "Method Not Allowed", marks=pytest.mark.spec("server:A250")),
        pytest.param(
            "POST",
            "nope",
            {},
            404,
            "Request for unknown model: 'nope' is not found",
            marks=pytest.mark.spec("server:A251"),
        ),
        ("POST", "gen/versions/7", {}, 404, "Request for unknown model: 'gen' version 7 is not found"),
        pytest.param(
            "POST",
            "gen",
            {"Content-Encoding": "gzip"},
            400,
            "Unsupported content-encoding, only 'identity' is supported.",
            marks=[pytest.mark.spec("server:A252"), pytest.mark.spec("server:96")],
        ),
    ],
)
@pytest.mark.parametrize("nbytes", [2, 100_000])
def test_refusals(
    wire: Wire, what: str, method: str, model: str, headers: dict[str, object], status: int, error: str, nbytes: int
) -> None:
    reply = wire.request(method, f"/v2/models/{model}/{what}", b"{}".ljust(nbytes), headers)
    assert (reply.status, reply.letter, reply.error) == (status, "J", error)
    assert ask(wire, {"text_input": "hello"}, **{"Content-Encoding": "identity"}).json == text("hello")


@pytest.mark.parametrize("nbytes", [100_000, 5_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_large_request(wire: Wire, nbytes: int, chunked: bool) -> None:
    body = json.dumps({"text_input": "x" * nbytes}).encode()
    headers: dict[str, object] = {}
    if chunked:
        body, headers = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body), {"Transfer-Encoding": "chunked"}
    assert wire.request("POST", "/v2/models/gen/generate", body, headers).json == text("x" * nbytes)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that takes 5000 bytes; its model takes any number of UINT8."""
    folder = tmp_path_factory.mktemp("narrow")
    identity(folder)
    with serve(folder, "--http-max-input-size=5000") as served:
        yield served


def test_request_that_is_too_large(narrow: Served) -> None:
    limit = " exceeds the maximum allowed input size of 5000 bytes. Use --http-max-input-size to increase the limit."
    with Wire(narrow.http_port) as wire:
        body = json.dumps({"IN": [1]}).ljust(50_000).encode()
        assert ask(wire, body, "identity").error == "request size of 50000 bytes" + limit
        chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        reply = ask(wire, chunks, "identity", **{"Transfer-Encoding": "chunked"})
        assert reply.error == "request size of 50000 bytes" + limit
        assert ask(wire, {"IN": [1]}, "identity").json["OUT"] == 1


# -- generate: responses


@pytest.mark.spec("server:86")
@pytest.mark.spec("server:87")
def test_outputs_are_flat_and_single_ones_bare(wire: Wire) -> None:
    reply = ask(wire, {"text_input": "numbers"})
    assert reply.body == (
        b'{"NONE":[],"NUMBERS":[1.5,NaN],"ONE":7,"model_name":"gen","model_version":"1","text_output":"a"}'
    )


@pytest.mark.spec("server:87")
def test_keys_are_sorted_with_the_responses_parameters(wire: Wire) -> None:
    reply = ask(wire, {"id": "i", "text_input": "response_parameters"})
    assert (
        reply.body
        == (
            '{"Z":1,"a \\"b":"ż","id":"i","model_name":"gen","model_version":"1","text_output":"a","z":true,"é":2}'
        ).encode()
    )


@pytest.mark.spec("server:93")
@pytest.mark.parametrize("model", ["gen", "gend"])
@pytest.mark.parametrize("what", ["generate", "generate_stream"])
@pytest.mark.parametrize(
    ("asked", "status", "error"),
    [
        ("err0", 503, "boom"),
        ("half", 400, "sending FP16 data via JSON is not supported. Please use the binary data format for output"),
    ],
)
def test_error_in_the_first_response_decides_the_status(
    wire: Wire, model: str, what: str, asked: str, status: int, error: str
) -> None:
    """With the code's own status; the original answers 400 whatever it is (A274, A279, A280)."""
    reply = ask(wire, {"text_input": asked}, model, what)
    assert reply.status == status
    assert (reply.letter, reply.error) == ("J", error) if what == "generate" else ("S", events(reply)[0]["error"])
    assert error in reply.body.decode()


@pytest.mark.spec("server:90")
@pytest.mark.spec("server:92")
@pytest.mark.parametrize(
    ("repeat", "answer"),
    [
        pytest.param(0, {"error": NOT_ONE}, marks=pytest.mark.spec("server:A255")),
        pytest.param(1, text("hello", "gend"), marks=pytest.mark.spec("server:A275")),
        pytest.param(2, {"error": NOT_ONE}, marks=pytest.mark.spec("server:A276")),
        (20, {"error": NOT_ONE}),
    ],
)
def test_generate_wants_exactly_one_response(wire: Wire, repeat: int, answer: Any) -> None:
    for _ in range(2):
        reply = ask(wire, {"text_input": "hello", "REPEAT": repeat}, "gend")
        assert (reply.status, reply.letter, reply.json) == (200, "J", answer)


# -- generate_stream


@pytest.mark.spec("server:88")
@pytest.mark.spec("server:92")
@pytest.mark.parametrize(
    ("model", "document", "body"),
    [
        pytest.param(
            "gen",
            {"text_input": "hello"},
            b'data: {"model_name":"gen","model_version":"1","text_output":"hello"}\n\n',
            marks=pytest.mark.spec("server:A253"),
        ),
        pytest.param(
            "gend",
            {"text_input": "hello", "REPEAT": 3},
            b'data: {"model_name":"gend","model_version":"1","text_output":"hello"}\n\n' * 3,
            marks=pytest.mark.spec("server:A277"),
        ),
        pytest.param(
            "gend",
            {"text_input": "hello", "REPEAT": 0},
            b"",
            marks=[pytest.mark.spec("server:A256"), pytest.mark.spec("server:91")],
        ),
    ],
)
def test_stream(wire: Wire, model: str, document: Any, body: bytes) -> None:
    reply = stream(wire, document, model)
    assert (reply.status, reply.letter, reply.body) == (200, "S", body)
    assert len(reply.chunks) == body.count(b"data: ")
    assert set(reply.headers) == {"Content-Type", "Transfer-Encoding"}


@pytest.mark.spec("server:89")
@pytest.mark.parametrize(
    ("asked", "status", "texts"),
    [
        pytest.param("err1", 200, ["err1", None, "err1"], marks=pytest.mark.spec("server:A278")),
        pytest.param("err0", 503, [None, "err0", "err0"], marks=pytest.mark.spec("server:A279")),
    ],
)
def test_stream_goes_on_after_an_error(wire: Wire, asked: str, status: int, texts: list[str | None]) -> None:
    reply = stream(wire, {"text_input": asked, "REPEAT": 3})
    assert (reply.status, reply.letter) == (status, "S")
    assert events(reply) == [{"error": "boom"} if word is None else text(word, "gend") for word in texts]


@pytest.mark.spec("server:A254")
def test_stream_without_input(wire: Wire) -> None:
    reply = stream(wire, {}, "gen")
    assert (reply.status, reply.letter, reply.error) == (400, "J", NO_INPUT)


def test_responses_come_as_they_are_made(wire: Wire, make_gate: Callable[[], Gate]) -> None:
    gate = make_gate()
    body = json.dumps({"text_input": gate.path, "REPEAT": 3}).encode()
    wire.send(frame("POST", "/v2/models/gend/generate_stream", body))
    assert wire.receive_head().status == 200
    for number in range(1, 4):
        assert json.loads(wire.receive_chunk()[6:]) == text(gate.path, "gend")
        if number < 3:
            gate.wait_for_arrival(number)
            gate.open()
    assert wire.receive_chunk() == b""


def test_streams_and_other_requests_share_a_connection_in_order(wire: Wire) -> None:
    document = {"text_input": "hello", "REPEAT": 2}
    asked = [
        frame("POST", f"/v2/models/gend/{what}", json.dumps(document).encode())
        for what in ("generate_stream", "generate", "generate_stream")
    ]
    wire.send(frame("GET", "/v2/health/live").join([b"", *asked, b""]))
    assert [wire.receive().letter for _ in range(7)] == ["T", "S", "T", "J", "T", "S", "T"]


def test_connection_close_ends_the_connection_behind_the_stream(wire: Wire) -> None:
    reply = ask(wire, {"text_input": "hello"}, "gend", "generate_stream", Connection="close")
    assert (reply.headers["Connection"], events(reply)) == ("close", [text("hello", "gend")])
    assert wire.is_closed()


@pytest.mark.parametrize("option", ["close", "keep-alive"])
def test_http_1_0_gets_the_stream_without_chunks_and_the_end(wire: Wire, option: str) -> None:
    body = json.dumps({"text_input": "hello", "REPEAT": 2}).encode()
    wire.send(frame("POST", "/v2/models/gend/generate_stream", body, {"Connection": option}, version="1.0"))
    reply = wire.receive_head()
    assert reply.headers == {"Content-Type": "text/event-stream; charset=utf-8", "Connection": "close"}
    assert wire.read_to_the_end() == b'data: {"model_name":"gend","model_version":"1","text_output":"hello"}\n\n' * 2


@pytest.mark.spec("server:95")
@pytest.mark.spec("server:9")
@pytest.mark.parametrize("what", ["generate", "generate_stream"])
def test_client_that_leaves_cancels_its_request(
    server: Served, make_gate: Callable[[], Gate], what: str, settled: Callable[[], None]
) -> None:
    gate = make_gate()
    cancelled = server.log.count("cancelled before response 1")
    with Wire(server.http_port) as wire:
        body = json.dumps({"text_input": gate.path, "REPEAT": 3}).encode()
        wire.send(frame("POST", f"/v2/models/gend/{what}", body))
        gate.wait_for_arrival()
    with Wire(server.http_port) as other:  # the end of the first connection has been seen once this is answered
        assert other.request("GET", "/v2/health/live").status == 200
    gate.open()
    server.wait_for_log("cancelled before response 1", times=cancelled + 1)


@pytest.mark.spec("server:95")
def test_client_that_leaves_without_having_read_cancels_its_request(server: Served) -> None:
    """The model waits in ``send`` by then; others are served meanwhile."""
    floods = server.log.count("flood cancelled")
    with Wire(server.http_port) as wire:
        wire.send(frame("POST", "/v2/models/gend/generate_stream", b'{"text_input":"flood"}'))
        assert wire.receive_head().status == 200
        with Wire(server.http_port) as other:
            assert ask(other, {"text_input": "hello"}).json == text("hello")
    server.wait_for_log("flood cancelled", times=floods + 1)


def test_generate_refuses_a_flood_at_its_second_response(server: Served, wire: Wire) -> None:
    floods = server.log.count("flood cancelled")
    assert ask(wire, {"text_input": "flood"}, "gend").error == NOT_ONE
    server.wait_for_log("flood cancelled", times=floods + 1)


@pytest.mark.parametrize("what", ["generate", "generate_stream"])
def test_single_large_response(wire: Wire, what: str) -> None:
    """Larger than what a sender may be ahead of its reader."""
    nbytes = 70 << 20
    wire.send(frame("POST", f"/v2/models/gend/{what}", json.dumps({"text_input": f"large:{nbytes}"}).encode()))
    reply = wire.receive()
    assert (reply.status, len(reply.body) > nbytes) == (200, True)
