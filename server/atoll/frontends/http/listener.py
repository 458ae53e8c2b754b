"""The HTTP frontend: accepts connections on one address and owns what they share."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from atoll.frontends.forwarding import compile_pattern, matching
from atoll.frontends.http.codec import DEFAULT_MAX_INPUT_NBYTES, InferCodec
from atoll.frontends.http.connection import Connection
from atoll.frontends.http.head import Head, HeadReader
from atoll.frontends.http.routes import find_target
from atoll.frontends.http.tls import TlsOptions, server_context
from atoll.frontends.listening import cannot_listen

if TYPE_CHECKING:
    from atoll.core.model import Model
    from atoll.core.server import Server

__all__ = ["HttpFrontend", "HttpOptions"]

_RECEIVE_NBYTES = 256 << 10
_BACKLOG = 1024
_TLS_CLOSING_S = 3.0
"""For the last few bytes and the client's farewell, which one that keeps its connection for later never says."""


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """Settings of the HTTP frontend, named after the flags; ``max_input_size`` in bytes.

    ``restricted_api`` maps a category to the name and the value of the header that its requests must have.
    """

    address: str = "0.0.0.0"
    port: int = 8000
    reuse_port: bool = False
    max_input_size: int = DEFAULT_MAX_INPUT_NBYTES
    header_forward_pattern: str = ""
    restricted_api: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    tls: TlsOptions | None = None


class HttpFrontend:
    """The v2 protocol over HTTP. ``port`` is the one listened on, once started."""

    def __init__(self, server: Server, options: HttpOptions) -> None:
        self.server = server
        self.options = options
        self.port = options.port
        self.connections: set[Connection] = set()
        self.heads = HeadReader(self._complete)
        self.receive_buffer = memoryview(bytearray(_RECEIVE_NBYTES))
        self._restrictions = {
            category: (name.encode(), value.encode()) for category, (name, value) in options.restricted_api.items()
        }
        self._forwarded = compile_pattern(options.header_forward_pattern)
        self._codecs: dict[tuple[str, int], tuple[Model, InferCodec]] = {}
        self._listener: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Raises ServerError: UNAVAILABLE when the port is taken."""
        options = self.options
        secure: dict[str, Any] = {}
        if options.tls is not None:
            secure = {"ssl": server_context(options.tls), "ssl_shutdown_timeout": _TLS_CLOSING_S}
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                lambda: Connection(self),
                options.address,
                options.port,
                reuse_port=options.reuse_port,
                backlog=_BACKLOG,
                **secure,
            )
        except OSError as error:
            raise cannot_listen(options.address, options.port, error) from error
        listening = self._listener.sockets[0]
        self.port = listening.getsockname()[1]

    @property
    def busy(self) -> int:
        return len(self.connections)

    async def stop(self, timeout_s: float) -> bool:
        """Refuse new connections and end those that are open, each after its request in progress."""
        if self._listener is None:
            return True
        self._listener.close()
        for connection in list(self.connections):
            connection.close_when_idle()
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self.connections and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)
        return not self.connections

    async def abandon(self) -> None:
        """Stop at once: whoever waits for an answer waits on, and gets none."""
        if self._listener is not None:
            self._listener.close()
        for connection in list(self.connections):
            connection.fall_silent()

    def _complete(self, head: Head) -> None:
        """What follows from a head and the settings."""
        head.target = find_target(head.method, head.path, head.headers, self._restrictions)
        if self._forwarded is not None:
            head.forwarded = matching(
                self._forwarded, ((name.decode("latin-1"), value) for name, value in head.headers)
            )

    def codec(self, model: Model) -> InferCodec:
        """The codec of a model version; a reloaded one gets its own."""
        key = (model.name, model.version)
        known = self._codecs.get(key)
        if known is None or known[0] is not model:
            codec = InferCodec(
                model,
                max_input_nbytes=self.options.max_input_size,
                labels=model.labels,
                regions=self.server.regions,
            )
            known = self._codecs[key] = (model, codec)
        return known[1]
