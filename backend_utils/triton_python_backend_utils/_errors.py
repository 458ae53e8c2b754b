"""``TritonError`` (a value in a response) and ``TritonModelException`` (raised)."""

import enum

from triton_python_backend_utils._arguments import text

__all__ = ["ErrorCode", "TritonError", "TritonModelException"]


class ErrorCode(enum.IntEnum):
    """Codes of a :class:`TritonError`, with the numbers of the original."""

    UNKNOWN = 0
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    UNSUPPORTED = 5
    ALREADY_EXISTS = 6
    CANCELLED = 7


class TritonError:
    """What went wrong with one request. Not an exception: it is put into an ``InferenceResponse``.

    The message reaches the client verbatim; the code decides the HTTP or gRPC status. (Codes: original 23.09.)
    """

    UNKNOWN = ErrorCode.UNKNOWN
    INTERNAL = ErrorCode.INTERNAL
    NOT_FOUND = ErrorCode.NOT_FOUND
    INVALID_ARG = ErrorCode.INVALID_ARG
    UNAVAILABLE = ErrorCode.UNAVAILABLE
    UNSUPPORTED = ErrorCode.UNSUPPORTED
    ALREADY_EXISTS = ErrorCode.ALREADY_EXISTS
    CANCELLED = ErrorCode.CANCELLED

    __slots__ = ("_code", "_message")

    def __init__(self, message: str, code: ErrorCode = ErrorCode.INTERNAL) -> None:
        if not isinstance(code, ErrorCode):
            raise TypeError(f"code must be one of TritonError's codes, not {type(code).__name__}")
        self._message = text(message, "message")
        self._code = code

    def message(self) -> str:
        """The text as it reaches the client."""
        return self._message

    def code(self) -> ErrorCode:
        """One of the codes that are attributes of this class; ``INTERNAL`` unless given."""
        return self._code


class TritonModelException(Exception):
    """Raised for wrong use of the API, and by models to fail the batch they are executing."""


# Users' logs and tests know it by the name of the original's compiled module.
TritonModelException.__module__ = "c_python_backend_utils"
