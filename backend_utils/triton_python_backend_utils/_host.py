"""The seam between ``pb_utils`` and whatever runs the model: a stub process, or a test.

One process runs one model's code, so the host is the one module-level variable here, set once by the stub.
"""

from typing import TYPE_CHECKING, Optional, Protocol

from triton_python_backend_utils._errors import TritonModelException

if TYPE_CHECKING:
    from triton_python_backend_utils._request import InferenceRequest
    from triton_python_backend_utils._response import InferenceResponse

__all__ = ["Host", "get_host", "set_host"]


class Host(Protocol):
    """What a model may ask of the process it runs in."""

    model_dir: str

    def infer(self, request: "InferenceRequest") -> "InferenceResponse":
        """Execute a request on another model and wait for its response."""
        ...


_host: Optional[Host] = None


def set_host(host: Optional[Host]) -> None:
    global _host
    _host = host


def get_host() -> Host:
    if _host is None:
        raise TritonModelException("This call needs a running server: it works inside a model that Atoll serves.")
    return _host
