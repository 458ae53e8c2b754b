"""Flags whose value has a grammar of its own: ``<backend>,<setting>=<value>`` and its cousins.

Each reader turns one occurrence into a small tuple, or raises :class:`BadValue` with the sentence of the original.
"""

from __future__ import annotations

from atoll.cli.values import BadValue, Kind
from atoll.frontends.forwarding import compile_pattern

__all__ = [
    "BACKEND_CONFIG",
    "CACHE_CONFIG",
    "GRPC_RESTRICTED_PROTOCOL",
    "HEADER_PATTERN",
    "HOST_POLICY",
    "HTTP_RESTRICTED_API",
    "METRICS_CONFIG",
    "MODEL_CONFIG_NAME",
    "RATE_LIMIT_RESOURCE",
    "TRACE_CONFIG",
    "TRACE_LEVEL",
    "device_value",
]

_RESTRICTABLE = frozenset(
    (
        "health",
        "metadata",
        "inference",
        "shared-memory",
        "model-config",
        "model-repository",
        "statistics",
        "trace",
        "logging",
    )
)
_TRACE_LEVELS = frozenset(("off", "false", "true", "on", "min", "max", "timestamps", "tensors"))


def _read_backend_config(text: str) -> tuple[str, str, str]:
    """``(backend, setting, value)``; the backend is empty for a setting of all backends."""
    before, comma, after = text.partition(",")
    if comma and not before:
        raise BadValue(
            "No backend specified. --backend-config option format is "
            f"<backend name>,<setting>=<value> or <setting>=<value>. Got {text}"
        )
    backend, assignment = (before, after) if comma and "=" not in before else ("", text)
    setting, equals, value = assignment.partition("=")
    if not equals or not setting:
        raise BadValue(f"--backend-config option format is '<backend name>,<setting>=<value>'. Got {text}")
    return backend, setting, value


def _read_cache_config(text: str) -> tuple[str, str, str]:
    cache, comma, assignment = text.partition(",")
    if not comma or not cache:
        raise BadValue(
            f"No cache specified. --cache-config option format is <cache name>,<setting>=<value>. Got {text}"
        )
    setting, equals, value = assignment.partition("=")
    if not equals or not setting:
        raise BadValue(f"--cache-config option format is '<cache name>,<setting>=<value>'. Got {text}")
    return cache, setting, value


def _read_host_policy(text: str) -> tuple[str, str, str]:
    policy, _, assignment = text.partition(",")
    setting, equals, value = assignment.partition("=")
    if not policy or not setting or not equals:
        raise BadValue(f"--host-policy option format is '<policy name>,<setting>=<value>'. Got {text}")
    return policy, setting, value


def _read_metrics_config(text: str) -> tuple[str, str]:
    setting, equals, value = text.partition("=")
    if not equals or not setting:
        raise BadValue(f"--metrics-config option format is <setting>=<value>. Got {text}")
    return setting, value


def _read_rate_limit_resource(text: str) -> tuple[str, int, int | None]:
    """``(resource, count, device)``; the device is None when the resource counts for every device."""
    name, *numbers = text.split(":")
    if not name or len(numbers) not in (1, 2) or not all(number.isdecimal() for number in numbers):
        raise BadValue(
            "--rate-limit-resource option format is '<resource_name>:<count>:<device>' or "
            f"'<resource_name>:<count>'. Got {text}"
        )
    return name, int(numbers[0]), int(numbers[1]) if len(numbers) == 2 else None


def device_value(flag: str) -> Kind:
    def read(text: str) -> tuple[int, str]:
        device, _, value = text.partition(":")
        if not device.isdecimal() or not value:
            raise BadValue(f"--{flag} option format is '<device>:<value>'. Got {text}")
        return int(device), value

    return Kind("<integer>:<value>", read)


def _restriction(flag: str, noun: str) -> Kind:
    def read(text: str) -> tuple[tuple[str, ...], str, str]:
        """``(categories, header name, header value)``."""
        categories, _, assignment = text.partition(":")
        key, equals, value = assignment.partition("=")
        if not key or not equals:
            raise BadValue(f"--{flag} option format is '<config name>:<setting>=<value>'. Got {text}")
        names = tuple(categories.split(","))
        for name in names:
            if name not in _RESTRICTABLE:
                raise BadValue(f"unknown restricted {noun} '{name}' ")
        return names, key, value

    return Kind("<string>:<string>=<string>", read)


def _read_header_pattern(text: str) -> str:
    try:
        compile_pattern(text)
    except ValueError as error:
        raise BadValue(f"invalid header forward pattern '{text}': {error}") from None
    return text


def _read_trace_config(text: str) -> tuple[str, str, str]:
    """``(mode, setting, value)``; the mode is empty for a setting of both modes."""
    before, comma, after = text.partition(",")
    if comma and not before:
        raise BadValue(
            "No trace mode specified. --trace-config option format is "
            f"<trace mode>,<setting>=<value> or <setting>=<value>. Got {text}"
        )
    mode, assignment = (before, after) if comma and "=" not in before else ("", text)
    setting, equals, value = assignment.partition("=")
    if not equals or not setting:
        raise BadValue(f"--trace-config option format is '<trace mode>,<setting>=<value>'. Got {text}")
    named_mode = value if setting == "mode" and not mode else mode
    if named_mode not in ("", "triton", "opentelemetry"):
        raise BadValue(
            f'invalid value for trace mode option: {named_mode}. Available options are "triton" and "opentelemetry"'
        )
    if setting == "level" and not mode:
        _read_trace_level(value)
    return mode, setting, value


def _read_trace_level(text: str) -> str:
    if text.lower() not in _TRACE_LEVELS:
        raise BadValue(f"invalid value for trace level option: {text}")
    return text.lower()


def _read_model_config_name(text: str) -> str:
    if not text:
        raise BadValue("Error: empty argument for --model-config-name")
    if any(character.isspace() for character in text):
        raise BadValue("Error: --model-config-name must not contain spaces.")
    if "/" in text:
        raise BadValue("Error: --model-config-name must be a name, not a path.")
    return text


BACKEND_CONFIG = Kind("<string>,<string>=<string>", _read_backend_config)
CACHE_CONFIG = Kind("<string>,<string>=<string>", _read_cache_config)
HEADER_PATTERN = Kind("<string>", _read_header_pattern)
HOST_POLICY = Kind("<string>,<string>=<string>", _read_host_policy)
METRICS_CONFIG = Kind("<string>=<string>", _read_metrics_config)
RATE_LIMIT_RESOURCE = Kind("<string>:<integer>[:<integer>]", _read_rate_limit_resource)
TRACE_CONFIG = Kind("<string>,<string>=<string>", _read_trace_config)
TRACE_LEVEL = Kind("<string>", _read_trace_level)
MODEL_CONFIG_NAME = Kind("<string>", _read_model_config_name)
HTTP_RESTRICTED_API = _restriction("http-restricted-api", "api")
GRPC_RESTRICTED_PROTOCOL = _restriction("grpc-restricted-protocol", "protocol")
