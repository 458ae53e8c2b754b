"""The shared-memory extensions over gRPC (appendix B), and by both clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from clients import Client
from grpc_wire import RpcClient, infer_request, two_in
from region_rows import OFFSET, OVERFLOW, SUM, TOO_SMALL, UNKNOWN, place
from serving import Served
from shared_regions import ClientMemory, client_memory
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

pytestmark = pytest.mark.usefixtures("nothing_stays")


@pytest.fixture(scope="module")
def rpc(server: Served) -> Iterator[RpcClient]:
    with RpcClient(server.grpc_url) as client:
        yield client


def failure(rpc: RpcClient, method: str, /, **fields: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as raised:
        rpc.call(method, **fields)
    return raised.value.code().name, raised.value.details()


@pytest.mark.spec("server:114")
def test_management_by_grpc(rpc: RpcClient, memory: ClientMemory) -> None:
    rpc.call("SystemSharedMemoryRegister", name="b", key=memory.key, offset=4, byte_size=8)
    rpc.call("SystemSharedMemoryUnregister", name="nobody")
    rpc.call("CudaSharedMemoryUnregister", name="a")
    regions = rpc.call("SystemSharedMemoryStatus").regions
    assert {key: (row.name, row.key, row.offset, row.byte_size) for key, row in regions.items()} == {
        "a": ("a", memory.key, 0, 64),
        "b": ("b", memory.key, 4, 8),
    }
    assert list(rpc.call("SystemSharedMemoryStatus", name="b").regions) == ["b"]
    rpc.call("SystemSharedMemoryUnregister", name="a")
    assert list(rpc.call("SystemSharedMemoryStatus").regions) == ["b"]
    rpc.call("SystemSharedMemoryUnregister")
    assert not rpc.call("SystemSharedMemoryStatus").regions
    assert not rpc.call("CudaSharedMemoryStatus").regions


@pytest.mark.spec("server:115")
@pytest.mark.spec("server:122")
def test_refused_management_by_grpc(rpc: RpcClient, memory: ClientMemory) -> None:
    here = {"name": "a", "key": memory.key, "byte_size": 64}
    for method, fields, status, text in [
        (
            "SystemSharedMemoryStatus",
            {"name": "nope"},
            "NOT_FOUND",
            "Unable to find system shared memory region: 'nope'",
        ),
        ("CudaSharedMemoryStatus", {"name": "nope"}, "NOT_FOUND", "Unable to find cuda shared memory region: 'nope'"),
        ("SystemSharedMemoryRegister", here, "ALREADY_EXISTS", "shared memory region 'a' already in manager"),
        (
            "SystemSharedMemoryRegister",
            {**here, "key": "/nope"},
            "INTERNAL",
            "Unable to open shared memory region: '/nope'",
        ),
        ("SystemSharedMemoryRegister", {"key": "/nope"}, "INTERNAL", "Unable to open shared memory region: '/nope'"),
        (
            "SystemSharedMemoryRegister",
            {**here, "name": "z", "offset": 2**64 - 1},
            "INVALID_ARGUMENT",
            "failed to register shared memory region 'z': invalid args",
        ),
        (
            "CudaSharedMemoryRegister",
            {"name": "c", "raw_handle": bytes(64), "byte_size": 4},
            "INVALID_ARGUMENT",
            "failed to register CUDA shared memory region: 'c', GPUs not supported",
        ),
    ]:
        assert failure(rpc, method, **fields) == (status, text)


def grpc_place(nbytes: int | None = None, offset: int | None = None, region: Any = "a") -> dict[str, Any]:
    return {"name": "INPUT0", "datatype": "FP32", "shape": [1, 2, 2], "parameters": place(nbytes, offset, region)}


SECOND = {"name": "INPUT1", "datatype": "INT32", "shape": [1, 2]}


@pytest.mark.spec("server:116")
@pytest.mark.spec("server:139")
def test_regions_by_grpc(rpc: RpcClient, memory: ClientMemory) -> None:
    """A tensor in a region takes no raw entry of the request, and has an empty one in the response."""
    outputs = ["OUTPUT1", {"name": "OUTPUT0", "parameters": place(20, 32)}]
    raw = [np.array([7, 8], np.int32).tobytes()]
    response = rpc.infer(infer_request("two_in", grpc_place(16), SECOND, outputs=outputs, raw_input_contents=raw))
    assert [(tensor.name, list(tensor.shape)) for tensor in response.outputs] == [
        ("OUTPUT0", [1, 2, 2]),
        ("OUTPUT1", [1, 2]),
    ]
    assert list(response.raw_output_contents) == [b"", *raw]
    told = {
        key: getattr(value, value.WhichOneof("parameter_choice"))
        for key, value in response.outputs[0].parameters.items()
    }
    assert told == place(16, 32)
    assert not response.outputs[1].parameters
    assert memory.array(np.float32, 4, 32).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("tensor", "output", "status", "text"),
    [
        pytest.param(*row, id=name, marks=pytest.mark.spec(f"server:{name.split()[0]}"))
        for name, *row in [
            ("B66 unknown region", grpc_place(16, region="x"), {}, "NOT_FOUND", f"{UNKNOWN} 'x'"),
            ("B66 unknown output region", grpc_place(16), place(16, region="x"), "NOT_FOUND", f"{UNKNOWN} 'x'"),
            ("117 offset", grpc_place(16, 64), {}, "INVALID_ARGUMENT", OFFSET),
            ("117 sum", grpc_place(65), {}, "INVALID_ARGUMENT", SUM),
            ("117 negative offset", grpc_place(16, -1), {}, "INVALID_ARGUMENT", OFFSET),
            ("117 negative size", grpc_place(-1), {}, "INVALID_ARGUMENT", SUM),
            (
                "117 overflow",
                grpc_place(-1, 5),
                {},
                "INVALID_ARGUMENT",
                OVERFLOW,
            ),
            ("118 output too small", grpc_place(16), place(8, 32), "INTERNAL", TOO_SMALL),
            (
                "B70 region and contents",
                {**grpc_place(16), "contents": {"fp32_contents": [1, 2, 3, 4]}},
                {},
                "INVALID_ARGUMENT",
                "unexpected 'content' provided when using shared memory for input tensor 'INPUT0' for model 'two_in'",
            ),
        ]
    ],
)
def test_refused_requests_by_grpc(
    rpc: RpcClient, memory: ClientMemory, tensor: dict[str, Any], output: dict[str, Any], status: str, text: str
) -> None:
    raw = [] if "contents" in tensor else [np.array([7, 8], np.int32).tobytes()]
    other = {**SECOND, "contents": {"int_contents": [7, 8]}} if "contents" in tensor else SECOND
    outputs = [{"name": "OUTPUT0", "parameters": output}] if output else []
    with pytest.raises(grpc.RpcError) as raised:
        rpc.infer(infer_request("two_in", tensor, other, outputs=outputs, raw_input_contents=raw))
    assert (raised.value.code().name, raised.value.details()) == (status, text)
    assert rpc.infer(two_in()).outputs


@pytest.mark.spec("server:114")
@pytest.mark.spec("server:116")
@pytest.mark.usefixtures("tracker")
def test_by_tritonclient(client: Client) -> None:
    """64 KiB in, doubled by nobody, out at an offset; strings of any length the same way."""
    count = 16 << 10
    strings = np.array([b"a", b"", b"longer than the first"], np.object_)
    packed = serialize_byte_tensor(strings)
    with client_memory(3 * 4 * count) as memory:
        client.raw.register_system_shared_memory("mine", memory.key, memory.nbytes - 8, offset=8)
        status = client.raw.get_system_shared_memory_status("mine")
        if client.protocol == "http":
            assert status == [{"name": "mine", "key": memory.key, "offset": 8, "byte_size": memory.nbytes - 8}]
        else:
            assert list(status.regions) == ["mine"]
        value = np.arange(count, dtype=np.float32)
        memory[8] = value
        tensor = client.module.InferInput("INPUT0", [1, count], "FP32")
        tensor.set_shared_memory("mine", value.nbytes)
        output = client.module.InferRequestedOutput("OUTPUT0")
        output.set_shared_memory("mine", value.nbytes + 5, offset=value.nbytes)
        result = client.raw.infer("ident_fp32", [tensor], outputs=[output])
        got = result.get_output("OUTPUT0")
        shape = got["shape"] if client.protocol == "http" else list(got.shape)
        assert shape == [1, count]
        assert np.array_equal(memory.array(np.float32, count, 8 + value.nbytes), value)
        assert not memory.array(np.uint8, 5, 8 + 2 * value.nbytes).any()

        memory[8] = packed
        tensor = client.module.InferInput("INPUT0", [1, 3], "BYTES")
        tensor.set_shared_memory("mine", len(packed.item()))
        output.set_shared_memory("mine", 1000, offset=1000)
        client.raw.infer("ident_string", [tensor], outputs=[output])
        assert memory.array(np.object_, [3], 1008).tolist() == strings.tolist()
        client.raw.unregister_system_shared_memory("mine")
        with pytest.raises(InferenceServerException, match="Unable to find shared memory region: 'mine'"):
            client.raw.infer("ident_string", [tensor], outputs=[output])
