"""Triton's in-process Python API over Atoll: import-compatible, with servers that live in this process.

Conversion and naming only; what works is in ``atoll.embedding`` and below.
"""

from atoll import __version__

from tritonserver._api._allocators import MemoryAllocator, default_memory_allocators
from tritonserver._api._dlpack import DLDeviceType
from tritonserver._api._memorybuffer import MemoryBuffer
from tritonserver._api._metrics import Metric, MetricFamily
from tritonserver._api._model import Model
from tritonserver._api._options import Options, RateLimiterResource
from tritonserver._api._request import InferenceRequest
from tritonserver._api._response import InferenceResponse
from tritonserver._api._server import Server
from tritonserver._api._tensor import Tensor
from tritonserver._c.enums import TRITONSERVER_DataType as DataType
from tritonserver._c.enums import TRITONSERVER_InstanceGroupKind as InstanceGroupKind
from tritonserver._c.enums import TRITONSERVER_LogFormat as LogFormat
from tritonserver._c.enums import TRITONSERVER_MemoryType as MemoryType
from tritonserver._c.enums import TRITONSERVER_MetricFormat as MetricFormat
from tritonserver._c.enums import TRITONSERVER_MetricKind as MetricKind
from tritonserver._c.enums import TRITONSERVER_ModelBatchFlag as ModelBatchFlag
from tritonserver._c.enums import TRITONSERVER_ModelControlMode as ModelControlMode
from tritonserver._c.enums import TRITONSERVER_ModelTxnPropertyFlag as ModelTxnPropertyFlag
from tritonserver._c.enums import TRITONSERVER_RateLimitMode as RateLimitMode
from tritonserver._c.errors import (
    AlreadyExistsError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    TritonError,
    UnavailableError,
    UnknownError,
    UnsupportedError,
)

__all__: list[str] = []
