"""Appendix B.2: ModelInfer requests that are odd, what they are told, and what comes back of those that are fine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from atoll_protos import messages
from grpc_wire import RpcClient, infer_request, parameter, two_in
from infer_rows import NOTE, PROVIDE, RID
from serving import Served

pytestmark = pytest.mark.usefixtures("nothing_stays")

FP32 = np.array([1, 2, 3, 4], "<f4").tobytes()
INT32 = np.array([5, 6], "<i4").tobytes()
FIRST = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 2, 2]}
SECOND = {"name": "INPUT1", "datatype": "INT32", "shape": [1, 2]}
NUMBERS = {"fp32_contents": [1, 2, 3, 4]}
ONLY = (
    "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting with "
    "'triton_' are allowed: triton_enable_empty_final_response"
)


@pytest.fixture(scope="module")
def rpc(server: Served) -> Iterator[RpcClient]:
    with RpcClient(server.grpc_url) as client:
        yield client


def with_contents(first: dict[str, Any], second: dict[str, Any]) -> Any:
    """A request to ``two_in`` with typed contents."""
    return infer_request("two_in", {**FIRST, "contents": first}, {**SECOND, "contents": second})


def changed(first: dict[str, Any], second: dict[str, Any] | None = None, **fields: Any) -> Any:
    """A request to ``two_in`` with raw contents and changed inputs."""
    raw = fields.pop("raw", [FP32, INT32])
    return infer_request("two_in", {**FIRST, **first}, {**SECOND, **(second or {})}, raw_input_contents=raw, **fields)


def ident(datatype: str, shape: list[int], raw: bytes | None = None, **contents: Any) -> Any:
    tensor: dict[str, Any] = {"name": "INPUT0", "datatype": datatype, "shape": shape}
    name = "string" if datatype == "BYTES" else datatype.lower()
    if raw is not None:
        return infer_request(f"ident_{name}", tensor, raw_input_contents=[raw])
    return infer_request(f"ident_{name}", {**tensor, "contents": contents})


def output(**parameters: Any) -> Any:
    return two_in(outputs=[{"name": "OUTPUT0", "parameters": parameters}])


def size_mismatch(got: int) -> str:
    return f"{RID}input byte size mismatch for input 'INPUT0' for model 'two_in'. Expected 16, got {got}"


def shape_mismatch(got: str) -> str:
    return f"{RID}unexpected shape for input 'INPUT0' for model 'two_in'. Expected [-1,2,2], got {got}. {NOTE}"


def wrong_type(key: str, expected: str) -> str:
    return f"invalid value type for '{key}' parameter, expected {expected}"


UNSET = messages.InferParameter()
CUSTOM = "int64_param, bool_param, or string_param."
INVALID = [
    (
        "B34 neither contents nor raw",
        infer_request("two_in", FIRST, SECOND),
        "unable to find data for input tensor 'INPUT0' for model 'two_in' in request.",
    ),
    (
        "B35 contents and raw",
        changed({"contents": NUMBERS}),
        "contents field must not be specified when using raw_input_contents for 'INPUT0' for model 'two_in'",
    ),
    (
        "B36 one raw entry for two",
        two_in(raw=[FP32]),
        "unable to find data for input tensor 'INPUT1' for model 'two_in' in request.",
    ),
    (
        "B38 int64_contents for INT32",
        with_contents(NUMBERS, {"int64_contents": [5, 6]}),
        "unexpected explicit tensor data for input tensor 'INPUT1' for model 'two_in' of type 'INT64', expected "
        "datatype 'INT32'",
    ),
    (
        "B39 two kinds of contents",
        with_contents({**NUMBERS, "fp64_contents": [1.0]}, {"int_contents": [5, 6]}),
        "unexpected explicit tensor data for input tensor 'INPUT0' for model 'two_in', binary data was already "
        "supplied.",
    ),
    ("B40 3 for 4", with_contents({"fp32_contents": [1, 2, 3]}, {"int_contents": [5, 6]}), size_mismatch(12)),
    ("B41 empty contents", with_contents({}, {"int_contents": [5, 6]}), size_mismatch(0)),
    (
        "B42 FP64",
        changed({"datatype": "FP64"}),
        f"{RID}inference input 'INPUT0' data-type is 'FP64', but model 'two_in' expects 'FP32'",
    ),
    (
        "B43 zzz",
        changed({"datatype": "zzz"}),
        f"{RID}inference input 'INPUT0' data-type is '<invalid>', but model 'two_in' expects 'FP32'",
    ),
    ("B44 shape [1,4]", changed({"shape": [1, 4]}), shape_mismatch("[1,4]")),
    (
        "B45 shape [1,-1,4]",
        changed({"shape": [1, -1, 4]}),
        f"{RID}All input dimensions should be specified for input 'INPUT0' for model 'two_in', got [1,-1,4]",
    ),
    ("B47 shape [1,-2,2]", changed({"shape": [1, -2, 2]}), shape_mismatch("[1,-2,2]")),
    ("B48 input ZZ", changed({}, {"name": "ZZ"}), "unexpected inference input 'ZZ' for model 'two_in'"),
    ("B49 INPUT0 twice", changed({}, {"name": "INPUT0"}), f"{RID}input 'INPUT0' already exists in request"),
    (
        "B50 missing input",
        infer_request("two_in", FIRST, raw_input_contents=[FP32]),
        f"{RID}expected 2 inputs but got 1 inputs for model 'two_in'. Got input(s) ['INPUT0'], but missing required "
        f"input(s) ['INPUT1']. {PROVIDE}",
    ),
    ("B51 3 raw bytes", two_in(raw=[b"123", INT32]), size_mismatch(3)),
    (
        "B53 version x",
        two_in(model_version="x"),
        "failed to get model version from specified version string 'x' (details: stol), version should be an integral "
        "value > 0",
    ),
    (
        "B54 version -2",
        two_in(model_version="-2"),
        "invalid model version specified '-2' , version should be an integral value > 0",
    ),
    ("B58 output ZZ", two_in(outputs=["ZZ"]), "unexpected inference output 'ZZ' for model 'two_in'"),
    ("B62 classification 0", output(classification=0), "invalid value for 'classification' parameter, expected >= 0"),
    ("B63 classification x", output(classification="x"), wrong_type("classification", "int64_param")),
    (
        "B64 classification and region",
        output(classification=2, shared_memory_region="x", shared_memory_byte_size=16),
        "output can't set both 'shared_memory_region' and 'classification'",
    ),
    (
        "B65 region without size",
        changed({"parameters": {"shared_memory_region": "x"}}),
        "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter for tensor 'INPUT0'",
    ),
    (
        "B67 region 1",
        changed({"parameters": {"shared_memory_region": 1, "shared_memory_byte_size": 16}}),
        "invalid value type for 'shared_memory_region' parameter for tensor 'INPUT0', expected string_param.",
    ),
    (
        "B68 size without region",
        changed({"parameters": {"shared_memory_byte_size": 16}}),
        "'shared_memory_byte_size' can not be specified without 'shared_memory_region' parameter for tensor 'INPUT0'",
    ),
    (
        "B69 offset without region",
        changed({"parameters": {"shared_memory_offset": 16}}),
        "'shared_memory_offset' can not be specified without 'shared_memory_region' parameter for tensor 'INPUT0'",
    ),
    (
        "B70 region and contents",
        infer_request(
            "two_in",
            {
                **FIRST,
                "contents": NUMBERS,
                "parameters": {"shared_memory_region": "x", "shared_memory_byte_size": 16},
            },
            {**SECOND, "contents": {"int_contents": [5, 6]}},
        ),
        "unexpected 'content' provided when using shared memory for input tensor 'INPUT0' for model 'two_in'",
    ),
    ("B71 uint64", two_in(parameters={"u": parameter(1, "uint64_param")}), wrong_type("u", CUSTOM)),
    ("B72 unset", two_in(parameters={"e": UNSET}), wrong_type("e", CUSTOM)),
    ("B73 triton_x", two_in(parameters={"triton_x": 1}), ONLY),
    (
        "B74 empty final as text",
        two_in(parameters={"triton_enable_empty_final_response": "x"}),
        wrong_type("triton_enable_empty_final_response", "bool_param."),
    ),
    *(
        (f"{row} {key}", two_in(parameters={key: value}), wrong_type(key, expected))
        for row, key, value, expected in [
            ("B75", "sequence_id", True, "int64_param or string_param."),
            ("B76", "sequence_id", parameter(1, "uint64_param"), "int64_param or string_param."),
            ("B77", "sequence_start", 1, "bool_param."),
            ("B78", "sequence_end", 1, "bool_param."),
            ("B80", "priority", "x", "int64_param or uint64_param."),
            ("B81", "timeout", "x", "int64_param."),
        ]
    ),
    ("B79 priority -1", two_in(parameters={"priority": -1}), "invalid value for 'priority', expected value >= 0."),
    (
        "B86 2 strings for 3",
        ident("BYTES", [1, 3], bytes_contents=[b"a", b"bc"]),
        f"{RID}expected 3 string elements for inference input 'INPUT0' for model 'ident_string', got 2",
    ),
    (
        "B87 FP16 by fp32_contents",
        ident("FP16", [1, 1], fp32_contents=[1]),
        "unexpected explicit tensor data for input tensor 'INPUT0' for model 'ident_fp16' of type 'FP32', expected "
        "datatype 'FP16'",
    ),
    (
        "B88 cut string",
        ident("BYTES", [1, 1], b"\5\0\0\0abc"),
        "incomplete string data for inference input 'INPUT0', expecting string of length 5 but only 3 bytes available",
    ),
    (
        "B89 cut length",
        ident("BYTES", [1, 1], b"\5\0"),
        f"{RID}incomplete string length indicator for inference input 'INPUT0' for model 'ident_string', expecting 4 "
        "bytes but only 2 bytes available. Please make sure the string length indicator is in one buffer.",
    ),
]


def refused(rpc: RpcClient, request: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        rpc.infer(request)
    assert rpc.infer(two_in(id="after")).id == "after"
    return caught.value.code().name, caught.value.details()


@pytest.mark.parametrize(
    ("request_", "details"),
    [pytest.param(*row[1:], id=row[0], marks=pytest.mark.spec(f"server:{row[0].split()[0]}")) for row in INVALID],
)
@pytest.mark.spec("server:257")
@pytest.mark.spec("server:258")
@pytest.mark.spec("server:259")
@pytest.mark.spec("server:262")
def test_invalid_request(rpc: RpcClient, request_: Any, details: str) -> None:
    assert refused(rpc, request_) == ("INVALID_ARGUMENT", details)


@pytest.mark.parametrize(
    ("request_", "details"),
    [
        pytest.param(
            two_in(model_version="9"),
            "Request for unknown model: 'two_in' version 9 is not found",
            marks=pytest.mark.spec("server:B52"),
        ),
        pytest.param(
            two_in(model="nope"),
            "Request for unknown model: 'nope' is not found",
            marks=pytest.mark.spec("server:B55"),
        ),
        pytest.param(
            infer_request(
                "two_in",
                {**FIRST, "parameters": {"shared_memory_region": "x", "shared_memory_byte_size": 16}},
                {**SECOND, "contents": {"int_contents": [5, 6]}},
            ),
            "Unable to find shared memory region: 'x'",
            marks=pytest.mark.spec("server:B66"),
        ),
    ],
)
def test_what_is_not_found(rpc: RpcClient, request_: Any, details: str) -> None:
    assert refused(rpc, request_) == ("NOT_FOUND", details)


@pytest.mark.spec("server:B46")
def test_negative_batch_is_refused(rpc: RpcClient) -> None:
    status, details = refused(rpc, changed({"shape": [-1, 2, 2]}))
    assert status == "INVALID_ARGUMENT"
    # Which of the two is the odd one is unspecified.
    assert details in [f"{RID}input 'INPUT{n}' batch size does not match other inputs for 'two_in'" for n in (0, 1)]


@pytest.mark.parametrize(
    "shape", [[-1, 2], [1, 2**62], [2**62, 2**62], [2**63 - 1, 2**63 - 1], [-(2**63), 1], [], [1] * 1000]
)
def test_absurd_shapes_are_refused(rpc: RpcClient, shape: list[int]) -> None:
    status, _ = refused(rpc, ident("FP32", shape, bytes(8)))
    assert status == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        pytest.param(*row[1:], id=row[0], marks=pytest.mark.spec(f"server:{row[0].split()[0]}"))
        for row in [
            (
                "B37 surplus raw entry",
                two_in(raw=[FP32, INT32, b"surplus"]),
                [("OUTPUT0", "FP32", [1, 2, 2], FP32), ("OUTPUT1", "INT32", [1, 2], INT32)],
            ),
            (
                "B59 output twice",
                two_in(outputs=["OUTPUT0", "OUTPUT0"]),
                [("OUTPUT0", "FP32", [1, 2, 2], FP32)],
            ),
            ("B60 one output", two_in(outputs=["OUTPUT1"]), [("OUTPUT1", "INT32", [1, 2], INT32)]),
            (
                "B61 classification",
                output(classification=2),
                [("OUTPUT0", "BYTES", [1, 2], b"\n\0\0\0004.000000:3\n\0\0\0003.000000:2")],
            ),
            (
                "B82 bool_contents",
                ident("BOOL", [1, 2], bool_contents=[True, False]),
                [("OUTPUT0", "BOOL", [1, 2], b"\1\0")],
            ),
            (
                "B83 int_contents",
                ident("INT8", [1, 3], int_contents=[1, -1, 200]),
                [("OUTPUT0", "INT8", [1, 3], b"\1\xff\xc8")],
            ),
            (
                "B84 uint_contents",
                ident("UINT8", [1, 3], uint_contents=[1, 255, 300]),
                [("OUTPUT0", "UINT8", [1, 3], b"\1\xff\x2c")],
            ),
            (
                "B85 bytes_contents",
                ident("BYTES", [1, 2], bytes_contents=[b"a", b"bc"]),
                [("OUTPUT0", "BYTES", [1, 2], b"\1\0\0\0a\2\0\0\0bc")],
            ),
            ("B90 no elements", ident("FP32", [1, 0], b""), [("OUTPUT0", "FP32", [1, 0], b"")]),
        ]
    ],
)
def test_answer(rpc: RpcClient, request_: Any, expected: list[tuple[str, str, list[int], bytes]]) -> None:
    response = rpc.infer(request_)
    assert (response.model_name, response.model_version) == (request_.model_name, "1")
    got = [
        (tensor.name, tensor.datatype, list(tensor.shape), raw)
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    ]
    assert got == expected
    assert not any(tensor.HasField("contents") for tensor in response.outputs)


@pytest.mark.parametrize(
    ("datatype", "contents", "dtype"),
    [
        ("INT16", {"int_contents": [-5, 70000]}, "<i2"),  # what does not fit is truncated
        ("INT32", {"int_contents": [-5, 7]}, "<i4"),
        ("INT64", {"int64_contents": [-(2**63), 2**63 - 1]}, "<i8"),
        ("UINT16", {"uint_contents": [5, 70000]}, "<u2"),
        ("UINT32", {"uint_contents": [5, 2**32 - 1]}, "<u4"),
        ("UINT64", {"uint64_contents": [5, 2**64 - 1]}, "<u8"),
        ("FP32", {"fp32_contents": [0.5, -1.5]}, "<f4"),
        ("FP64", {"fp64_contents": [0.1, 1e300]}, "<f8"),
    ],
)
def test_typed_contents(rpc: RpcClient, datatype: str, contents: dict[str, list[Any]], dtype: str) -> None:
    [values] = contents.values()
    response = rpc.infer(ident(datatype, [1, 2], **contents))
    wide = np.array(values, None if dtype != "<u8" else np.uint64)
    assert response.raw_output_contents[0] == wide.astype(dtype).tobytes()
