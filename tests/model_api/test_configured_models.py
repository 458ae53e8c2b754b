"""What models learn of their configuration, and configurations that are refused: over real stubs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from calling import call
from controlling import reason
from rendezvous import Rendezvous, config, write
from serving import Served, serve

TELLING = """
import json
import os
import unittest

import numpy as np
import triton_python_backend_utils as pb_utils


class PBTest(unittest.TestCase):
    def test_tensors(self):
        tensor = pb_utils.Tensor("T", np.arange(3))
        self.assertEqual(tensor.as_numpy().sum(), 3)

    def test_in_the_same_process(self):
        self.assertEqual(os.environ.get("SELF_TEST"), str(os.getpid()))


def self_test():
    os.environ["SELF_TEST"] = str(os.getpid())
    outcome = unittest.main("model", exit=False).result
    return outcome.testsRun, len(outcome.errors), len(outcome.failures)


class TritonPythonModel:
    def initialize(self, args):
        self.args = {**args, "self test": self_test()}

    def execute(self, requests):
        self.args["self test in execute"] = self_test()
        answer = np.array([json.dumps(self.args)], dtype=object)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", answer)]) for request in requests]
"""
STRINGS = ("IN:STRING", "OUT:STRING")
TWO_GROUPS = config(*STRINGS).replace(
    "instance_group [ {", 'instance_group [ { name: "special" kind: KIND_CPU count: 2 }, {'
)
REFUSED = {
    "model_kind": (
        config(*STRINGS).replace("KIND_CPU", "KIND_MODEL"),
        "Invalid argument: instance_group kind KIND_MODEL not supported",
        "server:200",
    ),
    "force_cpu": (
        config(*STRINGS, more='parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "maybe" } }'),
        "Unsupported: Incorrect value for FORCE_CPU_ONLY_INPUT_TENSORS: maybe'",
        "python_backend:C221",
    ),
    "cached_stream": (
        config(*STRINGS, more="response_cache { enable: true } model_transaction_policy { decoupled: true }"),
        "Invalid argument: Response Cache does not currently support model cached_stream with 'decoupled' transaction "
        "policy. Please disable the response cache.",
        "python_backend:C223",
    ),
    "cached_sequence": (
        config(*STRINGS, more="response_cache { enable: true } sequence_batching { }"),
        "Invalid argument: Response Cache does not currently support model cached_sequence with sequence batching "
        "scheduler. Please disable the response cache.",
        "python_backend:C223",
    ),
    "bad_group": (
        config(*STRINGS).replace("kind: KIND_CPU", 'name: "a;b" kind: KIND_CPU'),
        "Invalid argument: Invalid stub name: contains invalid characters",
        "python_backend:C234",
    ),
}


@pytest.fixture(scope="module")
def served(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    parameters = 'parameters { key: "other" value { string_value: "as it is" } }'
    parameters += 'parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "no" } }'
    write(repository, "explicit", TELLING, config(*STRINGS, more=parameters))
    write(repository, "implicit", TELLING, config(*STRINGS).partition("instance_group")[0])
    write(repository, "groups", TELLING, TWO_GROUPS)
    for name, (text, _, _) in REFUSED.items():
        write(repository, name, TELLING, text)
    with serve(repository, "--exit-on-error=false") as served:
        yield served


def args_of(served: Served, model: str) -> dict[str, Any]:
    """What the ``initialize`` of a model got."""
    args = json.loads(call(served, model, {"IN": ["?"]})["OUT"][0])
    assert isinstance(args, dict)
    return args


@pytest.mark.spec("python_backend:C231")
def test_instances_are_named_by_their_groups(served: Served) -> None:
    assert {name for name in served.stubs() if not name.startswith("cached")} == {
        "explicit_0_0",
        "implicit_0",
        "special_0",
        "special_1",
        "groups_1_0",
    }
    assert args_of(served, "explicit")["model_instance_name"] == "explicit_0_0"
    assert args_of(served, "implicit")["model_instance_name"] == "implicit_0"


@pytest.mark.spec("python_backend:C222")
def test_parameters_are_passed_on(served: Served) -> None:
    given = json.loads(args_of(served, "explicit")["model_config"])
    assert given["parameters"] == {
        "FORCE_CPU_ONLY_INPUT_TENSORS": {"string_value": "no"},
        "other": {"string_value": "as it is"},
    }


@pytest.mark.spec("python_backend:C277")
def test_inputs_are_in_host_memory_whatever_a_model_would_take(served: Served) -> None:
    served.wait_for_log("Forcing CPU only input tensors: model 'explicit' gets none that lie on a GPU")
    assert args_of(served, "explicit")["model_instance_kind"] == "CPU"


@pytest.mark.spec("python_backend:Q37")
def test_models_may_run_unittest_in_themselves(served: Served) -> None:
    args = args_of(served, "explicit")
    assert (args["self test"], args["self test in execute"]) == ([2, 0, 0], [2, 0, 0])


@pytest.mark.parametrize(
    ("name", "text"),
    [pytest.param(name, text, id=name, marks=pytest.mark.spec(row)) for name, (_, text, row) in REFUSED.items()],
)
def test_a_configuration_that_is_refused(served: Served, name: str, text: str) -> None:
    assert reason(served, name) == text


@pytest.mark.spec("python_backend:C32")
@pytest.mark.spec("python_backend:C238")
def test_initialize_may_take_longer_than_the_stub_timeout(tmp_path: Path) -> None:
    code = TELLING.replace("self.args = {", "__import__('threading').Event().wait(1.2)\n        self.args = {")
    write(tmp_path, "slow", code, config(*STRINGS))
    with serve(tmp_path, "--backend-config=python,stub-timeout-seconds=1") as served:
        assert args_of(served, "slow")["model_name"] == "slow"


@pytest.mark.spec("python_backend:C239")
def test_two_servers_may_serve_the_same_models(repository: Path, served: Served, tmp_path: Path) -> None:
    write(tmp_path, "explicit", TELLING, config(*STRINGS))
    with serve(tmp_path) as other:
        assert served.stubs()["explicit_0_0"] != other.stubs()["explicit_0_0"]
        assert args_of(other, "explicit")["model_repository"] == str(tmp_path / "explicit")
    assert args_of(served, "explicit")["model_repository"] == str(repository / "explicit")
