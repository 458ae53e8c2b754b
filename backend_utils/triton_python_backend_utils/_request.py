"""``InferenceRequest``: received by ``execute``, or made by a model to call another (BLS)."""

import json
from typing import Any, Dict, List, Optional, Sequence, Set, Union

from triton_python_backend_utils._arguments import integer, sequence, text
from triton_python_backend_utils._errors import TritonModelException
from triton_python_backend_utils._host import get_host
from triton_python_backend_utils._parameters import check_parameters
from triton_python_backend_utils._response import InferenceResponse
from triton_python_backend_utils._tensor import Tensor

__all__ = ["InferenceRequest"]

_UINT64 = (1 << 64) - 1


class InferenceRequest:
    """A request to a model.

    Built by a model to call another one: ``model_name``, ``requested_output_names`` and ``inputs`` are required;
    ``model_version`` -1 is the latest that is ready; ``timeout`` is in microseconds, 0 for none; an empty
    ``requested_output_names`` asks for all outputs. Raises TypeError for a wrong type, :class:`TritonModelException`
    for an empty element.
    """

    __slots__ = (
        "__weakref__",
        "_correlation_id",
        "_flags",
        "_inputs",
        "_model_name",
        "_model_version",
        "_parameters",
        "_request_id",
        "_requested_output_names",
        "_timeout",
    )

    def __init__(
        self,
        request_id: str = "",
        correlation_id: Union[int, str] = 0,
        inputs: Optional[Sequence[Tensor]] = None,
        requested_output_names: Optional[Sequence[str]] = None,
        model_name: Optional[str] = None,
        model_version: int = -1,
        flags: int = 0,
        timeout: int = 0,
        preferred_memory: Any = None,
        trace: Any = None,
        parameters: Optional[Dict[str, Any]] = None,
    ) -> None:
        self._request_id = text(request_id, "request_id")
        self._model_name = text(model_name, "model_name")
        self._inputs: List[Tensor] = sequence(inputs, "inputs")
        self._requested_output_names: Sequence[str] = [
            text(name, "requested_output_names") for name in sequence(requested_output_names, "requested_output_names")
        ]
        self._model_version = integer(model_version, "model_version", -(1 << 63), (1 << 63) - 1)
        self._flags = integer(flags, "flags", 0, (1 << 32) - 1)
        self._timeout = integer(timeout, "timeout", 0, _UINT64)
        self._parameters = None if parameters is None else check_parameters(parameters)
        about = f"for request with id '{self._request_id}' and model name '{self._model_name}' should not be empty."
        for tensor in self._inputs:
            if tensor is None:
                raise TritonModelException(f"Input tensor {about}")
            if not isinstance(tensor, Tensor):
                raise TypeError(f"inputs must hold Tensor objects, not {type(tensor).__name__}")
        if "" in self._requested_output_names:
            raise TritonModelException(f"Requested output name {about}")
        if correlation_id is None:
            raise TypeError("correlation_id must be an integer or a string, not None")
        if not isinstance(correlation_id, (int, str)):
            raise TritonModelException("Correlation ID must be integer or string")
        if isinstance(correlation_id, int) and not 0 <= correlation_id <= _UINT64:
            raise RuntimeError(f"correlation_id does not fit an unsigned 64-bit integer: {correlation_id}")
        self._correlation_id = correlation_id

    @classmethod
    def _received(cls, fields: List[Any], inputs: List[Tensor], all_outputs: Sequence[str]) -> "InferenceRequest":
        """A request that came in a message; ``fields`` as ``atoll_ipc.wire`` lists them."""
        request = cls.__new__(cls)
        (
            request._request_id,
            request._correlation_id,
            request._flags,
            request._timeout,
            request._parameters,
            requested,
            _,
        ) = fields
        request._requested_output_names = requested or all_outputs
        request._inputs = inputs
        request._model_name = ""
        request._model_version = -1
        return request

    def inputs(self) -> List[Tensor]:
        return list(self._inputs)

    def request_id(self) -> str:
        return self._request_id

    def correlation_id(self) -> Union[int, str]:
        return self._correlation_id

    def flags(self) -> int:
        """Sequence flags, a combination of ``TRITONSERVER_REQUEST_FLAG_SEQUENCE_START`` and ``…_END``."""
        return self._flags

    def set_flags(self, flags: int) -> None:
        self._flags = integer(flags, "flags", 0, (1 << 32) - 1)

    def timeout(self) -> int:
        """Microseconds the request may wait in a queue; 0 when its sender gave none."""
        return self._timeout

    def parameters(self) -> str:
        """The custom parameters as JSON text of an object."""
        return json.dumps(self._parameters) if self._parameters else "{}"

    def requested_output_names(self) -> Set[str]:
        return set(self._requested_output_names)

    def exec(self) -> InferenceResponse:
        """Execute this request on its model and wait for the response (BLS).

        Whatever goes wrong with the request is an error in the response. Raises :class:`TritonModelException` only
        where the model may not call others: before ``initialize`` has returned and in ``finalize``.
        """
        return get_host().infer(self)
