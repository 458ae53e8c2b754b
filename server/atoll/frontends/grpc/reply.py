"""Responses: :class:`atoll.inference.Response` to serialized ``ModelInferResponse`` and ``ModelStreamInferResponse``.

Serialized messages come as parts, the tensors' bytes being views of where the model wrote them.
See also: ``codec`` for requests, ``wire`` for how raw contents are laid down.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from atoll_protos import messages

from atoll.core.regions import RegionSpan
from atoll.errors import Code, ServerError
from atoll.frontends.classification import classify
from atoll.frontends.grpc.wire import RAW_OUTPUT_TAG, STREAMED_RESPONSE_TAG, Parts, field_header, total_bytes
from atoll.inference import Response, Tensor, well_formed

if TYPE_CHECKING:
    from atoll.core.model import Model

__all__ = ["MAX_MESSAGE_BYTES", "Reply", "refusal", "single_answer", "stream_answer"]

MAX_MESSAGE_BYTES = 2**31 - 1

_FINAL = "triton_final_response"
_ID_TAG = 3 << 3 | 2  # ModelInferResponse.id


def _final_field(final: bool) -> bytes:
    message = messages.ModelInferResponse()
    message.parameters[_FINAL].bool_param = final
    field: bytes = message.SerializeToString()
    return field


_FINAL_FIELD = {final: _final_field(final) for final in (False, True)}


class Reply:
    """What the responses to one request shall look like. ``version`` is the model version as the client sent it."""

    __slots__ = ("classes", "model", "regions", "version", "wants_empty_final")

    def __init__(self, model: Model, version: str) -> None:
        self.model = model
        self.version = version
        self.classes: dict[str, int] = {}
        self.regions: dict[str, RegionSpan] = {}
        self.wants_empty_final = False


def single_answer(response: Response, reply: Reply) -> Parts:
    """A serialized ``ModelInferResponse``; the response is not an error."""
    return _encode(response, reply, None)


def stream_answer(response: Response, reply: Reply) -> Parts:
    """A serialized ``ModelStreamInferResponse``; an error goes in-band. Nothing for a final that is not wanted."""
    if response.error is not None:
        return _stream_error(response, reply, response.error)
    if response.empty:
        if not reply.wants_empty_final:
            return []
        empty = messages.ModelStreamInferResponse(infer_response=_without_data(response, reply))
        return [empty.SerializeToString()]
    try:
        parts = _encode(response, reply, response.final)
    except ServerError as error:
        return _stream_error(response, reply, error)
    return [field_header(STREAMED_RESPONSE_TAG, total_bytes(parts)), *parts]


def refusal(request_id: str, error: ServerError) -> Parts:
    """A serialized ``ModelStreamInferResponse`` for a request that was not accepted."""
    message = messages.ModelStreamInferResponse(error_message=error.message)
    message.infer_response.id = request_id
    return [message.SerializeToString()]


def _stream_error(response: Response, reply: Reply, error: ServerError) -> Parts:
    message = messages.ModelStreamInferResponse(
        error_message=error.message, infer_response=_without_data(response, reply)
    )
    return [message.SerializeToString()]


def _without_data(response: Response, reply: Reply) -> Any:
    message = messages.ModelInferResponse(
        model_name=response.model_name, model_version=reply.version, id=response.request.id
    )
    message.parameters[_FINAL].bool_param = response.final
    return message


def _encode(response: Response, reply: Reply, final: bool | None) -> Parts:
    if reply.classes or reply.regions or response.parameters:
        head, raw = _described(response, reply)
    else:
        description = tuple([(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in response.outputs])
        head = _plain_head(response.model_name, response.model_version, description)
        raw = []
        for tensor in response.outputs:
            raw += (field_header(RAW_OUTPUT_TAG, tensor.nbytes), tensor.buffer())
    # Fields may come in any order: what differs from response to response is appended.
    request_id = response.request.id.encode("utf-8", "replace")
    if request_id:
        head = b"".join((head, field_header(_ID_TAG, len(request_id)), request_id))
    if final is not None:
        head += _FINAL_FIELD[final]
    parts = [head, *raw]
    size = total_bytes(parts)
    if size > MAX_MESSAGE_BYTES:
        raise ServerError(
            Code.INVALID_ARG,
            f"Response has byte size {size} which exceeds gRPC's byte size limit {MAX_MESSAGE_BYTES}.",
        )
    return parts


@functools.lru_cache(maxsize=512)
def _plain_head(model_name: str, model_version: int, outputs: tuple[tuple[str, str, tuple[int, ...]], ...]) -> bytes:
    """What responses with outputs of the same names, types and shapes have in common."""
    message = messages.ModelInferResponse(model_name=model_name, model_version=str(model_version))
    for name, datatype, shape in outputs:
        message.outputs.add(name=name, datatype=datatype, shape=shape)
    head: bytes = message.SerializeToString()
    return head


def _described(response: Response, reply: Reply) -> tuple[bytes, Parts]:
    """The same with classes, outputs in clients' memory, or parameters; and the raw contents."""
    message = messages.ModelInferResponse(model_name=response.model_name, model_version=str(response.model_version))
    if response.parameters:
        _encode_parameters(message.parameters, response.parameters)
    raw: Parts = []
    for tensor in response.outputs:
        if tensor.name in reply.classes:
            tensor = _classified(tensor, reply)
        output = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if tensor.name in reply.regions:
            _tell_region(output.parameters, reply.regions[tensor.name], tensor.nbytes)
            raw.append(field_header(RAW_OUTPUT_TAG, 0))
        else:
            raw += (field_header(RAW_OUTPUT_TAG, tensor.nbytes), tensor.buffer())
    return message.SerializeToString(), raw


def _tell_region(target: Any, span: RegionSpan, nbytes: int) -> None:
    target["shared_memory_region"].string_param = span.region
    target["shared_memory_byte_size"].int64_param = nbytes
    target["shared_memory_offset"].int64_param = span.offset


def _encode_parameters(target: Any, parameters: dict[str, Any]) -> None:
    for name, value in parameters.items():
        key = well_formed(name)
        try:
            if isinstance(value, bool):
                target[key].bool_param = value
            elif isinstance(value, int):
                target[key].int64_param = value
            elif isinstance(value, float):
                target[key].double_param = value
            else:
                target[key].string_param = well_formed(value)
        except ValueError as error:  # an integer beyond 64 bits, a lone surrogate
            raise ServerError(Code.INTERNAL, f"response parameter '{key}' can not be sent: {error}") from None


def _classified(tensor: Tensor, reply: Reply) -> Tensor:
    model = reply.model
    labels = model.labels.get(tensor.name, ())
    return classify(tensor, reply.classes[tensor.name], model.max_batch_size > 0, labels)
