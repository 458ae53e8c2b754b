"""Appendix A.3, first half: the binary extension and classification."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from http_wire import Wire
from infer_rows import (
    BINARY_FIRST,
    BINARY_OUTPUTS,
    BINARY_SECOND,
    BOTH_NBYTES,
    DEDUCED,
    FP32,
    INT32,
    NOBATCH,
    OUTPUT0,
    OUTPUT1,
    RID,
    SYNTAX,
    TWO_IN,
    WRONG,
    Row,
    binary,
    binary_output,
    both,
    check,
    output,
    rows,
    second,
    sized,
    strings,
    two_in,
)

CLASSES = {"name": "OUTPUT0", "parameters": {"classification": 2}}
SCORES = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [4], "data": [0.1, 0.9, 0.5, 0.7]}]}
ANIMALS = ["0.900000:1:dog", "0.700000:3", "0.500000:2:bird", "0.100000:0:cat"]


def labelled(count: int, **more: Any) -> dict[str, Any]:
    return {**SCORES, "outputs": [{"name": "OUTPUT0", "parameters": {"classification": count, **more}}]}


@rows(
    Row("A104 binary in", answer=[OUTPUT0, OUTPUT1], status=200, **binary(both(), FP32, INT32)),
    Row(
        "A105 binary_data_output",
        two_in(parameters={"binary_data_output": True}),
        BINARY_OUTPUTS,
        200,
        "O",
        blob=FP32 + INT32,
    ),
    Row(
        "A106 one output binary",
        two_in(outputs=[{"name": "OUTPUT0", "parameters": {"binary_data": True}}, {"name": "OUTPUT1"}]),
        [BINARY_OUTPUTS[0], OUTPUT1],
        200,
        "O",
        blob=FP32,
    ),
    Row(
        "A107 listed outputs decide for themselves",
        two_in(parameters={"binary_data_output": True}, outputs=[{"name": "OUTPUT0"}, {"name": "OUTPUT1"}]),
        [OUTPUT0, OUTPUT1],
        200,
    ),
    Row("A109 header 0 with two inputs", answer=RID + DEDUCED, **binary(both(), FP32, INT32, announced=0)),
    *(
        Row(
            f"{id} header {length}",
            answer=f"inference header size should be in range (0, {BOTH_NBYTES}), got: {length}",
            letter="T",
            **binary(both(), FP32, INT32, announced=length),
        )
        for id, length in [("A110", -1), ("A111", 100000), ("A113", 99999999999999)]
    ),
    Row(
        "A112 header abc",
        answer="Unable to parse Inference-Header-Content-Length, got: abc",
        letter="T",
        **binary(both(), FP32, INT32, announced="abc"),
    ),
    Row(
        "A114 header cuts JSON",
        answer=SYNTAX + "Invalid value. at 10",
        **{**binary(both(), announced=10), "body": b'{"inputs":[{"name":"INPUT0"}]}'},
    ),
    Row(
        "A116 second blob missing",
        answer="unexpected size for input 'INPUT1', expecting 8 additional bytes for model 'two_in'",
        **binary(both(), FP32),
    ),
    Row(
        "A117 extra bytes",
        answer="unexpected additional input data for model 'two_in'",
        **binary(both(), FP32, INT32, b"four"),
    ),
    Row(
        "A118 12 bytes for 16",
        answer=f"{RID}input byte size mismatch for input 'INPUT0' for model 'two_in'. Expected 16, got 12",
        **binary(two_in(sized(12), BINARY_SECOND), FP32[:12], INT32),
    ),
    *(
        Row(
            f"{id} size {size!r}",
            answer=f"Unable to parse 'binary_data_size': {WRONG}non-unsigned-integer as unsigned-integer",
            **binary(two_in(sized(size), BINARY_SECOND), FP32, INT32),
        )
        for id, size in [("A119", "16"), ("A120", -1)]
    ),
    Row(
        "A121 binary beside JSON", answer=[OUTPUT0, OUTPUT1], status=200, **binary(two_in(BINARY_FIRST, second()), FP32)
    ),
    Row(
        "A122 size 0",
        answer=f"{RID}input byte size mismatch for input 'INPUT0' for model 'two_in'. Expected 16, got 0",
        **binary(two_in(sized(0), BINARY_SECOND), INT32),
    ),
    Row(
        "A123 binary_data x",
        two_in(outputs=[{"name": "OUTPUT0", "parameters": {"binary_data": "x"}}]),
        f"Unable to parse 'binary_data': {WRONG}non-boolean as boolean",
    ),
    *(
        Row(
            f"{id} classification {count!r}",
            two_in(outputs=[{"name": "OUTPUT0", "parameters": {"classification": count}}]),
            f"Unable to set 'classification': {WRONG}non-unsigned-integer as unsigned-integer",
        )
        for id, count in [("A124", "x"), ("A127", -1)]
    ),
    Row(
        "A125 classification 2",
        two_in(outputs=[CLASSES]),
        [output("OUTPUT0", "BYTES", [1, 2], ["4.000000:3", "3.000000:2"])],
        200,
    ),
    Row(
        "A126 classification 0",
        two_in(outputs=[{"name": "OUTPUT0", "parameters": {"classification": 0}}]),
        [OUTPUT0],
        200,
    ),
    Row(
        "A128 classification and region",
        two_in(outputs=[{"name": "OUTPUT0", "parameters": {"classification": 2, "shared_memory_region": "x"}}]),
        "Output can't set both 'shared_memory_region' and 'classification'",
    ),
    Row(
        "A129 binary_data and region",
        two_in(outputs=[{"name": "OUTPUT0", "parameters": {"binary_data": True, "shared_memory_region": "x"}}]),
        "Output can't set both 'shared_memory_region' and 'binary_data'",
    ),
    Row("A130 labels", labelled(2), [output("OUTPUT0", "BYTES", [2], ANIMALS[:2])], 200, target=NOBATCH),
    Row("A131 9 of 4", labelled(9), [output("OUTPUT0", "BYTES", [4], ANIMALS)], 200, target=NOBATCH),
    Row(
        "A132 labels as binary data",
        labelled(2, binary_data=True),
        [binary_output("OUTPUT0", "BYTES", [2], 32)],
        200,
        "O",
        NOBATCH,
        blob=strings(b"0.900000:1:dog", b"0.700000:3"),
    ),
    *(
        Row(
            f"{id} nobatch {shape}",
            {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": shape, "data": [0] * math.prod(shape)}]},
            f"{RID}unexpected shape for input 'INPUT0' for model 'nobatch'. Expected [4], got {text}. ",
            target=NOBATCH,
        )
        for id, shape, text in [("A133", [1, 4], "[1,4]"), ("A134", [3], "[3]")]
    ),
)
@pytest.mark.spec("server:55")
def test_binary_extension_and_classification(wire: Wire, row: Row) -> None:
    check(wire, row)


@pytest.mark.spec("server:A108")
def test_binary_body_without_the_header_length_is_refused(wire: Wire) -> None:
    # The original stops reading at the end of the JSON document and then misses the binary data; to a parser that
    # reads the body as a whole what follows is the fault. Either says that the request is wrong.
    reply = wire.request("POST", TWO_IN, json.dumps(both()).encode() + FP32 + INT32)
    assert (reply.status, reply.letter) == (400, "J")
    assert reply.error in (
        "unexpected size for input 'INPUT0', expecting 16 additional bytes for model 'two_in'",
        f"{SYNTAX}The document root must not be followed by other values. at {len(json.dumps(both()))}",
    )


@pytest.mark.spec("server:A115")
def test_header_length_that_reaches_into_the_binary_data_is_refused(wire: Wire) -> None:
    length = len(json.dumps(both())) + 4
    request = binary(both(), FP32, INT32, announced=length)
    reply = wire.request("POST", TWO_IN, request["body"], request["headers"])
    assert (reply.status, reply.letter) == (400, "J")
    assert reply.error in (
        "unexpected size for input 'INPUT1', expecting 4 additional bytes for model 'two_in'",
        f"{SYNTAX}The document root must not be followed by other values. at {length - 4}",
    )
