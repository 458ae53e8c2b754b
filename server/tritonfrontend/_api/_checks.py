"""Options that check themselves when they are made, and the errors they raise then."""

from __future__ import annotations

from typing import Any

from atoll.frontends.forwarding import compile_pattern
from tritonserver._c.errors import InvalidArgumentError

from tritonfrontend._api._restricted import RestrictedFeatures

__all__ = ["InvalidOption", "check_bool", "check_features", "check_number", "check_pattern", "check_port", "check_text"]

_MAX_PORT = 65535


class InvalidOption(InvalidArgumentError, ValueError):
    """An option that cannot be; to programs that expect the original's validation errors, a ValueError."""


def check_number(name: str, value: Any, least: int = 0, most: int | None = None) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidOption(f"{name} must be an integer, got {value!r}")
    if value < least or (most is not None and value > most):
        limit = f">= {least}" if most is None else f"in range [{least}, {most}]"
        raise InvalidOption(f"{name} must be {limit}, got {value}")


def check_port(value: Any) -> None:
    check_number("port", value, 0, _MAX_PORT)


def check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise InvalidOption(f"{name} must be a string, got {value!r}")


def check_bool(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise InvalidOption(f"{name} must be a bool, got {value!r}")


def check_pattern(name: str, value: Any) -> None:
    check_text(name, value)
    try:
        compile_pattern(value)
    except ValueError as error:
        raise InvalidOption(f"{name} is no regular expression: {error}") from None


def check_features(value: Any) -> None:
    if value is not None and not isinstance(value, RestrictedFeatures):
        raise InvalidOption("restricted_features needs an instance of RestrictedFeatures.")
