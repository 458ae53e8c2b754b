"""The trace and logging extensions over HTTP: reading settings, and changing them while the server runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from atoll.errors import Code, ServerError
from atoll.frontends.http.json_reader import read_json
from atoll.frontends.http.members import ARRAY, BOOLEAN, STRING, UNSIGNED, MemberType, as_object, invalid
from atoll.inference import well_formed
from atoll.observe.log import FORMATS

if TYPE_CHECKING:
    from atoll.core.server import Server

__all__ = ["log_settings", "trace_settings", "update_log_settings", "update_trace_settings"]

_MAX_INT32 = 2**31 - 1


def trace_settings(server: Server, model: str, body: bytes) -> dict[str, Any]:
    """The settings of all models, or of ``model``."""
    return _shown(server.tracer.shown(model))


def update_trace_settings(server: Server, model: str, body: bytes) -> dict[str, Any]:
    """Change some settings; all or none, when one of them is wrong."""
    given = {name: _texts(name, value) for name, value in as_object(read_json(body)).items()}
    return _shown(server.tracer.update(given, model))


def _texts(name: str, value: object) -> list[str] | None:
    if value is None:
        return None
    if name == "trace_level":
        return [_typed(item, STRING) for item in _typed(value, ARRAY)]
    return [well_formed(_typed(value, STRING))]


def _shown(settings: Mapping[str, list[str]]) -> dict[str, Any]:
    return {name: values if name == "trace_level" else values[0] for name, values in settings.items()}


def log_settings(server: Server, model: str, body: bytes) -> dict[str, Any]:
    return server.options.log.as_dict()


def update_log_settings(server: Server, model: str, body: bytes) -> dict[str, Any]:
    """Change some settings, in their order; those before the first that is wrong stay changed."""
    log = server.options.log
    given = {name: value for name, value in as_object(read_json(body)).items() if value is not None}
    if "log_file" in given:
        raise ServerError(Code.UNSUPPORTED, "log file location can not be updated through network protocol")
    if "log_info" in given:
        log.info = _typed(given["log_info"], BOOLEAN)
    if "log_warning" in given:
        log.warning = _typed(given["log_warning"], BOOLEAN)
    if "log_error" in given:
        log.error = _typed(given["log_error"], BOOLEAN)
    if "log_verbose_level" in given:
        log.verbose_level = min(_typed(given["log_verbose_level"], UNSIGNED), _MAX_INT32)
    if "log_format" in given:
        name = well_formed(_typed(given["log_format"], STRING))
        if name not in FORMATS:
            raise ServerError(Code.UNAVAILABLE, f"invalid argument for --log_format, got: {name}")
        log.format = name
    return log.as_dict()


def _typed(value: object, expected: MemberType) -> Any:
    if not expected.accepts(value):
        raise invalid(f"attempt to access JSON {expected.complaint}")
    return value
