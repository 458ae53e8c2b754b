"""What a model asks of others: BLS, metrics, model control."""

import threading
from typing import Any, List, Optional, Union

from atoll_ipc.memory import OutOfSharedMemory
from atoll_ipc.wire import Kind, response_nbytes
from triton_python_backend_utils import InferenceRequest, InferenceResponse, Tensor, TritonModelException

from atoll_stub.channel import Call, Channel
from atoll_stub.side_door import Line, copy_foreign
from atoll_stub.tensors import describe, open_response, pass_on, refusal

__all__ = ["Caller"]

_READ_STEP_NBYTES = 4 << 20  # so often the supervisor is told what was read


class Caller:
    """Makes the calls of one model; from any thread, and from processes that the model forked."""

    def __init__(self, line: Line) -> None:
        self.allowed = False  # from the end of initialize to the beginning of finalize
        self._line = line

    def infer(self, request: InferenceRequest) -> InferenceResponse:
        """Execute a request on another model and wait."""
        channel = self._channel()
        call = self._open(channel, request, streaming=False)
        if isinstance(call, InferenceResponse):
            return call
        try:
            return open_response(channel.store, call.next()[2])
        finally:
            call.close()

    def stream(self, request: InferenceRequest) -> "_Stream":
        """Execute a request on a model that may give any number of responses."""
        channel = self._channel()
        return _Stream(channel, self._open(channel, request, streaming=True))

    def ask(self, topic: str, arguments: List[Any]) -> Any:
        """Wait for the server's answer. Raises :class:`TritonModelException` with its words."""
        call = self._line.channel().call(Kind.ASK, topic, arguments)
        try:
            _, _, value, error = call.next()
        finally:
            call.close()
        if error is not None:
            raise TritonModelException(error)
        return value

    def tell(self, topic: str, arguments: List[Any]) -> None:
        """The same without an answer; may be called by a finalizer, which in a forked child means nothing."""
        if not self._line.is_forked:
            self._line.channel().post([Kind.ASK, 0, topic, arguments])

    def _channel(self) -> Channel:
        if not self.allowed:
            raise TritonModelException("BLS is only supported during the 'execute' function.")
        return self._line.channel()

    def _open(self, channel: Channel, request: InferenceRequest, streaming: bool) -> Union[Call, InferenceResponse]:
        """The call, or the response that refuses it."""
        forked = self._line.is_forked
        if forked:
            copy_foreign(request._inputs, channel.store)
        # Whether the execution goes on only after the answer; a stream may be read later, and by another thread.
        blocking = not (forked or streaming) and threading.current_thread() is threading.main_thread()
        try:
            fields = [
                request._request_id,
                request._correlation_id,
                request._flags,
                request._timeout,
                request._parameters,
                request._requested_output_names,
                describe(channel.store, request._inputs, pass_on if blocking else Tensor._transmit),
                request._model_name,
                request._model_version,
                streaming,
                blocking,
                request._trace._id,
            ]
        except OutOfSharedMemory as error:
            return refusal(str(error))
        return channel.call(Kind.INFER, fields, channel.store.take_released())


class _Stream:
    """The responses of one call as they come."""

    def __init__(self, channel: Channel, call: Any) -> None:
        self._channel = channel
        self._call: Optional[Call] = None if isinstance(call, InferenceResponse) else call
        self._refused: Optional[InferenceResponse] = call if isinstance(call, InferenceResponse) else None
        self._cancelled = False
        self._read_nbytes = 0  # which the supervisor was not told of

    def next(self) -> Optional[InferenceResponse]:
        if self._call is None:
            refused, self._refused = self._refused, None
            return refused
        _, _, response, _, final = self._call.next()
        if final:
            self._call.close()
            self._call = None
        elif response is not None:
            self._read_nbytes += response_nbytes(response[0])
            if self._read_nbytes >= _READ_STEP_NBYTES:
                self._channel.send([Kind.READ, self._call.id, self._read_nbytes])
                self._read_nbytes = 0
        return open_response(self._channel.store, response)

    def cancel(self) -> None:
        if self._call is not None and not self._cancelled:
            self._cancelled = True
            self._channel.post([Kind.CANCEL_CALL, self._call.id, False])

    def __del__(self) -> None:
        if self._call is not None:
            self._channel.post([Kind.CANCEL_CALL, self._call.id, True])
            self._call.close()
