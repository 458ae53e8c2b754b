"""What a request's JSON part may say, and the words of each refusal."""

import json
from typing import Any

import pytest
from atoll.core.regions import RegionSpan
from atoll.errors import Code, ServerError
from atoll.frontends.http.json_reader import read_json
from atoll.frontends.http.plan import InferPlan, OutputForm, PlannedInput, plan_document
from atoll.inference import SEQUENCE_END, SEQUENCE_START

LIMIT = 1 << 20
CONTENT = (
    "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
    "'shared_memory_region' in 'parameters'. But "
)
MISSING = "attempt to access non-existing object member"
NOT_STRING = "attempt to access JSON non-string as string"
NOT_UNSIGNED = "attempt to access JSON non-unsigned-integer as unsigned-integer"
NOT_BOOLEAN = "attempt to access JSON non-boolean as boolean"
NOT_ARRAY = "attempt to access JSON non-array as array"

NO_OBJECTS: list[object] = [{}, [], None, 5]
NO_ARRAYS: list[object] = [None, {}, 5]
NO_SEQUENCE_IDS: list[object] = [-5, 1.5, True, None]
NO_PARAMETERS: list[object] = [None, [1], {}]


def tensor(**members: Any) -> dict[str, Any]:
    """An input of four FP32 in JSON; a member given as None is left out."""
    whole = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4], **members}
    return {key: value for key, value in whole.items() if value is not None}


def binary(nbytes: object, **members: Any) -> dict[str, Any]:
    return tensor(data=None, parameters={"binary_data_size": nbytes}, **members)


def plan(document: object, tail_nbytes: int = 0, limit: int = LIMIT) -> InferPlan:
    return plan_document("two_in", document, tail_nbytes, limit)[0]


def refusal(document: object, tail_nbytes: int = 0, limit: int = LIMIT) -> str:
    with pytest.raises(ServerError) as raised:
        plan(document, tail_nbytes, limit)
    assert raised.value.code is Code.INVALID_ARG
    return raised.value.message


def refused_input(tail_nbytes: int = 0, **members: Any) -> str:
    return refusal({"inputs": [tensor(**members)]}, tail_nbytes)


@pytest.mark.spec("server:27")
def test_members_of_a_request() -> None:
    document = {
        "id": "abc",
        "unknown": {},
        "inputs": [tensor(), tensor(name="INPUT1", datatype="INT32", shape=[2], data=[5, 6])],
        "outputs": [{"name": "OUTPUT1", "parameters": {"binary_data": True, "other": 1}}, {"name": "OUTPUT0"}],
    }
    planned, request_id = plan_document("two_in", document, 0, LIMIT)
    assert request_id == "abc"
    assert [(each.name, each.datatype, each.shape) for each in planned.inputs] == [
        ("INPUT0", "FP32", (1, 4)),
        ("INPUT1", "INT32", (2,)),
    ]
    assert planned.inputs[1].data == b"\5\0\0\0\6\0\0\0"
    assert planned.outputs == ("OUTPUT1", "OUTPUT0")
    assert planned.forms == {"OUTPUT1": OutputForm(binary=True), "OUTPUT0": OutputForm()}
    assert planned.holds_data


@pytest.mark.spec("server:33", "server:34")
def test_binary_data_lie_behind_each_other() -> None:
    planned = plan({"inputs": [binary(16), tensor(name="INPUT1"), binary(8, name="INPUT2", shape=[2])]}, 24)
    assert planned.inputs[0] == PlannedInput("INPUT0", "FP32", (1, 4), None, 0, 16)
    assert planned.inputs[2] == PlannedInput("INPUT2", "FP32", (2,), None, 16, 8)
    assert not plan({"inputs": [binary(16)]}, 16).holds_data


@pytest.mark.spec("server:51", "server:53")
@pytest.mark.parametrize(
    ("document", "message"),
    [
        *[(document, f"Unable to parse 'inputs': {MISSING} 'inputs'") for document in NO_OBJECTS],
        *[({"inputs": inputs}, f"Unable to parse 'inputs': {NOT_ARRAY}") for inputs in NO_ARRAYS],
        ({"inputs": [1]}, f"{CONTENT}no field is set"),
        ({"id": 5, "inputs": []}, f"Unable to parse 'id': {NOT_STRING}"),
        ({"inputs": [], "outputs": None}, f"Unable to parse 'outputs': {NOT_ARRAY}"),
        ({"inputs": [], "outputs": {}}, f"Unable to parse 'outputs': {NOT_ARRAY}"),
        ({"inputs": [], "outputs": [{}]}, f"Unable to parse 'name': {MISSING} 'name'"),
        ({"inputs": [], "outputs": [7]}, f"Unable to parse 'name': {MISSING} 'name'"),
        ({"inputs": [], "parameters": 5}, "failed to get request params.: attempt to get members for non-object"),
        ({"inputs": 5, "id": 5, "parameters": 5}, f"Unable to parse 'id': {NOT_STRING}"),
    ],
)
def test_refused_documents(document: object, message: str) -> None:
    assert refusal(document) == message


@pytest.mark.spec("server:30", "server:38", "server:51", "server:53")
@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"name": None}, f"Unable to parse 'name': {MISSING} 'name'"),
        ({"name": 5}, f"Unable to parse 'name': {NOT_STRING}"),
        ({"datatype": None}, f"Unable to parse 'datatype': {MISSING} 'datatype'"),
        ({"datatype": 3}, f"Unable to parse 'datatype': {NOT_STRING}"),
        *[({"datatype": name}, "invalid datatype for input INPUT0") for name in ("FLOAT", "fp32", "TYPE_FP32")],
        ({"shape": None}, f"Unable to parse 'shape': {MISSING} 'shape'"),
        ({"shape": 4}, f"Unable to parse 'shape': {NOT_ARRAY}"),
        *[({"shape": [1, dim]}, f"Unable to parse 'shape': {NOT_UNSIGNED}") for dim in (-1, 2.0, "1", True, 2**64)],
        ({"data": None}, f"{CONTENT}no field is set"),
        ({"parameters": {"binary_data_size": 16}}, f"{CONTENT}set 'data' 'binary_data_size'"),
        ({"parameters": {"shared_memory_region": "x"}}, f"{CONTENT}set 'data' 'shared_memory_region'"),
        (
            {"parameters": {"binary_data_size": 16, "shared_memory_region": "x"}},
            f"{CONTENT}set 'data' 'binary_data_size' 'shared_memory_region'",
        ),
        ({"data": [1, 2, 3]}, "Unable to parse 'data': Shape does not match true shape of 'data' field"),
        (
            {"data": None, "parameters": {"binary_data_size": "16"}},
            f"Unable to parse 'binary_data_size': {NOT_UNSIGNED}",
        ),
        ({"data": None, "parameters": {"binary_data_size": -1}}, f"Unable to parse 'binary_data_size': {NOT_UNSIGNED}"),
        *[
            (
                {"datatype": datatype},
                f"receiving {datatype} data via JSON is not supported. "
                "Please use the binary data format for input INPUT0",
            )
            for datatype in ("FP16", "BF16")
        ],
    ],
)
def test_refused_inputs(members: dict[str, Any], message: str) -> None:
    assert refused_input(**members) == message


@pytest.mark.spec("server:55")
def test_binary_data_too_short_or_too_long() -> None:
    two = {"inputs": [binary(16), binary(8, name="INPUT1")]}
    assert refusal(two, 0) == "unexpected size for input 'INPUT0', expecting 16 additional bytes for model 'two_in'"
    assert refusal(two, 16) == "unexpected size for input 'INPUT1', expecting 8 additional bytes for model 'two_in'"
    assert refusal(two, 20) == "unexpected size for input 'INPUT1', expecting 4 additional bytes for model 'two_in'"
    assert refusal(two, 28) == "unexpected additional input data for model 'two_in'"
    assert refused_input(4) == "unexpected additional input data for model 'two_in'"


@pytest.mark.spec("server:57")
def test_shapes_beyond_measure() -> None:
    big = 2**62
    assert refused_input(shape=[big, 2]) == (
        f"invalid shape for input 'INPUT0': shape [{big},2] causes total element count to exceed maximum size "
        "of 9223372036854775807"
    )
    assert refused_input(shape=[1, 2**63]) == (
        f"invalid shape for input 'INPUT0': shape [1,{2**63}] contains one or more invalid dimensions"
    )
    assert refused_input(shape=[1, big]) == (
        f"byte size overflow for input 'INPUT0': element count ({big}) * data type size (4) exceeds maximum allowed "
        "size (9223372036854775807)"
    )
    assert plan({"inputs": [tensor(shape=[0, big, big], data=[])]}).inputs[0].data == b""


@pytest.mark.spec("server:58")
def test_limit_of_json_data() -> None:
    def text(name: str, nbytes: int) -> str:
        return (
            f"JSON input '{name}' has a byte_size ({nbytes} bytes) that exceeds the maximum allowed value of 12 bytes. "
            "Use --http-max-input-size to increase the limit."
        )

    assert refusal({"inputs": [tensor()]}, limit=12) == text("INPUT0", 16)
    strings = tensor(datatype="BYTES", shape=[1], data=["nine more"])
    assert refusal({"inputs": [strings]}, limit=12) == text("INPUT0", 13)
    assert plan({"inputs": [binary(16)]}, 16, limit=12).inputs[0].nbytes == 16


@pytest.mark.spec("server:44", "server:45", "server:46", "server:49")
def test_parameters() -> None:
    parameters = {
        "sequence_id": 7,
        "sequence_start": True,
        "sequence_end": True,
        "priority": 3,
        "timeout": 1000,
        "binary_data_output": True,
        "text": "a",
        "int": -5,
        "real": 1.5,
        "flag": False,
        "big": 2**63,
        "headers": "kept",
    }
    planned = plan({"inputs": [], "parameters": parameters})
    assert planned.correlation_id == 7
    assert planned.flags == SEQUENCE_START | SEQUENCE_END
    assert (planned.priority, planned.timeout_us) == (3, 1000)
    assert planned.default_form == OutputForm(binary=True)
    assert planned.parameters == {
        "text": "a", "int": -5, "real": 1.5, "flag": False, "big": float(2**63), "headers": "kept"
    }  # fmt: skip
    assert type(planned.parameters["big"]) is float
    assert plan({"inputs": [], "parameters": {"sequence_id": "seq"}}).correlation_id == "seq"
    assert plan({"inputs": [], "parameters": {"sequence_start": False}}).flags == 0
    assert plan({"inputs": [], "parameters": {}}).parameters is None


@pytest.mark.spec("server:47", "server:48", "server:53")
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        *[
            ("n", value, "parameter 'n' has invalid type. It should be either 'int', 'bool', or 'string'.")
            for value in NO_PARAMETERS
        ],
        (
            "triton_x",
            1,
            "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified.",
        ),
        *[("sequence_id", value, f"Unable to parse 'sequence_id': {NOT_STRING}") for value in NO_SEQUENCE_IDS],
        ("sequence_start", 1, f"Unable to parse 'sequence_start': {NOT_BOOLEAN}"),
        ("sequence_end", "x", f"Unable to parse 'sequence_end': {NOT_BOOLEAN}"),
        ("priority", -3, f"Unable to parse 'priority': {NOT_UNSIGNED}"),
        ("priority", "3", f"Unable to parse 'priority': {NOT_UNSIGNED}"),
        ("timeout", "1", f"Unable to parse 'timeout': {NOT_UNSIGNED}"),
        ("binary_data_output", "x", f"Unable to parse 'binary_data_output': {NOT_BOOLEAN}"),
    ],
)
def test_refused_parameters(key: str, value: object, message: str) -> None:
    assert refusal({"inputs": [], "parameters": {key: value}}) == message


@pytest.mark.spec("server:39", "server:40", "server:41", "server:43")
def test_outputs() -> None:
    assert plan({"inputs": [], "outputs": []}).outputs == ()
    assert plan({"inputs": [], "outputs": [{"name": "A"}, {"name": "A"}]}).outputs == ("A",)
    listed = plan({"inputs": [], "parameters": {"binary_data_output": True}, "outputs": [{"name": "A"}]})
    assert listed.forms["A"] == OutputForm(binary=False)
    ranked = plan({"inputs": [], "outputs": [{"name": "A", "parameters": {"classification": 2, "binary_data": True}}]})
    assert ranked.forms["A"] == OutputForm(binary=True, classes=2)


@pytest.mark.spec("server:53")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"binary_data": "x"}, f"Unable to parse 'binary_data': {NOT_BOOLEAN}"),
        ({"classification": "x"}, f"Unable to set 'classification': {NOT_UNSIGNED}"),
        ({"classification": -1}, f"Unable to set 'classification': {NOT_UNSIGNED}"),
        (
            {"classification": 1, "shared_memory_region": "x"},
            "Output can't set both 'shared_memory_region' and 'classification'",
        ),
        (
            {"binary_data": True, "shared_memory_region": "x"},
            "Output can't set both 'shared_memory_region' and 'binary_data'",
        ),
        ({"shared_memory_region": 5}, f"Unable to parse 'shared_memory_region': {NOT_STRING}"),
    ],
)
def test_refused_outputs(options: dict[str, Any], message: str) -> None:
    assert refusal({"inputs": [], "outputs": [{"name": "OUTPUT0", "parameters": options}]}) == message


def test_tensors_in_shared_memory() -> None:
    there = {"shared_memory_region": "x", "shared_memory_byte_size": 16}
    document = {
        "inputs": [tensor(data=None, parameters=there)],
        "outputs": [
            {"name": "A", "parameters": {**there, "shared_memory_offset": 64, "binary_data": False}},
            {"name": "B", "parameters": {"shared_memory_region": "y"}},
            {"name": "C"},
        ],
    }
    planned = plan(document)
    assert planned.inputs == (PlannedInput("INPUT0", "FP32", (1, 4), RegionSpan("x", 0, 16)),)
    assert planned.outputs == ("A", "B", "C")
    assert planned.regions == {"A": RegionSpan("x", 64, 16), "B": RegionSpan("y", 0, None)}
    assert [planned.forms[name].in_region for name in "ABC"] == [True, True, False]
    assert not planned.holds_data
    there["shared_memory_offset"] = "x"
    assert refusal(document) == f"Unable to parse 'shared_memory_offset': {NOT_UNSIGNED}"
    there["shared_memory_offset"] = 0
    there["shared_memory_byte_size"] = -1
    assert refusal(document) == f"Unable to parse 'shared_memory_byte_size': {NOT_UNSIGNED}"


def test_text_that_is_not_utf8_can_be_encoded_again() -> None:
    document = read_json(b'{"id":"\xff","inputs":[],"parameters":{"k\xff":"v\xff"},"outputs":[{"name":"\xff"}]}')
    planned, request_id = plan_document("two_in", document, 0, LIMIT)
    json.dumps([request_id, planned.parameters, planned.outputs], ensure_ascii=False).encode()
