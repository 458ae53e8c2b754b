"""Loading and unloading over HTTP, and a model that controls models."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atoll_protos import messages
from calling import call, wait_until
from grpc_wire import RpcClient
from rendezvous import write
from serving import Served, write_model

__all__ = [
    "CONTROLLER",
    "answering",
    "ask",
    "control",
    "entries",
    "is_ready",
    "json_config",
    "load",
    "load_over_grpc",
    "reason",
    "state",
    "unload",
    "unload_over_grpc",
    "wait_until_unloaded",
    "word_of",
    "write_answering",
    "write_controller",
    "write_gated",
]

CONTROLLER = """
import json

import numpy as np
import triton_python_backend_utils as pb_utils


def perform(what, arguments):
    if what == "load_model" and len(arguments) == 3 and isinstance(arguments[2], dict):
        arguments[2] = {path: text.encode() for path, text in arguments[2].items()}
    try:
        return ["value", getattr(pb_utils, what)(*arguments)]
    except Exception as error:
        return [type(error).__name__, str(error)]


class TritonPythonModel:
    def execute(self, requests):
        answers = [json.dumps(perform(*json.loads(request.inputs()[0].as_numpy()[0]))) for request in requests]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([answer], dtype=object))])
            for answer in answers
        ]
"""

_ANSWERS = """
import triton_python_backend_utils as pb_utils
import numpy as np

class TritonPythonModel:
    def initialize(self, args):
        print("WORD has come")

    def execute(self, requests):
        out = pb_utils.Tensor("OUT", np.array([WORD], dtype=object))
        return [pb_utils.InferenceResponse([out]) for request in requests]

    def finalize(self):
        print("WORD has gone")
"""
_GATED = """
from rendezvous import at
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        at("initialize")

    def execute(self, requests):
        at("execute")
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", r.inputs()[0].as_numpy())]) for r in requests]

    def finalize(self):
        at("finalize")
"""

_STRINGS = """
backend: "python"
input [ { name: "IN" data_type: TYPE_STRING dims: [ -1 ] } ]
output [ { name: "OUT" data_type: TYPE_STRING dims: [ -1 ] } ]
instance_group [ { kind: KIND_CPU } ]
"""


def write_controller(repository: Path, name: str = "controller", code: str = CONTROLLER) -> None:
    """A model that does what it is told: see :func:`ask`."""
    write_model(repository, name, code, _STRINGS)


def write_answering(repository: Path, name: str, word: str, more: str = "", version: int = 1) -> Path:
    """A model that answers with a word; ``more`` is for its configuration. Its folder."""
    return write_model(repository, name, answering(word), _STRINGS + more, version)


def write_gated(repository: Path, name: str = "gated") -> Path:
    """A model that stops at each step of its life until it is let go; identity on UINT8. Its folder."""
    return write(repository, name, _GATED)


def answering(word: str) -> str:
    """The code of a model that answers with a word."""
    return _ANSWERS.replace("[WORD]", repr([word])).replace("WORD", word)


def ask(served: Served, what: str, *arguments: Any, model: str = "controller") -> Any:
    """What ``pb_utils.<what>(*arguments)`` gives in a model: ``["value", value]`` or ``[exception, text]``."""
    return json.loads(call(served, model, {"IN": [json.dumps([what, arguments])]})["OUT"][0])


def word_of(served: Served, model: str) -> str:
    return str(call(served, model, {"IN": ["?"]})["OUT"][0].decode())


def control(served: Served, name: str, action: str, parameters: Any = None) -> tuple[int, Any]:
    """Status and body of a load or unload."""
    document = {} if parameters is None else {"parameters": parameters}
    return served.post(f"/v2/repository/models/{name}/{action}", document)


def load(served: Served, name: str, config: str = "", files: Mapping[str, str] | None = None) -> None:
    """Load over HTTP, which must succeed."""
    parameters = {path: base64.b64encode(text.encode()).decode() for path, text in (files or {}).items()}
    if config:
        parameters["config"] = config
    assert control(served, name, "load", parameters) == (200, b"")


def load_over_grpc(served: Served, name: str, config: str, files: Mapping[str, str]) -> None:
    """The same over gRPC. Raises RpcError."""
    value = messages.ModelRepositoryParameter
    parameters = {path: value(bytes_param=text.encode()) for path, text in files.items()}
    with RpcClient(served.grpc_url) as client:
        client.call(
            "RepositoryModelLoad",
            model_name=name,
            parameters={**parameters, "config": value(string_param=config)},
        )


def unload_over_grpc(served: Served, name: str) -> None:
    with RpcClient(served.grpc_url) as client:
        client.call("RepositoryModelUnload", model_name=name)


def unload(served: Served, name: str) -> None:
    assert control(served, name, "unload") == (200, b"")


def entries(served: Served, name: str) -> list[dict[str, str]]:
    """What the repository index has of a model."""
    status, rows = served.post("/v2/repository/index", {})
    assert status == 200
    return [row for row in rows if row["name"] == name]


def state(served: Served, name: str) -> str:
    """The state of a model that has one version."""
    [entry] = entries(served, name)
    return entry.get("state", "")


def reason(served: Served, name: str) -> str:
    """Why a model that has one version is not there."""
    [entry] = entries(served, name)
    return entry["reason"]


def is_ready(served: Served, name: str) -> bool:
    return served.get(f"/v2/models/{name}/ready")[0] == 200


def wait_until_unloaded(served: Served, name: str) -> None:
    unloaded = {"UNAVAILABLE"}
    wait_until(lambda: {entry["state"] for entry in entries(served, name)} == unloaded, f"{name} is unloaded")


def json_config(**fields: Any) -> str:
    """A configuration for a load request; of models that answer with a word, unless the fields say otherwise."""
    strings = {"data_type": "TYPE_STRING", "dims": [-1]}
    config = {
        "backend": "python",
        "input": [{"name": "IN", **strings}],
        "output": [{"name": "OUT", **strings}],
        "instance_group": [{"kind": "KIND_CPU"}],
    }
    return json.dumps({**config, **fields})
