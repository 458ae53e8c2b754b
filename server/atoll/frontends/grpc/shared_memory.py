"""The RPCs of the shared-memory extensions: status, register and unregister of system and CUDA regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atoll_protos import messages

if TYPE_CHECKING:
    from atoll.core.server import Server

__all__ = [
    "cuda_status",
    "register_cuda",
    "register_system",
    "system_status",
    "unregister_cuda",
    "unregister_system",
]


async def system_status(server: Server, request: Any) -> Any:
    response = messages.SystemSharedMemoryStatusResponse()
    for row in server.regions.system_status(request.name):
        region = response.regions[row["name"]]
        region.name, region.key = row["name"], row["key"]
        region.offset, region.byte_size = row["offset"], row["byte_size"]
    return response


async def cuda_status(server: Server, request: Any) -> Any:
    server.regions.cuda_status(request.name)
    return messages.CudaSharedMemoryStatusResponse()


async def register_system(server: Server, request: Any) -> Any:
    server.regions.register_system(request.name, request.key, request.offset, request.byte_size)
    return messages.SystemSharedMemoryRegisterResponse()


async def register_cuda(server: Server, request: Any) -> Any:
    server.regions.register_cuda(request.name, request.device_id, request.byte_size)
    return messages.CudaSharedMemoryRegisterResponse()


async def unregister_system(server: Server, request: Any) -> Any:
    server.regions.unregister_system(request.name)
    return messages.SystemSharedMemoryUnregisterResponse()


async def unregister_cuda(server: Server, request: Any) -> Any:
    server.regions.unregister_cuda(request.name)
    return messages.CudaSharedMemoryUnregisterResponse()
