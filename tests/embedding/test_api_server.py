"""The life of an embedded server, and what it says of itself and its models."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tritonserver
from embedded import EXAMPLE_MODELS
from serving import write_model
from tritonserver import InstanceGroupKind, Model, ModelControlMode, Options, Server
from tritonserver._api._server import ModelLoadDeviceLimit

FAILS = """
class TritonPythonModel:
    def initialize(self, args):
        raise ValueError("no weights")
    def execute(self, requests):
        return None
"""
NO_TENSORS = 'backend: "python"\nmax_batch_size: 8\n'


@pytest.mark.spec("inprocess:12")
@pytest.mark.spec("inprocess:55")
@pytest.mark.parametrize(
    "use",
    [
        Server.ready,
        Server.live,
        Server.metadata,
        Server.metrics,
        Server.models,
        Server.stop,
        Server.poll_model_repository,
        Server._ptr,
        lambda server: server.model("m"),
        lambda server: server.load("m"),
        lambda server: server.unload("m"),
        lambda server: server.register_model_repository("p"),
        lambda server: server.unregister_model_repository("p"),
        lambda server: Model(server, "m"),
    ],
)
def test_nothing_works_before_the_start(use: Callable[[Server], Any]) -> None:
    with pytest.raises(tritonserver.InvalidArgumentError, match=r"^Server not started$"):
        use(Server(Options("somewhere")))


@pytest.mark.spec("inprocess:8")
@pytest.mark.spec("inprocess:10")
@pytest.mark.spec("inprocess:11")
@pytest.mark.spec("inprocess:55")
@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"server_id": 1}, TypeError, "incompatible function arguments"),
        ({"model_repository": 1}, TypeError, "not iterable"),
        ({"model_repository": None}, tritonserver.InvalidArgumentError, "Model repository must be specified."),
        ({"model_repository": []}, tritonserver.InvalidArgumentError, "--model-repository must be specified"),
        ({"model_repository": "foo"}, tritonserver.InternalError, "failed to stat file foo"),
        (
            {"model_load_device_limits": [ModelLoadDeviceLimit(InstanceGroupKind.CPU, 0, 0)]},
            tritonserver.InvalidArgumentError,
            "given device kind is not supported, got: CPU",
        ),
        (
            {"model_load_device_limits": [ModelLoadDeviceLimit(InstanceGroupKind.GPU, -1, 0)]},
            tritonserver.InvalidArgumentError,
            "expects device ID >= 0, got -1",
        ),
        (
            {"model_load_device_limits": [ModelLoadDeviceLimit(InstanceGroupKind.GPU, 0, -1.0)]},
            tritonserver.InvalidArgumentError,
            "expects limit fraction to be in range [0.0, 1.0], got -1.0",
        ),
        (
            {"host_policies": {"p": {"s": "v"}}},
            tritonserver.UnsupportedError,
            "Unsupported host policy setting 's' is specified, supported settings are 'numa-node', 'cpu-cores'",
        ),
        (
            {"cache_config": {"local": {"size": 1}, "redis": {}}},
            tritonserver.InvalidArgumentError,
            "found multiple cache configurations, but only a single cache is currently supported",
        ),
    ],
)
def test_options_are_checked_at_the_start(
    tmp_path: Path, given: dict[str, Any], error: type[Exception], text: str
) -> None:
    server = Server(**{"model_repository": str(tmp_path), **given})
    with pytest.raises(error) as caught:
        server.start()
    assert text in str(caught.value)
    with pytest.raises(tritonserver.InvalidArgumentError, match="Server not started"):
        server.ready()


@pytest.mark.spec("inprocess:12")
@pytest.mark.spec("inprocess:13")
@pytest.mark.spec("inprocess:15")
def test_an_empty_repository_starts_and_starts_again(tmp_path: Path) -> None:
    server = Server(Options(str(tmp_path), server_id="me", cache_config={"local": {"size": 1 << 20}}))
    assert server.start(wait_until_ready=True, timeout=30) is server
    with pytest.raises(tritonserver.InvalidArgumentError, match=r"^Server already started$"):
        server.start()
    assert server.live()
    assert server.ready()
    assert server.options.model_repository == [str(tmp_path)]
    metadata = server.metadata()
    assert metadata["name"] == "me"
    assert (metadata["extensions"][0], metadata["extensions"][-1]) == ("classification", "logging")
    assert server.stop() is None
    with pytest.raises(tritonserver.InvalidArgumentError, match="Server not started"):
        server.stop()
    assert server.start().ready()
    server.stop()


@pytest.mark.spec("inprocess:13")
@pytest.mark.spec("inprocess:19")
@pytest.mark.parametrize(("strict", "ready"), [(True, False), (False, True)])
def test_a_model_that_fails(tmp_path: Path, strict: bool, ready: bool) -> None:
    write_model(tmp_path, "broken", FAILS, NO_TENSORS)
    with pytest.raises(tritonserver.InternalError, match=r"^failed to load all models$"):
        Server(model_repository=str(tmp_path), strict_readiness=strict).start()
    server = Server(model_repository=str(tmp_path), exit_on_error=False, strict_readiness=strict).start()
    assert server.ready() is ready
    model = server.models()["broken", 1]
    assert model.state == "UNAVAILABLE"
    assert "no weights" in str(model.reason)
    server.stop()
    if not ready:
        with pytest.raises(tritonserver.UnavailableError, match=r"^Timeout before ready$"):
            server.start(wait_until_ready=True, timeout=0, polling_interval=0.01)
        server.stop()


@pytest.mark.spec("inprocess:20")
def test_models_by_name_and_version(server: Server) -> None:
    models = server.models()
    assert str(models) == repr(models)
    assert str(models["test", 1]) == "{'name': 'test', 'version': 1, 'state': 'READY'}"
    assert repr(models["test"]) == "{'name': 'test', 'version': -1, 'state': None}"
    assert ("test", 1) in models
    assert "test" not in models
    for unknown in ("other", ("test", 2)):
        with pytest.raises(KeyError, match="Unknown Model: "):
            models[unknown]
    assert all(model.state == "READY" for model in server.models(exclude_not_ready=True).values())


@pytest.mark.spec("inprocess:21")
def test_what_a_model_says_of_itself(server: Server) -> None:
    model = server.model("identity")
    assert model.ready()
    assert model.metadata()["inputs"] == [{"name": "INPUT0", "datatype": "BYTES", "shape": [-1]}]
    assert model.batch_properties() is tritonserver.ModelBatchFlag.UNKNOWN
    assert model.transaction_properties() is tritonserver.ModelTxnPropertyFlag.ONE_TO_ONE
    assert model.statistics()["model_stats"][0]["name"] == "identity"
    assert model.config()["max_batch_size"] == 0
    with pytest.raises(tritonserver.InvalidArgumentError, match="version 2 not supported"):
        model.config(2)
    assert not server.model("other").ready()
    with pytest.raises(tritonserver.NotFoundError, match=r"^Request for unknown model: 'other' is not found$"):
        server.model("other").metadata()


@pytest.mark.spec("inprocess:16")
@pytest.mark.spec("inprocess:17")
def test_load_and_unload(server: Server) -> None:
    config = json.dumps({"max_batch_size": 4, "parameters": {"decoupled": {"string_value": "True"}}})
    code = (EXAMPLE_MODELS / "test" / "1" / "model.py").read_bytes()
    model = server.load("fresh", {"config": config, "file:1/model.py": code})
    assert (model.name, model.version) == ("fresh", -1)
    assert model.transaction_properties() is tritonserver.ModelTxnPropertyFlag.DECOUPLED
    assert model.batch_properties() is tritonserver.ModelBatchFlag.FIRST_DIM
    server.unload(model, wait_until_unloaded=True)
    assert not model.ready()
    assert server.models()["fresh", 1].state == "UNAVAILABLE"
    server.load("test")
    server.unload("test", unload_dependents=True, wait_until_unloaded=True, timeout=20)
    assert not server.model("test").ready()
    assert server.load("test").ready()


@pytest.mark.spec("inprocess:16")
@pytest.mark.parametrize(
    ("name", "parameters", "error", "text"),
    [
        ("no", None, "InternalError", "failed to load 'no', failed to poll from model repository"),
        ("test", {"config": 1}, "InvalidArgumentError", "Config parameter 'config' must be a string"),
        ("test", {"file:1/m": "x"}, "InvalidArgumentError", "File override parameter 'file:1/m' must have BYTES type"),
        ("test", {"other": True}, "InvalidArgumentError", "Unrecognized load parameter 'other' with type 'BOOL'"),
    ],
)
def test_loads_that_are_refused(server: Server, name: str, parameters: Any, error: str, text: str) -> None:
    with pytest.raises(getattr(tritonserver, error), match=f"^{re.escape(text)}$"):
        server.load(name, parameters)


@pytest.mark.spec("inprocess:18")
def test_repositories_come_and_go(server: Server, tmp_path: Path) -> None:
    write_model(tmp_path, "folder", FAILS.replace("raise ValueError", "print"), NO_TENSORS)
    path = str(tmp_path)
    server.register_model_repository(path, {"served": "folder"})
    assert server.load("served").ready()
    assert ("folder", -1) not in server.models()
    for given, error, text in [
        ((path, None), tritonserver.AlreadyExistsError, f"model repository '{path}' has already been registered"),
        (("/no/such",), tritonserver.InvalidArgumentError, "failed to register '/no/such', repository not found"),
        (
            (str(EXAMPLE_MODELS.parent), {"served": "models"}),
            tritonserver.InvalidArgumentError,
            f"failed to register '{EXAMPLE_MODELS.parent}', there is a conflicting mapping for 'served'",
        ),
    ]:
        with pytest.raises(error, match=f"^{re.escape(text)}$"):
            server.register_model_repository(*given)
    server.unload("served", wait_until_unloaded=True)
    server.unregister_model_repository(path)
    with pytest.raises(tritonserver.InvalidArgumentError, match=r"failed to unregister '.*', repository not found"):
        server.unregister_model_repository(path)
    with pytest.raises(tritonserver.InternalError, match="failed to poll from model repository"):
        server.load("served")
    server.register_model_repository(path, {})
    assert server.load("folder").ready()
    server.unload("folder", wait_until_unloaded=True)
    server.unregister_model_repository(path)
    with pytest.raises(tritonserver.UnavailableError, match=r"^polling is disabled$"):
        server.poll_model_repository()


@pytest.mark.spec("inprocess:18")
def test_what_other_control_modes_refuse(tmp_path: Path) -> None:
    with Server(model_repository=str(tmp_path), model_control_mode=ModelControlMode.POLL) as server:
        server.poll_model_repository()
        refused = "explicit model load / unload is not allowed if polling is enabled"
        for control in (server.load, server.unload):
            with pytest.raises(tritonserver.UnavailableError, match=f"^{refused}$"):
                control("m")
        for use, what in (
            (server.register_model_repository, "registration"),
            (server.unregister_model_repository, "unregistration"),
        ):
            text = f"repository {what} is not allowed if model control mode is not EXPLICIT"
            with pytest.raises(tritonserver.UnsupportedError, match=f"^{text}$"):
                use(str(tmp_path))


@pytest.mark.spec("inprocess:36")
@pytest.mark.spec("inprocess:37")
def test_metrics_of_server_and_program(server: Server) -> None:
    page = server.metrics()
    assert 'nv_inference_count{model="identity",version="1"} 0' in page
    assert "nv_cpu_memory_used_bytes" in page
    family = tritonserver.MetricFamily(tritonserver.MetricKind.COUNTER, "orders", "Orders so far")
    counter = tritonserver.Metric(family, {"shop": "a"})
    counter.increment(2)
    assert (counter.value, counter.kind) == (2.0, tritonserver.MetricKind.COUNTER)
    assert 'orders{shop="a"} 2' in server.metrics()
    with pytest.raises(tritonserver.TritonError):
        counter.set_value(1)
    with pytest.raises(tritonserver.TritonError):
        counter.increment(-1)
    gauge = tritonserver.Metric(tritonserver.MetricFamily(tritonserver.MetricKind.GAUGE, "depth", "Depth"))
    gauge.set_value(3)
    gauge.increment(-1)
    assert gauge.value == 2


@pytest.mark.spec("inprocess:36")
def test_without_metrics_the_page_is_empty(tmp_path: Path) -> None:
    with Server(model_repository=str(tmp_path), metrics=False) as server:
        assert "nv_" not in server.metrics()


@pytest.mark.spec("inprocess:54")
def test_servers_side_by_side(server: Server, tmp_path: Path) -> None:
    with Server(model_repository=str(EXAMPLE_MODELS), server_id="second") as second:
        for one in (server, second):
            (response,) = one.model("identity").infer(inputs={"INPUT0": ["a"]})
            assert response.outputs["OUTPUT0"].to_string_array().tolist() == ["a"]
        assert second.metadata()["name"] == "second"
