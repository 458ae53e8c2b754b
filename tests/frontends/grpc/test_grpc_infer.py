"""ModelInfer: data in either form, parameters, every text of a refusal, cancellation."""

from __future__ import annotations

import contextlib
import gc
import mmap
import queue
import struct
import weakref
from typing import Any

import grpc
import numpy as np
import pytest
from atoll.errors import GRPC_STATUS, Code, ServerError
from atoll.inference import SEQUENCE_END, SEQUENCE_START, Request, Tensor
from atoll_ipc.memory import Slice
from atoll_protos import messages
from grpc_harness import Client, Frontends, floats, infer_request
from grpc_twin import TwinModel, TwinServer, respond


def typed_request(datatype: str, model: str = "ident", **contents: Any) -> Any:
    request = messages.ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name="IN", datatype=datatype, shape=[2])
    tensor.contents.SetInParent()
    for field, values in contents.items():
        getattr(tensor.contents, field).extend(values)
    return request


@pytest.mark.spec("server:138")
@pytest.mark.spec("server:139")
def test_raw_contents(client: Client) -> None:
    data = struct.pack("<4f", 1, 2, 3, 4)
    response = client.infer(infer_request(raw=[("IN", "FP32", [1, 4], data)], id="myid"))
    assert (response.model_name, response.model_version, response.id) == ("ident", "1", "myid")
    assert [(o.name, o.datatype, list(o.shape)) for o in response.outputs] == [("OUT", "FP32", [1, 4])]
    assert list(response.raw_output_contents) == [data]
    assert not response.outputs[0].HasField("contents")


@pytest.mark.spec("server:138")
@pytest.mark.parametrize(
    ("datatype", "field", "values", "data"),
    [
        ("BOOL", "bool_contents", [True, False], b"\x01\x00"),
        ("INT8", "int_contents", [-1, 200], b"\xff\xc8"),
        ("INT16", "int_contents", [1, 70000], struct.pack("<2H", 1, 70000 - 65536)),
        ("INT32", "int_contents", [1, -2], struct.pack("<2i", 1, -2)),
        ("INT64", "int64_contents", [2**40, -2], struct.pack("<2q", 2**40, -2)),
        ("UINT8", "uint_contents", [255, 300], b"\xff\x2c"),
        ("UINT16", "uint_contents", [1, 65535], struct.pack("<2H", 1, 65535)),
        ("UINT32", "uint_contents", [1, 2**32 - 1], struct.pack("<2I", 1, 2**32 - 1)),
        ("UINT64", "uint64_contents", [1, 2**64 - 1], struct.pack("<2Q", 1, 2**64 - 1)),
        ("FP32", "fp32_contents", [1.5, -2], struct.pack("<2f", 1.5, -2)),
        ("FP64", "fp64_contents", [1.5, -2], struct.pack("<2d", 1.5, -2)),
        ("BYTES", "bytes_contents", [b"a", b"bc"], b"\x01\0\0\0a\x02\0\0\0bc"),
    ],
)
def test_typed_contents(client: Client, datatype: str, field: str, values: list[Any], data: bytes) -> None:
    response = client.infer(typed_request(datatype, **{field: values}))
    assert list(response.raw_output_contents) == [data]
    assert response.outputs[0].datatype == datatype


@pytest.mark.spec("server:138")
def test_surplus_raw_contents_and_empty_contents(client: Client) -> None:
    request = floats()
    request.raw_input_contents.append(b"surplus")
    assert list(client.infer(request).raw_output_contents) == [bytes(16)]
    assert list(client.infer(typed_request("FP32")).raw_output_contents) == [b""]
    assert list(client.infer(infer_request(raw=[("IN", "FP32", [1, 0], b"")])).raw_output_contents) == [b""]


@pytest.mark.spec("server:138")
def test_an_unknown_datatype_reaches_the_core_as_invalid(client: Client, twin: TwinServer) -> None:
    client.infer(infer_request(raw=[("IN", "zzz", [1], b"a")]))
    assert twin.arrived.get(timeout=30).inputs[0].datatype == "<invalid>"


def _tensor_parameters(target: Any, parameters: dict[str, Any]) -> None:
    for key, value in parameters.items():
        setattr(target.parameters[key], "string_param" if isinstance(value, str) else "int64_param", value)


def _missing() -> Any:
    return messages.ModelInferRequest(model_name="ident", inputs=[{"name": "IN", "datatype": "FP32", "shape": [4]}])


def _both() -> Any:
    request = floats()
    request.inputs[0].contents.fp32_contents.append(1)
    return request


def _one_blob_for_two() -> Any:
    request = floats()
    request.inputs.add(name="IN1", datatype="FP32", shape=[4])
    return request


def _input(contents: bool = False, **parameters: Any) -> Any:
    request = _missing()
    if contents:
        request.inputs[0].contents.fp32_contents.append(1)
    _tensor_parameters(request.inputs[0], parameters)
    return request


def _output(**parameters: Any) -> Any:
    request = floats()
    _tensor_parameters(request.outputs.add(name="OUT"), parameters)
    return request


REGION = {"shared_memory_region": "x", "shared_memory_byte_size": 16}


@pytest.mark.spec("server:151")
@pytest.mark.parametrize(
    ("request_message", "status", "text"),
    [
        (_missing(), "INVALID_ARGUMENT", "unable to find data for input tensor 'IN' for model 'ident' in request."),
        (
            _both(),
            "INVALID_ARGUMENT",
            "contents field must not be specified when using raw_input_contents for 'IN' for model 'ident'",
        ),
        (
            _one_blob_for_two(),
            "INVALID_ARGUMENT",
            "unable to find data for input tensor 'IN1' for model 'ident' in request.",
        ),
        (
            typed_request("INT32", int64_contents=[1, 2]),
            "INVALID_ARGUMENT",
            "unexpected explicit tensor data for input tensor 'IN' for model 'ident' of type 'INT64', "
            "expected datatype 'INT32'",
        ),
        (
            typed_request("FP16", fp32_contents=[1]),
            "INVALID_ARGUMENT",
            "unexpected explicit tensor data for input tensor 'IN' for model 'ident' of type 'FP32', "
            "expected datatype 'FP16'",
        ),
        (
            typed_request("FP32", int_contents=[1]),
            "INVALID_ARGUMENT",
            "unexpected explicit tensor data for input tensor 'IN' for model 'ident' of type 'INT32', "
            "expected datatype 'FP32'",
        ),
        (
            typed_request("zzz", fp32_contents=[1]),
            "INVALID_ARGUMENT",
            "unexpected explicit tensor data for input tensor 'IN' for model 'ident' of type 'FP32', "
            "expected datatype '<invalid>'",
        ),
        (
            typed_request("FP32", fp32_contents=[1], fp64_contents=[1]),
            "INVALID_ARGUMENT",
            "unexpected explicit tensor data for input tensor 'IN' for model 'ident', "
            "binary data was already supplied.",
        ),
        (
            _input(shared_memory_region="x"),
            "INVALID_ARGUMENT",
            "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter for tensor 'IN'",
        ),
        (_input(**REGION), "NOT_FOUND", "Unable to find shared memory region: 'x'"),
        (_output(**REGION), "NOT_FOUND", "Unable to find shared memory region: 'x'"),
        (
            _input(shared_memory_region=1),
            "INVALID_ARGUMENT",
            "invalid value type for 'shared_memory_region' parameter for tensor 'IN', expected string_param.",
        ),
        (
            _input(shared_memory_region="x", shared_memory_byte_size="16"),
            "INVALID_ARGUMENT",
            "invalid value type for 'shared_memory_byte_size' parameter for tensor 'IN', expected int64_param.",
        ),
        (
            _input(**REGION, shared_memory_offset="0"),
            "INVALID_ARGUMENT",
            "invalid value type for 'shared_memory_offset' parameter for tensor 'IN', expected int64_param.",
        ),
        (
            _input(shared_memory_byte_size=16),
            "INVALID_ARGUMENT",
            "'shared_memory_byte_size' can not be specified without 'shared_memory_region' parameter for tensor 'IN'",
        ),
        (
            _input(shared_memory_offset=16),
            "INVALID_ARGUMENT",
            "'shared_memory_offset' can not be specified without 'shared_memory_region' parameter for tensor 'IN'",
        ),
        (
            _input(contents=True, **REGION),
            "INVALID_ARGUMENT",
            "unexpected 'content' provided when using shared memory for input tensor 'IN' for model 'ident'",
        ),
        (
            _output(classification=0),
            "INVALID_ARGUMENT",
            "invalid value for 'classification' parameter, expected >= 0",
        ),
        (
            _output(classification="2"),
            "INVALID_ARGUMENT",
            "invalid value type for 'classification' parameter, expected int64_param",
        ),
        (
            _output(classification=2, **REGION),
            "INVALID_ARGUMENT",
            "output can't set both 'shared_memory_region' and 'classification'",
        ),
    ],
)
def test_refusals(client: Client, request_message: Any, status: str, text: str) -> None:
    assert client.infer_error(request_message) == (status, text)


@pytest.mark.spec("server:140")
def test_parameters(client: Client, twin: TwinServer) -> None:
    response = client.infer(
        floats(
            text="a",
            number=-3,
            yes=True,
            real=0.5,
            binary_data_output=True,
            sequence_id=7,
            sequence_start=True,
            sequence_end=False,
            priority=2,
            timeout=5000,
            triton_enable_empty_final_response=True,
        )
    )
    request = twin.arrived.get(timeout=30)
    assert request.parameters == {"text": "a", "number": -3, "yes": True, "real": 0.5, "binary_data_output": True}
    assert (request.correlation_id, request.flags) == (7, SEQUENCE_START)
    assert (request.priority, request.timeout_us) == (2, 5000)
    assert {key: value.WhichOneof("parameter_choice") for key, value in response.parameters.items()} == {
        "text": "string_param",
        "number": "int64_param",
        "yes": "bool_param",
        "real": "double_param",
        "binary_data_output": "bool_param",
    }


@pytest.mark.spec("server:140")
def test_a_text_sequence_id_and_an_unsigned_priority(client: Client, twin: TwinServer) -> None:
    message = floats(sequence_id="s1", sequence_end=True)
    message.parameters["priority"].uint64_param = 3
    client.infer(message)
    request = twin.arrived.get(timeout=30)
    assert (request.correlation_id, request.flags, request.priority) == ("s1", SEQUENCE_END, 3)
    assert request.parameters is None


@pytest.mark.spec("server:140")
@pytest.mark.spec("server:141")
@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        (
            "u",
            {"uint64_param": 1},
            "invalid value type for 'u' parameter, expected int64_param, bool_param, or string_param.",
        ),
        ("e", {}, "invalid value type for 'e' parameter, expected int64_param, bool_param, or string_param."),
        (
            "triton_x",
            {"bool_param": True},
            "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting "
            "with 'triton_' are allowed: triton_enable_empty_final_response",
        ),
        (
            "triton_enable_empty_final_response",
            {"string_param": "true"},
            "invalid value type for 'triton_enable_empty_final_response' parameter, expected bool_param.",
        ),
        (
            "sequence_id",
            {"bool_param": True},
            "invalid value type for 'sequence_id' parameter, expected int64_param or string_param.",
        ),
        (
            "sequence_id",
            {"uint64_param": 1},
            "invalid value type for 'sequence_id' parameter, expected int64_param or string_param.",
        ),
        (
            "sequence_start",
            {"int64_param": 1},
            "invalid value type for 'sequence_start' parameter, expected bool_param.",
        ),
        ("sequence_end", {"int64_param": 1}, "invalid value type for 'sequence_end' parameter, expected bool_param."),
        ("priority", {"int64_param": -1}, "invalid value for 'priority', expected value >= 0."),
        (
            "priority",
            {"string_param": "1"},
            "invalid value type for 'priority' parameter, expected int64_param or uint64_param.",
        ),
        ("timeout", {"string_param": "1"}, "invalid value type for 'timeout' parameter, expected int64_param."),
        ("timeout", {"int64_param": -1}, "invalid value for 'timeout', expected value >= 0."),
    ],
)
def test_parameter_refusals(client: Client, key: str, value: dict[str, Any], text: str) -> None:
    message = floats()
    message.parameters[key].CopyFrom(messages.InferParameter(**value))
    assert client.infer_error(message) == ("INVALID_ARGUMENT", text)


@pytest.mark.spec("server:22")
@pytest.mark.spec("server:142")
def test_models_and_versions(client: Client, twin: TwinServer) -> None:
    assert client.infer_error(floats(model="nope")) == (
        "NOT_FOUND",
        "Request for unknown model: 'nope' is not found",
    )
    assert client.infer_error(floats(model="repeat")) == (
        "UNIMPLEMENTED",
        "ModelInfer RPC doesn't support models with decoupled transaction policy",
    )
    message = floats()
    message.inputs[0].name = "ZZ"
    assert client.infer_error(message) == ("INVALID_ARGUMENT", "unexpected inference input 'ZZ' for model 'ident'")
    message = floats()
    message.model_version = "1"
    client.infer(message)
    client.infer(floats())
    assert [twin.arrived.get(timeout=30).model_version for _ in range(2)] == [1, 1]
    message.model_version = "x"
    assert client.infer_error(message)[1].startswith("failed to get model version from specified version string 'x'")


@pytest.mark.spec("server:136")
@pytest.mark.parametrize("code", list(Code))
def test_status_of_every_code(client: Client, code: Code) -> None:
    assert client.infer_error(floats(model="fail", code=code.name)) == (GRPC_STATUS[code], "coded")


def test_details_longer_than_a_header_keep_both_ends(client: Client) -> None:
    text = "beginning " + "é\n" * 20_000 + " end"
    status, details = client.infer_error(floats(model="fail", text=text))
    assert status == "INTERNAL"
    assert details.startswith("beginning é\n")
    assert details.endswith("é\n end")
    assert "\n[...]\n" in details


@pytest.mark.spec("server:74")
def test_classification(client: Client, twin: TwinServer) -> None:
    twin.models["batched"].labels["OUT"] = ["a", "b", "c", "d"]
    for model, shape, labels in (("ident", [2], ("", "")), ("batched", [1, 2], (":d", ":c"))):
        request = infer_request(model, raw=[("IN", "FP32", [1, 4], struct.pack("<4f", 1, 2, 3, 4))])
        _tensor_parameters(request.outputs.add(name="OUT"), {"classification": 2})
        response = client.infer(request)
        assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("BYTES", shape)
        texts = [f"4.000000:3{labels[0]}".encode(), f"3.000000:2{labels[1]}".encode()]
        assert response.raw_output_contents[0] == b"".join(struct.pack("<I", len(text)) + text for text in texts)


@pytest.mark.spec("server:77")
def test_classification_of_an_unsupported_type(client: Client) -> None:
    request = infer_request(raw=[("IN", "BOOL", [2], b"\0\1")])
    _tensor_parameters(request.outputs.add(name="OUT"), {"classification": 2})
    assert client.infer_error(request) == (
        "INVALID_ARGUMENT",
        "class result not available for output due to unsupported type 'BOOL'",
    )


@pytest.mark.spec("server:143")
def test_cancelling_a_call_cancels_the_request(client: Client, twin: TwinServer) -> None:
    call = client.method("ModelInfer").future(floats(model="hold"), timeout=30)
    request = twin.arrived.get(timeout=30)
    call.cancel()
    assert twin.cancelled.get(timeout=30) is request


@pytest.mark.spec("server:143")
def test_a_deadline_cancels_the_request(client: Client, twin: TwinServer) -> None:
    assert client.infer_error(floats(model="hold"), timeout=0.05)[0] == "DEADLINE_EXCEEDED"
    assert twin.cancelled.get(timeout=30) is twin.arrived.get(timeout=30)


def test_an_answer_after_cancellation_is_dropped(client: Client, frontends: Frontends, twin: TwinServer) -> None:
    client.infer_error(floats(model="hold"), timeout=0.05)
    request = twin.cancelled.get(timeout=30)
    frontends.thread.call(respond, twin.models["hold"], request, [])
    assert client.infer(floats()).model_name == "ident"


@pytest.mark.spec("server:135")
def test_large_tensors_pass_as_views_of_the_body(client: Client, twin: TwinServer) -> None:
    data = np.random.default_rng(1).bytes(8 << 20)
    response = client.infer(infer_request(raw=[("IN", "UINT8", [len(data)], data)]))
    assert response.raw_output_contents[0] == data
    assert isinstance(twin.arrived.get(timeout=30).inputs[0].data, memoryview | Slice)


@pytest.mark.spec("server:135")
def test_a_response_beyond_the_limit_of_grpc(client: Client, twin: TwinServer) -> None:
    def huge(server: TwinServer, model: TwinModel, request: Request) -> None:
        with mmap.mmap(-1, 2**31) as pages, memoryview(pages) as view:  # never touched, so never allocated
            respond(model, request, [Tensor("OUT", "UINT8", [2**31], view)])

    twin.add("huge", huge)
    # model_name, model_version, and the output's name, datatype and shape, behind their tags; the tensor's own header.
    size = 6 + 3 + (2 + 5 + 7 + 7) + 6 + 2**31
    assert client.infer_error(floats(model="huge")) == (
        "INVALID_ARGUMENT",
        f"Response has byte size {size} which exceeds gRPC's byte size limit 2147483647.",
    )


def test_response_parameters_that_cannot_be_sent(client: Client, twin: TwinServer) -> None:
    def odd(server: TwinServer, model: TwinModel, request: Request) -> None:
        respond(model, request, [], parameters={"big": 2**70})

    twin.add("odd", odd)
    status, text = client.infer_error(floats(model="odd"))
    assert status == "INTERNAL"
    assert text.startswith("response parameter 'big' can not be sent: ")


def test_malformed_messages(client: Client) -> None:
    for body in (b"\x0a\xff\xff", b"\x0a\x02\xff\xfe", b"\xff" * 100):
        with pytest.raises(grpc.RpcError) as caught:
            client.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(body, timeout=30)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details().startswith("failed to parse the request message: ")


def test_tensors_are_free_once_the_call_is_answered(client: Client, twin: TwinServer) -> None:
    """By reference counting alone: the blocks behind them must not wait for the collector."""
    freed: queue.Queue[str] = queue.Queue()

    def watched(server: TwinServer, model: TwinModel, request: Request) -> None:
        array = np.zeros(4, "?")
        weakref.finalize(array, freed.put, "output")
        weakref.finalize(server.arrived.get_nowait().inputs[0].data, freed.put, "input")
        error = ServerError(Code.INTERNAL, "x") if request.id == "fail" else None
        respond(model, request, [Tensor("OUT", "BOOL", [4], memoryview(array))], error=error)

    twin.add("watched", watched)
    unsupported = floats(model="watched")
    _tensor_parameters(unsupported.outputs.add(name="OUT"), {"classification": 1})
    gc.disable()
    try:
        for request in (floats(model="watched"), floats(model="watched", id="fail"), unsupported):
            for call in (client.infer, lambda request: list(client.stream([request]))):
                with contextlib.suppress(grpc.RpcError):
                    call(request)
                assert {freed.get(timeout=10), freed.get(timeout=10)} == {"input", "output"}
    finally:
        gc.enable()
