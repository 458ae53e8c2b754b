"""One request's trace, as every layer of the supervisor sees it: what happened to the request, and when.

A frontend begins one for a request that was chosen (``observe.tracer``), and ends it after the response was sent. A
request that is made for another's sake (BLS, a step of an ensemble) gets a *child*, which ends with its final response.
Whoever has the request in hand notes what happens; a request that is not traced has None instead, and is noted nowhere.

Times are ``time.monotonic_ns``, the same clock in every process of the machine. What is noted of tensors is a copy:
their memory goes back when the request ends, on the event loop, while a trace is written later and by another thread.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

__all__ = ["SpanIds", "TensorCopy", "TracedTensor", "Trace", "TraceSink"]


class TracedTensor(Protocol):
    """What a trace reads of a tensor (``atoll.inference.Tensor``)."""

    name: str
    datatype: str
    shape: Sequence[int]

    def buffer(self) -> bytes | bytearray | memoryview: ...


class TensorCopy(NamedTuple):
    activity: str
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes


class SpanIds(NamedTuple):
    """The names of a trace's spans, where it is to become spans: ``request`` > ``model`` > ``compute``.

    ``parent`` is the caller's span, 0 if there is none; a child has no ``request``. ``state`` is passed on as it came.
    """

    trace: int
    parent: int
    request: int
    model: int
    compute: int
    state: str = ""

    def context(self) -> dict[str, str]:
        """What makes spans of others children of ``compute``, in the words of W3C Trace Context."""
        context = {"traceparent": f"00-{self.trace:032x}-{self.compute:016x}-01"}
        if self.state:
            context["tracestate"] = self.state
        return context


class TraceSink(Protocol):
    """Where traces come from and go to."""

    def child_of(self, parent: Trace) -> Trace: ...

    def ended(self, trace: Trace) -> None: ...


class Trace:
    """What is known of one request. Numbered; ``parent`` is None where the request is a client's."""

    __slots__ = (
        "_at_stub",
        "_inputs",
        "_over",
        "_sink",
        "error",
        "id",
        "model_name",
        "model_version",
        "parent",
        "request_id",
        "source",
        "spans",
        "stamps",
        "tensors",
        "with_tensors",
    )

    def __init__(
        self,
        sink: TraceSink,
        id: int,
        source: object,
        *,
        with_tensors: bool = False,
        spans: SpanIds | None = None,
        parent: Trace | None = None,
    ) -> None:
        """``source`` is the sink's own note of why there is this trace."""
        self.id = id
        self.source = source
        self.with_tensors = with_tensors
        self.spans = spans
        self.parent = parent
        self.model_name = ""
        self.model_version = 0
        self.request_id = ""
        self.error = ""
        self.stamps: list[tuple[str, int]] = []
        self.tensors: list[TensorCopy] = []
        self._inputs: list[TensorCopy] = []
        self._sink = sink
        self._at_stub = False
        self._over = False

    def stamp(self, activity: str, ns: int | None = None) -> None:
        """Note that something happened: now, unless it is said when."""
        self.stamps.append((activity, time.monotonic_ns() if ns is None else ns))

    def begin(self, model_name: str, model_version: int, request_id: str, ns: int) -> None:
        """A model has the request."""
        self.model_name = model_name
        self.model_version = model_version
        self.request_id = request_id
        self.stamp("REQUEST_START", ns)

    def queued(self, tensors: Iterable[TracedTensor]) -> None:
        if self.with_tensors:
            self._inputs = [_copy("TENSOR_QUEUE_INPUT", tensor) for tensor in tensors]
            self.tensors += self._inputs

    def executed(self, queued_ns: int, began_ns: int, times_ns: tuple[int, int, int]) -> None:
        """A stub has executed the request: when it was queued, when the stub began, how long each part took.

        The final response may have been there before.
        """
        input_ns, infer_ns, output_ns = times_ns
        self.stamps += (
            ("QUEUE_START", queued_ns),
            ("COMPUTE_START", began_ns),
            ("COMPUTE_INPUT_END", began_ns + input_ns),
            ("COMPUTE_OUTPUT_START", began_ns + input_ns + infer_ns),
            ("COMPUTE_END", began_ns + input_ns + infer_ns + output_ns),
        )
        self.tensors += [tensor._replace(activity="TENSOR_BACKEND_INPUT") for tensor in self._inputs]
        self._left_stub()

    def failed(self, queued_ns: int, began_ns: int) -> None:
        """A stub could not execute the request, or died of it."""
        self.stamps += (("QUEUE_START", queued_ns), ("COMPUTE_START", began_ns))
        self.stamp("COMPUTE_END")
        self._left_stub()

    def _left_stub(self) -> None:
        self._at_stub = False
        if self._over:
            self._sink.ended(self)

    def for_stub(self) -> tuple[int, str | None]:
        """What the stub is to know: the number, to name it in calls, and the context that its model may pass on."""
        self._at_stub = True
        return self.id, None if self.spans is None else json.dumps(self.spans.context())

    def responded(self, outputs: Iterable[TracedTensor], error: str, *, empty: bool, final: bool) -> None:
        """The model answered."""
        if not empty:
            self.stamp("INFER_RESPONSE_COMPLETE")
            if self.with_tensors:
                self.tensors += [_copy("TENSOR_BACKEND_OUTPUT", tensor) for tensor in outputs]
        self.error = self.error or error
        if final:
            self.stamp("REQUEST_END")

    def child(self) -> Trace:
        """A trace for a request that is made for this one's sake."""
        return self._sink.child_of(self)

    @property
    def at_stub(self) -> bool:
        """Whether a stub has the request; what is made for its sake then, is made by its computation."""
        return self._at_stub

    def end(self) -> None:
        """The request is over. What a stub is still to tell of its execution is waited for."""
        self._over = True
        if not self._at_stub:
            self._sink.ended(self)


def _copy(activity: str, tensor: TracedTensor) -> TensorCopy:
    try:
        data = bytes(tensor.buffer())
    except Exception:  # a client's region that became shorter: what the request comes to is not decided here
        data = b""
    return TensorCopy(activity, tensor.name, tensor.datatype, tuple(tensor.shape), data)
