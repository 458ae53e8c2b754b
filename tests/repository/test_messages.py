"""The messages of ``atoll_protos``: complete, in a pool of their own, compiled from the files beside them."""

import hashlib
import subprocess
import sys
from importlib.resources import files
from typing import Any

import pytest
from atoll_protos import messages, pool
from tritonclient.grpc import model_config_pb2, service_pb2  # type: ignore[import-untyped]


def all_messages(file: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    pending = list(file.message_types_by_name.values())
    while pending:
        message = pending.pop()
        found[message.full_name] = message
        pending += message.nested_types
    return found


def fields(message: Any) -> list[tuple[str, int, int]]:
    return [(field.name, field.number, field.type) for field in message.fields]


@pytest.mark.parametrize("module", [service_pb2, model_config_pb2])
@pytest.mark.spec("server:131")
def test_fields_are_those_of_tritonclient(module: Any) -> None:
    theirs = all_messages(module.DESCRIPTOR)
    ours = all_messages(pool.FindFileByName(module.DESCRIPTOR.name))
    assert theirs.keys() == ours.keys()
    assert {name: fields(ours[name]) for name in ours} == {name: fields(theirs[name]) for name in theirs}


@pytest.mark.spec("server:131")
def test_rpcs_are_those_of_tritonclient() -> None:
    def rpcs(service: Any) -> list[tuple[str, str, str]]:
        return [(method.name, method.input_type.full_name, method.output_type.full_name) for method in service.methods]

    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    ours = pool.FindServiceByName("inference.GRPCInferenceService")
    assert rpcs(ours) == rpcs(theirs)
    assert len(rpcs(ours)) == 20


@pytest.mark.spec("server:131")
def test_bytes_on_the_wire_are_those_of_tritonclient() -> None:
    ours = messages.ModelInferRequest(model_name="m", raw_input_contents=[b"\x00\x01"])
    ours.inputs.add(name="I", datatype="FP32", shape=[1, -1])
    ours.parameters["priority"].uint64_param = 2**63
    theirs = service_pb2.ModelInferRequest.FromString(ours.SerializeToString())
    assert theirs.inputs[0].shape == [1, -1]
    assert theirs.parameters["priority"].uint64_param == 2**63


def test_nested_messages_and_enums_hang_on_their_parents() -> None:
    assert messages.ModelInferRequest.InferInputTensor(name="I").name == "I"
    assert messages.ModelInstanceGroup.Kind.Name(2) == "KIND_CPU"
    assert messages.DataType.Value("TYPE_FP32") == 11


@pytest.mark.spec("server:132")
def test_health_messages() -> None:
    assert messages.HealthCheckRequest(service="inference.GRPCInferenceService").service
    statuses = messages.HealthCheckResponse.ServingStatus.items()
    assert statuses == [("UNKNOWN", 0), ("SERVING", 1), ("NOT_SERVING", 2), ("SERVICE_UNKNOWN", 3)]


@pytest.mark.parametrize("order", [("atoll_protos", "tritonclient.grpc"), ("tritonclient.grpc", "atoll_protos")])
@pytest.mark.spec("server:134")
def test_lives_beside_tritonclient_in_either_order(order: tuple[str, str]) -> None:
    code = f"import {order[0]}, {order[1]}; print(atoll_protos.messages.ModelConfig(name='m').name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "m\n"), done.stderr


def test_descriptors_are_compiled_from_these_files() -> None:
    """Fails when a .proto file was edited and tools/protos was not run."""
    folder = files("atoll_protos")
    recorded = dict(line.split()[::-1] for line in folder.joinpath("sources.sha256").read_text().splitlines())
    sources = [entry for entry in folder.iterdir() if entry.name.endswith(".proto")]
    assert {entry.name: hashlib.sha256(entry.read_bytes()).hexdigest() for entry in sources} == recorded
