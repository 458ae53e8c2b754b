"""Appendix A.4 and the limits of 1.7: datatypes, parameters, optional inputs, absurd sizes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from http_wire import Wire
from infer_rows import (
    OUTPUT0,
    OUTPUT1,
    PROVIDE,
    RID,
    TWO_IN,
    WRONG,
    Row,
    binary,
    check,
    first,
    ident,
    ident_row,
    one,
    output,
    rows,
    second,
    spell,
    two_in,
)

BAD_PARAMETER = "parameter 'n' has invalid type. It should be either 'int', 'bool', or 'string'."


def parameter_row(id: str, parameters: dict[str, Any], answer: str) -> Row:
    return Row(f"{id} {json.dumps(parameters)}", two_in(parameters=parameters), answer)


@rows(
    *(
        Row(
            f"{id} {datatype} as JSON",
            one(datatype, [1]),
            target=ident(datatype),
            answer=f"receiving {datatype} data via JSON is not supported. Please use the binary data format for input "
            "INPUT0",
        )
        for id, datatype in [("A156", "FP16"), ("A157", "BF16")]
    ),
    *(
        Row(f"{id} datatype {datatype}", one(datatype, [1]), "invalid datatype for input INPUT0", target=ident("FP32"))
        for id, datatype in [("A158", "fp32"), ("A159", "TYPE_FP32")]
    ),
    Row(
        "A160 FP16 answered as JSON",
        target=ident("FP16"),
        letter="T",
        answer="sending FP16 data via JSON is not supported. Please use the binary data format for output",
        **binary(
            {
                "inputs": [
                    {"name": "INPUT0", "datatype": "FP16", "shape": [1, 2], "parameters": {"binary_data_size": 4}}
                ]
            },
            b"1234",
        ),
    ),
    ident_row("A161 BOOL", "BOOL", [True, False], [True, False]),
    Row(
        "A162 numbers for BOOL",
        one("BOOL", [1, 0]),
        f"Unable to parse 'data': {WRONG}non-boolean as boolean",
        target=ident("BOOL"),
    ),
    ident_row("A163 UINT8 wraps", "UINT8", [0, 255, 256], [0, 255, 0]),
    Row(
        "A164 negative for UINT8",
        one("UINT8", [-1]),
        target=ident("UINT8"),
        answer=f"Unable to parse 'data': {WRONG}non-unsigned-integer as unsigned-integer",
    ),
    ident_row("A165 INT8 wraps", "INT8", [-128, 127, 128], [-128, 127, -128]),
    ident_row("A166 UINT64", "UINT64", [2**64 - 1], [2**64 - 1]),
    ident_row("A167 INT64", "INT64", [-(2**63), 2**63 - 1], [-(2**63), 2**63 - 1]),
    *(parameter_row(id, {"n": value}, BAD_PARAMETER) for id, value in [("A169", None), ("A170", [1]), ("A171", {})]),
    parameter_row(
        "A172",
        {"triton_x": 1},
        "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified.",
    ),
    *(
        parameter_row(id, {key: value}, f"Unable to parse '{key}': {WRONG}{kind}")
        for id, key, value, kind in [
            ("A173", "sequence_id", -5, "non-string as string"),
            ("A174", "sequence_id", 1.5, "non-string as string"),
            ("A175", "sequence_start", 1, "non-boolean as boolean"),
            ("A176", "sequence_end", "x", "non-boolean as boolean"),
            ("A177", "priority", -3, "non-unsigned-integer as unsigned-integer"),
            ("A178", "priority", "3", "non-unsigned-integer as unsigned-integer"),
            ("A179", "timeout", "1", "non-unsigned-integer as unsigned-integer"),
            ("A180", "binary_data_output", "x", "non-boolean as boolean"),
        ]
    ),
)
def test_datatypes_and_parameters(wire: Wire, row: Row) -> None:
    check(wire, row)


OPT = "/v2/models/opt/infer"
COUNT = f"{RID}expected number of inputs between 1 and 3 but got"
LACKING = f"but missing required input(s) ['INPUT0']. {PROVIDE}"
NUMBER = {"name": "INPUT1", "datatype": "INT32", "shape": [1, 1], "data": [1]}
SCALAR = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 1], "data": [1]}


@rows(
    Row("A181 only the required", {"inputs": [SCALAR]}, [output("OUTPUT0", "FP32", [1, 1], [1.0])], 200, target=OPT),
    Row(
        "A182 the required one missing",
        {"inputs": [NUMBER]},
        target=OPT,
        answer=f"{COUNT} 1 inputs for model 'opt'. Got input(s) ['INPUT1'], {LACKING}",
    ),
    Row(
        "A183 none",
        {"inputs": []},
        target=OPT,
        answer=f"{COUNT} 0 inputs for model 'opt'. Got input(s) [], {LACKING}",
    ),
    Row("A185 absent output", {"inputs": [SCALAR], "outputs": [{"name": "OUTPUT1"}]}, [], 200, target=OPT),
)
def test_optional_inputs(wire: Wire, row: Row) -> None:
    check(wire, row)


@pytest.mark.spec("server:A184")
def test_more_inputs_than_a_model_with_optional_ones_has(wire: Wire) -> None:
    inputs = [{**SCALAR, "name": name} for name in ("INPUT0", "X0", "X1", "X2")]
    reply = wire.request("POST", OPT, json.dumps({"inputs": inputs}).encode())
    assert (reply.status, reply.letter) == (400, "J")
    assert reply.error.startswith(f"{COUNT} 4 inputs for model 'opt'. Got input(s) [")
    assert reply.error.endswith(f"], but missing required input(s) ]. {PROVIDE}")


MAX = 2**63 - 1


@pytest.mark.spec("server:57")
@pytest.mark.parametrize(
    ("shape", "answer"),
    [
        ([1, 2**62, 2**62], f"shape [1,{2**62},{2**62}] causes total element count to exceed maximum size of {MAX}"),
        ([1, 2**63], f"shape [1,{2**63}] contains one or more invalid dimensions"),
        ([2**32, 2**31], f"shape [{2**32},{2**31}] causes total element count to exceed maximum size of {MAX}"),
    ],
)
def test_absurd_dimensions_are_refused(wire: Wire, shape: list[int], answer: str) -> None:
    row = Row("57", one("FP32", [1], shape), f"invalid shape for input 'INPUT0': {answer}", target=ident("FP32"))
    check(wire, row)


@pytest.mark.spec("server:57")
def test_sizes_that_overflow_are_refused(wire: Wire) -> None:
    answer = (
        f"byte size overflow for input 'INPUT0': element count ({2**62}) * data type size (4) exceeds maximum allowed "
        f"size ({MAX})"
    )
    check(wire, Row("57", one("FP32", [1], [1, 2**62]), answer, target=ident("FP32")))


@pytest.mark.spec("server:58")
def test_json_input_above_the_limit_is_refused_before_its_data_are_read(wire: Wire) -> None:
    nbytes = (64 << 20) + 4
    answer = (
        f"JSON input 'INPUT0' has a byte_size ({nbytes} bytes) that exceeds the maximum allowed value of {64 << 20} "
        "bytes. Use --http-max-input-size to increase the limit."
    )
    check(wire, Row("58", one("FP32", [1], [1, nbytes // 4]), answer, target=ident("FP32")))


@pytest.mark.spec("server:A202")
@pytest.mark.spec("server:59")
@pytest.mark.parametrize("depth", [100, 200, 100_000])
def test_deeply_nested_data_are_refused(wire: Wire, depth: int) -> None:
    text = spell(one("FP32", ["deep"], [1, 1]), deep="[" * depth + "1" + "]" * depth)
    reply = wire.request("POST", ident("FP32"), text)
    assert (reply.status, reply.letter) == (400, "J")
    # The parser itself gives up on the deepest, before anybody knows which member they belong to.
    prefix = "Unable to parse 'data': " if depth < 1000 else ""
    assert reply.error == f"{prefix}JSON nesting depth exceeds maximum allowed limit (100)"
    assert wire.request("POST", TWO_IN, json.dumps(two_in()).encode()).status == 200


@pytest.mark.spec("server:50")
def test_unknown_members_are_ignored(wire: Wire) -> None:
    row = Row("50", two_in({**first(), "colour": 1}, second(), extra={"a": [None]}), [OUTPUT0, OUTPUT1], 200)
    check(wire, row)
