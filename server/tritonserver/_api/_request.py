"""``InferenceRequest``: what a program asks, and the core's request made of it."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from atoll import inference
from atoll_ipc.wire import INLINE_NBYTES

from tritonserver._api._allocators import MemoryAllocator, default_memory_allocators
from tritonserver._api._datautils import data_type_of, parse_memory_type
from tritonserver._api._tensor import Tensor
from tritonserver._c.enums import TRITONSERVER_DataType as DataType
from tritonserver._c.errors import InvalidArgumentError

if TYPE_CHECKING:
    from tritonserver._api._model import Model

__all__ = ["InferenceRequest"]


@dataclass
class InferenceRequest:
    """May be sent any number of times; each time it is read anew."""

    model: Model
    request_id: str | None = None
    flags: int = 0
    correlation_id: int | str | None = None
    priority: int = 0
    timeout: int = 0
    inputs: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, str | int | float | bool] = field(default_factory=dict)
    output_memory_type: Any = None
    response_queue: queue.SimpleQueue[Any] | asyncio.Queue[Any] | None = None
    output_memory_allocator: MemoryAllocator | None = None
    _serialized_inputs: dict[str, Tensor] = field(init=False, default_factory=dict)
    _server: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._server = self.model._server

    def _for_core(self, respond: Callable[[inference.Response], None]) -> inference.Request:
        """Raises InvalidArgumentError for what cannot be sent."""
        self._check_memory_type()
        model = self.model
        return inference.Request(
            model.name,
            [_input(name, value) for name, value in self.inputs.items()],
            respond,
            model_version=model.version,
            id=self.request_id or "",
            parameters=_checked(self.parameters) if self.parameters else None,
            correlation_id=self.correlation_id or 0,
            flags=int(self.flags),
            priority=self.priority,
            timeout_us=self.timeout,
        )

    def _check_memory_type(self) -> None:
        """A type that no allocator is for is refused at once; what is no type at all, when responses come."""
        if self.output_memory_type is None or self.output_memory_allocator is not None:
            return
        try:
            kind, _ = parse_memory_type(self.output_memory_type)
        except InvalidArgumentError:
            return
        if kind not in default_memory_allocators:
            raise InvalidArgumentError(
                f"Memory type {kind} not supported by default_memory_allocators: {default_memory_allocators}"
            )


def _checked(parameters: dict[str, Any]) -> dict[str, inference.Parameter]:
    for value in parameters.values():
        if type(value) not in (str, int, float, bool):
            raise InvalidArgumentError(f"Unsupported Value. Can't convert {type(value)} to Request Parameter")
    return dict(parameters)


def _input(name: str, value: Any) -> inference.Tensor:
    """Small inputs are copied here, large ones into shared memory when the request is handed over."""
    if type(value) is np.ndarray and value.nbytes <= INLINE_NBYTES:  # mostly
        data_type = data_type_of(value.dtype)
        if data_type is not DataType.BYTES and value.dtype.isnative:
            return inference.Tensor(name, data_type.name, list(value.shape), value.tobytes())
    tensor = Tensor._from_object(value).to_host()
    data = tensor._bytes()
    taken = data.tobytes() if data.nbytes <= INLINE_NBYTES else data.data
    return inference.Tensor(name, tensor.data_type.name, list(tensor.shape), taken)
