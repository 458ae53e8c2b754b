"""The exceptions of the API, and which of the core's error codes each stands for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from atoll.errors import Code, ServerError

__all__ = [
    "AlreadyExistsError",
    "InternalError",
    "InvalidArgumentError",
    "NotFoundError",
    "TritonError",
    "UnavailableError",
    "UnknownError",
    "UnsupportedError",
    "error_of",
    "translated",
]


class TritonError(Exception):
    """Whatever goes wrong in the server."""

    __module__ = "tritonserver"

    def __str__(self) -> str:
        """The message, without the response that may be in ``args`` behind it."""
        return str(self.args[0]) if self.args else ""


class UnknownError(TritonError):
    __module__ = "tritonserver"


class InternalError(TritonError):
    __module__ = "tritonserver"


class NotFoundError(TritonError):
    __module__ = "tritonserver"


class InvalidArgumentError(TritonError):
    __module__ = "tritonserver"


class UnavailableError(TritonError):
    __module__ = "tritonserver"


class UnsupportedError(TritonError):
    __module__ = "tritonserver"


class AlreadyExistsError(TritonError):
    __module__ = "tritonserver"


_BY_CODE: dict[Code, type[TritonError]] = {
    Code.UNKNOWN: UnknownError,
    Code.INTERNAL: InternalError,
    Code.NOT_FOUND: NotFoundError,
    Code.INVALID_ARG: InvalidArgumentError,
    Code.UNAVAILABLE: UnavailableError,
    Code.UNSUPPORTED: UnsupportedError,
    Code.ALREADY_EXISTS: AlreadyExistsError,
    Code.CANCELLED: UnknownError,  # the original has no class for it
}


def error_of(error: ServerError) -> TritonError:
    """The core's error as the API raises it."""
    return _BY_CODE[error.code](error.message)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Errors of the core leave the block as the API's."""
    try:
        yield
    except ServerError as error:
        raise error_of(error) from None
