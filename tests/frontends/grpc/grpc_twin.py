"""An in-memory twin of the core: the same interface, with models that are a few lines of Python on the event loop.

``TwinServer.infer`` answers later on the loop, as the core does. A model of behaviour ``hold`` answers when the test
says so; ``TwinServer.arrived`` and ``TwinServer.cancelled`` let a test in another thread wait for that.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from typing import Any

import numpy as np
from atoll.core.regions import Regions
from atoll.errors import Code, ServerError
from atoll.inference import Parameter, Request, Response, Tensor
from atoll.observe.trace_settings import TraceOptions
from atoll.observe.tracer import Tracer
from atoll_ipc.memory import Arena, ArenaSettings, Block

Behaviour = Callable[["TwinServer", "TwinModel", Request], None]


class TwinModel:
    def __init__(self, name: str, behaviour: Behaviour, *, decoupled: bool = False, max_batch_size: int = 0) -> None:
        self.arena = Arena(0, ArenaSettings())
        self.name = name
        self.version = 1
        self.behaviour = behaviour
        self.decoupled = decoupled
        self.max_batch_size = max_batch_size
        self.labels: dict[str, list[str]] = {}
        self.metadata: dict[str, Any] = {
            "name": name,
            "versions": ["1"],
            "platform": "python",
            "inputs": [{"name": "IN", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [{"name": "OUT", "datatype": "FP32", "shape": [-1, 4]}],
        }
        self.config: dict[str, Any] = {
            "name": name,
            "backend": "python",
            "version_policy": {"latest": {"num_versions": 1}},
            "max_batch_size": max_batch_size,
            "input": [{"name": "IN", "data_type": "TYPE_FP32", "format": "FORMAT_NONE", "dims": [4]}],
            "dynamic_batching": {
                "max_queue_delay_microseconds": 2**40,
                "priority_queue_policy": {"1": {"timeout_action": "REJECT", "max_queue_size": 3}},
            },
            "instance_group": [{"name": f"{name}_0", "kind": "KIND_CPU", "count": 2}],
            "parameters": {"k": {"string_value": "v"}},
            "model_transaction_policy": {"decoupled": decoupled},
        }

    def allocate(self, nbytes: int) -> Block:
        return self.arena.allocate(nbytes)


class TwinServer:
    name = "triton"
    version = "0.1.0"
    EXTENSIONS = ("classification", "sequence")

    def __init__(self) -> None:
        self.tracer = Tracer(TraceOptions(), self.is_model_ready)
        self.ready = True
        self.models: dict[str, TwinModel] = {}
        self.regions = Regions()
        self.arrived: queue.Queue[Request] = queue.Queue()
        self.cancelled: queue.Queue[Request] = queue.Queue()

    def add(self, name: str, behaviour: Behaviour, **options: Any) -> TwinModel:
        model = self.models[name] = TwinModel(name, behaviour, **options)
        return model

    def infer(self, request: Request) -> None:
        model = self.models[request.model_name]
        for tensor in request.inputs:
            if not tensor.name.startswith("IN"):
                raise ServerError(
                    Code.INVALID_ARG, f"unexpected inference input '{tensor.name}' for model '{model.name}'"
                )
        self.arrived.put(request)
        asyncio.get_running_loop().call_soon(model.behaviour, self, model, request)

    def cancel(self, request: Request) -> None:
        request.cancelled = True
        self.cancelled.put(request)

    def is_live(self) -> bool:
        return True

    def is_ready(self) -> bool:
        return self.ready

    async def check_ready(self) -> bool:
        return self.is_ready()

    async def check_model_ready(self, name: str, version: str = "") -> bool:
        return self.is_model_ready(name, version)

    def is_model_ready(self, name: str, version: str = "") -> bool:
        self._check_version(version)
        return name in self.models and version in ("", "1")

    def model(self, name: str, version: str = "") -> TwinModel:
        self._check_version(version)
        if name not in self.models:
            raise ServerError(Code.NOT_FOUND, f"Request for unknown model: '{name}' is not found")
        if version not in ("", "1"):
            raise ServerError(Code.NOT_FOUND, f"Request for unknown model: '{name}' version {version} is not found")
        return self.models[name]

    @staticmethod
    def _check_version(version: str) -> None:
        if version and not version.isdigit():
            raise ServerError(
                Code.INVALID_ARG,
                f"failed to get model version from specified version string '{version}' (details: stol), "
                "version should be an integral value > 0",
            )

    def statistics(self, name: str = "", version: str = "") -> list[dict[str, Any]]:
        if name and name not in self.models:
            raise ServerError(Code.INVALID_ARG, f"requested model '{name}' is not available")
        duration = {"count": 2, "ns": 2**50}
        return [
            {
                "name": model,
                "version": "1",
                "last_inference": 1700000000000,
                "inference_count": 2,
                "execution_count": 1,
                "inference_stats": {"success": duration, "cache_miss": duration},
                "response_stats": {"0": {"compute_infer": duration}},
                "batch_stats": [{"batch_size": 2, "compute_input": duration}],
                "memory_usage": [],
            }
            for model in self.models
            if name in ("", model)
        ]

    async def index(self, ready: bool = False) -> list[dict[str, Any]]:
        entries = [{"name": name, "version": "1", "state": "READY"} for name in sorted(self.models)]
        return entries if ready else [*entries, {"name": "never"}]


def respond(
    model: TwinModel,
    request: Request,
    outputs: list[Tensor],
    *,
    final: bool = True,
    empty: bool = False,
    error: ServerError | None = None,
    parameters: dict[str, Parameter] | None = None,
) -> None:
    response = Response(request, model.version, outputs, final=final, empty=empty, error=error, parameters=parameters)
    request.respond(response)


def identity(server: TwinServer, model: TwinModel, request: Request) -> None:
    """Each INx comes back as OUTx, unless other outputs were requested."""
    outputs = [Tensor("OUT" + t.name[2:], t.datatype, t.shape, t.data) for t in request.inputs]
    wanted = request.outputs or [t.name for t in outputs]
    respond(model, request, [t for t in outputs if t.name in wanted], parameters=request.parameters)


def fail(server: TwinServer, model: TwinModel, request: Request) -> None:
    """Answers with the error code of parameter ``code``."""
    code = Code[str((request.parameters or {}).get("code", "INTERNAL"))]
    respond(model, request, [], error=ServerError(code, str((request.parameters or {}).get("text", "coded"))))


def hold(server: TwinServer, model: TwinModel, request: Request) -> None:
    """Leaves the answer to the test."""


def repeat(server: TwinServer, model: TwinModel, request: Request) -> None:
    """Decoupled: IN, an INT32, is the number of responses. From 100 on FINAL comes with the last; below 0 an error."""
    count = int(np.frombuffer(request.inputs[0].buffer(), "<i4")[0])
    if count < 0:
        respond(model, request, [], error=ServerError(Code.INTERNAL, "neg!"))
        return
    for index in range(count):
        data = index.to_bytes(4, "little")
        respond(model, request, [Tensor("OUT", "INT32", [1], data)], final=count >= 100 and index == count - 1)
    if count < 100:
        respond(model, request, [], empty=True)
