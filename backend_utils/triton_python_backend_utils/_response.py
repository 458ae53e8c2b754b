"""``InferenceResponse``: output tensors or an error, for one request."""

import json
from typing import Any, Dict, List, Optional, Sequence, Union

from triton_python_backend_utils._arguments import sequence
from triton_python_backend_utils._errors import TritonError, TritonModelException
from triton_python_backend_utils._parameters import check_parameters
from triton_python_backend_utils._tensor import Tensor

__all__ = ["InferenceResponse"]


class InferenceResponse:
    """The answer to one request. With an error, the output tensors are ignored.

    ``parameters`` (original 25.02) may hold bool, int and str values and reach the client with the response.
    """

    __slots__ = ("__weakref__", "_error", "_output_tensors", "_parameters")

    _parameters: Union[Dict[str, Any], str, None]

    def __init__(
        self,
        output_tensors: Sequence[Tensor] = (),
        error: Optional[TritonError] = None,
        parameters: Optional[Dict[str, Any]] = None,
    ) -> None:
        if type(output_tensors) is not list:
            output_tensors = sequence(output_tensors, "output_tensors")
        for tensor in output_tensors:
            if not isinstance(tensor, Tensor):
                if tensor is None:
                    raise TritonModelException("Output tensor for inference response should not be empty.")
                raise TypeError(f"output_tensors must hold Tensor objects, not {type(tensor).__name__}")
        if error is not None and not isinstance(error, TritonError):
            raise TypeError(f"error must be a TritonError or None, not {type(error).__name__}")
        self._output_tensors: List[Tensor] = list(output_tensors)
        self._error = error
        self._parameters = None if parameters is None else check_parameters(parameters)

    def output_tensors(self) -> List[Tensor]:
        """The outputs, as a new list; none for an error, and for a final flag that came alone."""
        return list(self._output_tensors)

    def has_error(self) -> bool:
        """Whether the request failed; :meth:`error` tells why."""
        return self._error is not None

    def error(self) -> Optional[TritonError]:
        """What went wrong, or None."""
        return self._error

    def parameters(self) -> str:
        """The response's parameters as JSON text; ``""`` for an error response received through BLS."""
        parameters = self._parameters
        return parameters if isinstance(parameters, str) else json.dumps(parameters or {})
