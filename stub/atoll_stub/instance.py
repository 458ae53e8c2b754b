"""The loop of one model instance: commands come in over the channel, results go out."""

import os
import time
from typing import Any, Dict, List, Optional, Tuple

from atoll_ipc.memory import OutOfSharedMemory
from atoll_ipc.wire import Kind
from triton_python_backend_utils import InferenceRequest, InferenceResponse, Tensor, TritonError, TritonModelException
from triton_python_backend_utils._errors import ErrorCode
from triton_python_backend_utils._host import set_host

from atoll_stub.channel import Channel
from atoll_stub.memory import Lease
from atoll_stub.model import Model, WrongReturn, render_exception

__all__ = ["Instance"]

_now = time.monotonic_ns


class Instance:
    """Runs one model and is the host its ``pb_utils`` calls reach."""

    def __init__(self, channel: Channel) -> None:
        self.model_dir = ""
        self._channel = channel
        self._store = channel.store
        self._model: Optional[Model] = None
        self._outputs: List[str] = []
        self._executing = False

    def run(self) -> None:
        """Until FINALIZE, or EOFError when the supervisor is gone."""
        while True:
            message = self._channel.next_command()
            kind = message[0]
            if kind == Kind.EXECUTE:
                self._execute(message[1], message[2])
            elif kind == Kind.LOAD:
                error = self._load(message[1])
                self._channel.send([Kind.LOADED, error])
                if error is not None:
                    return
            elif kind == Kind.FINALIZE:
                self._finalize()
                return

    def _load(self, settings: Dict[str, Any]) -> Optional[str]:
        self.model_dir = settings["version_dir"]
        self._outputs = settings["outputs"]
        path = os.path.join(self.model_dir, settings["filename"])
        if not os.path.isfile(path):
            return f"Failed to preinitialize Python stub: Python model file not found in '{path}'"
        set_host(self)
        try:
            args = settings["args"]
            self._model = Model(path, self.model_dir, args["model_repository"], args["model_version"])
            self._model.initialize(args)
        except BaseException as error:
            return render_exception(error)
        self._executing = True
        return None

    def _finalize(self) -> None:
        self._executing = False
        assert self._model is not None
        try:
            self._model.finalize()
        except BaseException as error:
            print(f"Failed to finalize the model: {render_exception(error)}", flush=True)

    # -- execute

    def _execute(self, execution_id: int, wire_requests: List[List[Any]]) -> None:
        """Run a batch and answer it with RESULT or FAILED."""
        received = _now()
        requests = self._requests(wire_requests)
        assert self._model is not None
        results: List[List[Any]] = []
        failure = None
        try:
            started = _now()
            responses = self._model.execute(requests)
            done = _now()
            for response, request in zip(responses, requests):
                results.append(self._response(response, request._requested_output_names))
            times = (started - received, done - started, _now() - done)
        except BaseException as error:
            failure = str(error) if isinstance(error, (WrongReturn, OutOfSharedMemory)) else render_exception(error)
            for tensors, _, _ in results:
                self._store.take_back(tensors)
        # Leases end here, so that the answer tells of them and the next request finds the blocks free. No other thread
        # may tell of them first: the answer refers to what it passes on.
        with self._channel.sending:
            requests = responses = request = response = None  # type: ignore[assignment]
            released = self._store.take_released()
            if failure is None:
                self._channel.send([Kind.RESULT, execution_id, results, released, times])
            else:
                self._channel.send([Kind.FAILED, execution_id, failure, released])

    def _requests(self, wire_requests: List[List[Any]]) -> List[InferenceRequest]:
        return [InferenceRequest._received(fields, self._tensors(fields[6]), self._outputs) for fields in wire_requests]

    def _tensors(self, wire_tensors: List[List[Any]]) -> List[Tensor]:
        leases: Dict[Tuple[int, int], Lease] = {}
        received = Tensor._received
        return [
            received(name, code, shape, data if type(data) is bytes else self._store.open(leases, data))
            for name, code, shape, data in wire_tensors
        ]

    def _response(self, response: InferenceResponse, requested: Any) -> List[Any]:
        error = response._error
        if error is not None:
            return [[], [int(error.code()), error.message()], None]
        # Filtering changes the response object itself, as in the original.
        response._output_tensors = [tensor for tensor in response._output_tensors if tensor._name in requested]
        return [self._describe(response._output_tensors), None, response._parameters]

    def _describe(self, tensors: List[Tensor]) -> List[List[Any]]:
        """Tensors as they go into a message; when one of them cannot, none is lent."""
        described: List[List[Any]] = []
        try:
            for tensor in tensors:
                described.append(tensor._transmit(self._store))
        except BaseException:
            self._store.take_back(described)
            raise
        return described

    # -- BLS

    def infer(self, request: InferenceRequest) -> InferenceResponse:
        """Execute a request on another model and wait."""
        if not self._executing:
            raise TritonModelException("BLS is only supported during the 'execute' function.")
        try:
            fields = [
                request._request_id,
                request._correlation_id,
                request._flags,
                request._timeout,
                request._parameters,
                request._requested_output_names,
                self._describe(request._inputs),
                request._model_name,
                request._model_version,
            ]
        except OutOfSharedMemory as error:
            return _refusal(str(error), TritonError.INTERNAL)
        _, _, (outputs, error_fields, parameters), _ = self._channel.call(Kind.INFER, fields)
        if error_fields is not None:
            code, text = error_fields
            return _refusal(text, ErrorCode(code))
        return InferenceResponse(self._tensors(outputs), parameters=parameters)


def _refusal(text: str, code: ErrorCode) -> InferenceResponse:
    """How a call that failed is answered."""
    response = InferenceResponse(error=TritonError(text, code))
    response._parameters = ""  # as in the original, though no JSON text
    return response
