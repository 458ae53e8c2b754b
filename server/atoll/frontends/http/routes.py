"""Which request goes where: the paths of the v2 protocol, and what answers those that are not ``infer``.

A path is matched whole; there is no trailing slash and no percent-decoding, as in the original.
"""

from __future__ import annotations

import base64
import enum
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from atoll.errors import Code, ServerError
from atoll.frontends.http import settings, shared_memory
from atoll.frontends.http.answer import JSON, TEXT, Answer, error_body
from atoll.frontends.http.json_reader import read_json

if TYPE_CHECKING:
    from atoll.core.server import Server

__all__ = ["Restrictions", "Route", "Task", "find_target"]


class Task(enum.Enum):
    """What has no answer at once: the connection begins it and is told later."""

    INFER = enum.auto()
    GENERATE = enum.auto()
    GENERATE_STREAM = enum.auto()


class Route(NamedTuple):
    """Where a path leads."""

    methods: tuple[bytes, ...]
    category: str
    """Of APIs, by which it can be restricted."""
    content_type: bytes
    """Of the answer to a wrong method, and of errors."""
    answer: _Handler | Task
    model: str = ""
    version: str = ""
    region: str = ""


_Handler = Callable[["Server", Route, bytes], "Answer | Awaitable[Answer]"]

Restrictions = Mapping[str, tuple[bytes, bytes]]
"""By category of APIs, the name and the value of the header that a request must have."""


def _live(server: Server, route: Route, body: bytes) -> Answer:
    return Answer(200 if server.is_live() else 400, TEXT)


async def _ready(server: Server, route: Route, body: bytes) -> Answer:
    return Answer(200 if await server.check_ready() else 400, TEXT)


def _server_metadata(server: Server, route: Route, body: bytes) -> Answer:
    return _json({"name": server.name, "version": server.version, "extensions": server.EXTENSIONS})


async def _model_ready(server: Server, route: Route, body: bytes) -> Answer:
    if await server.check_model_ready(route.model, route.version):
        return Answer(200, TEXT)
    server.model(route.model, route.version)  # says that there is none, if so
    return Answer(400, TEXT, b'{"error":"Model version not ready"}')


def _model_metadata(server: Server, route: Route, body: bytes) -> Answer:
    model = server.model(route.model, route.version)
    metadata = model.metadata
    if route.version:
        metadata = {**metadata, "versions": [str(model.version)]}
    return _json(metadata)


def _model_config(server: Server, route: Route, body: bytes) -> Answer:
    return _json(server.model(route.model, route.version).config)


def _statistics(server: Server, route: Route, body: bytes) -> Answer:
    return _json({"model_stats": server.statistics(route.model, route.version)})


async def _index(server: Server, route: Route, body: bytes) -> Answer:
    ready: Any = False
    if body:
        document = read_json(body)
        if isinstance(document, dict):
            ready = document.get("ready", False)
    if type(ready) is not bool:
        raise ServerError(Code.INVALID_ARG, "Invalid value for 'ready': expected a boolean")
    return _json(await server.index(ready))


async def _load(server: Server, route: Route, body: bytes) -> Answer:
    config, files = "", {}
    for key, value in _parameters(body).items():
        if key != "config" and not key.startswith("file:"):
            raise ServerError(Code.INVALID_ARG, "unexpected error on creating Triton parameter")
        if not isinstance(value, str):
            raise ServerError(Code.INVALID_ARG, "attempt to access JSON non-string as string")
        if key == "config":
            config = value
        else:
            files[key] = _decoded(value)
    await server.load(route.model, config, files)
    return Answer(200, JSON)


def _decoded(text: str) -> bytes:
    """From base64. What does not belong there is skipped, as in the original."""
    digits = re.sub("[^A-Za-z0-9+/]", "", text)
    if len(digits) % 4 == 1:
        digits = digits[:-1]
    return base64.b64decode(digits + "=" * (-len(digits) % 4))


async def _unload(server: Server, route: Route, body: bytes) -> Answer:
    dependents = _parameters(body).get("unload_dependents")
    await server.unload(route.model, with_steps=dependents is True)
    return Answer(200, JSON)


def _parameters(body: bytes) -> dict[str, Any]:
    """The ``parameters`` of a repository request, whose body may be empty."""
    document = read_json(body) if body else {}
    parameters = document.get("parameters", {}) if isinstance(document, dict) else {}
    if not isinstance(parameters, dict):
        raise ServerError(Code.INVALID_ARG, "attempt to get members for non-object")
    return parameters


def _not_in_a_repository(server: Server, route: Route, body: bytes) -> Answer:
    raise ServerError(Code.UNSUPPORTED, "'repository_name' specification is not supported")


def _as_json(make: Callable[[Server, str, bytes], Any]) -> Callable[[Server, Route, bytes], Answer]:
    """``make`` gets a model's name and the body, and gives a document."""
    return lambda server, route, body: _json(make(server, route.model, body))


def _json(value: Any) -> Answer:
    return Answer(200, JSON, orjson.dumps(value))


_GET, _POST = (b"GET",), (b"POST",)
_MODEL = r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[0-9]+))?"
_TRACED = r"/v2(?:/models/(?P<model>[^/]+))?"
_REGION = "(?:/region/(?P<region>[^/]+))?"
_SYSTEM_REGION, _CUDA_REGION = "/v2/systemsharedmemory" + _REGION, "/v2/cudasharedmemory" + _REGION

_TABLE: list[tuple[str, tuple[bytes, ...], str, bytes, _Handler | Task]] = [
    (_MODEL + "/infer", _POST, "inference", TEXT, Task.INFER),
    (_MODEL + "/generate", _POST, "inference", JSON, Task.GENERATE),
    (_MODEL + "/generate_stream", _POST, "inference", JSON, Task.GENERATE_STREAM),
    ("/v2", _GET, "metadata", JSON, _server_metadata),
    ("/v2/health/live", _GET, "health", TEXT, _live),
    ("/v2/health/ready", _GET, "health", TEXT, _ready),
    ("/v2/models/stats", _GET, "statistics", JSON, _statistics),
    (_MODEL, _GET, "metadata", JSON, _model_metadata),
    (_MODEL + "/ready", _GET, "health", TEXT, _model_ready),
    (_MODEL + "/config", _GET, "model-config", JSON, _model_config),
    (_MODEL + "/stats", _GET, "statistics", JSON, _statistics),
    ("/v2/repository(?:/[^/]+)?/index", _POST, "model-repository", JSON, _index),
    ("/v2/repository/models/(?P<model>[^/]+)/load", _POST, "model-repository", JSON, _load),
    ("/v2/repository/models/(?P<model>[^/]+)/unload", _POST, "model-repository", JSON, _unload),
    ("/v2/repository/[^/]+/models/[^/]+/(?:load|unload)", _POST, "model-repository", JSON, _not_in_a_repository),
    (_SYSTEM_REGION + "/status", _GET, "shared-memory", JSON, shared_memory.system_status),
    (_SYSTEM_REGION + "/register", _POST, "shared-memory", JSON, shared_memory.register_system),
    (_SYSTEM_REGION + "/unregister", _POST, "shared-memory", JSON, shared_memory.unregister_system),
    (_CUDA_REGION + "/status", _GET, "shared-memory", JSON, shared_memory.cuda_status),
    (_CUDA_REGION + "/register", _POST, "shared-memory", JSON, shared_memory.register_cuda),
    (_CUDA_REGION + "/unregister", _POST, "shared-memory", JSON, shared_memory.unregister_cuda),
    (_TRACED + "/trace/setting", _GET, "trace", JSON, _as_json(settings.trace_settings)),
    (_TRACED + "/trace/setting", _POST, "trace", JSON, _as_json(settings.update_trace_settings)),
    ("/v2/logging", _GET, "logging", JSON, _as_json(settings.log_settings)),
    ("/v2/logging", _POST, "logging", JSON, _as_json(settings.update_log_settings)),
]
_ROUTES = [
    (re.compile(pattern), Route(methods, category, content_type, answer))
    for pattern, methods, category, content_type, answer in _TABLE
]


def find_target(
    method: bytes, path: bytes, headers: Iterable[tuple[bytes, bytes]], restrictions: Restrictions
) -> Route | Answer:
    """The route of a request, or the answer to one that has none."""
    text = path.decode("utf-8", "surrogateescape")
    refusal = Answer(404, TEXT, b'{"error":"Not Found"}')
    for pattern, route in _ROUTES:
        match = pattern.fullmatch(text)
        if match is not None:
            if route.category in restrictions:
                key, word = restrictions[route.category]
                if not any(name.lower() == key.lower() and value == word for name, value in headers):
                    return Answer(403, TEXT, error_body(f"This API is restricted, expecting header '{key.decode()}'"))
            if method in route.methods:
                found = {name: text or "" for name, text in match.groupdict().items()}
                return route._replace(
                    model=found.get("model", ""), version=found.get("version", ""), region=found.get("region", "")
                )
            refusal = Answer(405, route.content_type, b'{"error":"Method Not Allowed"}')
    return refusal
