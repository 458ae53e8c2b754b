"""Models that evaluate what they are sent, in environments of their own."""

from __future__ import annotations

from pathlib import Path

from calling import call
from serving import Served, write_model

__all__ = ["MODEL", "TENSORS", "evaluate", "write"]

MODEL = """
import os
import subprocess
import sys

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        if config.as_dict()["name"] == "completed":
            from a_package_of_the_environment import WORDS
            config.add_input({"name": "IN", "data_type": "TYPE_STRING", "dims": [1]})
            config.add_output({"name": WORDS.replace("only here", "OUT"), "data_type": "TYPE_STRING", "dims": [1]})
        return config

    def initialize(self, args):
        self.args = args

    def execute(self, requests):
        responses = []
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()[0].decode()
            answer = str(eval(text, {**globals(), "args": self.args}))
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([answer], dtype=object))]))
        return responses
"""
TENSORS = """
input [ { name: "IN" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "OUT" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU } ]
"""


def write(
    repository: Path,
    name: str,
    environment: object = None,
    *,
    code: str = MODEL,
    config: str = TENSORS,
    backend: str = "python",
    **parameters: str,
) -> Path:
    """The model in a repository, to be run in an environment."""
    if environment is not None:
        parameters["EXECUTION_ENV_PATH"] = str(environment)
    lines = [f'backend: "{backend}"', config]
    for key, value in parameters.items():
        lines.append(f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}')
    return write_model(repository, name, code, "\n".join(lines))


def evaluate(served: Served, model: str, expression: str) -> str:
    return str(call(served, model, {"IN": [expression]})["OUT"][0].decode())
