"""What a ``model.py`` imports as ``pb_utils``: tensors, requests, responses, errors and helpers.

Import-compatible with the module of the same name in Triton's Python backend. Inside a stub all of it works; outside
one (a unit test, a notebook) everything works that needs no server.

See also: ``c_python_backend_utils`` for the types that models rarely name, ``testing`` to run a model in a plain test.
"""

from triton_python_backend_utils._control import is_model_ready, load_model, unload_model
from triton_python_backend_utils._dtypes import (
    TRITON_STRING_TO_NUMPY,
    deserialize_bytes_tensor,
    numpy_to_triton_type,
    serialize_byte_tensor,
    triton_string_to_numpy,
    triton_to_numpy_type,
)
from triton_python_backend_utils._errors import TritonError, TritonModelException
from triton_python_backend_utils._helpers import (
    batch_as_numpy,
    get_input_config_by_name,
    get_input_tensor_by_name,
    get_model_dir,
    get_output_config_by_name,
    get_output_tensor_by_name,
    using_decoupled_model_transaction_policy,
)
from triton_python_backend_utils._logger import Logger
from triton_python_backend_utils._metrics import MetricFamily
from triton_python_backend_utils._model_config import ModelConfig
from triton_python_backend_utils._preferred_memory import MemoryType as _MemoryType
from triton_python_backend_utils._preferred_memory import PreferredMemory
from triton_python_backend_utils._request import InferenceRequest
from triton_python_backend_utils._response import InferenceResponse
from triton_python_backend_utils._tensor import Tensor

TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 2
TRITONSERVER_REQUEST_RELEASE_ALL = 1
TRITONSERVER_REQUEST_RELEASE_RESCHEDULE = 2
TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
TRITONSERVER_MEMORY_GPU = _MemoryType.TRITONSERVER_MEMORY_GPU
TRITONSERVER_MEMORY_CPU = _MemoryType.TRITONSERVER_MEMORY_CPU

__all__ = [
    "InferenceRequest",
    "InferenceResponse",
    "Logger",
    "MetricFamily",
    "ModelConfig",
    "PreferredMemory",
    "TRITONSERVER_MEMORY_CPU",
    "TRITONSERVER_MEMORY_GPU",
    "TRITONSERVER_REQUEST_FLAG_SEQUENCE_END",
    "TRITONSERVER_REQUEST_FLAG_SEQUENCE_START",
    "TRITONSERVER_REQUEST_RELEASE_ALL",
    "TRITONSERVER_REQUEST_RELEASE_RESCHEDULE",
    "TRITONSERVER_RESPONSE_COMPLETE_FINAL",
    "TRITON_STRING_TO_NUMPY",
    "Tensor",
    "TritonError",
    "TritonModelException",
    "batch_as_numpy",
    "deserialize_bytes_tensor",
    "get_input_config_by_name",
    "get_input_tensor_by_name",
    "get_model_dir",
    "get_output_config_by_name",
    "get_output_tensor_by_name",
    "is_model_ready",
    "load_model",
    "numpy_to_triton_type",
    "serialize_byte_tensor",
    "triton_string_to_numpy",
    "triton_to_numpy_type",
    "unload_model",
    "using_decoupled_model_transaction_policy",
]
