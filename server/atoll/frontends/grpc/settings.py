"""The trace and logging extensions over gRPC: the RPCs ``TraceSetting`` and ``LogSettings``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atoll_protos import messages

from atoll.errors import Code, ServerError
from atoll.observe.log import FORMATS

if TYPE_CHECKING:
    from atoll.core.server import Server

__all__ = ["log_settings", "trace_setting"]

_MAX_INT32 = 2**31 - 1


async def trace_setting(server: Server, request: Any) -> Any:
    """Change some settings, or none; a setting without a value is cleared."""
    given = {name: list(setting.value) or None for name, setting in request.settings.items()}
    response = messages.TraceSettingResponse()
    for name, values in server.tracer.update(given, request.model_name, gap=" ").items():
        response.settings[name].value.extend(values)
    return response


async def log_settings(server: Server, request: Any) -> Any:
    """Change some settings, or none; those before the first that is wrong stay changed."""
    log = server.options.log
    given = request.settings
    if "log_file" in given:
        raise ServerError(Code.UNSUPPORTED, "log file location can not be updated through network protocol")
    if "log_info" in given:
        log.info = _typed(given, "log_info", "bool")
    if "log_warning" in given:
        log.warning = _typed(given, "log_warning", "bool")
    if "log_error" in given:
        log.error = _typed(given, "log_error", "bool")
    if "log_verbose_level" in given:
        log.verbose_level = min(_typed(given, "log_verbose_level", "uint32"), _MAX_INT32)
    if "log_format" in given:
        name = _typed(given, "log_format", "string")
        if name not in FORMATS:
            raise ServerError(Code.INVALID_ARG, f"invalid argument for log_format, got: {name}")
        log.format = name
    response = messages.LogSettingsResponse()
    for name, value in log.as_dict().items():
        setting = response.settings[name]
        if isinstance(value, bool):
            setting.bool_param = value
        elif isinstance(value, int):
            setting.uint32_param = value
        else:
            setting.string_param = value
    return response


_EXPECTED = {"bool": "boolean", "uint32": "int32", "string": "string"}


def _typed(given: Any, name: str, kind: str) -> Any:
    setting = given[name]
    if setting.WhichOneof("parameter_choice") != f"{kind}_param":
        raise ServerError(Code.INVALID_ARG, f"expect {_EXPECTED[kind]} for '{name}'")
    return getattr(setting, f"{kind}_param")
