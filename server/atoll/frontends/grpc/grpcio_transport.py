"""The gRPC frontend on grpcio: ports, TLS, keepalive, and the service's RPCs as grpc.aio handlers.

The only file that knows grpcio; ``--grpc-transport=grpcio`` chooses it. Messages stay bytes here; ``service`` reads and
writes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from atoll.errors import Code, ServerError
from atoll.frontends.grpc.options import GrpcOptions
from atoll.frontends.grpc.outbox import Outbox
from atoll.frontends.grpc.reply import MAX_MESSAGE_BYTES
from atoll.frontends.grpc.service import INFER, STREAM, Headers, InferenceService
from atoll.frontends.grpc.status import status_of
from atoll.frontends.grpc.stream import InferStream
from atoll.frontends.grpc.wire import Parts

if TYPE_CHECKING:
    from atoll.core.server import Server

__all__ = ["GrpcFrontend"]

_Handler = Callable[[Any, Any], Awaitable[Any]]

# gRPC core's order of strength when it is given a level instead of an algorithm.
_COMPRESSION = {
    "none": None,
    "low": grpc.Compression.Gzip,
    "medium": grpc.Compression.Deflate,
    "high": grpc.Compression.Deflate,
}


class GrpcFrontend:
    """A gRPC server in front of ``server``, on the running event loop. ``port`` is where it listens once started."""

    def __init__(self, server: Server, options: GrpcOptions) -> None:
        self.port = options.port
        self._options = options
        self._service = InferenceService(
            server, restricted=options.restricted_protocol, forward_pattern=options.header_forward_pattern
        )
        self._grpc: grpc.aio.Server | None = None
        self._handlers: _Handlers | None = None

    async def start(self) -> None:
        """Listen. Raises UNAVAILABLE when the port is taken or a TLS file cannot be used."""
        options = self._options
        listener = grpc.aio.server(options=_channel_arguments(options))
        handlers = self._handlers = _Handlers(self._service, _COMPRESSION[options.infer_response_compression_level])
        listener.add_generic_rpc_handlers((handlers,))
        host = f"[{options.address}]" if ":" in options.address else options.address
        try:
            if options.use_ssl or options.use_ssl_mutual:
                self.port = listener.add_secure_port(f"{host}:{options.port}", _credentials(options))
            else:
                self.port = listener.add_insecure_port(f"{host}:{options.port}")
        except (OSError, RuntimeError, ValueError) as error:
            raise ServerError(Code.UNAVAILABLE, f"Socket '{options.address}:{options.port}' already in use ") from error
        await listener.start()
        self._grpc = listener

    @property
    def busy(self) -> int:
        return 0 if self._handlers is None else self._handlers.running

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls at once, and give running ones ``grace_s`` seconds before they are cancelled."""
        self._service.refuse_new_calls()
        if self._grpc is not None:
            await self._grpc.stop(grace_s)


def _channel_arguments(options: GrpcOptions) -> list[tuple[str, int]]:
    arguments = {
        "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
        "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
        "grpc.so_reuseport": options.reuse_port,
        "grpc.keepalive_time_ms": options.keepalive_time_ms,
        "grpc.keepalive_timeout_ms": options.keepalive_timeout_ms,
        "grpc.keepalive_permit_without_calls": options.keepalive_permit_without_calls,
        "grpc.http2.max_pings_without_data": options.http2_max_pings_without_data,
        "grpc.http2.min_ping_interval_without_data_ms": options.http2_min_recv_ping_interval_without_data_ms,
        "grpc.http2.max_ping_strikes": options.http2_max_ping_strikes,
        "grpc.max_connection_age_ms": options.max_connection_age_ms,
        "grpc.max_connection_age_grace_ms": options.max_connection_age_grace_ms,
    }
    return [(name, int(value)) for name, value in arguments.items() if value is not None]


def _credentials(options: GrpcOptions) -> grpc.ServerCredentials:
    key_and_certificate = (Path(options.server_key).read_bytes(), Path(options.server_cert).read_bytes())
    roots = Path(options.root_cert).read_bytes() if options.root_cert else None
    return grpc.ssl_server_credentials([key_and_certificate], roots, options.use_ssl_mutual)


class _Handlers(grpc.GenericRpcHandler):
    """Finds the handler of a path; a path that is unknown is UNIMPLEMENTED. Bodies are passed as bytes."""

    def __init__(self, service: InferenceService, compression: grpc.Compression | None) -> None:
        self._service = service
        self._compression = compression
        self.running = 0  # calls under way
        self._by_path: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            path: grpc.unary_unary_rpc_method_handler(_reporting(_control(answer)))
            for path, answer in service.control.items()
        }
        self._by_path[INFER] = grpc.unary_unary_rpc_method_handler(self._counted(_reporting(self._infer)))
        self._by_path[STREAM] = grpc.stream_stream_rpc_method_handler(self._counted(_reporting(self._stream)))

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        return self._by_path.get(handler_call_details.method)

    def _counted(self, handler: _Handler) -> _Handler:
        async def handle(request: Any, context: Any) -> Any:
            self.running += 1
            try:
                return await handler(request, context)
            finally:
                self.running -= 1

        return handle

    async def _infer(self, body: bytes, context: Any) -> bytes | ServerError:
        if self._compression is not None:
            context.set_compression(self._compression)
        answered: asyncio.Future[bytes | ServerError] = asyncio.get_running_loop().create_future()

        def done(answer: Parts | ServerError) -> None:
            # Joined here, so that the blocks behind the parts are free again at once.
            if not answered.done():
                answered.set_result(answer if isinstance(answer, ServerError) else b"".join(answer))

        began_ns = self._service.now_if_traced()
        request = self._service.infer(body, context.invocation_metadata, done, context.add_done_callback, began_ns)
        try:
            return await answered
        except asyncio.CancelledError:  # by the client, or its deadline
            self._service.server.cancel(request)
            raise

    async def _stream(self, _: Any, context: Any) -> ServerError | None:
        if self._compression is not None:
            context.set_compression(self._compression)
        outbox = Outbox()
        stream = self._service.open_stream(context.invocation_metadata, outbox.put, outbox.end, outbox.when_written)
        reader = asyncio.create_task(_read(stream, outbox, context))
        try:
            return await outbox.write(context.write)
        finally:
            reader.cancel()
            stream.close()
            outbox.clear()


async def _read(stream: InferStream, outbox: Outbox, context: Any) -> None:
    """One message at a time: the next is read when the last one is in its queue, and the client reads its answers."""
    try:
        while (body := await context.read()) is not grpc.aio.EOF:
            stream.receive(body)
            await outbox.room()
    except Exception as error:
        stream.close(ServerError(Code.INTERNAL, f"failed to read from the stream: {error!r}"))
    else:
        stream.half_close()


def _control(answer: Callable[[bytes, Headers], Awaitable[Parts]]) -> _Handler:
    async def handle(body: bytes, context: Any) -> bytes:
        return b"".join(await answer(body, context.invocation_metadata))

    return handle


def _reporting(handler: _Handler) -> _Handler:
    """A ServerError that a handler raises or returns becomes the call's status.

    What comes from the core is returned: raised, its traceback would hold the request in a cycle.
    """

    async def handle(request: Any, context: Any) -> Any:
        try:
            answer = await handler(request, context)
        except ServerError as error:
            answer = error.with_traceback(None)
        if isinstance(answer, ServerError):
            code, details = status_of(answer)
            await context.abort(grpc.StatusCode[code], details)
        return answer

    return handle
