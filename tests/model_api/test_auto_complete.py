"""``auto_complete_config``: what it may change, what it may not, and where it runs."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calling import call
from commands import command, texts_of
from controlling import control, json_config, reason
from grpc_wire import RpcClient
from serving import Served, serve

HEAD = """
import os
import numpy as np
import triton_python_backend_utils as pb_utils

print(f"imported by {os.getpid()}")
IN = {"name": "IN", "data_type": "TYPE_STRING", "dims": [-1]}
OUT = {"name": "OUT", "data_type": "TYPE_STRING", "dims": [-1]}

class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
"""
TAIL = """
    def __init__(self):
        print(f"made by {os.getpid()}")

    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", r.inputs()[0].as_numpy())]) for r in requests]
"""
COMPLETE = """
config.add_input(IN)
config.add_output(OUT)
return config
"""
TENSORS = """
input [ { name: "IN" data_type: TYPE_STRING dims: [ -1 ] } ]
output [ { name: "OUT" data_type: TYPE_STRING dims: [ -1 ] } ]
"""
DYNAMIC = "config.set_dynamic_batching()\n" + COMPLETE
DECOUPLED = "config.set_model_transaction_policy({{'decoupled': {}}})\n" + COMPLETE

FINE: dict[str, tuple[str, str]] = {
    "no_config": ("-", COMPLETE),
    "empty_config": ("", COMPLETE),
    "only_backend": ('backend: "python"', COMPLETE),
    "input_only": ('input [ { name: "IN" data_type: TYPE_STRING dims: [ -1 ] } ]', COMPLETE),
    "partial_tensors": ('input [ { name: "IN" } ] output [ { name: "OUT" data_type: TYPE_STRING } ]', COMPLETE),
    "unchanged": (TENSORS, "return config"),
    "batched": (TENSORS + "max_batch_size: 2", "config.set_max_batch_size(8)\nreturn config"),
    "dynamic_new": ("max_batch_size: 4", DYNAMIC),
    "dynamic_noop": ("max_batch_size: 4 dynamic_batching { max_queue_delay_microseconds: 5 }", DYNAMIC),
    "policy_new": ("", DECOUPLED.format(True)),
    "policy_noop": ("model_transaction_policy { decoupled: true }", DECOUPLED.format(True)),
    "policy_false": ("", DECOUPLED.format(False)),
    "optional": (
        TENSORS.replace("input [", 'input [ { name: "MORE" data_type: TYPE_INT8 dims: [ 1 ] optional: true },'),
        "config.add_input({'name': 'LESS', 'data_type': 'TYPE_INT8', 'dims': [2], 'optional': True})\n" + COMPLETE,
    ),
    "forbidden": (
        TENSORS + 'parameters { key: "k" value { string_value: "as configured" } }',
        """
        inside = config.as_dict()
        inside["parameters"]["k"]["string_value"] = "changed"
        inside["instance_group"] = []
        inside["no_such_field"] = 1
        return config
        """,
    ),
}
CONTRADICTING = "configuration specified max_batch_size 8, but in auto-complete-config function for model"
FAILING: dict[str, tuple[str, str, str]] = {
    "no_return": (
        TENSORS,
        "pass",
        "TritonModelException: auto_complete_config function in model 'no_return' must return a valid pb.ModelConfig "
        "object.",
    ),
    "other_return": (
        TENSORS,
        "return {}",
        "TritonModelException: auto_complete_config function in model 'other_return' must return a valid "
        "pb.ModelConfig object.",
    ),
    "undefined": (TENSORS, "return undefined_variable", "NameError: name 'undefined_variable' is not defined\n\nAt:\n"),
    "smaller": (
        TENSORS + "max_batch_size: 8",
        "config.set_max_batch_size(4)",
        f"ValueError: {CONTRADICTING} 'smaller' specified max_batch_size 4\n\nAt:\n",
    ),
    "other_type": (
        TENSORS,
        "config.add_input({'name': 'IN', 'data_type': 'TYPE_INT8', 'dims': [-1]})",
        "ValueError: unable to load model 'other_type', configuration expects datatype TYPE_STRING for input 'IN', "
        "model provides TYPE_INT8",
    ),
    "not_json": (
        TENSORS,
        "config.add_input({'name': 'N', 'data_type': 'TYPE_INT8', 'dims': [np.int64(3)]})\nreturn config",
        "TypeError: Object of type int64 is not JSON serializable",
    ),
    "second_scheduler": (
        TENSORS + "sequence_batching { iterative_sequence: true }",
        "del config.as_dict()['sequence_batching']\nconfig.set_dynamic_batching()\nreturn config",
        "Cannot update scheduling choice from ",
    ),
    "incomplete": (TENSORS + 'input [ { name: "MORE" } ]', "return config", "MORE"),
    "leaves": (TENSORS, "os._exit(5)", "Stub process 'leaves' is not healthy. It exited with code 5."),
    "calls": (
        TENSORS,
        "request = pb_utils.InferenceRequest(model_name='m', requested_output_names=[], inputs=[])\nrequest.exec()",
        "TritonModelException: BLS is only supported during the 'execute' function.",
    ),
    "measures": (
        TENSORS,
        "pb_utils.MetricFamily(name='n', description='d', kind=pb_utils.MetricFamily.COUNTER)",
        "TritonModelException: Error when creating MetricFamily: The server cannot be asked during auto-complete.",
    ),
    "loads": (
        TENSORS,
        "pb_utils.load_model('unchanged')",
        "TritonModelException: Failed to load model: The server cannot be asked during auto-complete.",
    ),
}


def write_hooked(repository: Path, name: str, config: str, body: str, version: int = 1) -> Path:
    """A model with this body of its hook; ``-`` for no configuration at all. Its folder."""
    folder = repository / name
    (folder / str(version)).mkdir(parents=True, exist_ok=True)
    hook = textwrap.indent(textwrap.dedent(body).strip(), " " * 8)
    (folder / str(version) / "model.py").write_text(HEAD + hook + "\n" + TAIL)
    if config != "-":
        (folder / "config.pbtxt").write_text(config)
    return folder


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[Served]:
    for name, (config, body) in FINE.items():
        write_hooked(repository, name, config, body)
    for name, (config, body, _) in FAILING.items():
        write_hooked(repository, name, config, body)
    for version in (1, 2):
        body = f"config.set_max_batch_size({version})\n" + COMPLETE
        write_hooked(repository, "versions", "version_policy: { all: { } }", body, version)
    folder = write_hooked(repository, "without_hook", TENSORS, "pass")
    (folder / "1" / "model.py").write_text("class TritonPythonModel:\n    def execute(self, requests):\n        pass\n")
    with serve(repository, "--exit-on-error=false") as served:
        yield served


def config_of(served: Served, model: str, version: int = 1) -> dict[str, Any]:
    status, config = served.get(f"/v2/models/{model}/versions/{version}/config")
    assert status == 200, reason(served, model)
    assert isinstance(config, dict)
    return config


# -- what comes of it


@pytest.mark.spec("python_backend:Q114")
@pytest.mark.spec("python_backend:C219")
@pytest.mark.parametrize("name", sorted(FINE))
def test_a_model_completes_its_configuration(served: Served, name: str) -> None:
    config = config_of(served, name)
    assert config["backend"] == "python"
    inputs = {tensor["name"]: (tensor["data_type"], tensor["dims"], tensor["optional"]) for tensor in config["input"]}
    outputs = {tensor["name"]: (tensor["data_type"], tensor["dims"]) for tensor in config["output"]}
    assert inputs["IN"] == ("TYPE_STRING", [-1], False)
    assert outputs == {"OUT": ("TYPE_STRING", [-1])}
    assert served.get(f"/v2/models/{name}/ready")[0] == 200


@pytest.mark.spec("python_backend:C219")
@pytest.mark.parametrize("name", ["no_config", "empty_config", "without_hook"])
def test_such_a_model_serves(served: Served, name: str) -> None:
    assert config_of(served, name)["instance_group"][0]["name"] == name
    if name != "without_hook":
        assert call(served, name, {"IN": ["x", "y"]})["OUT"] == [b"x", b"y"]


@pytest.mark.spec("python_backend:C217")
def test_the_batch_size_may_grow(served: Served) -> None:
    assert config_of(served, "batched")["max_batch_size"] == 8
    assert call(served, "batched", {"IN": np.zeros((8, 1), np.uint8)}).error.startswith("[request id")


@pytest.mark.spec("python_backend:C27")
def test_a_scheduler_is_taken_where_there_was_none(served: Served) -> None:
    assert config_of(served, "dynamic_new")["dynamic_batching"]["preferred_batch_size"] == [4]
    assert config_of(served, "dynamic_noop")["dynamic_batching"]["max_queue_delay_microseconds"] == 5
    assert "dynamic_batching" not in config_of(served, "unchanged")


@pytest.mark.parametrize(("name", "decoupled"), [("policy_new", True), ("policy_noop", True), ("policy_false", False)])
def test_the_transaction_policy(served: Served, name: str, decoupled: bool) -> None:
    assert config_of(served, name)["model_transaction_policy"] == {"decoupled": decoupled}


def test_inputs_are_added_behind_those_configured(served: Served) -> None:
    inputs = config_of(served, "optional")["input"]
    assert [(tensor["name"], tensor["optional"]) for tensor in inputs] == [
        ("MORE", True),
        ("IN", False),
        ("LESS", True),
    ]
    assert call(served, "optional", {"IN": ["only"]})["OUT"] == [b"only"]


@pytest.mark.spec("python_backend:C26")
def test_nothing_else_is_taken(served: Served) -> None:
    config = config_of(served, "forbidden")
    assert config["parameters"] == {"k": {"string_value": "as configured"}}
    assert [group["count"] for group in config["instance_group"]] == [1]
    assert "no_such_field" not in config


def test_each_version_completes_its_own(served: Served) -> None:
    assert [config_of(served, "versions", version)["max_batch_size"] for version in (1, 2)] == [1, 2]
    assert served.get("/v2/models/versions")[1]["versions"] == ["1", "2"]


@pytest.mark.spec("python_backend:C28")
def test_a_decoupled_policy_takes_effect(tmp_path: Path) -> None:
    folder = write_hooked(tmp_path, "stream", "", DECOUPLED.format(True))
    code = (folder / "1" / "model.py").read_text()
    code = code[: code.index("    def execute")] + textwrap.indent(
        textwrap.dedent(
            """
            def execute(self, requests):
                for request in requests:
                    sender = request.get_response_sender()
                    for word in ("a", "b", "c"):
                        out = pb_utils.Tensor("OUT", np.array([word], dtype=object))
                        sender.send(pb_utils.InferenceResponse([out]))
                    sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            """
        ),
        "    ",
    )
    (folder / "1" / "model.py").write_text(code)
    request = command("stream", "x")
    request.inputs[0].shape[:] = [1]
    with serve(tmp_path) as served, RpcClient(served.grpc_url) as client:
        assert [texts_of(message) for message in client.stream([request])] == [{"OUT": word} for word in "abc"]


# -- what goes wrong


@pytest.mark.spec("python_backend:Q113")
@pytest.mark.spec("python_backend:C24")
@pytest.mark.spec("python_backend:C25")
@pytest.mark.spec("python_backend:C29")
@pytest.mark.spec("python_backend:C215")
@pytest.mark.parametrize("name", sorted(FAILING))
def test_a_hook_that_fails_fails_the_load(served: Served, name: str) -> None:
    text = reason(served, name)
    assert text.split(": ", 1)[0] in ("Internal", "Invalid argument")
    assert FAILING[name][2] in text
    assert f"failed to load '{name}' version 1: {text.splitlines()[0]}" in served.log
    assert not [instance for instance in served.stubs() if instance.startswith(name)]


@pytest.mark.spec("python_backend:Q24")
def test_the_log_tells_of_it(served: Served) -> None:
    assert "name 'undefined_variable' is not defined" in served.log


@pytest.mark.spec("python_backend:C25")
def test_such_a_load_is_refused_with_the_same_text(tmp_path: Path) -> None:
    write_hooked(tmp_path, "m", TENSORS, "return undefined_variable")
    with serve(tmp_path, "--model-control-mode=explicit") as served:
        status, body = control(served, "m", "load")
        assert status == 400
        assert body["error"].startswith(
            "load failed for model 'm': version 1 is at UNAVAILABLE state: Internal: NameError: name "
            "'undefined_variable' is not defined\n\nAt:\n"
        )
        hook = "config.set_max_batch_size(2)\n        return config\n" + TAIL
        (tmp_path / "m" / "1" / "model.py").write_text(HEAD + "        " + hook)
        assert control(served, "m", "load", {"config": json_config()}) == (200, b"")
        assert config_of(served, "m")["max_batch_size"] == 2


# -- where it runs


@pytest.mark.spec("python_backend:C3")
def test_the_hook_has_a_process_of_its_own_that_never_makes_the_model(served: Served) -> None:
    said = re.findall(r"unchanged.*\b(imported|made) by (\d+)", served.log)
    assert [what for what, _ in said] == ["imported", "imported", "made"]
    hook, instance, maker = (int(pid) for _, pid in said)
    assert hook != instance == maker == served.stubs()["unchanged_0"]


@pytest.mark.spec("python_backend:C4")
@pytest.mark.spec("python_backend:C20")
@pytest.mark.spec("python_backend:Q21")
def test_switched_off_it_is_not_called(tmp_path: Path) -> None:
    write_hooked(tmp_path, "m", 'backend: "python"' + TENSORS, "open(__file__ + '.called', 'w').close()\nreturn config")
    (write_hooked(tmp_path, "no_file", 'backend: "python"' + TENSORS, "return config") / "1" / "model.py").unlink()
    with serve(tmp_path, "--disable-auto-complete-config", "--exit-on-error=false") as served:
        assert call(served, "m", {"IN": ["x"]})["OUT"] == [b"x"]
        sentence = (
            r"Internal: Failed to preinitialize Python stub: Python model file not found in '\S+no_file/1/model\.py'"
        )
        assert re.search(sentence, reason(served, "no_file"))
        assert "failed to load 'no_file'" in served.log
    assert not (tmp_path / "m" / "1" / "model.py.called").exists()


def test_what_the_hook_gives_is_what_initialize_gets(tmp_path: Path) -> None:
    folder = write_hooked(tmp_path, "m", "", "config.set_max_batch_size(3)\n" + COMPLETE)
    path = folder / "1" / "model.py"
    path.write_text(
        path.read_text()
        + "\n    def initialize(self, args):\n        open(__file__ + '.json', 'w').write(args['model_config'])\n"
    )
    with serve(tmp_path) as served:
        assert json.loads((folder / "1" / "model.py.json").read_text()) == config_of(served, "m")
