"""The original's compiled module, which some models import for the types that ``pb_utils`` does not name."""

from triton_python_backend_utils import (
    TRITONSERVER_MEMORY_CPU,
    TRITONSERVER_MEMORY_GPU,
    InferenceRequest,
    InferenceResponse,
    Logger,
    MetricFamily,
    PreferredMemory,
    Tensor,
    TritonError,
    TritonModelException,
)
from triton_python_backend_utils._iterator import ResponseIterator
from triton_python_backend_utils._metrics import Metric, MetricKind
from triton_python_backend_utils._preferred_memory import MemoryType
from triton_python_backend_utils._sender import InferenceResponseSender
from triton_python_backend_utils._trace import InferenceTrace

__all__ = [
    "InferenceRequest",
    "InferenceResponse",
    "InferenceResponseSender",
    "InferenceTrace",
    "Logger",
    "MemoryType",
    "Metric",
    "MetricFamily",
    "MetricKind",
    "PreferredMemory",
    "ResponseIterator",
    "TRITONSERVER_MEMORY_CPU",
    "TRITONSERVER_MEMORY_GPU",
    "Tensor",
    "TritonError",
    "TritonModelException",
]
