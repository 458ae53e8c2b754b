"""Appendix A.2: infer requests in JSON, those that are right and those that are not."""

from __future__ import annotations

import json

import pytest
from http_wire import Wire
from infer_rows import (
    ABSENT,
    CONTENT,
    DEDUCED,
    NOTE,
    OUTPUT0,
    OUTPUT1,
    PROVIDE,
    RID,
    SYNTAX,
    TOO_BIG,
    TWO_IN,
    WRONG,
    Row,
    check,
    first,
    ident,
    one,
    output,
    rows,
    second,
    spell,
    two_in,
)


@rows(
    Row("A39 valid", two_in(), [OUTPUT0, OUTPUT1], 200),
    Row("A41 nested data", two_in(first(data=[[[1, 2], [3, 4]]]), second()), [OUTPUT0, OUTPUT1], 200),
    Row("A43 empty body", b"", RID + DEDUCED),
    Row("A44 no JSON", b"hello", SYNTAX + "Invalid value. at 0"),
    Row("A45 cut JSON", b'{"inputs":[', SYNTAX + "Invalid value. at 11"),
    Row("A46 array", b"[]", f"Unable to parse 'inputs': {ABSENT} 'inputs'"),
    Row("A47 null", b"null", f"Unable to parse 'inputs': {ABSENT} 'inputs'"),
    Row("A48 no inputs", b"{}", f"Unable to parse 'inputs': {ABSENT} 'inputs'"),
    Row("A49 inputs null", {"inputs": None}, f"Unable to parse 'inputs': {WRONG}non-array as array"),
    Row("A50 inputs object", {"inputs": {}}, f"Unable to parse 'inputs': {WRONG}non-array as array"),
    Row(
        "A51 inputs empty",
        {"inputs": []},
        f"{RID}expected 2 inputs but got 0 inputs for model 'two_in'. Got input(s) [], but missing required input(s) "
        f"['INPUT0','INPUT1']. {PROVIDE}",
    ),
    Row("A52 input is a number", {"inputs": [1]}, CONTENT + "no field is set"),
    Row("A53 no name", two_in(first(name=...)), f"Unable to parse 'name': {ABSENT} 'name'"),
    Row("A54 name 5", two_in(first(name=5)), f"Unable to parse 'name': {WRONG}non-string as string"),
    Row("A55 no datatype", two_in(first(datatype=...)), f"Unable to parse 'datatype': {ABSENT} 'datatype'"),
    Row("A56 datatype FLOAT", two_in(first(datatype="FLOAT")), "invalid datatype for input INPUT0"),
    Row("A57 datatype 3", two_in(first(datatype=3)), f"Unable to parse 'datatype': {WRONG}non-string as string"),
    Row("A58 no shape", two_in(first(shape=...)), f"Unable to parse 'shape': {ABSENT} 'shape'"),
    Row("A59 shape 4", two_in(first(shape=4)), f"Unable to parse 'shape': {WRONG}non-array as array"),
    *(
        Row(
            f"{id} shape {shape}",
            two_in(first(shape=shape)),
            f"Unable to parse 'shape': {WRONG}non-unsigned-integer as unsigned-integer",
        )
        for id, shape in [("A60", [-1, 2, 2]), ("A61", [1, 2.0, 2]), ("A62", ["1", 2, 2])]
    ),
    Row(
        "A63 shape []",
        two_in(first(shape=[], data=[1]), second()),
        f"{RID}input 'INPUT0' has no shape but model requires batch dimension for 'two_in'",
    ),
    Row(
        "A64 batch 0",
        two_in(first(shape=[0, 2, 2], data=[]), second(shape=[0, 2], data=[])),
        f"{RID}input byte size mismatch for input 'INPUT0' for model 'two_in'. Expected 16, got 0",
    ),
    Row("A65 no data", two_in(first(data=...)), CONTENT + "no field is set"),
    Row("A66 data 5", two_in(first(data=5)), f"Unable to parse 'data': {WRONG}non-array as array"),
    *(
        Row(
            f"{id} data has {odd!r}",
            two_in(first(data=[odd, 2, 3, 4])),
            f"Unable to parse 'data': {WRONG}non-number as double",
        )
        for id, odd in [("A67", "a"), ("A68", None), ("A69", True)]
    ),
    Row(
        "A70 too many data",
        two_in(first(data=[1, 2, 3, 4, 5])),
        "Unable to parse 'data': Shape does not match true shape of 'data' field",
    ),
    Row(
        "A72 FP64",
        two_in(first(datatype="FP64"), second()),
        f"{RID}inference input 'INPUT0' data-type is 'FP64', but model 'two_in' expects 'FP32'",
    ),
    *(
        Row(
            f"{id} {odd} for INT32",
            two_in(first(), second(data=[odd, 2])),
            f"Unable to parse 'data': {WRONG}non-signed-integer as signed-integer",
        )
        for id, odd in [("A73", 1.5), ("A74", 1.0), ("A76", 2**64)]
    ),
    Row(
        "A75 2^32 for INT32 wraps",
        two_in(first(), second(data=[2**32, 2])),
        [OUTPUT0, output("OUTPUT1", "INT32", [1, 2], [0, 2])],
        200,
    ),
    Row(
        "A77 INPUT1 missing",
        two_in(first()),
        f"{RID}expected 2 inputs but got 1 inputs for model 'two_in'. Got input(s) ['INPUT0'], but missing required "
        f"input(s) ['INPUT1']. {PROVIDE}",
    ),
    Row(
        "A79 FOO for INPUT1", two_in(first(), second(name="FOO")), "unexpected inference input 'FOO' for model 'two_in'"
    ),
    Row("A80 INPUT0 twice", two_in(first(), first()), f"{RID}input 'INPUT0' already exists in request"),
    Row(
        "A81 shape [1,4]",
        two_in(first(shape=[1, 4]), second()),
        f"{RID}unexpected shape for input 'INPUT0' for model 'two_in'. Expected [-1,2,2], got [1,4]. {NOTE}",
    ),
    Row(
        "A83 batch 1 and 2",
        two_in(first(), second(shape=[2, 1])),
        f"{RID}input 'INPUT1' batch size does not match other inputs for 'two_in'",
    ),
    Row(
        "A84 batch 5",
        two_in(first(shape=[5, 2, 2], data=[0] * 20), second(shape=[5, 1], data=[0] * 5)),
        f"{RID}inference request batch-size must be <= 4 for 'two_in'",
    ),
    Row("A85 output ZZZ", two_in(outputs=[{"name": "ZZZ"}]), "unexpected inference output 'ZZZ' for model 'two_in'"),
    Row("A86 output twice", two_in(outputs=[{"name": "OUTPUT0"}, {"name": "OUTPUT0"}]), [OUTPUT0], 200),
    Row("A87 one output", two_in(outputs=[{"name": "OUTPUT1"}]), [OUTPUT1], 200),
    Row("A88 output {}", two_in(outputs=[{}]), f"Unable to parse 'name': {ABSENT} 'name'"),
    Row("A89 outputs null", two_in(outputs=None), f"Unable to parse 'outputs': {WRONG}non-array as array"),
    Row("A90 outputs {}", two_in(outputs={}), f"Unable to parse 'outputs': {WRONG}non-array as array"),
    Row("A91 outputs []", two_in(outputs=[]), [OUTPUT0, OUTPUT1], 200),
    Row("A92 id 5", two_in(id=5), f"Unable to parse 'id': {WRONG}non-string as string"),
    Row(
        "A93 parameters 5", two_in(parameters=5), "failed to get request params.: attempt to get members for non-object"
    ),
    Row(
        "A94 unknown model",
        two_in(),
        "Request for unknown model: 'nope' is not found",
        404,
        "T",
        "/v2/models/nope/infer",
    ),
    Row(
        "A95 unknown version",
        two_in(),
        "Request for unknown model: 'two_in' version 3 is not found",
        404,
        "T",
        "/v2/models/two_in/versions/3/infer",
    ),
    *(
        Row(f"{id} {fields}", two_in(first(**more)), f"{CONTENT}set {fields}")
        for id, fields, more in [
            ("A97", "'data' 'binary_data_size'", {"parameters": {"binary_data_size": 16}}),
            ("A98", "'data' 'shared_memory_region'", {"parameters": {"shared_memory_region": "x"}}),
            (
                "A99",
                "'data' 'binary_data_size' 'shared_memory_region'",
                {"parameters": {"binary_data_size": 16, "shared_memory_region": "x"}},
            ),
        ]
    ),
    Row(
        "A100 unregistered region",
        two_in(first(data=..., parameters={"shared_memory_region": "x", "shared_memory_byte_size": 16}), second()),
        "Unable to find shared memory region: 'x'",
        404,
    ),
    Row(
        "A101 1e400",
        TOO_BIG,
        f"{SYNTAX}Number too big to be stored in double. at {TOO_BIG.index(b'1e400')}",
    ),
    Row(
        "A103 numbers",
        two_in(first(data=[0.1, 1e-7, 123456789, 1e20]), second()),
        [
            output(
                "OUTPUT0",
                "FP32",
                [1, 2, 2],
                [0.10000000149011612, 1.0000000116860974e-7, 123456792.0, 100000002004087730000.0],
            ),
            OUTPUT1,
        ],
        200,
    ),
)
@pytest.mark.spec("server:51")
@pytest.mark.spec("server:53")
@pytest.mark.spec("server:257")
@pytest.mark.spec("server:258")
@pytest.mark.spec("server:259")
def test_json_request(wire: Wire, row: Row) -> None:
    check(wire, row)


@pytest.mark.spec("server:A40")
@pytest.mark.spec("server:60")
def test_id_comes_first_and_only_when_the_request_has_one(wire: Wire) -> None:
    reply = wire.request("POST", TWO_IN, json.dumps(two_in(id="abc")).encode())
    assert list(reply.json.items())[:3] == [("id", "abc"), ("model_name", "two_in"), ("model_version", "1")]
    assert "id" not in wire.request("POST", TWO_IN, json.dumps(two_in(id="")).encode()).json


@pytest.mark.spec("server:A71")
@pytest.mark.parametrize("data", [[1, 2, 3], []], ids=["three", "none"])
def test_too_few_data_are_refused_in_either_wording(wire: Wire, data: list[int]) -> None:
    reply = wire.request("POST", TWO_IN, json.dumps(two_in(first(data=data), second())).encode())
    assert (reply.status, reply.letter) == (400, "J")
    assert reply.error in (
        "Unable to parse 'data': Shape does not match true shape of 'data' field",
        "Failed to parse 'data' field: shape does not match true shape",
    )


@pytest.mark.spec("server:A78")
def test_surplus_inputs_are_counted_and_named(wire: Wire) -> None:
    reply = wire.request("POST", TWO_IN, json.dumps(two_in(first(), second(), second(name="INPUT9"))).encode())
    assert (reply.status, reply.letter) == (400, "J")
    listed = reply.error.partition("[")[2].partition("Got input(s) [")[2].partition("]")[0]
    assert sorted(listed.split(",")) == ["'INPUT0'", "'INPUT1'", "'INPUT9'"]
    assert reply.error.replace(listed, "…") == (
        f"{RID}expected 2 inputs but got 3 inputs for model 'two_in'. Got input(s) […], but missing required input(s) "
        f"]. {PROVIDE}"
    )


@pytest.mark.spec("server:A82")
def test_batch_dimension_forgotten_on_one_input(wire: Wire) -> None:
    reply = wire.request("POST", TWO_IN, json.dumps(two_in(first(shape=[2, 2]), second())).encode())
    assert (reply.status, reply.letter) == (400, "J")
    # Which of the two is the odd one is unspecified.
    assert reply.error in [f"{RID}input 'INPUT{n}' batch size does not match other inputs for 'two_in'" for n in (0, 1)]


@pytest.mark.spec("server:A102")
@pytest.mark.spec("server:32")
@pytest.mark.spec("server:63")
def test_bare_words_for_numbers_that_are_not_finite(wire: Wire) -> None:
    body = spell(two_in(first(data=["a", "b", "c", 1e39]), second()), a="NaN", b="Inf", c="-Inf")
    reply = wire.request("POST", TWO_IN, body)
    assert reply.status == 200
    assert b'"data":[NaN,Infinity,-Infinity,Infinity]' in reply.body


@pytest.mark.spec("server:A168")
@pytest.mark.spec("server:64")
def test_doubles_survive_and_always_look_like_doubles(wire: Wire) -> None:
    values = [0.1, 1e300, 5e-324, 1.0, 123456789012345678, 1e21, 1e22, 1.5e-5, 1e-4]
    reply = wire.request("POST", ident("FP64"), json.dumps(one("FP64", values)).encode())
    got = reply.json["outputs"][0]["data"]
    assert got == [float(value) for value in values]
    assert all(type(value) is float for value in got)
