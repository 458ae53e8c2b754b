"""The configuration as JSON: what the API shows, what ``initialize`` gets and what a load request may bring.

Differs from protobuf's own JSON in what the original differs in: every scalar, list and map is there even when it
holds its default, names are those of the ``.proto`` file, and 64-bit integers are numbers. Keys stand in order of
declaration.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import orjson
from atoll_protos import messages
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor

from atoll.errors import Code, ServerError

__all__ = ["from_json", "to_json"]


def to_json(message: Any) -> dict[str, Any]:
    """The message as a dict of JSON values; a message field that is not set is absent."""
    return {
        field.name: _field_to_json(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def from_json(source: str | bytes | Mapping[str, Any], *, only: Collection[str] | None = None) -> Any:
    """A ``ModelConfig`` message from JSON text or its dict. A field that does not exist is an error.

    ``only`` names the top-level fields to read; the others are passed over, be they known or not.
    """
    try:
        content = orjson.loads(source) if isinstance(source, (str, bytes)) else source
    except orjson.JSONDecodeError as error:
        raise _failure(str(error)) from error
    if not isinstance(content, Mapping):
        raise _failure("it is not a JSON object")
    wanted = {key: value for key, value in content.items() if only is None or key in only}
    try:
        return json_format.ParseDict(wanted, messages.ModelConfig())
    except json_format.ParseError as error:
        # The further lines list every field that does exist.
        raise _failure(str(error).splitlines()[0]) from error


def _field_to_json(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        item = field.message_type.fields_by_name["value"]
        return {str(key): _value_to_json(item, value[key]) for key in sorted(value)}
    if field.has_presence or isinstance(value, (str, bytes, int, float)):
        return _value_to_json(field, value)
    return [_value_to_json(field, item) for item in value]


def _value_to_json(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        return to_json(value)
    if field.enum_type is not None:
        # proto3 enums are open: a number without a name is kept as a number.
        known = field.enum_type.values_by_number.get(value)
        return value if known is None else known.name
    if isinstance(value, float):
        return _float_to_json(field, value)
    return value


def _float_to_json(field: FieldDescriptor, value: float) -> float | str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    # The fewest digits that give the same 32-bit float: 0.1, where a double would print 0.10000000149011612.
    return float(str(np.float32(value))) if field.type == FieldDescriptor.TYPE_FLOAT else value


def _failure(reason: str) -> ServerError:
    return ServerError(Code.INVALID_ARG, f"invalid model configuration: {reason}")
