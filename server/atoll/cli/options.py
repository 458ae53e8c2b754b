"""What a command line asks for, checked as a whole: :class:`Options`.

Folds aliases and deprecated flags into their successors, and refuses combinations that make no sense. Nothing here
opens a file or a socket.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from atoll.cli.flags import FLAGS
from atoll.cli.metrics_config import MetricsConfig, metrics_config
from atoll.cli.parser import Parsed, UsageError
from atoll.cli.trace_config import ignored_settings, trace_options
from atoll.cli.values import BadValue
from atoll.observe.trace_settings import TraceOptions

__all__ = ["Options", "options_from"]


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of one server. A field is named after its flag; the flag's table says what it means."""

    id: str
    exit_timeout_secs: int

    log_verbose: int
    log_info: bool
    log_warning: bool
    log_error: bool
    log_format: str
    log_file: str

    model_repository: tuple[str, ...]
    exit_on_error: bool
    disable_auto_complete_config: bool
    strict_readiness: bool
    model_control_mode: str
    repository_poll_secs: int
    load_model: tuple[str, ...]
    model_config_name: str
    model_load_thread_count: int
    model_load_retry_count: int
    model_namespacing: bool
    host_policy: tuple[tuple[str, str, str], ...]

    allow_http: bool
    http_address: str
    http_port: int
    reuse_http_port: bool
    http_header_forward_pattern: str
    http_restricted_api: tuple[tuple[tuple[str, ...], str, str], ...]
    http_max_input_size: int
    http_use_ssl: bool
    http_use_ssl_mutual: bool
    http_server_cert: str
    http_server_key: str
    http_root_cert: str

    allow_grpc: bool
    grpc_address: str
    grpc_port: int
    reuse_grpc_port: bool
    grpc_header_forward_pattern: str
    grpc_restricted_protocol: tuple[tuple[tuple[str, ...], str, str], ...]
    grpc_use_ssl: bool
    grpc_use_ssl_mutual: bool
    grpc_server_cert: str
    grpc_server_key: str
    grpc_root_cert: str
    grpc_transport: str
    grpc_infer_response_compression_level: str
    grpc_keepalive_time: int
    grpc_keepalive_timeout: int
    grpc_keepalive_permit_without_calls: bool
    grpc_http2_max_pings_without_data: int
    grpc_http2_min_recv_ping_interval_without_data: int
    grpc_http2_max_ping_strikes: int
    grpc_max_connection_age: int | None
    grpc_max_connection_age_grace: int | None

    allow_metrics: bool
    metrics_address: str
    metrics_port: int
    metrics_interval_ms: float
    allow_cpu_metrics: bool
    metrics_config: MetricsConfig

    trace: TraceOptions

    backend_directory: str
    backend_config: tuple[tuple[str, str, str], ...]
    cache_config: tuple[tuple[str, str, str], ...]
    cache_directory: str
    rate_limit: str
    rate_limit_resource: tuple[tuple[str, int, int | None], ...]
    allow_client_shm: bool

    # Without effect here, but shown in the table of options or on the metrics page.
    pinned_memory_pool_byte_size: int
    cuda_memory_pool_byte_size: tuple[tuple[int, str], ...]
    min_supported_compute_capability: float

    warnings: tuple[str, ...] = ()
    """Sentences about deprecated flags, for standard error."""
    ignored: tuple[str, ...] = ()
    """Names of flags that were given and have no meaning here."""

    def backend_settings(self, backend: str) -> dict[str, str]:
        """The settings given for ``backend``; ``""`` are those for all backends."""
        return {setting: value for name, setting, value in self.backend_config if name == backend}


def options_from(parsed: Parsed, repositories: Sequence[str] = ()) -> Options:
    """The options a command line asks for; ``repositories`` adds to those it names.

    Raises UsageError for a combination that cannot be.
    """
    given = parsed.given
    _check_given(given)

    values = {flag.field: given.get(flag.name, flag.default) for flag in FLAGS.values()}
    values["model_repository"] = _distinct((*values["model_repository"], *values["model_store"], *repositories))
    values["load_model"] = _distinct(values["load_model"])
    values["metrics_address"] = values["metrics_address"] or values["http_address"]
    if values["response_cache_byte_size"]:
        values["cache_config"] = (("local", "size", str(values["response_cache_byte_size"])),)
    for protocol in ("http", "grpc"):
        values[f"{protocol}_use_ssl"] |= values[f"{protocol}_use_ssl_mutual"]
    values["trace"] = _trace_options(values)
    values["metrics_config"] = _metrics_config(values["metrics_config"])
    if values["allow_client_shm"] is None:
        values["allow_client_shm"] = all(
            _is_loopback(values[f"{name}_address"]) for name in ("http", "grpc") if values[f"allow_{name}"]
        )
    if values["strict_model_config"]:
        values["disable_auto_complete_config"] = True
    values["warnings"] = tuple(_warnings(given))
    values["ignored"] = tuple(name for name in given if FLAGS[name].ignored)
    options = Options(**{field.name: values[field.name] for field in fields(Options)})
    _check_endpoints(options)
    return options


def _trace_options(values: Mapping[str, Any]) -> TraceOptions:
    try:
        return trace_options(values)
    except BadValue as bad:
        raise UsageError(f'Bad option: "--trace-config".\n{bad}') from None


def _distinct(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(set(values)))


def _metrics_config(settings: Sequence[tuple[str, str]]) -> MetricsConfig:
    try:
        return metrics_config(settings)
    except BadValue as bad:
        raise UsageError(f'Bad option: "--metrics-config".\n{bad}') from None


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _check_given(given: Mapping[str, Any]) -> None:
    for flag, noun in (("http-restricted-api", "api"), ("grpc-restricted-protocol", "protocol")):
        seen: set[str] = set()
        for categories, _, _ in given.get(flag, ()):
            for category in categories:
                if category in seen:
                    raise UsageError(
                        f'Bad option: "--{flag}".\n'
                        f"restricted {noun} '{category}' can not be specified in multiple config groups"
                    )
                seen.add(category)
    if "load-model" in given and given.get("model-control-mode") != "explicit":
        raise UsageError("Error: Use of '--load-model' requires setting '--model-control-mode=explicit' as well.")
    if "response-cache-byte-size" in given and "cache-config" in given:
        raise UsageError(
            "Error: Incompatible flags --response-cache-byte-size and --cache-config both provided. "
            "Please provide one or the other."
        )


def _check_endpoints(options: Options) -> None:
    taken: dict[tuple[str, int], str] = {}
    for allowed, address, port, protocol in (
        (options.allow_http, options.http_address, options.http_port, "HTTP"),
        (options.allow_grpc, options.grpc_address, options.grpc_port, "GRPC"),
        (options.allow_metrics, options.metrics_address, options.metrics_port, "metrics"),
    ):
        if not allowed or port == 0:
            continue
        other = taken.setdefault((address, port), protocol)
        if other != protocol:
            raise UsageError(
                f"The server cannot listen to {other} requests and {protocol} requests "
                f"at the same address and port {address}:{port}"
            )


def _warnings(given: Mapping[str, Any]) -> list[str]:
    warnings = []
    if "strict-model-config" in given:
        warnings.append(
            "Warning: '--strict-model-config' has been deprecated! Please use '--disable-auto-complete-config' instead."
        )
        if not given["strict-model-config"] and "disable-auto-complete-config" in given:
            warnings.append(
                "Warning: Overriding deprecated '--strict-model-config' from False to True "
                "in favor of '--disable-auto-complete-config'!"
            )
    successors = {"response-cache-byte-size": "cache-config"}
    for name in ("trace-file", "trace-level", "trace-rate", "trace-count", "trace-log-frequency"):
        successors[name] = "trace-config"
    for name, successor in successors.items():
        if name in given:
            warnings.append(f"Warning: '--{name}' has been deprecated! Please use '--{successor}' instead.")
    for setting in ignored_settings(given.get("trace-config", ())):
        warnings.append(f"Warning: '--trace-config={setting}' has no meaning here and is ignored")
    return warnings
