"""Appendix A.3, second half: strings, raw requests, tensors without elements."""

from __future__ import annotations

import struct

import pytest
from http_wire import Wire
from infer_rows import (
    FP32,
    NOBATCH,
    RID,
    Row,
    binary,
    binary_output,
    bytes_row,
    check,
    ident,
    ident_row,
    one,
    raw_row,
    rows,
    string_input,
    strings,
)


@rows(
    Row(
        "A135 3 strings for 2",
        one("BYTES", ["a", "b", "c"], [1, 2]),
        status=400,
        target=ident("BYTES"),
        answer=f"{RID}unexpected number of string elements 3 for inference input 'INPUT0' for model 'ident_string', "
        "expecting 2",
    ),
    Row(
        "A136 1 string for 2",
        one("BYTES", ["a"], [1, 2]),
        status=400,
        target=ident("BYTES"),
        answer=f"{RID}expected 2 string elements for inference input 'INPUT0' for model 'ident_string', got 1",
    ),
    Row(
        "A137 number among strings",
        one("BYTES", ["a", 5]),
        "Unable to parse JSON bytes array: attempt to access JSON non-string as string",
        target=ident("BYTES"),
    ),
    ident_row("A138 NUL in a string", "BYTES", ["a\0b"], ["a\0b"]),
    Row(
        "A139 strings as binary data",
        answer=[binary_output("OUTPUT0", "BYTES", [1, 2], 11)],
        status=200,
        letter="O",
        target=ident("BYTES"),
        blob=strings(b"a", b"bc"),
        **binary({**string_input(11, [1, 2]), "parameters": {"binary_data_output": True}}, strings(b"a", b"bc")),
    ),
    bytes_row(
        "A141 binary, 3 strings for 2",
        strings(b"a", b"b", b"c"),
        [1, 2],
        f"{RID}unexpected number of string elements 3 for inference input 'INPUT0' for model 'ident_string', "
        "expecting 2",
    ),
    bytes_row(
        "A142 binary, 1 string for 2",
        strings(b"a"),
        [1, 2],
        f"{RID}expected 2 string elements for inference input 'INPUT0' for model 'ident_string', got 1",
    ),
    bytes_row(
        "A143 cut inside a length",
        strings(b"a") + b"\1\0",
        [1, 2],
        f"{RID}incomplete string length indicator for inference input 'INPUT0' for model 'ident_string', expecting 4 "
        "bytes but only 2 bytes available. Please make sure the string length indicator is in one buffer.",
    ),
    # The original leaves these two to the backend, hence answers them as text; here they are not even queued.
    bytes_row(
        "A144 cut inside a string",
        strings(b"a", b"bc")[:-1],
        [1, 2],
        "incomplete string data for inference input 'INPUT0', expecting string of length 2 but only 1 bytes available",
    ),
    bytes_row(
        "A145 length 100",
        struct.pack("<I", 100) + b"x",
        [1, 1],
        "incomplete string data for inference input 'INPUT0', expecting string of length 100 but only 1 bytes "
        "available",
    ),
    Row(
        "A146 no strings",
        answer=[binary_output("OUTPUT0", "BYTES", [1, 0], 0)],
        status=200,
        target=ident("BYTES"),
        **binary({**string_input(0, [1, 0]), "parameters": {"binary_data_output": True}}),
    ),
    raw_row(
        "A147 raw",
        FP32[:12],
        [binary_output("OUTPUT0", "FP32", [1, 3], 12)],
        200,
        letter="O",
        target=ident("FP32"),
        blob=FP32[:12],
    ),
    raw_row(
        "A148 raw, not batched",
        FP32,
        [binary_output("OUTPUT0", "FP32", [4], 16)],
        200,
        letter="O",
        target=NOBATCH,
        blob=FP32,
    ),
    raw_row(
        "A149 raw, too short",
        FP32[:12],
        target=NOBATCH,
        answer=f"{RID}input byte size mismatch for input 'raw_input' for model 'nobatch'. Expected 16, got 12",
    ),
    raw_row(
        "A150 raw strings",
        b"abc",
        target=ident("BYTES"),
        answer=f"{RID}For BYTE datatype raw input 'INPUT0', the model must have input shape [1]",
    ),
    raw_row("A151 raw, nothing", b"", [binary_output("OUTPUT0", "FP32", [1, 0], 0)], 200, target=ident("FP32")),
    raw_row(
        "A152 raw, 5 bytes",
        b"12345",
        target=ident("FP32"),
        answer=f"{RID}input byte size mismatch for input 'raw_input' for model 'ident_fp32'. Expected 4, got 5",
    ),
    ident_row("A153 no elements", "FP32", [], []),
    Row(
        "A154 no elements, binary out",
        one("FP32", [], parameters={"binary_data_output": True}),
        [binary_output("OUTPUT0", "FP32", [1, 0], 0)],
        200,
        target=ident("FP32"),
    ),
    Row(
        "A155 batch 0",
        one("FP32", [], [0, 3]),
        target=ident("FP32"),
        answer=f"{RID}input byte size mismatch for input 'INPUT0' for model 'ident_fp32'. Expected 12, got 0",
    ),
)
@pytest.mark.spec("server:262")
def test_strings_and_raw_requests(wire: Wire, row: Row) -> None:
    check(wire, row)


@pytest.mark.spec("server:37")
def test_raw_string_gets_its_length_from_the_server(wire: Wire) -> None:
    row = raw_row(
        "37 raw string",
        b"hi there",
        [binary_output("OUTPUT0", "BYTES", [1, 1], 12)],
        200,
        letter="O",
        target="/v2/models/raw_string/infer",
        blob=strings(b"hi there"),
    )
    check(wire, row)


@pytest.mark.spec("server:53")
def test_raw_shape_with_two_wildcards_can_not_be_deduced(wire: Wire) -> None:
    reply = wire.request("POST", "/v2/models/wild/infer", FP32, {"Inference-Header-Content-Length": 0})
    assert (reply.status, reply.letter) == (400, "J")
    assert reply.error == (
        f"{RID}The shape of the raw input 'INPUT0' can not be deduced because there are more than one variable-sized "
        "dimension"
    )


@pytest.mark.spec("server:A140")
@pytest.mark.spec("server:65")
def test_bytes_that_are_no_utf8_are_answered_verbatim(wire: Wire) -> None:
    request = binary(string_input(6, [1, 1]), strings(b"\xff\xfe"))
    reply = wire.request("POST", ident("BYTES"), request["body"], request["headers"])
    assert (reply.status, reply.letter) == (200, "J")
    assert b'"data":["\xff\xfe"]' in reply.body
