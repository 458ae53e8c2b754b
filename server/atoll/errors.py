"""Errors a client may see, and the one table that maps them to HTTP and gRPC.

Owns the eight error codes of the original's C API. A frontend renders them; nothing below knows a status number.
"""

import enum
import logging

__all__ = ["Code", "ServerError", "GRPC_STATUS", "HTTP_STATUS", "unforeseen"]

_log = logging.getLogger(__name__)


class Code(enum.IntEnum):
    """Error codes, numbered as ``TRITONSERVER_Error_Code``; the same numbers cross to the stub."""

    UNKNOWN = 0
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    UNSUPPORTED = 5
    ALREADY_EXISTS = 6
    CANCELLED = 7

    @property
    def title(self) -> str:
        """The code as the original prints it in logs and in load errors, such as ``Invalid argument``."""
        return _TITLES[self]


_TITLES = {
    Code.UNKNOWN: "Unknown",
    Code.INTERNAL: "Internal",
    Code.NOT_FOUND: "Not found",
    Code.INVALID_ARG: "Invalid argument",
    Code.UNAVAILABLE: "Unavailable",
    Code.UNSUPPORTED: "Unsupported",
    Code.ALREADY_EXISTS: "Already exists",
    Code.CANCELLED: "Cancelled",
}

HTTP_STATUS: dict[Code, int] = {
    Code.UNKNOWN: 400,
    Code.INTERNAL: 500,
    Code.NOT_FOUND: 404,
    Code.INVALID_ARG: 400,
    Code.UNAVAILABLE: 503,
    Code.UNSUPPORTED: 501,
    Code.ALREADY_EXISTS: 400,
    Code.CANCELLED: 400,
}

GRPC_STATUS: dict[Code, str] = {
    Code.UNKNOWN: "UNKNOWN",
    Code.INTERNAL: "INTERNAL",
    Code.NOT_FOUND: "NOT_FOUND",
    Code.INVALID_ARG: "INVALID_ARGUMENT",
    Code.UNAVAILABLE: "UNAVAILABLE",
    Code.UNSUPPORTED: "UNIMPLEMENTED",
    Code.ALREADY_EXISTS: "ALREADY_EXISTS",
    Code.CANCELLED: "CANCELLED",
}


class ServerError(Exception):
    """A failure that is an answer: ``code`` says whose fault it is, ``message`` is what the client reads."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code.title}: {self.message}"


def unforeseen(error: Exception) -> ServerError:
    """What a client is told of an exception that is a defect of the server's; the log has its traceback."""
    _log.error("a request met a defect of the server", exc_info=error)
    return ServerError(Code.INTERNAL, f"{type(error).__name__}: {error}")
