"""The helper functions models call: look-ups by name in requests, responses and configurations."""

from typing import Any, Dict, Optional, Sequence

import numpy as np

from triton_python_backend_utils._errors import TritonModelException
from triton_python_backend_utils._host import get_host
from triton_python_backend_utils._request import InferenceRequest
from triton_python_backend_utils._response import InferenceResponse
from triton_python_backend_utils._tensor import Tensor

__all__ = [
    "batch_as_numpy",
    "get_input_config_by_name",
    "get_input_tensor_by_name",
    "get_model_dir",
    "get_output_config_by_name",
    "get_output_tensor_by_name",
    "using_decoupled_model_transaction_policy",
]


def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Optional[Tensor]:
    """The request's first input called ``name``, or None."""
    for tensor in inference_request._inputs:
        if tensor._name == name:
            return tensor
    return None


def batch_as_numpy(requests: Sequence[InferenceRequest], name: str) -> "np.ndarray[Any, Any]":
    """The input ``name`` of all requests of a batch as one array, joined along the first axis in their order.

    That of a single request is its array itself; several are copied. Raises TritonModelException when one lacks it.
    """
    arrays = []
    for request in requests:
        tensor = get_input_tensor_by_name(request, name)
        if tensor is None:
            raise TritonModelException(f"request '{request.request_id()}' has no input '{name}'")
        arrays.append(tensor.as_numpy())
    if not arrays:
        raise TritonModelException(f"there is no request to take input '{name}' from")
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def get_output_tensor_by_name(inference_response: InferenceResponse, name: str) -> Optional[Tensor]:
    """The response's first output called ``name``, or None."""
    for tensor in inference_response._output_tensors:
        if tensor._name == name:
            return tensor
    return None


def get_input_config_by_name(model_config: Dict[str, Any], name: str) -> Optional[Dict[str, Any]]:
    """The entry of ``model_config["input"]`` called ``name``, or None."""
    return _entry(model_config, "input", name)


def get_output_config_by_name(model_config: Dict[str, Any], name: str) -> Optional[Dict[str, Any]]:
    """The entry of ``model_config["output"]`` called ``name``, or None."""
    return _entry(model_config, "output", name)


def _entry(model_config: Dict[str, Any], key: str, name: str) -> Optional[Dict[str, Any]]:
    for entry in model_config.get(key, ()):
        if entry["name"] == name:
            found: Dict[str, Any] = entry
            return found
    return None


def using_decoupled_model_transaction_policy(model_config: Dict[str, Any]) -> bool:
    """Whether the configuration says ``decoupled``. KeyError when its transaction policy lacks the key."""
    if "model_transaction_policy" not in model_config:
        return False
    return bool(model_config["model_transaction_policy"]["decoupled"])


def get_model_dir() -> str:
    """The directory that holds the model's file: ``<model directory>/<version>``."""
    return get_host().model_dir
