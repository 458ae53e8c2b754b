"""The endpoints of the shared-memory extensions: status, register and unregister of system and CUDA regions."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

from atoll.errors import ServerError
from atoll.frontends.http.answer import JSON, Answer
from atoll.frontends.http.json_reader import read_json
from atoll.frontends.http.members import STRING, UNSIGNED, MemberType, as_object, invalid
from atoll.inference import well_formed

if TYPE_CHECKING:
    from atoll.core.server import Server
    from atoll.frontends.http.routes import Route

__all__ = [
    "cuda_status",
    "register_cuda",
    "register_system",
    "system_status",
    "unregister_cuda",
    "unregister_system",
]

_HANDLE_NBYTES = 64  # of a cudaIpcMemHandle_t


def system_status(server: Server, route: Route, body: bytes) -> Answer:
    return Answer(200, JSON, orjson.dumps(server.regions.system_status(route.region)))


def cuda_status(server: Server, route: Route, body: bytes) -> Answer:
    return Answer(200, JSON, orjson.dumps(server.regions.cuda_status(route.region)))


def register_system(server: Server, route: Route, body: bytes) -> Answer:
    if not route.region:
        raise invalid("'region name' is necessary to register system shared memory region")
    document = as_object(read_json(body))
    key = well_formed(_field(document, "key", STRING))
    offset = _typed(document.get("offset", 0), UNSIGNED)
    server.regions.register_system(route.region, key, offset, _field(document, "byte_size", UNSIGNED))
    return Answer(200, JSON)


def register_cuda(server: Server, route: Route, body: bytes) -> Answer:
    if not route.region:
        raise invalid("'region name' is necessary to register cuda shared memory region")
    document = as_object(read_json(body))
    if "raw_handle" not in document:
        raise _no_field("raw_handle")
    _check_handle(_member(as_object(document["raw_handle"]), "b64", STRING))
    nbytes = _member(document, "byte_size", UNSIGNED)
    server.regions.register_cuda(route.region, _member(document, "device_id", UNSIGNED), nbytes)
    return Answer(200, JSON)


def unregister_system(server: Server, route: Route, body: bytes) -> Answer:
    server.regions.unregister_system(route.region)
    return Answer(200, JSON)


def unregister_cuda(server: Server, route: Route, body: bytes) -> Answer:
    server.regions.unregister_cuda(route.region)
    return Answer(200, JSON)


def _check_handle(text: str) -> None:
    try:
        handle = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        handle = b""
    if len(handle) != _HANDLE_NBYTES:
        raise invalid("'raw_handle' must be a valid base64 encoded cudaIpcMemHandle_t")


def _field(document: Mapping[str, Any], key: str, expected: MemberType) -> Any:
    """A member whose lack has words of its own."""
    if key not in document:
        raise _no_field(key)
    return _typed(document[key], expected)


def _member(document: Mapping[str, Any], key: str, expected: MemberType) -> Any:
    if key not in document:
        raise invalid(f"attempt to access non-existing object member '{key}'")
    return _typed(document[key], expected)


def _typed(value: Any, expected: MemberType) -> Any:
    if not expected.accepts(value):
        raise invalid(f"attempt to access JSON {expected.complaint}")
    return value


def _no_field(key: str) -> ServerError:
    return invalid(f"Shared memory register request has no '{key}' field")
