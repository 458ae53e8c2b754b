"""The gRPC frontend on our own HTTP/2: ports, TLS, keepalive, and the life of connections."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import TYPE_CHECKING

from atoll.errors import Code, ServerError
from atoll.frontends.grpc.http2.calls import CallOpener
from atoll.frontends.grpc.http2.connection import Connection
from atoll.frontends.grpc.options import GrpcOptions
from atoll.frontends.grpc.service import InferenceService

if TYPE_CHECKING:
    from atoll.core.server import Server

__all__ = ["Http2Frontend"]

_BUFFER_NBYTES = 256 << 10


class Http2Frontend:
    """A gRPC server in front of ``server``, on the running event loop. ``port`` is where it listens once started."""

    def __init__(self, server: Server, options: GrpcOptions) -> None:
        self.port = options.port
        self.options = options
        self.receive_buffer = memoryview(bytearray(_BUFFER_NBYTES))
        self._service = InferenceService(
            server, restricted=options.restricted_protocol, forward_pattern=options.header_forward_pattern
        )
        self._opener = CallOpener(self._service, options.infer_response_compression_level)
        self._listener: asyncio.Server | None = None
        self._timers: dict[Connection, list[asyncio.TimerHandle]] = {}
        self._emptied: asyncio.Event = asyncio.Event()

    async def start(self) -> None:
        """Listen. Raises UNAVAILABLE when the port is taken or a TLS file cannot be used."""
        options = self.options
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                lambda: Connection(self, self._opener.open),
                options.address,
                options.port,
                ssl=_ssl_context(options) if options.use_ssl or options.use_ssl_mutual else None,
                reuse_port=options.reuse_port or None,
                backlog=1024,
            )
        except (OSError, ssl.SSLError) as error:
            raise ServerError(Code.UNAVAILABLE, f"Socket '{options.address}:{options.port}' already in use ") from error
        self.port = self._listener.sockets[0].getsockname()[1]

    @property
    def busy(self) -> int:
        return len(self._timers)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls at once, and give running ones ``grace_s`` seconds before they are cancelled."""
        self._service.refuse_new_calls()
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._timers):
            connection.shut_down()
        if self._timers:
            self._emptied.clear()
            try:
                await asyncio.wait_for(self._emptied.wait(), grace_s)
            except asyncio.TimeoutError:
                for connection in list(self._timers):
                    connection.abort()

    # -- what connections tell

    def opened(self, connection: Connection) -> None:
        options = self.options
        loop = asyncio.get_running_loop()
        timers = self._timers[connection] = [loop.call_later(options.keepalive_time_ms / 1000, self._probe, connection)]
        if options.max_connection_age_ms is not None:
            timers.append(loop.call_later(options.max_connection_age_ms / 1000, self._retire, connection))

    def closed(self, connection: Connection) -> None:
        for timer in self._timers.pop(connection, ()):
            timer.cancel()
        if not self._timers:
            self._emptied.set()

    # -- by the clock

    def _probe(self, connection: Connection) -> None:
        """Whether a client that has been silent is still there."""
        options = self.options
        delay_ms, then = options.keepalive_time_ms, self._probe
        if connection.streams or options.keepalive_permit_without_calls:
            connection.probe()
            asked_ns = time.monotonic_ns()

            def check(connection: Connection) -> None:
                if connection.heard_ns < asked_ns:
                    connection.abort()
                else:
                    self._again(connection, options.keepalive_time_ms, self._probe)

            self._again(connection, options.keepalive_timeout_ms, check)
        else:
            self._again(connection, delay_ms, then)

    def _again(self, connection: Connection, delay_ms: int, then) -> None:  # type: ignore[no-untyped-def]
        timers = self._timers.get(connection)
        if timers is not None:
            timers[0] = asyncio.get_running_loop().call_later(delay_ms / 1000, then, connection)

    def _retire(self, connection: Connection) -> None:
        """The connection is old: no more calls, and after the grace no connection."""
        connection.shut_down()
        grace_ms = self.options.max_connection_age_grace_ms
        timers = self._timers.get(connection)
        if grace_ms is not None and timers is not None:
            timers.append(asyncio.get_running_loop().call_later(grace_ms / 1000, connection.abort))


def _ssl_context(options: GrpcOptions) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(options.server_cert, options.server_key)
    context.set_alpn_protocols(["h2"])
    if options.use_ssl_mutual:
        context.verify_mode = ssl.CERT_REQUIRED
    if options.root_cert:
        context.load_verify_locations(options.root_cert)
    return context
