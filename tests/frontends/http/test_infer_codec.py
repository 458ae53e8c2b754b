"""Whole bodies to requests, responses to whole bodies, and what is remembered between them."""

import json
import struct
from types import SimpleNamespace
from typing import Any

import pytest
from atoll.errors import ServerError
from atoll.frontends.http.answer import JSON, OCTET_STREAM
from atoll.frontends.http.codec import InferCodec, parse_header_length
from atoll.frontends.http.plan import InferPlan
from atoll.inference import Parameter, Request, Response, Tensor
from atoll.repository.config import TensorSpec

FLOATS = struct.pack("<4f", 1, 2, 3, 4)
INTS = struct.pack("<2i", 5, 6)
OPENING = b'{"model_name":"two_in","model_version":"1",'
OUTPUT0 = b'{"name":"OUTPUT0","datatype":"FP32","shape":[1,2,2],'
OUTPUT1 = b'{"name":"OUTPUT1","datatype":"INT32","shape":[1,2],'


def new_codec(**settings: Any) -> InferCodec:
    inputs = {"INPUT0": TensorSpec("INPUT0", "FP32", (2, 2)), "INPUT1": TensorSpec("INPUT1", "INT32", (-1,))}
    return InferCodec(SimpleNamespace(name="two_in", version=1, max_batch_size=4, inputs=inputs), **settings)


def decode(codec: InferCodec, body: bytes, json_nbytes: int | None = None) -> tuple[Request, InferPlan]:
    return codec.decode(
        memoryview(body), json_nbytes, lambda offset, nbytes: body[offset : offset + nbytes], lambda response: None
    )


def refusal(codec: InferCodec, body: bytes, json_nbytes: int | None = None) -> str:
    with pytest.raises(ServerError) as raised:
        decode(codec, body, json_nbytes)
    return raised.value.message


def header(**members: Any) -> bytes:
    """The JSON of a request whose two inputs are binary."""
    inputs = [
        {"name": "INPUT0", "datatype": "FP32", "shape": [1, 2, 2], "parameters": {"binary_data_size": 16}},
        {"name": "INPUT1", "datatype": "INT32", "shape": [1, 2], "parameters": {"binary_data_size": 8}},
    ]
    return json.dumps({**members, "inputs": inputs}).encode()


def answer(
    codec: InferCodec,
    *outputs: Tensor,
    returned: dict[str, Parameter] | None = None,
    **members: Any,
) -> tuple[bytes, int | None, bytes]:
    """What a request whose JSON has ``members`` is answered when the model returns ``outputs``."""
    text = header(**members)
    request, plan = decode(codec, text + FLOATS + INTS, len(text))
    content_type, json_nbytes, parts = codec.encode(Response(request, 1, list(outputs), parameters=returned), plan)
    return content_type, json_nbytes, b"".join(parts)


def both() -> tuple[Tensor, Tensor]:
    return Tensor("OUTPUT0", "FP32", [1, 2, 2], FLOATS), Tensor("OUTPUT1", "INT32", [1, 2], memoryview(INTS))


@pytest.mark.spec("server:54")
def test_header_length() -> None:
    assert parse_header_length(b"0", 233) == 0
    assert parse_header_length(b" +233", 233) == 233
    for value in (b"-1", b"234", b"99999999999999"):
        with pytest.raises(ServerError) as raised:
            parse_header_length(value, 233)
        text = f"inference header size should be in range (0, 233), got: {value.decode()}"
        assert raised.value.message == text
    for value in (b"abc", b"", b"1_0", b"12x"):
        with pytest.raises(ServerError) as raised:
            parse_header_length(value, 233)
        assert raised.value.message == f"Unable to parse Inference-Header-Content-Length, got: {value.decode()}"


@pytest.mark.spec("server:33", "server:45")
def test_request_from_json_and_binary_data() -> None:
    text = header(id="abc", parameters={"sequence_id": 9, "sequence_end": True, "timeout": 5, "priority": 2, "k": "v"})
    request, plan = decode(new_codec(), text + FLOATS + INTS, len(text))
    assert (request.model_name, request.model_version, request.id) == ("two_in", 1, "abc")
    assert [(each.name, each.datatype, list(each.shape), each.data) for each in request.inputs] == [
        ("INPUT0", "FP32", [1, 2, 2], FLOATS),
        ("INPUT1", "INT32", [1, 2], INTS),
    ]
    assert (request.correlation_id, request.flags, request.timeout_us, request.priority) == (9, 2, 5, 2)
    assert request.parameters == {"k": "v"}
    assert request.parameters is not plan.parameters


@pytest.mark.spec("server:27")
def test_request_in_json_alone() -> None:
    body = (
        b'{"inputs":[{"name":"INPUT1","shape":[1,2],"datatype":"INT32","data":[[5,6]]}],"outputs":[{"name":"OUTPUT1"}]}'
    )
    request, _ = decode(new_codec(), body)
    assert request.inputs[0].data == INTS
    assert request.outputs == ("OUTPUT1",)


def test_a_repeated_header_is_planned_once() -> None:
    codec = new_codec()
    text = header()
    _, first = decode(codec, text + FLOATS + INTS, len(text))
    request, second = decode(codec, text + bytes(24), len(text))
    assert second is first
    assert request.inputs[0].data == bytes(16)
    # As long a header with fewer bytes behind it is another plan.
    assert "expecting 8 additional bytes" in refusal(codec, text + FLOATS, len(text))


def test_a_leading_id_does_not_spoil_the_memory() -> None:
    codec = new_codec()
    plans = set()
    for request_id in ("1", "20"):
        text = header(id=request_id)
        request, plan = decode(codec, text + FLOATS + INTS, len(text))
        assert request.id == request_id
        assert request.inputs[1].data == INTS
        plans.add(id(plan))
    assert len(plans) == 1
    # What followed an id is no document of its own.
    rest = header(id="1").partition(b", ")[2]
    assert refusal(codec, rest + FLOATS + INTS, len(rest)).startswith("failed to parse the request JSON buffer: ")


def test_data_in_json_is_not_remembered() -> None:
    codec = new_codec()
    body = b'{"inputs":[{"name":"INPUT1","shape":[1,2],"datatype":"INT32","data":[5,6]}]}'
    assert decode(codec, body)[1] is not decode(codec, body)[1]
    trailing_id = header()[:-1] + b',"id":"x"}'
    assert decode(codec, trailing_id + FLOATS + INTS, len(trailing_id))[0].id == "x"
    assert decode(codec, trailing_id + FLOATS + INTS, len(trailing_id))[0].id == "x"


def test_the_memory_is_bounded() -> None:
    codec = new_codec()
    for number in range(3000):
        text = header(parameters={"n": number})
        assert decode(codec, text + FLOATS + INTS, len(text))[0].parameters == {"n": number}
        answer(codec, Tensor("OUTPUT0", "FP32", [number], bytes(4 * number)))
    assert max(len(codec._plans), len(codec._fragments)) <= 1024


@pytest.mark.spec("server:55", "server:58")
def test_refused_bodies() -> None:
    text = header()
    codec = new_codec(max_input_nbytes=100)
    assert refusal(codec, text) == (
        f"request JSON size of {len(text)} bytes exceeds the maximum allowed input size of 100 bytes. "
        "Use --http-max-input-size to increase the limit."
    )
    assert refusal(new_codec(), text, len(text) + 7) == "unexpected size for request JSON, expecting 7 more bytes"
    raw = "[request id: <id_unknown>] Raw request must only have 1 input (found 1) to be deduced but got 2 inputs in "
    assert refusal(new_codec(), b"") == f"{raw}'two_in' model configuration"
    assert refusal(new_codec(), FLOATS, 0) == f"{raw}'two_in' model configuration"
    # Without a header length the binary data is taken for JSON, and begins with a NUL.
    short = "unexpected size for input 'INPUT0', expecting 16 additional bytes for model 'two_in'"
    assert refusal(new_codec(), text + FLOATS + INTS) == short


@pytest.mark.spec("server:60", "server:62", "server:67")
def test_response_in_json() -> None:
    expected = OPENING + b'"outputs":[' + OUTPUT0 + b'"data":[1.0,2.0,3.0,4.0]},' + OUTPUT1 + b'"data":[5,6]}]}'
    assert answer(new_codec(), *both()) == (JSON, None, expected)
    reversed_order = answer(new_codec(), *reversed(both()))[2]
    assert reversed_order.index(b"OUTPUT1") < reversed_order.index(b"OUTPUT0")
    assert answer(new_codec())[2] == OPENING + b'"outputs":[]}'


@pytest.mark.spec("server:60", "server:73")
def test_response_with_id_and_parameters() -> None:
    codec = new_codec()
    body = answer(codec, id="a\u00e9", returned={"k": "v", "n": 1, "x": float("inf")})[2]
    names = '"model_name":"two_in","model_version":"1"'
    parameters = '"parameters":{"k":"v","n":1,"x":Infinity}'
    assert body.decode() == f'{{"id":"a\u00e9",{names},{parameters},"outputs":[]}}'
    assert answer(codec)[2] == OPENING + b'"outputs":[]}'
    torn = answer(codec, returned={"k\udcff": "a\udcfe"})[2]  # as a model's parameters that are no UTF-8 arrive
    assert torn.decode() == f'{{{names},"parameters":{{"k\ufffd":"a\ufffd"}},"outputs":[]}}'


@pytest.mark.spec("server:39", "server:61")
def test_binary_response() -> None:
    codec = new_codec()
    head = (
        OPENING + b'"outputs":[' + OUTPUT0 + b'"parameters":{"binary_data_size":16}},' + OUTPUT1
        + b'"parameters":{"binary_data_size":8}}]}'
    )  # fmt: skip
    for _ in range(2):
        response = answer(codec, *both(), parameters={"binary_data_output": True})
        assert response == (OCTET_STREAM, len(head), head + FLOATS + INTS)


@pytest.mark.spec("server:40")
def test_mixed_response() -> None:
    outputs = [{"name": "OUTPUT0", "parameters": {"binary_data": True}}, {"name": "OUTPUT1"}]
    head = OPENING + b'"outputs":[' + OUTPUT0 + b'"parameters":{"binary_data_size":16}},' + OUTPUT1 + b'"data":[5,6]}]}'
    assert answer(new_codec(), *both(), outputs=outputs) == (OCTET_STREAM, len(head), head + FLOATS)


@pytest.mark.spec("server:61")
def test_binary_outputs_without_bytes_leave_plain_json() -> None:
    outputs = [{"name": "OUTPUT0", "parameters": {"binary_data": True}}]
    content_type, json_nbytes, body = answer(new_codec(), Tensor("OUTPUT0", "FP32", [1, 0], b""), outputs=outputs)
    assert (content_type, json_nbytes) == (JSON, None)
    assert body.endswith(b'"shape":[1,0],"parameters":{"binary_data_size":0}}]}')


def test_large_outputs_are_not_copied() -> None:
    codec = new_codec()
    text = header(outputs=[{"name": "OUTPUT0", "parameters": {"binary_data": True}}])
    request, plan = decode(codec, text + FLOATS + INTS, len(text))
    data = bytes(1 << 20)
    _, json_nbytes, parts = codec.encode(Response(request, 1, [Tensor("OUTPUT0", "UINT8", [1 << 20], data)]), plan)
    assert len(parts[0]) == json_nbytes
    assert parts[1] is data


@pytest.mark.spec("server:72")
def test_half_floats_go_out_only_as_binary_data() -> None:
    tensor = Tensor("OUTPUT0", "FP16", [1], b"\0\0")
    with pytest.raises(ServerError, match="sending FP16 data via JSON is not supported"):
        answer(new_codec(), tensor)
    outputs = [{"name": "OUTPUT0", "parameters": {"binary_data": True}}]
    assert answer(new_codec(), tensor, outputs=outputs)[2].endswith(b"\0\0")


@pytest.mark.spec("server:74", "server:77")
def test_classification() -> None:
    outputs: list[dict[str, Any]] = [{"name": "OUTPUT0", "parameters": {"classification": 2}}]
    ranked = b'{"name":"OUTPUT0","datatype":"BYTES","shape":[1,2],'
    body = answer(new_codec(), both()[0], outputs=outputs)[2]
    assert body == OPENING + b'"outputs":[' + ranked + b'"data":["4.000000:3","3.000000:2"]}]}'
    outputs[0]["parameters"]["binary_data"] = True
    labelled = new_codec(labels={"OUTPUT0": ["cat", "dog", "bird", "cow"]})
    _, json_nbytes, body = answer(labelled, both()[0], outputs=outputs)
    assert body[json_nbytes:] == b"\x0e\0\0\x004.000000:3:cow\x0f\0\0\x003.000000:2:bird"
