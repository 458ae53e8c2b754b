"""Typed access to the members of a client's JSON object, with the original's words for what is missing or wrong."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from atoll.errors import Code, ServerError
from atoll.inference import Parameter, well_formed

__all__ = [
    "ARRAY",
    "BOOLEAN",
    "MAX_INT64",
    "MemberType",
    "STRING",
    "UNSIGNED",
    "as_object",
    "custom_parameter",
    "invalid",
    "member",
    "string_member",
    "wrong_type",
]

MAX_INT64 = 2**63 - 1
_MAX_UINT64 = 2**64 - 1


class MemberType(NamedTuple):
    """One type that a member may have to have, and the words for a member that has not."""

    accepts: Callable[[Any], bool]
    complaint: str


ARRAY = MemberType(lambda value: type(value) is list, "non-array as array")
BOOLEAN = MemberType(lambda value: type(value) is bool, "non-boolean as boolean")
STRING = MemberType(lambda value: type(value) is str, "non-string as string")
UNSIGNED = MemberType(
    lambda value: type(value) is int and 0 <= value <= _MAX_UINT64, "non-unsigned-integer as unsigned-integer"
)


def as_object(value: object) -> Mapping[str, Any]:
    """``value`` if it is a JSON object; else one without members, since the original looks no closer."""
    return value if type(value) is dict else {}


def member(members: Mapping[str, Any], key: str, expected: MemberType) -> Any:
    """The required member ``key``."""
    try:
        value = members[key]
    except KeyError:
        raise invalid(f"Unable to parse '{key}': attempt to access non-existing object member '{key}'") from None
    if not expected.accepts(value):
        raise wrong_type(key, expected)
    return value


def string_member(members: Mapping[str, Any], key: str) -> str:
    """The required member ``key``, a string that can be encoded again."""
    return well_formed(member(members, key, STRING))


def custom_parameter(key: str, value: object) -> Parameter:
    """What a parameter that means nothing here is to the model."""
    if type(value) is int:
        return value if -MAX_INT64 - 1 <= value <= MAX_INT64 else float(value)
    if type(value) is str:
        return well_formed(value)
    if type(value) is bool or type(value) is float:
        return value
    raise invalid(f"parameter '{key}' has invalid type. It should be either 'int', 'bool', or 'string'.")


def wrong_type(key: str, expected: MemberType, action: str = "parse") -> ServerError:
    return invalid(f"Unable to {action} '{key}': attempt to access JSON {expected.complaint}")


def invalid(message: str) -> ServerError:
    return ServerError(Code.INVALID_ARG, message)
