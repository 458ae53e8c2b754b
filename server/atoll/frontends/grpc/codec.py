"""Requests: ``ModelInferRequest`` to :class:`atoll.inference.Request`, and every refusal that gRPC adds to the core's.

What the client asked about the form of its responses is noted in a :class:`~atoll.frontends.grpc.reply.Reply`.
Model, input and output names, shapes and sizes are checked by the core.
See also: ``wire`` and ``contents`` for the tensor bytes, ``reply`` for the way back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from atoll_ipc.dtypes import BY_NAME
from google.protobuf.message import DecodeError

from atoll.core.regions import Regions, RegionSpan
from atoll.errors import Code, ServerError
from atoll.frontends.grpc.contents import pack_contents
from atoll.frontends.grpc.reply import Reply
from atoll.frontends.grpc.wire import Buffer
from atoll.inference import SEQUENCE_END, SEQUENCE_START, Parameter, Request, Response, Tensor, TensorData

__all__ = ["decode_request", "parse"]

_MAX_UINT64 = (1 << 64) - 1
_EMPTY_FINAL = "triton_enable_empty_final_response"
_CUSTOM = ("bool_param", "int64_param", "string_param", "double_param")


def parse(kind: Any, body: Buffer) -> Any:
    """The message of class ``kind`` that ``body`` holds."""
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise ServerError(Code.INVALID_ARG, f"failed to parse the request message: {error}") from None


def decode_request(
    message: Any, raw: Any, request_id: str, reply: Reply, respond: Callable[[Response], None], regions: Regions
) -> Request:
    """The request that the client means, to the version that ``reply`` names. Fills ``reply``."""
    # The version by number also where the client left it open: a reload must not send a cancellation elsewhere.
    request = Request(message.model_name, [], respond, model_version=reply.model.version, id=request_id)
    if message.parameters:
        _decode_parameters(message.parameters, request, reply)
    request.inputs = _decode_inputs(message, raw, regions)
    if message.outputs:
        request.outputs = _decode_outputs(message.outputs, reply)
        if reply.regions:
            regions.redirect(request, reply.regions)
    return request


def _decode_parameters(parameters: Any, request: Request, reply: Reply) -> None:
    custom: dict[str, Parameter] = {}
    for key, value in parameters.items():
        kind = value.WhichOneof("parameter_choice")
        if key == "sequence_id":
            if kind == "int64_param":
                request.correlation_id = value.int64_param & _MAX_UINT64
            elif kind == "string_param":
                request.correlation_id = value.string_param
            else:
                raise _wrong_type(key, "int64_param or string_param.")
        elif key == "sequence_start":
            if _bool(key, value, kind):
                request.flags |= SEQUENCE_START
        elif key == "sequence_end":
            if _bool(key, value, kind):
                request.flags |= SEQUENCE_END
        elif key == "priority":
            if kind not in ("int64_param", "uint64_param"):
                raise _wrong_type(key, "int64_param or uint64_param.")
            request.priority = _not_negative(key, getattr(value, kind))
        elif key == "timeout":
            if kind != "int64_param":
                raise _wrong_type(key, "int64_param.")
            request.timeout_us = _not_negative(key, value.int64_param)
        elif key == _EMPTY_FINAL:
            reply.wants_empty_final = _bool(key, value, kind)
        elif key.startswith("triton_"):
            raise ServerError(
                Code.INVALID_ARG,
                "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys "
                f"starting with 'triton_' are allowed: {_EMPTY_FINAL}",
            )
        elif kind in _CUSTOM:
            custom[key] = getattr(value, kind)
        else:
            raise _wrong_type(key, "int64_param, bool_param, or string_param.")
    if custom:
        request.parameters = custom


def _wrong_type(key: str, expected: str) -> ServerError:
    return ServerError(Code.INVALID_ARG, f"invalid value type for '{key}' parameter, expected {expected}")


def _bool(key: str, value: Any, kind: str | None) -> bool:
    if kind != "bool_param":
        raise _wrong_type(key, "bool_param.")
    return bool(value.bool_param)


def _not_negative(key: str, value: int) -> int:
    if value < 0:
        raise ServerError(Code.INVALID_ARG, f"invalid value for '{key}', expected value >= 0.")
    return value


def _decode_inputs(message: Any, raw: Any, regions: Regions) -> list[Tensor]:
    """The inputs with their bytes; a view of the request's body where the client sent raw contents."""
    tensors: list[Tensor] = []
    entries = iter(raw)
    for tensor in message.inputs:
        name, datatype = tensor.name, tensor.datatype
        if datatype not in BY_NAME:
            datatype = "<invalid>"
        span = _region_span(tensor) if tensor.parameters else None
        data: TensorData | None
        if span is not None:
            if tensor.HasField("contents"):
                raise ServerError(
                    Code.INVALID_ARG,
                    f"unexpected 'content' provided when using shared memory for input tensor '{name}' "
                    f"for model '{message.model_name}'",
                )
            data = regions.data(span, datatype)
        elif raw:
            if tensor.HasField("contents"):
                raise ServerError(
                    Code.INVALID_ARG,
                    "contents field must not be specified when using raw_input_contents "
                    f"for '{name}' for model '{message.model_name}'",
                )
            data = next(entries, None)
        elif tensor.HasField("contents"):
            data = pack_contents(tensor.contents, datatype, name, message.model_name)
        else:
            data = None
        if data is None:
            raise ServerError(
                Code.INVALID_ARG,
                f"unable to find data for input tensor '{name}' for model '{message.model_name}' in request.",
            )
        tensors.append(Tensor(name, datatype, list(tensor.shape), data))
    return tensors


def _decode_outputs(outputs: Any, reply: Reply) -> list[str]:
    names: list[str] = []
    for output in outputs:
        names.append(output.name)
        if not output.parameters:
            continue
        span = _region_span(output)
        if "classification" in output.parameters:
            choice = output.parameters["classification"]
            if choice.WhichOneof("parameter_choice") != "int64_param":
                raise _wrong_type("classification", "int64_param")
            if choice.int64_param <= 0:
                raise ServerError(Code.INVALID_ARG, "invalid value for 'classification' parameter, expected >= 0")
            if span is not None:
                raise ServerError(Code.INVALID_ARG, "output can't set both 'shared_memory_region' and 'classification'")
            reply.classes[output.name] = choice.int64_param
        if span is not None:
            reply.regions[output.name] = span
    return names


def _region_span(tensor: Any) -> RegionSpan | None:
    """The part of a region that an input's or output's parameters name, once they are well-formed."""
    parameters = tensor.parameters
    region: str | None = None
    numbers = {"shared_memory_offset": 0, "shared_memory_byte_size": 0}
    if "shared_memory_region" in parameters:
        region = _tensor_parameter(tensor, "shared_memory_region", "string_param")
    for key in numbers:
        if key in parameters:
            if region is None:
                raise ServerError(
                    Code.INVALID_ARG,
                    f"'{key}' can not be specified without 'shared_memory_region' parameter for tensor '{tensor.name}'",
                )
            numbers[key] = _tensor_parameter(tensor, key, "int64_param") & _MAX_UINT64
    if region is None:
        return None
    if "shared_memory_byte_size" not in parameters:
        raise ServerError(
            Code.INVALID_ARG,
            "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter "
            f"for tensor '{tensor.name}'",
        )
    return RegionSpan(region, numbers["shared_memory_offset"], numbers["shared_memory_byte_size"])


def _tensor_parameter(tensor: Any, key: str, kind: str) -> Any:
    value = tensor.parameters[key]
    if value.WhichOneof("parameter_choice") != kind:
        raise ServerError(
            Code.INVALID_ARG, f"invalid value type for '{key}' parameter for tensor '{tensor.name}', expected {kind}."
        )
    return getattr(value, kind)
