"""The settings of ``--trace-config=[<mode>,]<setting>=<value>``, and of the deprecated flags that came before it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from atoll.cli.values import INT, BadValue, within
from atoll.observe.trace_settings import OFF, TraceOptions, TraceSettings

__all__ = ["ignored_settings", "trace_options"]

_MAX_INT32 = 2**31 - 1
_KNOWN = {
    "": ("level", "rate", "count", "mode"),
    "triton": ("file", "log-frequency"),
    "opentelemetry": (
        "url",
        "resource",
        "bsp_max_queue_size",
        "bsp_schedule_delay",
        "bsp_max_export_batch_size",
    ),
}
# Of the batching of spans: the variable that sets it where no flag does, and what it is otherwise.
_BATCHING = {
    "bsp_max_queue_size": ("OTEL_BSP_MAX_QUEUE_SIZE", "2048"),
    "bsp_schedule_delay": ("OTEL_BSP_SCHEDULE_DELAY", "5000"),
    "bsp_max_export_batch_size": ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "512"),
}

Setting = tuple[str, str, str]


def trace_options(values: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> TraceOptions:
    """From the values of all flags, by field. Raises BadValue; ``--trace-config`` wins over the deprecated flags."""
    given: tuple[Setting, ...] = values["trace_config"]
    one = {(mode, setting): value for mode, setting, value in given}  # the last occurrence counts
    mode = one.get(("", "mode"), "triton")
    levels = [value for _, setting, value in given if setting == "level"] or values["trace_level"]
    settings = TraceSettings(
        level=_levels(levels),
        rate=_number(one.get(("", "rate"), str(values["trace_rate"])), 0),
        count=_number(one.get(("", "count"), str(values["trace_count"])), -1),
        log_frequency=_number(one.get(("triton", "log-frequency"), str(values["trace_log_frequency"])), 0),
    )
    exporter = _exporter(given, environment) if mode == "opentelemetry" else {}
    return TraceOptions(mode, settings, one.get(("triton", "file"), values["trace_file"]), exporter)


def ignored_settings(given: Iterable[Setting]) -> list[str]:
    """What of ``--trace-config`` nobody knows, as it was given."""
    return [f"{mode},{setting}".lstrip(",") for mode, setting, _ in given if setting not in _KNOWN[mode]]


def _levels(words: Iterable[str]) -> tuple[str, ...]:
    lowered = {word.lower() for word in words} - {"off", "false"}
    found = ["TENSORS"] if "tensors" in lowered else []
    return tuple((["TIMESTAMPS"] if lowered - {"tensors"} else []) + found) or OFF


def _number(text: str, least: int) -> int:
    return int(within(INT, least, _MAX_INT32, f"Provided option value is out of bound. Got {text}").read(text))


def _exporter(given: Iterable[Setting], environment: Mapping[str, str]) -> dict[str, str]:
    """What the mode ``opentelemetry`` alone has. A resource may be given more than once."""
    own = [(setting, value) for mode, setting, value in given if mode == "opentelemetry"]
    chosen = {setting: value for setting, value in own if setting in _KNOWN["opentelemetry"]}
    resources = [value for setting, value in own if setting == "resource"]
    if resources:
        chosen["resource"] = ",".join(resources)
        for resource in resources:
            if "=" not in resource.lstrip("="):
                raise BadValue(f"the format is 'opentelemetry,resource=<key>=<value>'. Got {resource}")
    for setting, (variable, default) in _BATCHING.items():
        chosen[setting] = str(_number(chosen.get(setting) or environment.get(variable) or default, 1))
    if int(chosen["bsp_max_export_batch_size"]) > int(chosen["bsp_max_queue_size"]):
        raise BadValue("bsp_max_export_batch_size must not be greater than bsp_max_queue_size")
    return chosen
