"""Tensors and responses between ``pb_utils`` objects and messages."""

from functools import partial
from typing import Any, Callable, Dict, List, Optional, Tuple

from triton_python_backend_utils import InferenceResponse, Tensor, TritonError
from triton_python_backend_utils._errors import ErrorCode

from atoll_stub.memory import Lease, Store
from atoll_stub.regions import Place, RegionInput, Visit

__all__ = ["describe", "describe_response", "open_response", "open_tensors", "pass_on", "refusal"]


def open_tensors(store: Store, wire_tensors: List[List[Any]]) -> List[Tensor]:
    """The tensors of one request or response that came in a message."""
    leases: Dict[Tuple[int, int], Lease] = {}
    received = Tensor._received
    return [
        received(name, code, shape, data if type(data) is bytes else store.open(leases, data))
        for name, code, shape, data in wire_tensors
    ]


def describe(
    store: Store, tensors: List[Tensor], transmit: Callable[[Tensor, Store], List[Any]] = Tensor._transmit
) -> List[List[Any]]:
    """Tensors as they go into a message; when one of them cannot, none is lent. Raises ``OutOfSharedMemory``."""
    described: List[List[Any]] = []
    try:
        for tensor in tensors:
            described.append(transmit(tensor, store))
    except BaseException:
        store.take_back(described)
        raise
    return described


def pass_on(tensor: Tensor, store: Store) -> List[Any]:
    """A tensor as it goes into a message that is answered before the request whose input it may be."""
    data = tensor._data
    if isinstance(data, RegionInput):
        return [tensor._name, tensor._code, list(tensor._shape), data.pass_on()]
    return tensor._transmit(store)


def describe_response(
    store: Store, response: InferenceResponse, requested: Any, visit: Optional[Visit] = None
) -> List[Any]:
    """A response as it goes into a message, with the outputs that were asked for; some go into clients' regions."""
    error = response._error
    if error is not None:
        return [[], [int(error.code()), error.message()], None]
    # Filtering changes the response object itself, as in the original.
    response._output_tensors = [tensor for tensor in response._output_tensors if tensor._name in requested]
    if visit is not None and visit.places:
        described = describe(store, response._output_tensors, partial(_place, visit.places))
    else:
        described = describe(store, response._output_tensors)
    return [described, None, response._parameters]


def _place(places: Dict[str, Place], tensor: Tensor, store: Store) -> List[Any]:
    place = places.get(tensor._name)
    if place is not None:
        source = store.source(tensor._data)
        if place.write(source):
            return [tensor._name, tensor._code, list(tensor._shape), source.nbytes]
    return tensor._transmit(store)


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
