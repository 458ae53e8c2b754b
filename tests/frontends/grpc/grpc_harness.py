"""gRPC frontends over the twin, on an event loop in a thread of its own; clients are on the test's thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import grpc
import pytest
import uvloop
from atoll.frontends.grpc import GrpcFrontend, GrpcOptions
from atoll.frontends.grpc.http2.frontend import Http2Frontend
from atoll_protos import messages
from grpc_twin import TwinServer, fail, hold, identity, repeat

T = TypeVar("T")
Frontend = GrpcFrontend | Http2Frontend
TRANSPORTS: dict[str, type[Frontend]] = {"http2": Http2Frontend, "grpcio": GrpcFrontend}
SERVICE = "/inference.GRPCInferenceService/"


class LoopThread:
    """An event loop that runs in a thread until the test is over."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        async def call() -> T:
            return function(*args, **kwargs)

        return self.run(call())

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Client:
    """grpcio's own client, with our messages."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel

    def method(self, name: str) -> Any:
        return self.channel.unary_unary(
            SERVICE + name,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=getattr(messages, f"{name}Response").FromString,
        )

    def call(self, rpc: str, /, **fields: Any) -> Any:
        return self.method(rpc)(getattr(messages, f"{rpc}Request")(**fields), timeout=30)

    def infer(self, request: Any, **options: Any) -> Any:
        return self.method("ModelInfer")(request, **{"timeout": 30, **options})

    def stream(self, requests: Any, **options: Any) -> Any:
        method = self.channel.stream_stream(
            SERVICE + "ModelStreamInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=messages.ModelStreamInferResponse.FromString,
        )
        return method(iter(requests), **{"timeout": 30, **options})

    def error(self, rpc: str, /, **fields: Any) -> tuple[str, str]:
        with pytest.raises(grpc.RpcError) as caught:
            self.call(rpc, **fields)
        return caught.value.code().name, caught.value.details()

    def infer_error(self, request: Any, **options: Any) -> tuple[str, str]:
        with pytest.raises(grpc.RpcError) as caught:
            self.infer(request, **options)
        return caught.value.code().name, caught.value.details()


class Frontends:
    """Starts frontends of one transport over one twin."""

    def __init__(self, transport: str = "http2") -> None:
        self.transport = transport
        self.thread = LoopThread()
        self.twin = TwinServer()
        self.twin.add("ident", identity)
        self.twin.add("batched", identity, max_batch_size=8)
        self.twin.add("fail", fail)
        self.twin.add("hold", hold)
        self.twin.add("repeat", repeat, decoupled=True)
        self._frontends: list[Frontend] = []
        self._channels: list[grpc.Channel] = []

    def start(self, **options: Any) -> Frontend:
        async def start() -> Frontend:
            frontend = TRANSPORTS[self.transport](
                self.twin, GrpcOptions(**{"address": "127.0.0.1", "port": 0, **options})
            )
            await frontend.start()
            return frontend

        frontend = self.thread.run(start())
        self._frontends.append(frontend)
        return frontend

    def client(self, frontend: Frontend, **options: Any) -> Client:
        limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        return self.adopt(grpc.insecure_channel(f"127.0.0.1:{frontend.port}", options=limits, **options))

    def adopt(self, channel: grpc.Channel) -> Client:
        self._channels.append(channel)
        return Client(channel)

    def close(self) -> None:
        for channel in self._channels:
            channel.close()
        for frontend in self._frontends:
            self.thread.run(frontend.stop(0))
        self.thread.close()


def infer_request(model: str = "ident", *, raw: Any = (), id: str = "", **parameters: Any) -> Any:
    """A request whose inputs are given as (name, datatype, shape) or with raw bytes behind; parameters by value."""
    request = messages.ModelInferRequest(model_name=model, id=id)
    for name, datatype, shape, data in raw:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(data)
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    for key, value in parameters.items():
        setattr(request.parameters[key], kinds[type(value)], value)
    return request


def floats(**options: Any) -> Any:
    """A request with one good FP32 input."""
    return infer_request(raw=[("IN", "FP32", [1, 4], bytes(16))], **options)
