"""Inference with the real ``tritonclient``: the same cases over HTTP and over gRPC."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc.aio
import tritonclient.http.aio
from clients import Client, described, facts, inputs_of
from model_repository import DATATYPES, GATE_INSTANCES, VERSIONS
from serving import Served
from waiting import Gate

pytestmark = pytest.mark.usefixtures("nothing_stays")

STRINGS = [b"", b"a", "żółć 🐚".encode(), b"nul\0in the middle", b"\0", b"\xff\xfe not UTF-8", b"x" * 300]
NUMPY = {
    "BOOL": np.bool_,
    **{f"UINT{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    "FP16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
SHAPES = [(1, 1), (3, 5), (4, 0), (0, 7), (8, 1300)]


def elements(datatype: str, shape: tuple[int, ...]) -> Any:
    """An array whose elements differ, extremes among them."""
    count = int(np.prod(shape))
    dtype = np.dtype(NUMPY[datatype])
    if datatype == "BYTES":
        return np.array(list(itertools.islice(itertools.cycle(STRINGS), count)), np.object_).reshape(shape)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        values = [limits.min, limits.max, 0, 1, *range(2, 100)]
    elif dtype.kind == "b":
        values = [True, False, False]
    else:
        values = [np.inf, -np.inf, np.nan, 0.0, -0.0, 1.5, *range(2, 100)]
    return np.resize(np.array(values, dtype), count).reshape(shape)


def check_same(got: Any, sent: Any) -> None:
    assert got.shape == sent.shape
    assert got.dtype == sent.dtype
    if sent.dtype == np.object_:
        assert got.flatten().tolist() == sent.flatten().tolist()
    else:
        assert got.tobytes() == sent.tobytes()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("datatype", DATATYPES)
def test_tensor_that_a_model_passes_on_comes_back_unchanged(
    client: Client, datatype: str, shape: tuple[int, ...]
) -> None:
    sent = elements(datatype, shape)
    result = client.infer(f"pass_{name_of(datatype)}", {"TENSOR": (sent, datatype)}, outputs=["TENSOR"])
    check_same(result.as_numpy("TENSOR"), sent)


@pytest.mark.spec("python_backend:Q5")
@pytest.mark.parametrize("shape", [(1, 3), (8, 5), (2, 0), (8, 1300)], ids=str)
@pytest.mark.parametrize("datatype", [datatype for datatype in DATATYPES if datatype != "BF16"])
def test_tensor_that_a_model_makes_of_an_array_comes_back_unchanged(
    client: Client, datatype: str, shape: tuple[int, ...]
) -> None:
    sent = elements(datatype, shape)
    result = client.infer(f"ident_{name_of(datatype)}", {"INPUT0": (sent, datatype)}, outputs=["OUTPUT0"])
    check_same(result.as_numpy("OUTPUT0"), sent)


def name_of(datatype: str) -> str:
    return "string" if datatype == "BYTES" else datatype.lower()


@pytest.mark.parametrize("nbytes", [1, 8191, 8192, 8193, 32 << 10, 33333, 65536, (1 << 20) + 1])
@pytest.mark.parametrize("model", ["ident_uint8", "pass_uint8"])
def test_every_size_takes_its_path_unharmed(client: Client, model: str, nbytes: int) -> None:
    """Small tensors travel in the message, larger ones in blocks, and bodies above 32 KiB are received into one."""
    sent = np.arange(nbytes, dtype=np.uint32).astype(np.uint8).reshape(1, nbytes)
    name, output = ("INPUT0", "OUTPUT0") if model == "ident_uint8" else ("TENSOR", "TENSOR")
    check_same(client.infer(model, {name: sent}, outputs=[output]).as_numpy(output), sent)


@pytest.mark.parametrize("model", ["ident_fp64", "pass_fp64"])
def test_40_mib(client: Client, model: str) -> None:
    sent = np.arange(5 << 20, dtype=np.float64).reshape(1, -1)
    name, output = ("INPUT0", "OUTPUT0") if model == "ident_fp64" else ("TENSOR", "TENSOR")
    check_same(client.infer(model, {name: sent}, outputs=[output]).as_numpy(output), sent)


@pytest.mark.parametrize("count", [0, 1, 100, 5000])
@pytest.mark.parametrize("nbytes", [0, 1, 7, 8191, 8193, 33333])
def test_inputs_of_any_size_share_a_request(client: Client, nbytes: int, count: int) -> None:
    """The doubles begin at whatever offset the bytes before them leave."""
    given = {"INPUT0": np.resize(np.arange(251, dtype=np.uint8), nbytes), "INPUT1": np.arange(count, dtype=np.float64)}
    result = client.infer("mixed", given, outputs=["OUTPUT0", "OUTPUT1"])
    check_same(result.as_numpy("OUTPUT0"), given["INPUT0"])
    check_same(result.as_numpy("OUTPUT1"), given["INPUT1"])


TWO_IN = {
    "INPUT0": np.arange(8, dtype=np.float32).reshape(2, 2, 2),
    "INPUT1": np.arange(6, dtype=np.int32).reshape(2, 3),
}


@pytest.mark.spec("python_backend:C174")
@pytest.mark.spec("server:41")
def test_all_outputs_come_back_when_none_is_requested(client: Client) -> None:
    result = client.infer("two_in", TWO_IN)
    assert described(result)["outputs"] == ["OUTPUT0", "OUTPUT1"]
    check_same(result.as_numpy("OUTPUT0"), TWO_IN["INPUT0"])
    check_same(result.as_numpy("OUTPUT1"), TWO_IN["INPUT1"])


@pytest.mark.spec("server:42")
def test_requested_output_comes_back_alone(client: Client) -> None:
    result = client.infer("two_in", TWO_IN, outputs=["OUTPUT1"])
    assert described(result)["outputs"] == ["OUTPUT1"]
    check_same(result.as_numpy("OUTPUT1"), TWO_IN["INPUT1"])


@pytest.mark.parametrize("request_id", ["", "1", "żółć", "a" * 5000, 'quotes " and \\ and \n'])
def test_request_id_reaches_the_model_and_comes_back(client: Client, request_id: str) -> None:
    result = client.infer("params", {"INPUT0": np.zeros(1, np.int32)}, request_id=request_id)
    assert facts(result)["id"] == request_id
    assert described(result)["id"] == request_id


@pytest.mark.spec("python_backend:C183")
@pytest.mark.spec("server:44")
@pytest.mark.spec("server:73")
def test_parameters_reach_the_model_and_its_own_reach_the_client(client: Client) -> None:
    parameters = {"text": "żółć", "empty": "", "number": -5, "large": 2**53 + 1, "yes": True, "no": False}
    result = client.infer("params", {"INPUT0": np.zeros(1, np.int32)}, parameters=parameters)
    assert facts(result)["parameters"] == parameters
    assert described(result)["parameters"] == parameters


@pytest.mark.spec("python_backend:C175")
@pytest.mark.spec("server:45")
@pytest.mark.parametrize("sequence_id", [7, 2**40, "conversation"])
def test_reserved_parameters_become_properties_of_the_request(client: Client, sequence_id: int | str) -> None:
    result = client.infer(
        "params",
        {"INPUT0": np.zeros(1, np.int32)},
        sequence_id=sequence_id,
        sequence_start=True,
        sequence_end=True,
        priority=3,
        timeout=60_000_000,
    )
    seen = facts(result)
    assert (seen["correlation_id"], seen["flags"], seen["timeout"]) == (sequence_id, 3, 60_000_000)
    assert seen["parameters"] == {}


@pytest.mark.spec("server:23")
def test_each_version_answers_for_itself_and_the_highest_by_default(client: Client) -> None:
    given = {"INPUT0": np.zeros(1, np.int32)}
    for version in map(str, VERSIONS):
        result = client.infer("versions", given, model_version=version)
        assert facts(result)["version"] == version
        assert described(result)["model_version"] == version
    assert facts(client.infer("versions", given))["version"] == str(max(VERSIONS))


@pytest.mark.spec("server:263")
@pytest.mark.spec("python_backend:Q10")
@pytest.mark.parametrize("present", [["INPUT0"], ["INPUT0", "INPUT2"], ["INPUT2", "INPUT0", "INPUT1"]], ids="-".join)
def test_optional_inputs_may_be_left_out(client: Client, present: list[str]) -> None:
    values: dict[str, Any] = {
        "INPUT0": np.array([[1.5], [2.5]], np.float32),
        "INPUT1": np.array([[1, 2], [3, 4]], np.int32),
        "INPUT2": np.array([[b"a"], [b""]], np.object_),
    }
    result = client.infer("opt", {name: values[name] for name in present})
    assert described(result)["outputs"] == [name.replace("IN", "OUT") for name in present]
    for name in present:
        check_same(result.as_numpy(name.replace("IN", "OUT")), values[name])


@pytest.mark.spec("server:260")
def test_model_sees_the_reshaped_input(client: Client) -> None:
    result = client.infer("reshaped", {"INPUT0": np.zeros([3, 4], np.float32)})
    assert facts(result)["shapes"] == {"INPUT0": [3, 2, 2]}


@pytest.mark.spec("python_backend:C61")
def test_client_sees_the_output_as_it_is_without_reshape(client: Client) -> None:
    sent = np.arange(12, dtype=np.float32).reshape(3, 4)
    check_same(client.infer("reshaped_both", {"TENSOR": sent}).as_numpy("TENSOR"), sent)


def text(value: str) -> Any:
    return np.array([value.encode()], np.object_)


def test_instances_execute_at_the_same_time(client: Client, server: Served, make_gate: Callable[[], Gate]) -> None:
    def ask(gate: Gate) -> str:
        with Client(client.protocol, server) as own:
            return str(own.infer("gate", {"INPUT0": text(gate.path)}).as_numpy("OUTPUT0").item().decode())

    gates = [make_gate() for _ in range(GATE_INSTANCES)]
    with ThreadPoolExecutor(GATE_INSTANCES) as pool:
        answers = [pool.submit(ask, gate) for gate in gates]
        for gate in gates:
            gate.wait_for_arrival()
        for gate in reversed(gates):
            gate.open()
        assert [answer.result() for answer in answers] == [gate.path for gate in gates]


def test_requests_that_wait_are_joined_into_one_batch(
    client: Client,
    server: Served,
    make_gate: Callable[[], Gate],
    wait_for_pending: Callable[[str, int], None],
) -> None:
    def ask(*rows: str) -> list[str]:
        with Client(client.protocol, server) as own:
            sent = np.array([[row.encode()] for row in rows], np.object_)
            return [row.decode() for row in own.infer("join", {"INPUT0": sent}).as_numpy("OUTPUT0").flatten()]

    requests = [["a"], ["b", "c"], ["d"], ["e", "f"]]
    gate = make_gate()
    before = client.statistics("join")
    with ThreadPoolExecutor(1 + len(requests)) as pool:
        first = pool.submit(ask, gate.path)
        gate.wait_for_arrival()
        others = [pool.submit(ask, *rows) for rows in requests]
        wait_for_pending("join", len(requests))
        gate.open()
        assert first.result() == [gate.path]
        assert [other.result() for other in others] == requests
    after = client.statistics("join")
    grown = {key: after[key] - before[key] for key in after}
    assert grown == {"inference_count": 7, "execution_count": 2, "success": 5, "fail": 0}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_asyncio_client(server: Served, protocol: str) -> None:
    async def main() -> None:
        module, url = {
            "http": (tritonclient.http.aio, server.http_url),
            "grpc": (tritonclient.grpc.aio, server.grpc_url),
        }[protocol]
        async with module.InferenceServerClient(url) as client:
            assert await client.is_server_ready()
            assert await client.get_model_metadata("two_in")
            results = await asyncio.gather(
                *(client.infer("two_in", inputs_of(module, TWO_IN), request_id=str(number)) for number in range(20))
            )
        for number, result in enumerate(results):
            assert described(result)["id"] == str(number)
            check_same(result.as_numpy("OUTPUT0"), TWO_IN["INPUT0"])

    asyncio.run(main())


@pytest.mark.spec("server:26")
def test_metadata_configuration_and_index_are_the_same_over_both(server: Served) -> None:
    with Client("http", server) as http, Client("grpc", server) as grpc:
        for model in ("two_in", "opt", "versions", "nobatch", "join"):
            metadata = http.raw.get_model_metadata(model)
            twin = grpc.raw.get_model_metadata(model, as_json=True)
            for tensor in [*twin["inputs"], *twin["outputs"]]:
                tensor["shape"] = [int(size) for size in tensor["shape"]]
            assert metadata == twin
            config = http.raw.get_model_config(model)
            twin = grpc.raw.get_model_config(model, as_json=True)["config"]
            assert config["max_batch_size"] == twin.get("max_batch_size", 0)
            assert [tensor["name"] for tensor in config["input"]] == [tensor["name"] for tensor in twin["input"]]
        assert http.raw.get_model_repository_index() == grpc.raw.get_model_repository_index(as_json=True)["models"]
        server_metadata = http.raw.get_server_metadata()
        assert server_metadata == grpc.raw.get_server_metadata(as_json=True)
        assert json.loads(json.dumps(server_metadata)) == server_metadata
