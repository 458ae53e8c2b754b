"""Bodies that chance made: each is answered, nothing of it stays, and the server goes on as before.

The examples are the same in every run, so that a failure is one of the code; what was found once is a test elsewhere.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_wire import SERVICE, RpcClient, two_in
from http_wire import Wire
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from infer_rows import TWO_IN
from infer_rows import two_in as two_in_json
from serving import Served

EXAMPLES = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["FP32", "BYTES", "INT32", "BF16", "INPUT0", "INPUT1", "region"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = st.sampled_from(
    ["id", "inputs", "outputs", "parameters", "name", "datatype", "shape", "data", "binary_data_size", "binary_data",
     "classification", "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size", "sequence_id",
     "sequence_start", "sequence_end", "priority", "timeout", "binary_data_output", "triton_x"]
)  # fmt: skip
ANSWERS = {200, 400, 404, 501, 503}
"""500 is the model's or ours: no body may bring it about."""


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON document that holds a value: its container, and the key or index there."""
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    found = [(value, key) for key in keys]
    for key in keys:
        if isinstance(value[key], (dict, list)):
            found += places(value[key])
    return found


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """A valid infer request with a few members changed, taken away or added."""
    document = copy.deepcopy(two_in_json())
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(places(document) or [(document, "id")]))
        what = draw(st.sampled_from(["change", "remove", "add"]))
        if what == "change":
            container[key] = draw(JSON_VALUES)
        elif what == "remove":
            container.pop(key, None) if isinstance(container, dict) else container.pop(key)
        elif isinstance(container, dict):
            container[draw(MEMBERS)] = draw(JSON_VALUES)
    return json.dumps(document).encode("utf-8", "surrogatepass")


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes with some of them overwritten, cut out or repeated."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        stop = start + draw(st.integers(0, 12))
        data[start:stop] = draw(st.one_of(st.binary(max_size=12), st.just(bytes(data[start:stop]) * 2)))
    return bytes(data)


BODIES = st.one_of(st.binary(max_size=200), documents(), damaged(json.dumps(two_in_json()).encode()))


@pytest.fixture(autouse=True)
def unharmed(server: Served, settled: Callable[[], None]) -> Iterator[None]:
    """No process died, no request holds anything, and nothing was logged that only a fault of ours logs."""
    before, log = server.stubs(), len(server.log)
    yield
    settled()
    assert server.stubs() == before
    assert "Traceback" not in server.log[log:]
    assert server.get("/v2/health/ready")[0] == 200


@pytest.mark.spec("server:13")
@pytest.mark.spec("server:57")
@EXAMPLES
@given(body=BODIES, json_nbytes=st.none() | st.integers(-5, 400), tail=st.binary(max_size=40))
def test_an_infer_request_of_any_bytes_is_answered(
    server: Served, body: bytes, json_nbytes: int | None, tail: bytes
) -> None:
    headers = {} if json_nbytes is None else {"Inference-Header-Content-Length": json_nbytes}
    with Wire(server.http_port) as wire:
        reply = wire.request("POST", TWO_IN, body + tail, headers)
        assert reply.status in ANSWERS, reply.body
        if reply.status != 200:
            assert reply.error
        assert wire.request("POST", TWO_IN, json.dumps(two_in_json()).encode()).status == 200


@EXAMPLES
@given(
    target=st.sampled_from(
        [
            "/v2/models/two_in/generate",
            "/v2/models/two_in/generate_stream",
            "/v2/repository/index",
            "/v2/repository/models/two_in/load",
            "/v2/systemsharedmemory/region/x/register",
            "/v2/cudasharedmemory/region/x/register",
            "/v2/trace/setting",
            "/v2/logging",
        ]
    ),
    body=st.binary(max_size=60) | JSON_VALUES.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")),
)
def test_any_other_request_with_any_body_is_answered(server: Served, target: str, body: bytes) -> None:
    with Wire(server.http_port) as wire:
        reply = wire.request("POST", target, body)
        assert reply.status in ANSWERS, reply.body
    with Wire(server.http_port) as wire:
        assert wire.request("GET", "/v2/health/live").status == 200


@EXAMPLES
@given(data=damaged(b"POST /v2/models/two_in/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"))
def test_a_head_of_any_bytes_is_answered_or_ends_its_connection_alone(server: Served, data: bytes) -> None:
    with Wire(server.http_port) as wire:
        wire.send(data + b"\r\n\r\n")
        wire.socket.shutdown(1)  # no more comes: the server must not wait for the rest
        while wire.socket.recv(65536):
            pass
    with Wire(server.http_port) as wire:
        assert wire.request("GET", "/v2/health/live").status == 200


@pytest.fixture(scope="module")
def rpc(server: Served) -> Iterator[RpcClient]:
    with RpcClient(server.grpc_url) as client:
        yield client


REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED,
}
MALFORMED = {*REFUSALS, grpc.StatusCode.INTERNAL}  # what gRPC answers to bytes that are no message


def infer_or_refuse(rpc: RpcClient, data: bytes, allowed: set[grpc.StatusCode]) -> None:
    try:
        rpc.send(SERVICE + "ModelInfer", data)
    except grpc.RpcError as error:
        if error.code() not in allowed:
            raise


@pytest.mark.spec("server:13")
@EXAMPLES
@given(data=st.binary(max_size=200) | damaged(two_in().SerializeToString()))
def test_a_grpc_message_of_any_bytes_is_answered(rpc: RpcClient, data: bytes) -> None:
    infer_or_refuse(rpc, data, MALFORMED)
    rpc.infer(two_in())


@st.composite
def messages_with_odd_fields(draw: st.DrawFn) -> bytes:
    """A valid message with a few fields that any client could set so."""
    request = two_in()
    int64 = st.integers(-(1 << 63), (1 << 63) - 1)
    text = st.text(max_size=6)
    for _ in range(draw(st.integers(1, 4))):
        tensor = draw(st.sampled_from(list(request.inputs)))
        what = draw(st.integers(0, 7))
        if what == 0:
            tensor.shape[:] = draw(st.lists(int64, max_size=4))
        elif what == 1:
            tensor.datatype = draw(text | st.sampled_from(["BYTES", "FP64", "BF16"]))
        elif what == 2:
            tensor.name = draw(text)
        elif what == 3:
            request.raw_input_contents.append(draw(st.binary(max_size=20)))
        elif what == 4:
            tensor.contents.int64_contents.extend(draw(st.lists(int64, max_size=3)))
        elif what == 5:
            key = draw(MEMBERS)
            target = draw(st.sampled_from([request.parameters, tensor.parameters]))
            field = draw(st.sampled_from(["int64_param", "bool_param", "string_param", "double_param", "uint64_param"]))
            values = {"int64_param": int64, "bool_param": st.booleans(), "string_param": text,
                      "double_param": st.floats(), "uint64_param": st.integers(0, (1 << 64) - 1)}  # fmt: skip
            setattr(target[key], field, draw(values[field]))
        elif what == 6:
            output = request.outputs.add(name=draw(text | st.just("OUTPUT0")))
            output.parameters[draw(MEMBERS)].int64_param = draw(int64)
        else:
            request.model_version = draw(text | int64.map(str))
    data: bytes = request.SerializeToString()
    return data


@pytest.mark.spec("server:57")
@EXAMPLES
@given(data=messages_with_odd_fields())
def test_a_grpc_message_with_odd_fields_is_answered(rpc: RpcClient, data: bytes) -> None:
    infer_or_refuse(rpc, data, REFUSALS)


@EXAMPLES
@given(messages=st.lists(messages_with_odd_fields(), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_a_grpc_stream_outlives_what_it_carries(rpc: RpcClient, messages: list[bytes], seed: int) -> None:
    order = [*messages, two_in().SerializeToString()]
    random.Random(seed).shuffle(order)
    answers = list(rpc.stream(order))
    assert len(answers) == len(order)
    assert any(not answer.error_message for answer in answers)
