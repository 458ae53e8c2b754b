"""``ResponseIterator``: the responses of a BLS call with ``decoupled=True``, as they come."""

import threading
from typing import Iterator, List, Optional, Protocol

from triton_python_backend_utils._response import InferenceResponse

__all__ = ["ResponseIterator", "ResponseSource"]


class ResponseSource(Protocol):
    """Where the responses of one call come from."""

    def next(self) -> Optional[InferenceResponse]:
        """Wait for the next response; None after the last one."""
        ...

    def cancel(self) -> None:
        """Ask the called model to stop. Safe at any time."""
        ...


class ResponseIterator:
    """Iterates over the responses of a call (original 23.03); blocks until the next one is there.

    A response without tensors and without error stands for a final flag that came alone. All responses are kept: after
    the last one, a new ``for`` loop begins anew; breaking out of one and going on resumes. Dropping the iterator before
    its end cancels the call.
    """

    def __init__(self, source: ResponseSource) -> None:
        self._source: Optional[ResponseSource] = source
        self._responses: List[InferenceResponse] = []
        self._position = 0
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[InferenceResponse]:
        with self._lock:
            if self._source is None and self._position >= len(self._responses):
                self._position = 0
        return self

    def __next__(self) -> InferenceResponse:
        with self._lock:
            if self._position == len(self._responses):
                response = None if self._source is None else self._source.next()
                if response is None:
                    self._source = None
                    raise StopIteration
                self._responses.append(response)
            self._position += 1
            return self._responses[self._position - 1]

    def cancel(self) -> None:
        """Ask the called model to stop (original 25.05). Does nothing after the last response."""
        source = self._source
        if source is not None:
            source.cancel()

    def __del__(self) -> None:
        source = getattr(self, "_source", None)
        if source is not None:
            source.cancel()
