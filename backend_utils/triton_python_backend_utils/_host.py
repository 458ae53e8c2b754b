"""The seam between ``pb_utils`` and whatever runs the model: a stub process, or a test.

One process runs one model's code, so the host is the one module-level variable here, set once by the stub.
"""

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Iterator, Optional, Protocol

from triton_python_backend_utils._errors import TritonModelException

if TYPE_CHECKING:
    from triton_python_backend_utils._iterator import ResponseSource
    from triton_python_backend_utils._request import InferenceRequest
    from triton_python_backend_utils._response import InferenceResponse

__all__ = ["Host", "get_host", "hosting", "log_through_host", "set_host"]


class Host(Protocol):
    """What a model may ask of the process it runs in."""

    model_dir: str

    def infer(self, request: "InferenceRequest") -> "InferenceResponse":
        """Execute a request on another model and wait for its response."""
        ...

    def stream(self, request: "InferenceRequest") -> "ResponseSource":
        """Execute a request on another model that may give any number of responses."""
        ...

    def log(self, level: int, origin: str, text: str) -> None:
        """Write a line to the server's log."""
        ...

    def ask(self, topic: str, *arguments: Any) -> Any:
        """Ask the server for something of a model's: metrics, model control. Raises :class:`TritonModelException`."""
        ...

    def tell(self, topic: str, *arguments: Any) -> None:
        """The same, without waiting for an answer; may be called by a finalizer."""
        ...


_host: Optional[Host] = None


def set_host(host: Optional[Host]) -> None:
    global _host
    _host = host


@contextlib.contextmanager
def hosting(host: Host) -> Iterator[None]:
    """With this host instead of the current one."""
    before = _host
    set_host(host)
    try:
        yield
    finally:
        set_host(before)


def get_host() -> Host:
    if _host is None:
        raise TritonModelException("This call needs a running server: it works inside a model that Atoll serves.")
    return _host


def log_through_host(level: int, origin: str, text: str) -> None:
    """To the server's log; where there is none (yet), to stderr in the form of the server's lines."""
    if _host is not None:
        _host.log(level, origin, text)
        return
    now = time.time()
    stamp = time.strftime("%m%d %H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1_000_000):06d}"
    print(f"{'IWEI'[level]}{stamp} {os.getpid()} {origin}]  {text}", file=sys.stderr)
