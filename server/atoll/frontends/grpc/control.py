"""The unary RPCs that are not inference: each a function from a request message to a response message.

``CONTROL_RPCS`` is the table of them by path.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from atoll_protos import messages
from google.protobuf import json_format

from atoll.errors import Code, ServerError
from atoll.frontends.grpc import settings, shared_memory

if TYPE_CHECKING:
    from atoll.core.server import Server

__all__ = ["CONTROL_RPCS", "ControlRpc", "SERVICE"]

SERVICE = "inference.GRPCInferenceService"
_HEALTH_CHECK = "/grpc.health.v1.Health/Check"

_Answer = Callable[["Server", Any], Awaitable[Any]]


class ControlRpc(NamedTuple):
    """One RPC: the category by which it can be restricted, the class of its request, and what answers it."""

    category: str
    request: Any
    answer: _Answer


async def _health_check(server: Server, request: Any) -> Any:
    statuses = messages.HealthCheckResponse
    return statuses(status=statuses.SERVING if await server.check_ready() else statuses.NOT_SERVING)


async def _server_live(server: Server, request: Any) -> Any:
    return messages.ServerLiveResponse(live=server.is_live())


async def _server_ready(server: Server, request: Any) -> Any:
    return messages.ServerReadyResponse(ready=await server.check_ready())


async def _model_ready(server: Server, request: Any) -> Any:
    return messages.ModelReadyResponse(ready=await server.check_model_ready(request.name, request.version))


async def _server_metadata(server: Server, request: Any) -> Any:
    return messages.ServerMetadataResponse(name=server.name, version=server.version, extensions=server.EXTENSIONS)


async def _model_metadata(server: Server, request: Any) -> Any:
    metadata = server.model(request.name, request.version).metadata
    return json_format.ParseDict(metadata, messages.ModelMetadataResponse())


async def _model_config(server: Server, request: Any) -> Any:
    config = server.model(request.name, request.version).config
    return json_format.ParseDict({"config": config}, messages.ModelConfigResponse())


async def _model_statistics(server: Server, request: Any) -> Any:
    entries = server.statistics(request.name, request.version)
    return json_format.ParseDict({"model_stats": entries}, messages.ModelStatisticsResponse())


async def _repository_index(server: Server, request: Any) -> Any:
    _refuse_repository_name(request)
    return json_format.ParseDict({"models": await server.index(request.ready)}, messages.RepositoryIndexResponse())


async def _model_load(server: Server, request: Any) -> Any:
    _refuse_repository_name(request)
    config, files = "", {}
    for key, parameter in request.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if key == "config":
            _expect("load", key, kind, "string_param")
            config = parameter.string_param
        elif key.startswith("file:"):
            _expect("load", key, kind, "bytes_param")
            files[key] = parameter.bytes_param
        else:
            raise ServerError(Code.INVALID_ARG, f"unrecognized load parameter '{key}'.")
    await server.load(request.model_name, config, files)
    return messages.RepositoryModelLoadResponse()


async def _model_unload(server: Server, request: Any) -> Any:
    _refuse_repository_name(request)
    dependents = request.parameters.get("unload_dependents")
    if dependents is not None and dependents.WhichOneof("parameter_choice") != "bool_param":
        raise ServerError(
            Code.INVALID_ARG, "invalid value type for 'unload_dependents' parameter, expected bool_param."
        )
    await server.unload(request.model_name, with_steps=dependents is not None and dependents.bool_param)
    return messages.RepositoryModelUnloadResponse()


def _expect(what: str, key: str, kind: str | None, expected: str) -> None:
    if kind != expected:
        raise ServerError(Code.INVALID_ARG, f"invalid value type for {what} parameter '{key}', expected {expected}.")


def _refuse_repository_name(request: Any) -> None:
    if request.repository_name:
        raise ServerError(Code.UNSUPPORTED, "'repository_name' specification is not supported")


_ANSWERS: dict[str, tuple[str, _Answer]] = {
    "ServerLive": ("health", _server_live),
    "ServerReady": ("health", _server_ready),
    "ModelReady": ("health", _model_ready),
    "ServerMetadata": ("metadata", _server_metadata),
    "ModelMetadata": ("metadata", _model_metadata),
    "ModelConfig": ("model-config", _model_config),
    "ModelStatistics": ("statistics", _model_statistics),
    "RepositoryIndex": ("model-repository", _repository_index),
    "RepositoryModelLoad": ("model-repository", _model_load),
    "RepositoryModelUnload": ("model-repository", _model_unload),
    "TraceSetting": ("trace", settings.trace_setting),
    "LogSettings": ("logging", settings.log_settings),
    "SystemSharedMemoryStatus": ("shared-memory", shared_memory.system_status),
    "SystemSharedMemoryRegister": ("shared-memory", shared_memory.register_system),
    "SystemSharedMemoryUnregister": ("shared-memory", shared_memory.unregister_system),
    "CudaSharedMemoryStatus": ("shared-memory", shared_memory.cuda_status),
    "CudaSharedMemoryRegister": ("shared-memory", shared_memory.register_cuda),
    "CudaSharedMemoryUnregister": ("shared-memory", shared_memory.unregister_cuda),
}

CONTROL_RPCS: dict[str, ControlRpc] = {
    f"/{SERVICE}/{name}": ControlRpc(category, getattr(messages, f"{name}Request"), answer)
    for name, (category, answer) in _ANSWERS.items()
}
CONTROL_RPCS[_HEALTH_CHECK] = ControlRpc("health", messages.HealthCheckRequest, _health_check)
