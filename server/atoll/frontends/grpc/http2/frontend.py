"""The gRPC frontend on our own HTTP/2: ports, TLS, and the life of connections by the clock."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from atoll.frontends.grpc.http2 import limits
from atoll.frontends.grpc.http2.connection import Connection
from atoll.frontends.grpc.http2.rpcs import CallOpener
from atoll.frontends.grpc.options import GrpcOptions
from atoll.frontends.grpc.service import InferenceService
from atoll.frontends.listening import cannot_listen

if TYPE_CHECKING:
    from atoll.core.server import Server

__all__ = ["Http2Frontend"]

_BUFFER_NBYTES = 256 << 10
_TLS_CLOSING_S = 3.0
_RETIRING_S = 20.0
"""A client that does not answer the PING by which it retires has lost its line, or its mind."""
_MOST_LINGERING_S = 30.0
_AGE_JITTER = 0.1
"""So that clients that came together do not all come back together."""
_FAREWELL_S = 1.0
"""For what clients are told last."""


class Http2Frontend:
    """A gRPC server in front of ``server``, on the running event loop. ``port`` is where it listens once started.

    ``stall_s`` and ``linger_s`` are as in ``limits``.
    """

    stall_s = limits.STALL_S
    linger_s = limits.LINGER_S

    def __init__(self, server: Server, options: GrpcOptions) -> None:
        self.port = options.port
        self.options = options
        self.receive_buffer = memoryview(bytearray(_BUFFER_NBYTES))
        self._service = InferenceService(
            server, restricted=options.restricted_protocol, forward_pattern=options.header_forward_pattern
        )
        self._opener = CallOpener(self._service, options.infer_response_compression_level)
        self._listener: asyncio.Server | None = None
        self._sweeping: asyncio.TimerHandle | None = None
        self._timers: dict[Connection, dict[str, asyncio.TimerHandle]] = {}
        self._is_stopping = False
        self._emptied = asyncio.Event()

    async def start(self) -> None:
        """Listen. Raises UNAVAILABLE when the port is taken or a TLS file cannot be used."""
        options = self.options
        try:
            secure: dict[str, Any] = {}
            if options.use_ssl or options.use_ssl_mutual:
                secure = {"ssl": _ssl_context(options), "ssl_shutdown_timeout": _TLS_CLOSING_S}
            self._listener = await asyncio.get_running_loop().create_server(
                lambda: Connection(self, self._opener.open),
                options.address,
                options.port,
                reuse_port=options.reuse_port or None,
                backlog=1024,
                **secure,
            )
        except OSError as error:
            raise cannot_listen(options.address, options.port, error) from error
        self.port = self._listener.sockets[0].getsockname()[1]
        self._sweep()

    @property
    def busy(self) -> int:
        return len(self._timers)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls at once, and give running ones ``grace_s`` seconds before they are cancelled."""
        self._service.refuse_new_calls()
        self._is_stopping = True
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._timers):
            connection.session.shut_down()
        if not await self._empty(grace_s):
            for connection in list(self._timers):
                connection.abort()
            await self._empty(_TLS_CLOSING_S)
        if self._sweeping is not None:
            self._sweeping.cancel()

    async def abandon(self) -> None:
        """Stop at once: clients of running calls are told that these are cancelled."""
        self._service.refuse_new_calls()
        self._is_stopping = True
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._timers):
            connection.session.give_up()
        if not await self._empty(_FAREWELL_S):
            for connection in list(self._timers):
                connection.abort()
        if self._sweeping is not None:
            self._sweeping.cancel()

    # -- what connections tell

    def opened(self, connection: Connection) -> None:
        self._timers[connection] = {}
        self._later(connection, "keepalive", self.options.keepalive_time_ms / 1000, self._keep_alive)
        if self.options.max_connection_age_ms is not None:
            age_s = self.options.max_connection_age_ms / 1000 * random.uniform(1 - _AGE_JITTER, 1 + _AGE_JITTER)
            self._later(connection, "age", age_s, self._retire)
        if self._is_stopping:  # it was among those to be accepted, or still shook hands
            asyncio.get_running_loop().call_soon(connection.session.shut_down)

    def closing(self, connection: Connection) -> None:
        """All has been said, and may be still on its way."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _MOST_LINGERING_S

        def end(connection: Connection) -> None:
            if loop.time() > deadline:
                connection.abort()
            elif not connection.abort_if_sent():
                self._later(connection, "linger", self.linger_s, end)

        self._later(connection, "linger", self.linger_s, end)

    def closed(self, connection: Connection) -> None:
        for timer in self._timers.pop(connection, {}).values():
            timer.cancel()
        if not self._timers:
            self._emptied.set()

    # -- by the clock

    def _later(self, connection: Connection, name: str, delay_s: float, act: Callable[[Connection], None]) -> None:
        timers = self._timers.get(connection)
        if timers is not None:
            timers[name] = asyncio.get_running_loop().call_later(delay_s, act, connection)

    def _keep_alive(self, connection: Connection) -> None:
        self._later(connection, "keepalive", connection.keep_alive(), self._keep_alive)

    def _retire(self, connection: Connection) -> None:
        """The connection is old: no more calls, and after the grace no connection."""
        connection.session.retire()
        self._later(connection, "age", _RETIRING_S, lambda connection: connection.session.shut_down())
        if self.options.max_connection_age_grace_ms is not None:
            self._later(connection, "grace", self.options.max_connection_age_grace_ms / 1000, Connection.abort)

    def _sweep(self) -> None:
        for connection in list(self._timers):
            connection.sweep()
        self._sweeping = asyncio.get_running_loop().call_later(self.stall_s, self._sweep)

    async def _empty(self, within_s: float) -> bool:
        """Whether all connections have ended in this time."""
        if self._timers:
            self._emptied.clear()
            try:
                await asyncio.wait_for(self._emptied.wait(), within_s)
            except asyncio.TimeoutError:
                return False
        return True


def _ssl_context(options: GrpcOptions) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(options.server_cert, options.server_key)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["h2"])
    if options.use_ssl_mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(options.root_cert)  # an OSError where there is none
    return context
