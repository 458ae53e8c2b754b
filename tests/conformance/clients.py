"""``tritonclient`` over either protocol behind one face, so that a test can be written once for both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy.typing as npt
import tritonclient.grpc
import tritonclient.http
from serving import Served
from tritonclient.utils import np_to_triton_dtype

__all__ = ["MODULES", "Client", "described", "facts", "inputs_of"]

MODULES: dict[str, ModuleType] = {"http": tritonclient.http, "grpc": tritonclient.grpc}

Array = npt.NDArray[Any]
Given = Array | tuple[Array, str]
"""An input: an array, or one with the datatype where numpy's does not tell."""


def inputs_of(module: ModuleType, given: Mapping[str, Given]) -> list[Any]:
    """``InferInput`` objects of a client module."""
    inputs = []
    for name, value in given.items():
        array, datatype = value if isinstance(value, tuple) else (value, np_to_triton_dtype(value.dtype))
        tensor = module.InferInput(name, array.shape, datatype)
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


class Client:
    """A connection of ``tritonclient``; a context manager."""

    def __init__(self, protocol: str, server: Served) -> None:
        self.protocol = protocol
        self.module = MODULES[protocol]
        self.url = server.http_url if protocol == "http" else server.grpc_url
        self.raw = self.module.InferenceServerClient(self.url)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.raw.close()

    def infer(
        self, model: str, given: Mapping[str, Given], outputs: Sequence[str] | None = None, **options: Any
    ) -> Any:
        """The client's result object."""
        if outputs is not None:
            options["outputs"] = [self.module.InferRequestedOutput(name) for name in outputs]
        return self.raw.infer(model, inputs_of(self.module, given), **options)

    def statistics(self, model: str) -> dict[str, Any]:
        """Of a model with one version; over gRPC 64-bit numbers are strings in JSON, here they are numbers."""
        if self.protocol == "http":
            [entry] = self.raw.get_inference_statistics(model)["model_stats"]
        else:
            [entry] = self.raw.get_inference_statistics(model, as_json=True)["model_stats"]
        return {
            "inference_count": int(entry.get("inference_count", 0)),
            "execution_count": int(entry.get("execution_count", 0)),
            "success": int(entry["inference_stats"]["success"].get("count", 0)),
            "fail": int(entry["inference_stats"]["fail"].get("count", 0)),
        }


def described(result: Any) -> dict[str, Any]:
    """What a result says beside its tensors: id, model, version, names of outputs, parameters."""
    response = result.get_response()
    if isinstance(response, dict):
        return {
            "id": response.get("id", ""),
            "model_name": response["model_name"],
            "model_version": response["model_version"],
            "outputs": [output["name"] for output in response["outputs"]],
            "parameters": response.get("parameters", {}),
        }
    return {
        "id": response.id,
        "model_name": response.model_name,
        "model_version": response.model_version,
        "outputs": [output.name for output in response.outputs],
        "parameters": {
            key: getattr(value, value.WhichOneof("parameter_choice")) for key, value in response.parameters.items()
        },
    }


def facts(result: Any) -> dict[str, Any]:
    """The answer of a model made of ``models/facts.py``."""
    document = json.loads(result.as_numpy("FACTS").item())
    assert isinstance(document, dict)
    return document
