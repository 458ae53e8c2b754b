"""Appendix A.9: the shared-memory extensions over HTTP."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_wire import RpcClient
from http_wire import Wire
from infer_rows import TWO_IN, first, second
from region_rows import OFFSET, OVERFLOW, SUM, TOO_SMALL, UNKNOWN, place
from serving import serve
from shared_regions import ClientMemory

pytestmark = pytest.mark.usefixtures("nothing_stays")

SYSTEM, CUDA = "/v2/systemsharedmemory", "/v2/cudasharedmemory"
NO_HANDLE = "'raw_handle' must be a valid base64 encoded cudaIpcMemHandle_t"
HANDLE = {"b64": base64.b64encode(bytes(64)).decode()}
NOT_UNSIGNED = "attempt to access JSON non-unsigned-integer as unsigned-integer"
NOT_THERE = "attempt to access non-existing object member"


def manage(wire: Wire, path: str, document: Any = None, extension: str = SYSTEM) -> tuple[int, str]:
    body = document if isinstance(document, bytes) else b"" if document is None else json.dumps(document).encode()
    reply = wire.request("POST", extension + path, body)
    assert reply.letter == "J"
    return reply.status, reply.error if reply.status != 200 else reply.body.decode()


def rows(*table: tuple[str, Any, int, str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("document", "status", "error"),
        [pytest.param(*row, id=name, marks=pytest.mark.spec(f"server:{name.split()[0]}")) for name, *row in table],
    )


@rows(
    ("A312 empty body", b"", 400, "failed to parse the request JSON buffer: The document is empty. at 0"),
    ("A313 no key", {"byte_size": 64}, 400, "Shared memory register request has no 'key' field"),
    ("A314 no byte_size", {"key": "KEY"}, 400, "Shared memory register request has no 'byte_size' field"),
    ("A315 key 5", {"key": 5, "byte_size": 64}, 400, "attempt to access JSON non-string as string"),
    ("A316 byte_size text", {"key": "KEY", "byte_size": "64"}, 400, NOT_UNSIGNED),
    ("A317 byte_size -1", {"key": "KEY", "byte_size": -1}, 400, NOT_UNSIGNED),
    ("115 offset text", {"key": "KEY", "byte_size": 64, "offset": "x"}, 400, NOT_UNSIGNED),
    ("115 no object", [], 400, "Shared memory register request has no 'key' field"),
    (
        "A318 object absent",
        {"key": "/nonexist", "byte_size": 64},
        500,
        "Unable to open shared memory region: '/nonexist'",
    ),
    (
        "A319 byte_size beyond object",
        {"key": "KEY", "byte_size": 65},
        400,
        "failed to register shared memory region 'z': invalid args",
    ),
    (
        "A320 offset+byte_size beyond object",
        {"key": "KEY", "byte_size": 64, "offset": 8},
        400,
        "failed to register shared memory region 'z': invalid args",
    ),
    (
        "A321 byte_size 0",
        {"key": "KEY", "byte_size": 0},
        400,
        "failed to register shared memory region 'z': unable to process address spaceInvalid argument",
    ),
    (
        "120 key /",
        {"key": "/", "byte_size": 64},
        400,
        "cannot register shared memory region 'z' - invalid shm key '/'",
    ),
    (
        "120 reserved",
        {"key": "/triton_python_backend_shm_region_x", "byte_size": 64},
        400,
        "cannot register shared memory region 'z' with key '/triton_python_backend_shm_region_x' as the key contains "
        "the reserved prefix 'triton_python_backend_shm_region_'",
    ),
    (
        "115 key outside",
        {"key": "/../etc/hostname", "byte_size": 1},
        500,
        "Unable to open shared memory region: '/../etc/hostname'",
    ),
)
def test_refused_registrations(wire: Wire, memory: ClientMemory, document: Any, status: int, error: str) -> None:
    if isinstance(document, dict) and document.get("key") == "KEY":
        document = {**document, "key": memory.key}
    assert manage(wire, "/region/z/register", document) == (status, error)


@rows(
    ("A329 {}", {}, 400, "Shared memory register request has no 'raw_handle' field"),
    ("A330 three bytes", {"raw_handle": {"b64": "AAAA"}, "device_id": 0, "byte_size": 4}, 400, NO_HANDLE),
    ("122 no base64", {"raw_handle": {"b64": "!!"}, "device_id": 0, "byte_size": 4}, 400, NO_HANDLE),
    ("A331 raw_handle text", {"raw_handle": "x"}, 400, f"{NOT_THERE} 'b64'"),
    ("122 b64 number", {"raw_handle": {"b64": 5}}, 400, "attempt to access JSON non-string as string"),
    ("122 no byte_size", {"raw_handle": HANDLE, "device_id": 0}, 400, f"{NOT_THERE} 'byte_size'"),
    ("122 no device_id", {"raw_handle": HANDLE, "byte_size": 4}, 400, f"{NOT_THERE} 'device_id'"),
    ("122 device_id -1", {"raw_handle": HANDLE, "device_id": -1, "byte_size": 4}, 400, NOT_UNSIGNED),
    (
        "122 a handle",
        {"raw_handle": HANDLE, "device_id": 0, "byte_size": 4},
        400,
        "failed to register CUDA shared memory region: 'c', GPUs not supported",
    ),
)
def test_refused_cuda_registrations(wire: Wire, document: Any, status: int, error: str) -> None:
    assert manage(wire, "/region/c/register", document, CUDA) == (status, error)


@pytest.mark.spec("server:A311")
@pytest.mark.spec("server:A328")
@pytest.mark.parametrize(("extension", "kind"), [(SYSTEM, "system"), (CUDA, "cuda")])
def test_registration_without_a_name(wire: Wire, extension: str, kind: str) -> None:
    text = f"'region name' is necessary to register {kind} shared memory region"
    assert manage(wire, "/register", {}, extension) == (400, text)


@pytest.mark.spec("server:114")
@pytest.mark.parametrize("row", ["A322", "A323", "A324", "A325", "A326", "A327", "A342", "A343"])
def test_rows_about_one_region(wire: Wire, memory: ClientMemory, row: str) -> None:
    def get(path: str) -> tuple[int, Any]:
        reply = wire.request("GET", path)
        assert reply.letter == "J"
        return reply.status, reply.json

    here = {"name": "a", "key": memory.key, "offset": 0, "byte_size": 64}
    if row == "A322":
        assert manage(wire, "/region/b/register", {"key": memory.key, "offset": 60, "byte_size": 4}) == (200, "")
        there = {"name": "b", "key": memory.key, "offset": 60, "byte_size": 4}
        assert get(SYSTEM + "/status") == (200, [here, there])
        assert get(SYSTEM + "/region/b/status") == (200, [there])
        assert manage(wire, "/region/a/unregister") == (200, "")
        assert get(SYSTEM + "/status") == (200, [there])
    elif row == "A323":
        answer = manage(wire, "/region/a/register", {"key": memory.key, "byte_size": 64})
        assert answer == (400, "shared memory region 'a' already in manager")
    elif row == "A324":
        assert get(CUDA + "/status") == (200, [])
        assert manage(wire, "/unregister") == (200, "")
        assert get(SYSTEM + "/status") == (200, [])
    elif row == "A325":
        answer = {"error": "Unable to find system shared memory region: 'nope'"}
        assert get(SYSTEM + "/region/nope/status") == (404, answer)
    elif row == "A326":
        text = "The region named 'a' is registered as system shared memory, not CUDA shared memory"
        assert get(CUDA + "/region/a/status") == (404, {"error": text})
    elif row == "A327":
        answer = {"error": "Unable to find cuda shared memory region: 'nope'"}
        assert get(CUDA + "/region/nope/status") == (404, answer)
    elif row == "A342":
        for path, extension in (
            ("/region/nope/unregister", SYSTEM),
            ("/region/a/unregister", CUDA),
            ("/unregister", CUDA),
        ):
            assert manage(wire, path, None, extension) == (200, "")
        assert get(SYSTEM + "/status") == (200, [here])
    else:
        assert manage(wire, "/status") == (405, "Method Not Allowed")


def ask(wire: Wire, input0: dict[str, Any], output0: dict[str, Any]) -> tuple[int, str, Any]:
    """Status, content type and answer of a request to ``two_in``, with INPUT1 in the region."""
    inputs = [first(data=..., parameters=input0), second(data=..., parameters=place(8, 16))]
    outputs = [{"name": "OUTPUT0", "parameters": output0}, {"name": "OUTPUT1"}]
    reply = wire.request("POST", TWO_IN, json.dumps({"inputs": inputs, "outputs": outputs}).encode())
    return reply.status, reply.letter, reply.error if reply.status != 200 else reply.json


@pytest.mark.spec("server:116")
@pytest.mark.spec("server:A333")
def test_inputs_and_an_output_in_a_region(wire: Wire, memory: ClientMemory) -> None:
    answer = {
        "model_name": "two_in",
        "model_version": "1",
        "outputs": [
            {"name": "OUTPUT0", "datatype": "FP32", "shape": [1, 2, 2]},
            {"name": "OUTPUT1", "datatype": "INT32", "shape": [1, 2], "data": [5, 6]},
        ],
    }
    for _ in range(2):  # the second time by a plan that is known
        assert ask(wire, place(16), place(20, 32)) == (200, "J", answer)
        assert memory.array(np.float32, 4, 32).tolist() == [1, 2, 3, 4]
        memory[32] = np.zeros(4, np.float32)
    memory[0] = np.array([9, 2, 3, 4], np.float32)
    assert ask(wire, place(16), place(16)) == (200, "J", answer)
    assert memory.array(np.float32, 1, 0) == 9


RID = "[request id: <id_unknown>] "
NO_STRING = "Unable to parse 'shared_memory_region': attempt to access JSON non-string as string"


@pytest.mark.parametrize(
    ("input0", "output0", "answer"),
    [
        pytest.param(*row, id=name, marks=pytest.mark.spec(f"server:{name.split()[0]}"))
        for name, *row in [
            ("A100 unregistered region", place(16, region="x"), {}, (404, "J", f"{UNKNOWN} 'x'")),
            ("A334 output size 8 for 16", place(16), place(8, 32), (500, "T", TOO_SMALL)),
            ("118 output size 0", place(16), place(0, 32), (500, "T", TOO_SMALL.replace("8", "0"))),
            ("A335 no shared_memory_byte_size", place(), {}, (400, "J", SUM)),
            ("117 output without byte size", place(16), place(), (400, "J", SUM)),
            (
                "A336 byte_size 12 for 16",
                place(12),
                {},
                (400, "J", f"{RID}input byte size mismatch for input 'INPUT0' for model 'two_in'. Expected 16, got 12"),
            ),
            ("A337 offset 64 of 64", place(16, 64), {}, (400, "J", OFFSET)),
            ("A338 offset 56 size 16", place(16, 56), {}, (400, "J", SUM)),
            ("117 output beyond", place(16), place(16, 56), (400, "J", SUM)),
            (
                "117 overflow",
                place(2**64 - 1, 5),
                {},
                (
                    400,
                    "J",
                    OVERFLOW,
                ),
            ),
            ("A339 region 5", place(16, region=5), {}, (400, "J", NO_STRING)),
            (
                "A340 offset text",
                {**place(16), "shared_memory_offset": "x"},
                {},
                (400, "J", f"Unable to parse 'shared_memory_offset': {NOT_UNSIGNED}"),
            ),
            ("A341 unknown output region", place(16), place(16, region="zz"), (404, "J", f"{UNKNOWN} 'zz'")),
        ]
    ],
)
def test_refused_requests(
    wire: Wire, memory: ClientMemory, input0: dict[str, Any], output0: dict[str, Any], answer: tuple[int, str, str]
) -> None:
    assert ask(wire, input0, output0) == answer
    assert not memory.array(np.uint8, 32, 32).any()


def test_strings_in_a_region_are_checked(wire: Wire, memory: ClientMemory) -> None:
    memory[0] = np.array([4, 0], np.int32)
    tensor = {"name": "INPUT0", "datatype": "BYTES", "shape": [1, 2], "parameters": place(8)}
    reply = wire.request("POST", "/v2/models/ident_string/infer", json.dumps({"inputs": [tensor]}).encode())
    text = "expected 2 string elements for inference input 'INPUT0' for model 'ident_string', got 1"
    assert (reply.status, reply.error) == (400, RID + text)


@pytest.mark.spec("server:121")
@pytest.mark.parametrize("flags", [["--allow-client-shm=false"], ["--http-address=0.0.0.0"]])
def test_a_server_that_allows_none_says_what_would(tmp_path: Path, flags: list[str]) -> None:
    text = "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
    with serve(tmp_path, *flags) as served, Wire(served.http_port) as wire, RpcClient(served.grpc_url) as rpc:
        assert manage(wire, "/region/a/register", {"key": "/x", "byte_size": 1}) == (501, text)
        assert manage(wire, "/unregister") == (501, text)
        assert manage(wire, "/unregister", None, CUDA) == (501, text)
        assert wire.request("GET", SYSTEM + "/status").json == []
        with pytest.raises(grpc.RpcError) as raised:
            rpc.call("SystemSharedMemoryUnregister")
        assert (raised.value.code().name, raised.value.details()) == ("UNIMPLEMENTED", text)
