"""``InferenceResponse``, and the iterators that give one after the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from atoll import inference
from atoll.embedding.inbox import AsyncInbox, Inbox
from atoll.errors import ServerError
from atoll_ipc.memory import Slice

from tritonserver._api._allocators import MemoryAllocator
from tritonserver._api._datautils import parse_memory_type
from tritonserver._api._memorybuffer import MemoryBuffer
from tritonserver._api._tensor import Tensor
from tritonserver._c.enums import TRITONSERVER_DataType as DataType
from tritonserver._c.enums import TRITONSERVER_MemoryType as MemoryType
from tritonserver._c.errors import AlreadyExistsError, InternalError, InvalidArgumentError, TritonError, error_of

if TYPE_CHECKING:
    from tritonserver._api._model import Model
    from tritonserver._api._request import InferenceRequest

__all__ = ["AsyncResponseIterator", "InferenceResponse", "ResponseIterator"]


@dataclass
class InferenceResponse:
    """One response. A large output is a view of shared memory, read-only and valid as long as it is held."""

    model: Model
    request_id: str | None = None
    parameters: dict[str, str | int | bool | float] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    error: TritonError | None = None
    classification_label: str | None = None
    final: bool = False


class _Reader:
    """What both iterators have in common: from the core's responses to the API's."""

    def __init__(self, request: InferenceRequest, raise_on_error: bool) -> None:
        self._model = request.model
        self._embedded = request.model._embedded
        self._memory_type = request.output_memory_type
        self._allocator = request.output_memory_allocator
        self._raises = raise_on_error
        self._complete = False
        self._request: inference.Request | None = None

    def cancel(self) -> None:
        """Ask for the request's cancellation."""
        if self._request is not None:
            self._embedded.cancel(self._request)

    def _send(self, request: inference.Request) -> None:
        self._request = request
        try:
            self._embedded.infer(request)
        except ServerError as error:
            raise error_of(error) from None

    def _made(self, response: inference.Response) -> InferenceResponse:
        model = self._model
        model.name, model.version = response.model_name, response.model_version
        made = InferenceResponse(model, response.request.id, final=response.final)
        if response.error is not None:
            made.error = error_of(response.error)
        else:
            try:
                made.parameters = dict(response.parameters or {})
                made.outputs = {output.name: self._output(output) for output in response.outputs}
            except InvalidArgumentError as error:
                made.error = error
            except Exception as error:
                made.error = InternalError(f"Unexpected error in creating response object: {error}")
        if made.error is not None:
            made.outputs = {}
            made.error.args = (*made.error.args, made)
        return made

    def _output(self, output: inference.Tensor) -> Tensor:
        data = output.data
        if isinstance(data, Slice):
            array = np.frombuffer(data.view(), np.uint8)
            array.flags.writeable = False  # others may read it
        else:
            array = np.frombuffer(bytearray(data), np.uint8)
        tensor = Tensor(DataType[output.datatype], tuple(output.shape), MemoryBuffer._of_array(array))
        if self._allocator is not None:
            return _moved(tensor, self._allocator, self._memory_type)
        if self._memory_type is None:
            return tensor
        try:
            return tensor.to_device(self._memory_type)
        except Exception as error:
            raise InvalidArgumentError(f"Memory type {self._memory_type} not supported: {error}") from None

    def _passed(self, response: InferenceResponse) -> InferenceResponse:
        """To the program; as an exception where it wants that."""
        self._complete = response.final
        if response.error is not None and self._raises:
            raise response.error
        return response


class ResponseIterator(_Reader, Iterator[InferenceResponse]):
    """The responses to ``Model.infer``."""

    def __init__(self, request: InferenceRequest, raise_on_error: bool) -> None:
        super().__init__(request, raise_on_error)
        self._inbox: Inbox[inference.Response | InferenceResponse] = Inbox()
        self._send(request._for_core(_respond_to(self, self._inbox, request.response_queue)))

    def __next__(self) -> InferenceResponse:
        if self._complete:
            raise StopIteration
        try:
            response = self._inbox.get()
        except RuntimeError:
            raise AlreadyExistsError("cannot call GetNextResponse concurrently") from None
        return self._passed(self._made(response) if isinstance(response, inference.Response) else response)

    def __del__(self) -> None:
        if hasattr(self, "_inbox"):
            self._inbox.close()


class AsyncResponseIterator(_Reader, AsyncIterator[InferenceResponse]):
    """The responses to ``Model.async_infer``, on whatever event loop awaits them."""

    def __init__(self, request: InferenceRequest, raise_on_error: bool) -> None:
        super().__init__(request, raise_on_error)
        self._inbox: AsyncInbox[inference.Response | InferenceResponse] = AsyncInbox()
        self._send(request._for_core(_respond_to(self, self._inbox, request.response_queue)))

    def __aiter__(self) -> AsyncResponseIterator:
        return self

    async def __anext__(self) -> InferenceResponse:
        if self._complete:
            raise StopAsyncIteration
        try:
            response = await self._inbox.get()
        except RuntimeError:
            raise AlreadyExistsError("cannot call GetNextResponse concurrently") from None
        return self._passed(self._made(response) if isinstance(response, inference.Response) else response)

    def __del__(self) -> None:
        if hasattr(self, "_inbox"):
            self._inbox.close()


def _respond_to(reader: _Reader, inbox: Any, chosen: Any) -> Any:
    """What takes the core's responses in the server's thread.

    They are made into the API's where they are read; for a queue of the program's at once, whoever iterates or not.
    """
    if chosen is None:
        return inbox.put
    put = chosen.put_nowait
    if isinstance(chosen, asyncio.Queue):
        loop = asyncio.get_running_loop()

        def put_there(response: InferenceResponse) -> None:
            with contextlib.suppress(RuntimeError):  # the program's loop was closed
                loop.call_soon_threadsafe(chosen.put_nowait, response)

        put = put_there

    def respond(response: inference.Response) -> None:
        made = reader._made(response)
        put(made)
        inbox.put(made)

    return respond


def _moved(tensor: Tensor, allocator: MemoryAllocator, wanted: Any) -> Tensor:
    """A copy in memory of the program's choice."""
    kind, number = (MemoryType.CPU, 0) if wanted is None else parse_memory_type(wanted)
    buffer = allocator.allocate(tensor.size, kind, number)
    moved = Tensor(tensor.data_type, tensor.shape, buffer)
    if buffer.memory_type is MemoryType.GPU:
        there = tensor.to_device((MemoryType.GPU, buffer.memory_type_id))
        import cupy

        cupy.cuda.runtime.memcpy(buffer.data_ptr, there.data_ptr, tensor.size, cupy.cuda.runtime.memcpyDeviceToDevice)
        return moved
    buffer.size = tensor.size
    moved._bytes()[:] = tensor._bytes()
    return moved
