"""The life of one ``generate`` or ``generate_stream`` request: from a complete body to the end of its chunks.

The first response decides the status line, so the head goes out with it. ``generate`` waits to see that there is
exactly one response; ``generate_stream`` sends each as an event. What is wrong before the model gets the request is
answered like any other error. See also: ``generate`` for the JSON, ``connection`` for the socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.errors import HTTP_STATUS, ServerError
from atoll.frontends.http.answer import EVENT_STREAM, JSON, error_answer, error_body, response_opening
from atoll.frontends.http.generate import read_request, write_response
from atoll.frontends.http.head import Head
from atoll.frontends.http.members import invalid
from atoll.frontends.http.routes import Route, Task
from atoll.frontends.tracing import HTTP, soon, trace_request
from atoll.inference import Request, Response

if TYPE_CHECKING:
    from atoll.frontends.http.connection import Connection
    from atoll.frontends.http.listener import HttpFrontend

__all__ = ["Generation"]

_NOT_ONE_RESPONSE = (
    200,
    error_body(
        "generate expects model to produce exactly 1 response, use generate stream for model that generates various "
        "number of responses"
    ),
)


class Generation:
    """One request; the connection is told the answer."""

    def __init__(self, frontend: HttpFrontend, connection: Connection) -> None:
        self._frontend = frontend
        self._connection = connection
        self._request: Request | None = None
        self._held: Response | None = None  # of generate: the first, as long as it may be the only one
        self._begun = False

    def begin(self, head: Head, route: Route, body: bytes | memoryview) -> None:
        server = self._frontend.server
        respond = self._on_event if route.answer is Task.GENERATE_STREAM else self._on_single
        try:
            model = server.model(route.model, route.version)
            if head.content_encoding:
                raise invalid("Unsupported content-encoding, only 'identity' is supported.")
            request = read_request(model, body, self._frontend.options.max_input_size, respond)
            self._request = request
            if server.tracer.is_on:
                trace_request(server.tracer, request, HTTP, self._connection.began_ns, head.header, soon)
            server.submit(model, request)
        except ServerError as error:
            self._request = None
            self._connection.answer(error_answer(error, JSON))

    def cancel(self) -> None:
        """The client is gone, or has got all it will get."""
        request, self._request = self._request, None
        if request is not None:
            self._frontend.server.cancel(request)

    def _on_event(self, response: Response) -> None:
        """A response of ``generate_stream``. Called by the core."""
        if self._request is None:
            return
        connection = self._connection
        if not response.empty:
            status, text = _result(response)
            self._open(status)
            connection.send_chunk(b"data: %b\n\n" % text, response.receipt)
        if response.final:
            self._request = None
            self._open(200)
            connection.end_chunks()

    def _open(self, status: int) -> None:
        if not self._begun:
            self._begun = True
            self._connection.begin_chunks(response_opening(status, EVENT_STREAM))

    def _on_single(self, response: Response) -> None:
        """A response of ``generate``. Called by the core."""
        if self._request is None:
            return
        if not response.empty:
            if self._held is not None:
                self.cancel()
                self._conclude(*_NOT_ONE_RESPONSE)
                return
            self._held = response
            response.receipt = None  # nobody is slow to read it: what is awaited is another word of the model
        if response.final:
            self._request = None
            self._conclude(*(_NOT_ONE_RESPONSE if self._held is None else _result(self._held)))

    def _conclude(self, status: int, text: bytes) -> None:
        self._held = None
        self._connection.begin_chunks(response_opening(status, JSON))
        self._connection.send_chunk(text, None)
        self._connection.end_chunks()


def _result(response: Response) -> tuple[int, bytes]:
    """The status that a response stands for, and its JSON."""
    error = response.error
    if error is None:
        try:
            return 200, write_response(response)
        except ServerError as unwritable:
            error = unwritable.with_traceback(None)
    return HTTP_STATUS[error.code], error_body(error.message)
