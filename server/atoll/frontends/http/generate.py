"""Requests and responses of ``generate`` and ``generate_stream`` between JSON and the core's objects; no sockets.

A client gives scalars and flat lists without datatype or shape; both follow from the model's configuration. What is
no input of the model is a parameter. See also: ``generation``, for the life of such a request.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from atoll_ipc.dtypes import BY_NAME

from atoll.errors import ServerError
from atoll.frontends.http.codec import to_json
from atoll.frontends.http.json_reader import read_json
from atoll.frontends.http.members import custom_parameter, invalid
from atoll.frontends.http.plan import too_large
from atoll.frontends.http.raw_input import InputSpec, ServedModel
from atoll.frontends.http.tensor_json import data_to_bytes, tensor_to_json
from atoll.inference import Parameter, Request, Response, Tensor, well_formed

__all__ = ["read_request", "write_response"]

_NESTED = "parameters"


def read_request(
    model: ServedModel, body: bytes | memoryview, max_input_nbytes: int, respond: Callable[[Response], None]
) -> Request:
    """The request in ``body``. Raises ServerError."""
    if len(body) > max_input_nbytes:
        raise too_large(f"request size of {len(body)} bytes exceeds the maximum allowed input size", max_input_nbytes)
    document = read_json(body)
    if type(document) is not dict:
        raise invalid("attempt to get members for non-object")
    reader = _Reader(model, max_input_nbytes)
    for key, value in document.items():
        if key == _NESTED:
            reader.take_nested(value)
        else:
            reader.take(key, value)
    request_id = document.get("id")
    return Request(
        model.name,
        reader.inputs,
        respond,
        model_version=model.version,
        id=well_formed(request_id) if type(request_id) is str and "id" not in model.inputs else "",
        parameters=reader.parameters or None,
    )


class _Reader:
    """Sorts the members of a request into inputs and parameters."""

    def __init__(self, model: ServedModel, max_input_nbytes: int) -> None:
        self.inputs: list[Tensor] = []
        self.parameters: dict[str, Parameter] = {}
        self._model = model
        self._max_input_nbytes = max_input_nbytes
        self._nbytes = 0

    def take(self, key: str, value: object) -> None:
        spec = self._model.inputs.get(key)
        if spec is None:
            key = well_formed(key)
            self.parameters[key] = custom_parameter(key, value)
        else:
            self.inputs.append(self._tensor(key, spec, value))

    def take_nested(self, members: object) -> None:
        if _NESTED in self._model.inputs:
            raise invalid(f"Keyword '{_NESTED}' for nested schema also given as input tensor name")
        if type(members) is not dict:
            raise invalid(f"Expected JSON object for keyword: '{_NESTED}': attempt to access JSON non-object as object")
        try:
            for key, value in members.items():
                self.take(key, value)
        except ServerError as error:
            raise ServerError(error.code, f"Converting keyword: '{_NESTED}': {error.message}") from None

    def _tensor(self, name: str, spec: InputSpec, value: object) -> Tensor:
        elements: list[Any] = value if type(value) is list else [value]
        dims = (-1, *spec.dims) if self._model.max_batch_size > 0 else spec.dims
        shape = _fitting_shape(name, dims, len(elements))
        datatype = spec.datatype
        if datatype in ("FP16", "BF16"):
            raise invalid(
                f"receiving {datatype} data via JSON is not supported. Please use the binary data format for input "
                f"{name}"
            )
        self._check_size(name, len(elements) * BY_NAME[datatype].itemsize)
        if any(type(element) is list for element in elements):
            raise invalid("Unable to parse 'data': Shape does not match true shape of 'data' field")
        data = data_to_bytes(datatype, elements, len(elements))
        self._nbytes += len(data)
        return Tensor(name, datatype, shape, data)

    def _check_size(self, name: str, nbytes: int) -> None:
        total = self._nbytes + nbytes
        if total > self._max_input_nbytes:
            raise too_large(
                f"request size of {total} bytes with input '{name}' of size {nbytes} bytes exceeds the maximum allowed "
                "input size",
                self._max_input_nbytes,
            )


def _fitting_shape(name: str, dims: Sequence[int], count: int) -> tuple[int, ...]:
    """The shape of ``count`` elements: the innermost wildcard takes them, any other is 1."""
    shape = [1 if dim == -1 else dim for dim in dims]
    fixed = math.prod(shape)
    if -1 in dims:
        if fixed == 0 or count % fixed:
            raise _unfit(name)
        innermost = len(dims) - 1 - list(reversed(dims)).index(-1)
        shape[innermost] = count // fixed
    elif count != fixed:
        raise _unfit(name)
    return tuple(shape)


def _unfit(name: str) -> ServerError:
    return invalid(f"The schema can not convert input '{name}' to tensor with proper shape")


def write_response(response: Response) -> bytes:
    """One response as a JSON object with its keys in order. Raises ServerError for data that have no JSON form."""
    members = {key: to_json(value) for key, value in (response.parameters or {}).items()}
    for output in response.outputs:
        text = tensor_to_json(output.datatype, output.buffer())
        members[output.name] = text[1:-1] if math.prod(output.shape) == 1 else text
    members["model_name"] = to_json(response.model_name)
    members["model_version"] = b'"%d"' % response.model_version
    if response.request.id:
        members["id"] = to_json(response.request.id)
    return b"{%b}" % b",".join(b"%b:%b" % (to_json(key), members[key]) for key in sorted(members))
