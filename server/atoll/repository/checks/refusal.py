"""The error of every check here: the configuration is at fault."""

from atoll.errors import Code, ServerError

__all__ = ["invalid"]


def invalid(message: str) -> ServerError:
    return ServerError(Code.INVALID_ARG, message)
