"""The RPCs that are not inference, and the health service."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import grpc
import pytest
from atoll_protos import messages
from grpc_harness import Client
from grpc_twin import TwinServer


@pytest.fixture
def check_health(client: Client) -> Callable[[str], int]:
    method = client.channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=messages.HealthCheckResponse.FromString,
    )
    return lambda service: method(messages.HealthCheckRequest(service=service), timeout=30).status


@pytest.mark.spec("server:132")
def test_health(client: Client, twin: TwinServer, check_health: Callable[[str], int]) -> None:
    assert client.call("ServerLive").live
    assert client.call("ServerReady").ready
    assert check_health("whatever") == 1
    twin.ready = False
    try:
        assert not client.call("ServerReady").ready
        assert check_health("") == 2
    finally:
        twin.ready = True


def test_a_defect_of_the_server_is_an_answer(
    client: Client, twin: TwinServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> NoReturn:
        raise ZeroDivisionError("by chance")

    monkeypatch.setattr(twin, "is_ready", broken)
    assert client.error("ServerReady") == ("INTERNAL", "ZeroDivisionError: by chance")
    [record] = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


@pytest.mark.spec("server:133")
@pytest.mark.parametrize("path", ["/grpc.health.v1.Health/Watch", "/inference.GRPCInferenceService/Nonsense", "/a/b"])
def test_unknown_methods(client: Client, path: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.channel.unary_unary(path)(b"", timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.spec("server:137")
def test_model_ready(client: Client) -> None:
    assert client.call("ModelReady", name="ident").ready
    assert not client.call("ModelReady", name="nope").ready
    assert not client.call("ModelReady", name="ident", version="9").ready
    assert client.error("ModelReady", name="ident", version="x") == (
        "INVALID_ARGUMENT",
        "failed to get model version from specified version string 'x' (details: stol), "
        "version should be an integral value > 0",
    )


@pytest.mark.spec("server:131")
def test_metadata(client: Client) -> None:
    server = client.call("ServerMetadata")
    assert (server.name, server.version, list(server.extensions)) == ("triton", "0.1.0", ["classification", "sequence"])
    model = client.call("ModelMetadata", name="ident")
    assert (model.name, list(model.versions), model.platform) == ("ident", ["1"], "python")
    assert (model.inputs[0].name, model.inputs[0].datatype, list(model.inputs[0].shape)) == ("IN", "FP32", [-1, 4])
    assert client.error("ModelMetadata", name="nope")[0] == "NOT_FOUND"


@pytest.mark.spec("server:26")
def test_config(client: Client) -> None:
    config = client.call("ModelConfig", name="repeat").config
    assert (config.name, config.backend) == ("repeat", "python")
    assert config.version_policy.latest.num_versions == 1
    assert config.input[0].data_type == messages.DataType.Value("TYPE_FP32")
    assert config.dynamic_batching.max_queue_delay_microseconds == 2**40
    assert config.dynamic_batching.priority_queue_policy[1].max_queue_size == 3
    assert config.instance_group[0].kind == messages.ModelInstanceGroup.KIND_CPU
    assert config.parameters["k"].string_value == "v"
    assert config.model_transaction_policy.decoupled
    assert client.error("ModelConfig", name="nope")[0] == "NOT_FOUND"


@pytest.mark.spec("server:253")
def test_statistics(client: Client) -> None:
    (entry,) = client.call("ModelStatistics", name="ident").model_stats
    assert (entry.name, entry.version, entry.last_inference) == ("ident", "1", 1700000000000)
    assert (entry.inference_stats.success.count, entry.inference_stats.success.ns) == (2, 2**50)
    assert entry.response_stats["0"].compute_infer.count == 2
    assert entry.batch_stats[0].batch_size == 2
    assert len(client.call("ModelStatistics").model_stats) > 1
    assert client.error("ModelStatistics", name="nope") == (
        "INVALID_ARGUMENT",
        "requested model 'nope' is not available",
    )


@pytest.mark.spec("server:131")
def test_repository_index(client: Client) -> None:
    models = {m.name: (m.version, m.state) for m in client.call("RepositoryIndex").models}
    assert models["ident"] == ("1", "READY")
    assert models["never"] == ("", "")
    assert "never" not in {m.name for m in client.call("RepositoryIndex", ready=True).models}


@pytest.mark.parametrize("name", ["RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"])
def test_repository_name(client: Client, name: str) -> None:
    assert client.error(name, repository_name="x") == (
        "UNIMPLEMENTED",
        "'repository_name' specification is not supported",
    )


def test_malformed_message(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.channel.unary_unary("/inference.GRPCInferenceService/ModelReady")(b"\x0a\xff", timeout=30)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
