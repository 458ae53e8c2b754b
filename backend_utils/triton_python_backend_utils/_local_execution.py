"""Executions without a server, for tests: what a model gets, and what its client gets of what it answers."""

import asyncio
import concurrent.futures
import threading
import time
from typing import Any, Callable, Coroutine, List, Optional, Sequence, Union

import numpy as np

from triton_python_backend_utils._errors import TritonError
from triton_python_backend_utils._request import RELEASE_RESCHEDULE, InferenceRequest
from triton_python_backend_utils._response import InferenceResponse
from triton_python_backend_utils._sender import Reply
from triton_python_backend_utils._tensor import Tensor

__all__ = ["Batch", "Coroutines", "received_request", "received_response"]

Array = Any  # np.ndarray, whose parameters differ between numpy versions


class Batch:
    """The requests of one execution, and every response to them, as their client gets it.

    Response senders come here (``_sender.ReplyHost``), from any thread.
    """

    def __init__(self, requests: Sequence[InferenceRequest], all_outputs: List[str], decoupled: bool) -> None:
        self.decoupled = decoupled
        self.received = [
            received_request(request, all_outputs, (self, (0, index))) for index, request in enumerate(requests)
        ]
        self.responses: List[List[InferenceResponse]] = [[] for _ in requests]
        self.rescheduled: List[int] = []
        self._open = set(range(len(requests)))
        self._changed = threading.Condition()

    def settle(self, returned: Sequence[Optional[InferenceResponse]]) -> None:
        """``execute`` has returned this. Lets go of the requests: the model may answer those that it keeps."""
        requests, self.received = self.received, []
        for index, (request, response) in enumerate(zip(requests, returned)):
            reply = request._reply_state()
            assert reply is not None
            if request._release_flags == RELEASE_RESCHEDULE and not reply.closed:
                self.rescheduled.append(index)
                self._close(reply)
            elif response is not None and not reply.closed:
                if not reply.count:  # else the first answer counts
                    self._add(index, received_response(response, request._requested_output_names))
                self._close(reply)

    def wait(self, timeout_s: float, failure: Callable[[], Optional[BaseException]]) -> None:
        """Return when every request is answered to the end; raise ``failure`` when there is one before that."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._open:
                error = failure()
                if error is not None:
                    raise error
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError(
                        f"request {min(self._open)} of the batch has no final response {timeout_s:g} s on"
                    )

    def wake(self, _: Any = None) -> None:
        with self._changed:
            self._changed.notify_all()

    def _add(self, index: int, response: InferenceResponse) -> None:
        with self._changed:
            self.responses[index].append(response)

    def _close(self, reply: Reply) -> None:
        reply.closed = True
        with self._changed:
            self._open.discard(reply.key[1])
            self._changed.notify_all()

    # -- triton_python_backend_utils._sender.ReplyHost

    def opened(self, reply: Reply) -> None:
        reply.closed = reply.key[1] not in self._open

    def respond(self, reply: Reply, response: Optional[InferenceResponse], final: bool) -> None:
        if response is not None:
            self._add(reply.key[1], received_response(response, reply.requested))
        if final:
            self._close(reply)

    def abandon(self, reply: Reply) -> None:
        if self.decoupled or not reply.count:
            text = (
                "The model neither returned a response nor sent its final one: the request and its response sender "
                "are gone."
            )
            self._add(reply.key[1], InferenceResponse(error=TritonError(text)))
        self._close(reply)

    def poll(self) -> None:
        """Nobody gives up here."""


class Coroutines:
    """The event loop of a model's coroutines, in a thread of its own, from the first of them on."""

    def __init__(self) -> None:
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._pool = concurrent.futures.ThreadPoolExecutor(thread_name_prefix="calls")
        self._thread: Optional[threading.Thread] = None

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> "concurrent.futures.Future[Any]":
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._loop.set_default_executor(self._pool)
            self._thread = threading.Thread(target=self._run, args=(self._loop,), name="coroutines", daemon=True)
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def stop(self) -> None:
        """Cancel what still runs."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop = None
        self._pool.shutdown()

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks))
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def received_request(request: InferenceRequest, all_outputs: Sequence[str], source: Any = None) -> InferenceRequest:
    """A request as the model gets it."""
    fields = [
        request.request_id(),
        request.correlation_id(),
        request.flags(),
        request.timeout(),
        request._parameters,
        list(request._requested_output_names),
        [],
        None,
    ]
    tensors = [_received_tensor(tensor) for tensor in request._inputs]
    received = InferenceRequest._received(fields, tensors, all_outputs, source)
    received._trace = request.trace()
    return received


def received_response(response: InferenceResponse, wanted: Sequence[str]) -> InferenceResponse:
    """A model's response as its client gets it; without ``wanted`` all of the outputs."""
    error = response.error()
    if error is not None:
        return InferenceResponse(error=error)
    tensors = [tensor for tensor in response._output_tensors if not wanted or tensor._name in wanted]
    received = InferenceResponse([_received_tensor(tensor) for tensor in tensors])
    received._parameters = response._parameters
    return received


def _received_tensor(tensor: Tensor) -> Tensor:
    name, code, shape, _ = tensor._transmit(_HEAP)
    return Tensor._received(name, code, shape, tensor._data)


class _OnHeap:
    """A large tensor's bytes, in this process instead of in shared memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def array(self) -> Array:
        return np.frombuffer(bytearray(self._data), np.uint8)

    pristine = array

    def reference(self) -> List[int]:
        return []


class _Heap:
    """Where large tensors go."""

    def place(self, data: Union[bytes, Array]) -> _OnHeap:
        return _OnHeap(data if isinstance(data, bytes) else data.tobytes())


_HEAP = _Heap()
