"""Answering a request other than by ``execute``'s return value: response senders, and what keeps count of the answers.

A :class:`Reply` belongs to one received request and is shared by the request and its sender. When both are gone and the
request is not answered to the end, the client is told so: it must not wait for ever.
"""

import threading
from typing import Any, Optional, Protocol, Sequence, Tuple

from triton_python_backend_utils._errors import TritonModelException
from triton_python_backend_utils._response import InferenceResponse

__all__ = ["InferenceResponseSender", "Reply", "ReplyHost"]

COMPLETE_FINAL = 1


class ReplyHost(Protocol):
    """Where answers go."""

    decoupled: bool

    def opened(self, reply: "Reply") -> None:
        """A reply came to be: closed, when its request was answered without one; from now on told of a cancellation."""
        ...

    def respond(self, reply: "Reply", response: Optional[InferenceResponse], final: bool) -> None:
        """Send a response, or with None the final flag alone. Raises :class:`TritonModelException`."""
        ...

    def abandon(self, reply: "Reply") -> None:
        """Nobody can answer this request any more. Called by a finalizer, in any thread."""
        ...

    def poll(self) -> None:
        """Take in what is known by now of cancellations."""
        ...


class Reply:
    """How far one request is answered: ``count`` responses were sent, ``closed`` when no more may be."""

    __slots__ = (
        "__weakref__",
        "_sending",
        "cancelled",
        "closed",
        "count",
        "host",
        "key",
        "requested",
        "sent_nbytes",
        "taken_nbytes",
    )

    def __init__(self, host: ReplyHost, key: Tuple[int, int], requested: Sequence[str]) -> None:
        self.host = host
        self.key = key
        self.requested = requested
        self.count = 0
        self.closed = False
        self.cancelled = False
        self.sent_nbytes = 0  # the host's account: what was sent,
        self.taken_nbytes = 0  # and what of it was read
        self._sending = threading.RLock()  # held to the end of a send: nothing may come after the final response
        host.opened(self)

    def send(self, response: Optional[InferenceResponse], flags: int) -> None:
        with self._sending:
            if not self.host.decoupled:
                if response is not None and self.count:
                    raise _unable("Non-decoupled model cannot send more than one response.")
                if response is None and not self.count:
                    raise _unable("Non-decoupled model cannot send complete final before sending a response.")
            if self.closed:
                raise _unable("Response sender has been closed.")
            self.count += response is not None
            self.closed = flags == COMPLETE_FINAL
            self.host.respond(self, response, self.closed)

    def is_cancelled(self) -> bool:
        if not self.cancelled and not self.closed:
            self.host.poll()
        return self.cancelled

    def __del__(self) -> None:
        if not self.closed:
            self.host.abandon(self)


class InferenceResponseSender:
    """Sends the responses of one request: from ``execute``, or later from any thread or coroutine.

    Got by ``request.get_response_sender()``. A decoupled model may send any number of responses and then the final
    flag, with the last response or alone; another model exactly one (original 24.06).
    """

    __slots__ = ("__weakref__", "_reply")

    def __init__(self, reply: Optional[Reply]) -> None:
        self._reply = reply

    def send(self, response: Optional[InferenceResponse] = None, flags: int = 0) -> None:
        """Send ``response``, and with ``flags`` = ``TRITONSERVER_RESPONSE_COMPLETE_FINAL`` end the request.

        Raises :class:`TritonModelException` for a call out of order and when the response cannot be delivered.
        """
        if response is not None and not isinstance(response, InferenceResponse):
            raise TypeError(f"response must be an InferenceResponse or None, not {type(response).__name__}")
        if flags not in (0, COMPLETE_FINAL):
            raise _unable("Unsupported flag provided.")
        if response is None and flags == 0:
            raise TritonModelException(
                "Inference Response object must be provided when the response flags is set to zero."
            )
        if self._reply is None:
            raise _unable("Response sender has no reference to the decoupled state of the model.")
        self._reply.send(response, flags)

    def is_cancelled(self) -> bool:
        """Whether the client has given up on the request (original 23.10)."""
        return self._reply is not None and self._reply.is_cancelled()


def _unable(reason: str) -> Any:
    return TritonModelException(f"Unable to send response. {reason}")
