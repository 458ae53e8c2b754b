"""Every name of the low-level binding, where deployments import it from."""

from tritonserver._c.enums import *
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
from tritonserver._c.metrics import TRITONSERVER_Metric, TRITONSERVER_MetricFamily
from tritonserver._c.options import TRITONSERVER_ServerOptions
from tritonserver._c.server import (
    TRITONSERVER_LogIsEnabled,
    TRITONSERVER_LogMessage,
    TRITONSERVER_Server,
    api_version,
)
from tritonserver._c.values import (
    TRITONSERVER_BufferAttributes,
    TRITONSERVER_Message,
    TRITONSERVER_Metrics,
    TRITONSERVER_Parameter,
)
