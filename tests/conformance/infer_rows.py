"""Rows of the specification's appendix A: an infer request by hand and its answer, to the letter.

Failures of the JSON layer carry the original's text with status 400. Content types: J JSON, T text, O octet-stream.
After every row the same connection answers a valid request. See also: ``model_repository`` for the models.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any

import pytest
from http_wire import Reply, Wire

TWO_IN = "/v2/models/two_in/infer"
RID = "[request id: <id_unknown>] "
CONTENT = (
    "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
    "'shared_memory_region' in 'parameters'. But "
)
ABSENT = "attempt to access non-existing object member"
WRONG = "attempt to access JSON "
NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each "
    "input shape. If you want to specify the full shape including the batch dim in your input dims config, try setting "
    "max_batch_size to zero. See the model configuration docs for more info on max_batch_size."
)
PROVIDE = "Please provide all required input(s)."
DEDUCED = "Raw request must only have 1 input (found 1) to be deduced but got 2 inputs in 'two_in' model configuration"


@dataclass(frozen=True)
class Row:
    """One request and its answer. ``answer`` is an error's text, or for status 200 the outputs in JSON."""

    id: str
    body: Any
    answer: Any
    status: int = 400
    letter: str = "J"
    target: str = TWO_IN
    headers: dict[str, object] = field(default_factory=dict)
    blob: bytes = b""
    """Of the answer: the binary data behind the JSON."""


def rows(*table: Row) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "row", [pytest.param(row, id=row.id, marks=pytest.mark.spec(f"server:{row.id.split()[0]}")) for row in table]
    )


def ask(wire: Wire, row: Row) -> Reply:
    body = row.body if isinstance(row.body, bytes) else json.dumps(row.body).encode()
    return wire.request("POST", row.target, body, row.headers)


def check(wire: Wire, row: Row) -> None:
    reply = ask(wire, row)
    got = reply.error if reply.status != 200 else reply.body.decode("utf-8", "backslashreplace")
    assert (reply.status, reply.letter) == (row.status, row.letter), got
    if reply.status != 200:
        assert reply.error == row.answer
    else:
        check_answer(reply, row)
    assert wire.request("POST", TWO_IN, json.dumps(two_in()).encode()).status == 200


def check_answer(reply: Reply, row: Row) -> None:
    length = int(reply.headers.get("Inference-Header-Content-Length", len(reply.body)))
    assert ("Inference-Header-Content-Length" in reply.headers) == (row.letter == "O")
    document = json.loads(reply.body[:length])
    assert reply.body[length:] == row.blob
    expected = {"model_name": row.target.split("/")[3], "model_version": "1", "outputs": row.answer}
    assert json.dumps(document) == json.dumps(expected)  # as text: the order of keys, and 1 is not 1.0


def ident(datatype: str) -> str:
    """The path to infer with the identity model of a datatype."""
    return f"/v2/models/ident_{'string' if datatype == 'BYTES' else datatype.lower()}/infer"


def first(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 2, 2], "data": [1, 2, 3, 4], **changes}
    return {key: value for key, value in tensor.items() if value is not ...}


def second(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "INPUT1", "datatype": "INT32", "shape": [1, 2], "data": [5, 6], **changes}
    return {key: value for key, value in tensor.items() if value is not ...}


def two_in(*inputs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"inputs": list(inputs) or [first(), second()], **more}


def one(datatype: str, data: list[Any], shape: list[int] | None = None, **more: Any) -> dict[str, Any]:
    shape = [1, len(data)] if shape is None else shape
    return {"inputs": [{"name": "INPUT0", "datatype": datatype, "shape": shape, "data": data}], **more}


def output(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def binary_output(name: str, datatype: str, shape: list[int], nbytes: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": nbytes}}


def ident_row(id: str, datatype: str, data: list[Any], got: list[Any]) -> Row:
    answer = [output("OUTPUT0", datatype, [1, len(data)], got)]
    return Row(id, one(datatype, data), answer, 200, target=ident(datatype))


def spell(document: dict[str, Any], **words: str) -> bytes:
    """JSON in which each given string value is replaced by bare words that ``json`` would not write."""
    text = json.dumps(document, separators=(",", ":"))
    for name, word in words.items():
        text = text.replace(f'"{name}"', word)
    return text.encode()


OUTPUT0 = output("OUTPUT0", "FP32", [1, 2, 2], [1.0, 2.0, 3.0, 4.0])
OUTPUT1 = output("OUTPUT1", "INT32", [1, 2], [5, 6])
SYNTAX = "failed to parse the request JSON buffer: "
TOO_BIG = spell(two_in(first(data=["odd", 2, 3, 4])), odd="1e400")


FP32 = struct.pack("<4f", 1, 2, 3, 4)
INT32 = struct.pack("<2i", 5, 6)
BINARY_FIRST = first(data=..., parameters={"binary_data_size": 16})
BINARY_SECOND = second(data=..., parameters={"binary_data_size": 8})
NOBATCH = "/v2/models/nobatch/infer"
BINARY_OUTPUTS = [
    binary_output("OUTPUT0", "FP32", [1, 2, 2], 16),
    binary_output("OUTPUT1", "INT32", [1, 2], 8),
]


def binary(document: dict[str, Any], *blobs: bytes, announced: object = None, **row: Any) -> dict[str, Any]:
    """Body and headers of a binary request, for a Row; ``announced``: the header length, if not the true one."""
    head = json.dumps(document).encode()
    headers = {"Inference-Header-Content-Length": len(head) if announced is None else announced}
    return {"body": head + b"".join(blobs), "headers": headers, **row}


def both(**more: Any) -> dict[str, Any]:
    return two_in(BINARY_FIRST, BINARY_SECOND, **more)


BOTH_NBYTES = len(json.dumps(both())) + 24


def sized(nbytes: object) -> dict[str, Any]:
    return first(data=..., parameters={"binary_data_size": nbytes})


def strings(*items: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(item)) + item for item in items)


def string_input(nbytes: int, shape: list[int]) -> dict[str, Any]:
    tensor = {"name": "INPUT0", "datatype": "BYTES", "shape": shape, "parameters": {"binary_data_size": nbytes}}
    return {"inputs": [tensor]}


def bytes_row(id: str, blob: bytes, shape: list[int], answer: str) -> Row:
    return Row(id, answer=answer, target=ident("BYTES"), **binary(string_input(len(blob), shape), blob))


def raw_row(id: str, body: bytes, answer: Any, status: int = 400, **more: Any) -> Row:
    return Row(id, body, answer, status, headers={"Inference-Header-Content-Length": 0}, **more)
