"""Tensors and responses between ``pb_utils`` objects and messages."""

from typing import Any, Dict, List, Optional, Tuple

from triton_python_backend_utils import InferenceResponse, Tensor, TritonError
from triton_python_backend_utils._errors import ErrorCode

from atoll_stub.memory import Lease, Store

__all__ = ["describe", "describe_response", "open_response", "open_tensors", "refusal"]


def open_tensors(store: Store, wire_tensors: List[List[Any]]) -> List[Tensor]:
    """The tensors of one request or response that came in a message."""
    leases: Dict[Tuple[int, int], Lease] = {}
    received = Tensor._received
    return [
        received(name, code, shape, data if type(data) is bytes else store.open(leases, data))
        for name, code, shape, data in wire_tensors
    ]


def describe(store: Store, tensors: List[Tensor]) -> List[List[Any]]:
    """Tensors as they go into a message; when one of them cannot, none is lent. Raises ``OutOfSharedMemory``."""
    described: List[List[Any]] = []
    try:
        for tensor in tensors:
            described.append(tensor._transmit(store))
    except BaseException:
        store.take_back(described)
        raise
    return described


def describe_response(store: Store, response: InferenceResponse, requested: Any) -> List[Any]:
    """A response as it goes into a message, with the outputs that were asked for."""
    error = response._error
    if error is not None:
        return [[], [int(error.code()), error.message()], None]
    # Filtering changes the response object itself, as in the original.
    response._output_tensors = [tensor for tensor in response._output_tensors if tensor._name in requested]
    return [describe(store, response._output_tensors), None, response._parameters]


def open_response(store: Store, wire_response: Optional[List[Any]]) -> InferenceResponse:
    """A response that another model gave; None is a final flag that came alone."""
    if wire_response is None:
        empty = InferenceResponse([])
        empty._parameters = ""  # as in the original
        return empty
    outputs, error, parameters = wire_response
    if error is not None:
        code, text = error
        return refusal(text, ErrorCode(code))
    return InferenceResponse(open_tensors(store, outputs), parameters=parameters)


def refusal(text: str, code: ErrorCode = TritonError.INTERNAL) -> InferenceResponse:
    """How a call that failed is answered."""
    response = InferenceResponse(error=TritonError(text, code))
    response._parameters = ""  # as in the original, though no JSON text
    return response
