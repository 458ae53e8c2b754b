"""``InferenceRequest``: received by ``execute``, or made by a model to call another (BLS)."""

import asyncio
import json
from typing import Any, Dict, List, Literal, Optional, Sequence, Set, Tuple, Union, overload

from triton_python_backend_utils._arguments import boolean, integer, sequence, text
from triton_python_backend_utils._errors import TritonModelException
from triton_python_backend_utils._host import get_host
from triton_python_backend_utils._iterator import ResponseIterator
from triton_python_backend_utils._parameters import check_parameters
from triton_python_backend_utils._preferred_memory import PreferredMemory
from triton_python_backend_utils._response import InferenceResponse
from triton_python_backend_utils._sender import InferenceResponseSender, Reply, ReplyHost
from triton_python_backend_utils._tensor import Tensor
from triton_python_backend_utils._trace import InferenceTrace

__all__ = ["InferenceRequest"]

_UINT64 = (1 << 64) - 1
_UNTRACED = InferenceTrace()
RELEASE_ALL = 1
RELEASE_RESCHEDULE = 2


class InferenceRequest:
    """A request to a model.

    Built by a model to call another one: ``model_name``, ``requested_output_names`` and ``inputs`` are required;
    ``model_version`` -1 is the latest that is ready; ``timeout`` is in microseconds, 0 for none; an empty
    ``requested_output_names`` asks for all outputs; a ``correlation_id`` is a string (original 24.03) or an integer of
    64 bits; ``flags`` as in :meth:`flags`; ``preferred_memory`` (original 23.04) is where the outputs shall be,
    by default wherever the called model puts them; ``trace`` (original 24.03) is that of a received request, of which
    this one shall be a part; ``parameters`` (original 23.11) may hold bool, int and str values.

    Raises TypeError for a wrong type, RuntimeError for a correlation id out of range, :class:`TritonModelException` for
    an empty element, or parameters or a correlation id of the wrong kind.
    """

    __slots__ = (
        "__weakref__",
        "_correlation_id",
        "_flags",
        "_inputs",
        "_model_name",
        "_model_version",
        "_parameters",
        "_preferred_memory",
        "_release_flags",
        "_reply",
        "_request_id",
        "_requested_output_names",
        "_sender",
        "_source",
        "_timeout",
        "_trace",
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
        preferred_memory: Optional[PreferredMemory] = None,
        trace: Optional[InferenceTrace] = None,
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
        if preferred_memory is not None and not isinstance(preferred_memory, PreferredMemory):
            raise TypeError(f"preferred_memory must be a PreferredMemory, not {type(preferred_memory).__name__}")
        if trace is not None and not isinstance(trace, InferenceTrace):
            raise TypeError(f"trace must be an InferenceTrace, not {type(trace).__name__}")
        self._reply: Optional[Reply] = None
        self._sender: Optional[InferenceResponseSender] = None
        self._source: Optional[Tuple[ReplyHost, Tuple[int, int]]] = None
        self._preferred_memory = preferred_memory
        self._trace = _UNTRACED if trace is None else trace
        self._release_flags = RELEASE_ALL
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
        self._correlation_id = int(correlation_id) if isinstance(correlation_id, bool) else correlation_id

    @classmethod
    def _received(
        cls,
        fields: List[Any],
        inputs: List[Tensor],
        all_outputs: Sequence[str],
        source: Optional[Tuple[ReplyHost, Tuple[int, int]]] = None,
    ) -> "InferenceRequest":
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
            trace,
        ) = fields
        request._requested_output_names = requested or all_outputs
        request._inputs = inputs
        request._model_name = ""
        request._model_version = -1
        request._preferred_memory = None
        request._trace = _UNTRACED if trace is None else InferenceTrace._received(*trace)
        request._source = source
        request._reply = request._sender = None
        request._release_flags = RELEASE_ALL
        return request

    def _reply_state(self) -> Optional[Reply]:
        """What keeps count of the answers, made when first asked for; None for a request that was made here."""
        if self._reply is None and self._source is not None:
            host, key = self._source
            self._reply = Reply(host, key, self._requested_output_names)
        return self._reply

    def inputs(self) -> List[Tensor]:
        """The input tensors, as a new list; their order means nothing, and optional ones may be missing."""
        return list(self._inputs)

    def request_id(self) -> str:
        """What its sender calls it; ``""`` when it has no name."""
        return self._request_id

    def correlation_id(self) -> Union[int, str]:
        """Which sequence the request belongs to; 0 or ``""`` for none."""
        return self._correlation_id

    def flags(self) -> int:
        """Sequence flags, a combination of ``TRITONSERVER_REQUEST_FLAG_SEQUENCE_START`` and ``…_END``."""
        return self._flags

    def set_flags(self, flags: int) -> None:
        """Change what :meth:`flags` gives, of a request that is about to be executed."""
        self._flags = integer(flags, "flags", 0, (1 << 32) - 1)

    def timeout(self) -> int:
        """Microseconds the request may wait in a queue; 0 when its sender gave none."""
        return self._timeout

    def parameters(self) -> str:
        """The custom parameters as JSON text of an object."""
        return json.dumps(self._parameters) if self._parameters else "{}"

    def requested_output_names(self) -> Set[str]:
        """The outputs its sender wants: of a received request that names none, all of the model's."""
        return set(self._requested_output_names)

    def trace(self) -> InferenceTrace:
        """The trace the request is part of, to hand on to requests made for its sake. Never None."""
        return self._trace

    def get_response_sender(self) -> InferenceResponseSender:
        """What answers this request, now or later; the same object each time."""
        if self._sender is None:
            self._sender = InferenceResponseSender(self._reply_state())
        return self._sender

    def is_cancelled(self) -> bool:
        """Whether the client has given up on the request (original 23.10); False for one that was made here."""
        reply = self._reply_state()
        return reply is not None and reply.is_cancelled()

    def set_release_flags(self, flags: int) -> None:
        """With ``TRITONSERVER_REQUEST_RELEASE_RESCHEDULE``, see the request again in a later ``execute``.

        For models with ``sequence_batching { iterative_sequence: true }`` (original 23.11); the last value set before
        ``execute`` returns counts.
        """
        if self._source is None:
            raise TritonModelException("Release flags can be set only on a request that the model has received.")
        flags = integer(flags, "flags", 0, (1 << 32) - 1)
        if flags not in (RELEASE_ALL, RELEASE_RESCHEDULE):
            raise TritonModelException(f"Unsupported request release flags: {flags}")
        self._release_flags = flags

    @overload
    def exec(self, decoupled: Literal[False] = False) -> InferenceResponse: ...

    @overload
    def exec(self, decoupled: Literal[True]) -> ResponseIterator: ...

    @overload
    def exec(self, decoupled: bool) -> Union[InferenceResponse, ResponseIterator]: ...

    def exec(self, decoupled: bool = False) -> Union[InferenceResponse, ResponseIterator]:
        """Execute this request on its model and wait for the response (BLS, original 21.08).

        With ``decoupled`` (original 23.03), for a model that may give any number of responses: an iterator over them.
        Whatever goes wrong with the request is an error in the response. Raises :class:`TritonModelException` only
        where the model may not call others: before ``initialize`` has returned and in ``finalize``.
        """
        streaming = boolean(decoupled, "decoupled")
        host = get_host()
        return ResponseIterator(host.stream(self)) if streaming else host.infer(self)

    @overload
    def async_exec(self, decoupled: Literal[False] = False) -> "asyncio.Future[InferenceResponse]": ...

    @overload
    def async_exec(self, decoupled: Literal[True]) -> "asyncio.Future[ResponseIterator]": ...

    @overload
    def async_exec(self, decoupled: bool) -> "asyncio.Future[Union[InferenceResponse, ResponseIterator]]": ...

    def async_exec(self, decoupled: bool = False) -> "asyncio.Future[Any]":
        """As :meth:`exec`, without blocking the running event loop: a future of the response, or of the iterator.

        The calls run in the loop's default executor. RuntimeError when no loop is running.
        """
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(None, self.exec, boolean(decoupled, "decoupled"))
