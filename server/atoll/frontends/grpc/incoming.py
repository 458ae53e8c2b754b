"""Infer requests as they come: read, and where they are plain, by what is known of others like them.

A client that asks again mostly changes the data and perhaps the id. What else its message says is kept as a *plan*
under the message's own bytes; such a request is neither parsed again nor, since its plan carries a form, checked again
by the core.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from atoll_ipc.dtypes import BY_NAME
from atoll_protos import messages

from atoll.core.regions import Regions
from atoll.errors import Code, ServerError
from atoll.frontends.grpc.codec import decode_request, parse
from atoll.frontends.grpc.reply import Reply
from atoll.frontends.grpc.wire import Buffer, Take, cut_request
from atoll.inference import Form, Request, Response, Tensor, TensorData

if TYPE_CHECKING:
    from atoll.core.model import Model

__all__ = ["Incoming", "RequestReader"]

_MAX_PLANS = 512
_LONGEST_KNOWN_NBYTES = 4096


class Incoming:
    """One request. ``plan`` is None for one that is not plain."""

    __slots__ = ("_message", "_plan", "_raw", "id", "model_name", "model_version")

    def __init__(self, message: Any, raw: Any, request_id: str, plan: _Plan | None) -> None:
        source = message if plan is None else plan
        self.model_name: str = source.model_name
        self.model_version: str = source.model_version
        self.id = request_id
        self._message = message
        self._raw = raw
        self._plan = plan

    def decode(self, reply: Reply, respond: Callable[[Response], None], regions: Regions) -> Request:
        """The request that the client means, to the model that ``reply`` names. Fills ``reply``. Raises ServerError."""
        if self._plan is not None:
            return self._plan.request(self._raw, self.id, reply.model, respond)
        return decode_request(self._message, self._raw, self.id, reply, respond, regions)


class RequestReader:
    """Reads ``ModelInferRequest``; keeps the plans."""

    def __init__(self) -> None:
        self._plans: dict[tuple[bytes, tuple[int, ...]], _Plan] = {}

    def read(self, body: Buffer, take: Take | None = None) -> Incoming:
        """Raises ServerError for a body that is none. ``take`` as for ``cut_request``."""
        cut = cut_request(body, take)
        if cut is None:
            message = parse(messages.ModelInferRequest, bytes(body))
            return Incoming(message, message.raw_input_contents, message.id, None)
        head, id_bytes, raw = cut
        try:
            request_id = id_bytes.decode()
        except UnicodeDecodeError as error:
            raise ServerError(Code.INVALID_ARG, f"failed to parse the request message: id: {error}") from None
        key = (head, tuple([_nbytes(data) for data in raw]))
        plan = self._plans.get(key)
        if plan is not None:
            return Incoming(None, raw, request_id, plan)
        message = parse(messages.ModelInferRequest, head)
        if len(head) <= _LONGEST_KNOWN_NBYTES and _is_plain(message, raw):
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            plan = self._plans[key] = _Plan(message)
        return Incoming(message, raw, request_id, plan)


class _Plan:
    """What a plain request says but for its id and data."""

    __slots__ = ("_form", "_inputs", "_model", "_outputs", "model_name", "model_version")

    def __init__(self, message: Any) -> None:
        self.model_name: str = message.model_name
        self.model_version: str = message.model_version
        self._inputs = [
            (tensor.name, tensor.datatype if tensor.datatype in BY_NAME else "<invalid>", tuple(tensor.shape))
            for tensor in message.inputs
        ]
        self._outputs = [output.name for output in message.outputs]
        self._form = Form()
        self._model: weakref.ref[Model] | None = None

    def request(
        self, raw: Sequence[TensorData], request_id: str, model: Model, respond: Callable[[Response], None]
    ) -> Request:
        if self._model is None or self._model() is not model:  # reloaded: to be checked anew
            self._model = weakref.ref(model)
            self._form = Form()
        return Request(
            self.model_name,
            [Tensor(*fields, data) for fields, data in zip(self._inputs, raw, strict=True)],
            respond,
            model_version=model.version,
            id=request_id,
            outputs=self._outputs,
            form=self._form,
        )


def _is_plain(message: Any, raw: Sequence[TensorData]) -> bool:
    """No parameters anywhere, and raw contents for every input."""
    tensors = (*message.inputs, *message.outputs)
    return (
        len(raw) == len(message.inputs)
        and not message.parameters
        and not any(tensor.parameters for tensor in tensors)
        and not any(tensor.HasField("contents") for tensor in message.inputs)
    )


def _nbytes(data: TensorData) -> int:
    return len(data) if isinstance(data, (bytes, bytearray)) else data.nbytes
