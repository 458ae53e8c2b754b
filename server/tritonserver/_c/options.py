"""``TRITONSERVER_ServerOptions``: setters one by one, and what they mean to the core.

Wrong Python types are TypeErrors, as from any binding. Settings of the log act at once, on the whole process. Settings
that have no meaning here (GPU pools, device limits …) are checked and then without effect.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from atoll.core.backend_config import python_backend_options
from atoll.core.server import ServerOptions
from atoll.embedding.log import LogCallback, process_log
from atoll.environments.cache import default_directory
from atoll.observe.distributions import DEFAULT_QUANTILES, DistributionOptions
from atoll.observe.metrics import MetricsOptions
from atoll.observe.trace_settings import TraceOptions
from atoll_ipc.memory import ArenaSettings

from tritonserver._c.enums import (
    TRITONSERVER_InstanceGroupKind,
    TRITONSERVER_LogFormat,
    TRITONSERVER_LogLevel,
    TRITONSERVER_ModelControlMode,
    TRITONSERVER_RateLimitMode,
)
from tritonserver._c.errors import InternalError, InvalidArgumentError, UnsupportedError, translated

__all__ = ["TRITONSERVER_ServerOptions"]

T = TypeVar("T")

_HOST_POLICIES = ("numa-node", "cpu-cores")


class TRITONSERVER_ServerOptions:
    """What a server is made of; :meth:`for_core` is ours."""

    def __init__(self) -> None:
        self.exit_timeout_s = 30
        self.shows_metrics = True
        self._id = "triton"
        self._repositories: list[str] = []
        self._mode = TRITONSERVER_ModelControlMode.NONE
        self._startup_models: list[str] = []
        self._is_strict_config = False
        self._limits_rate = False
        self._host_policies: list[tuple[str, str, str]] = []
        self._resources: list[tuple[str, int, int | None]] = []
        self._pinned_nbytes = 1 << 28
        self._cache: list[tuple[str, str, str]] = []
        self._core: dict[str, Any] = {}
        self._backends: dict[str, dict[str, str]] = {}
        self._metrics: dict[str, str] = {}
        self._cpu_metrics = True
        self._interval_ms = 2000

    # -- identity and models

    def set_server_id(self, server_id: str) -> None:
        self._id = _typed(server_id, str)

    def set_model_repository_path(self, path: str) -> None:
        self._repositories.append(_typed(path, str))

    def set_model_control_mode(self, mode: TRITONSERVER_ModelControlMode) -> None:
        self._mode = _typed(mode, TRITONSERVER_ModelControlMode)

    def set_startup_model(self, name: str) -> None:
        self._startup_models.append(_typed(name, str))

    def set_strict_model_config(self, strict: bool) -> None:
        self._is_strict_config = _typed(strict, bool)

    def set_model_namespacing(self, enabled: bool) -> None:
        self._core["model_namespacing"] = _typed(enabled, bool)

    def set_model_load_thread_count(self, count: int) -> None:
        self._core["load_thread_count"] = _unsigned(count)

    def set_model_load_retry_count(self, count: int) -> None:
        self._core["load_retry_count"] = _unsigned(count)

    def set_exit_on_error(self, enabled: bool) -> None:
        self._core["exit_on_error"] = _typed(enabled, bool)

    def set_strict_readiness(self, enabled: bool) -> None:
        self._core["strict_readiness"] = _typed(enabled, bool)

    def set_exit_timeout(self, seconds: int) -> None:
        self.exit_timeout_s = _unsigned(seconds)

    def set_backend_directory(self, path: str) -> None:
        self._core["backend_directory"] = _typed(path, str)

    def set_backend_config(self, backend: str, setting: str, value: str) -> None:
        self._backends.setdefault(_typed(backend, str), {})[_typed(setting, str)] = _typed(value, str)

    # -- resources

    def set_rate_limiter_mode(self, mode: TRITONSERVER_RateLimitMode) -> None:
        self._limits_rate = _typed(mode, TRITONSERVER_RateLimitMode) is TRITONSERVER_RateLimitMode.EXEC_COUNT

    def add_rate_limiter_resource(self, name: str, count: int, device: int) -> None:
        """Device -1: what all devices share."""
        self._resources.append((_typed(name, str), _unsigned(count), None if _typed(device, int) < 0 else device))

    def set_cache_config(self, name: str, config_json: str) -> None:
        settings = json.loads(_typed(config_json, str))
        self._cache += [(_typed(name, str), setting, str(value)) for setting, value in settings.items()]

    def set_response_cache_byte_size(self, nbytes: int) -> None:
        if _unsigned(nbytes):
            self._cache = [("local", "size", str(nbytes))]

    def set_cache_directory(self, path: str) -> None:
        self._core["cache_directory"] = _typed(path, str)

    def set_pinned_memory_pool_byte_size(self, nbytes: int) -> None:
        self._pinned_nbytes = _unsigned(nbytes)

    def set_host_policy(self, policy: str, setting: str, value: str) -> None:
        if _typed(setting, str) not in _HOST_POLICIES:
            raise UnsupportedError(
                f"Unsupported host policy setting '{setting}' is specified, supported settings are 'numa-node', "
                "'cpu-cores'"
            )
        self._host_policies.append((_typed(policy, str), setting, _typed(value, str)))

    # -- what has no meaning here

    def set_cuda_memory_pool_byte_size(self, device: int, nbytes: int) -> None:
        _typed(device, int), _unsigned(nbytes)

    def set_min_supported_compute_capability(self, capability: float) -> None:
        _typed(float(capability), float)

    def set_buffer_manager_thread_count(self, count: int) -> None:
        _unsigned(count)

    def set_enable_peer_access(self, enabled: bool) -> None:
        _typed(enabled, bool)

    def set_repo_agent_directory(self, path: str) -> None:
        _typed(path, str)

    def set_gpu_metrics(self, enabled: bool) -> None:
        _typed(enabled, bool)

    def set_model_load_device_limit(self, kind: TRITONSERVER_InstanceGroupKind, device: int, fraction: float) -> None:
        if _typed(kind, TRITONSERVER_InstanceGroupKind) is not TRITONSERVER_InstanceGroupKind.GPU:
            raise InvalidArgumentError(f"given device kind is not supported, got: {kind.name}")
        if _typed(device, int) < 0:
            raise InvalidArgumentError(f"expects device ID >= 0, got {device}")
        if not 0 <= fraction <= 1:
            raise InvalidArgumentError(f"expects limit fraction to be in range [0.0, 1.0], got {fraction:.6f}")

    # -- metrics

    def set_metrics(self, enabled: bool) -> None:
        self.shows_metrics = _typed(enabled, bool)

    def set_cpu_metrics(self, enabled: bool) -> None:
        self._cpu_metrics = _typed(enabled, bool)

    def set_metrics_interval(self, interval_ms: int) -> None:
        self._interval_ms = _unsigned(interval_ms)

    def set_metrics_config(self, name: str, setting: str, value: str) -> None:
        """``name`` is empty for the settings that this host knows."""
        _typed(name, str)
        self._metrics[_typed(setting, str)] = _typed(value, str)

    # -- the log of the process

    def set_log_file(self, path: str) -> None:
        try:
            process_log.settings.file = _typed(path, str)
        except OSError as error:
            raise InternalError(f"failed opening log file: {error.strerror}") from None
        process_log.put_in_place()

    def set_log_info(self, enabled: bool) -> None:
        process_log.settings.info = _typed(enabled, bool)
        process_log.put_in_place()

    def set_log_warn(self, enabled: bool) -> None:
        process_log.settings.warning = _typed(enabled, bool)
        process_log.put_in_place()

    def set_log_error(self, enabled: bool) -> None:
        process_log.settings.error = _typed(enabled, bool)
        process_log.put_in_place()

    def set_log_format(self, format: TRITONSERVER_LogFormat) -> None:
        named = {TRITONSERVER_LogFormat.DEFAULT: "default", TRITONSERVER_LogFormat.ISO8601: "ISO8601"}
        process_log.settings.format = named[_typed(format, TRITONSERVER_LogFormat)]
        process_log.put_in_place()

    def set_log_verbose(self, level: int) -> None:
        process_log.settings.verbose_level = _unsigned(level)
        process_log.put_in_place()

    def set_log_callback(self, callback: LogCallback | None) -> None:
        """``callback(level, file, line, microseconds, message)`` instead of file and console; None ends that."""
        if callback is None:
            process_log.callback = None
        else:
            called = callback
            process_log.callback = lambda level, *rest: called(TRITONSERVER_LogLevel(level), *rest)
        process_log.put_in_place()

    # -- ours

    def for_core(self, trace: TraceOptions) -> ServerOptions:
        """Raises InvalidArgumentError for what makes no sense as a whole."""
        if not self._repositories:
            raise InvalidArgumentError("--model-repository must be specified")
        with translated():
            python = python_backend_options(self._backends.get("python", {}))
        return ServerOptions(
            id=self._id,
            repositories=tuple(self._repositories),
            model_control_mode=self._mode.name.lower(),
            startup_models=tuple(self._startup_models),
            auto_complete_config=not self._is_strict_config,
            rate_limits=tuple(self._resources) if self._limits_rate else None,
            host_policies=tuple(self._host_policies),
            cache=tuple(self._cache),
            arena=ArenaSettings(
                default_nbytes=python.shm_default_byte_size,
                growth_nbytes=python.shm_growth_byte_size,
                prefix=python.shm_region_prefix_name,
                backing=python.shm_backing,
            ),
            stub_timeout_s=python.stub_timeout_seconds,
            env_cache_directory=Path(python.env_cache_directory or default_directory()),
            env_cache_nbytes=python.env_cache_size,
            metrics=MetricsOptions(
                counter_latencies=self._metrics.get("counter_latencies", "true") == "true",
                cpu=self._cpu_metrics,
                interval_s=max(self._interval_ms / 1000, 0.01),
                pinned_pool_nbytes=self._pinned_nbytes,
                distributions=DistributionOptions(
                    quantiles=DEFAULT_QUANTILES if self._metrics.get("summary_latencies") == "true" else (),
                    first_responses=self._metrics.get("histogram_latencies") == "true",
                    stages=self._metrics.get("stage_histograms") == "true",
                ),
            ),
            log=process_log.settings,
            trace=trace,
            **self._core,
        )


def _typed(value: T, kind: type) -> T:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"incompatible function arguments: expected {kind.__name__}, got {value!r}")
    return value


def _unsigned(value: int) -> int:
    if _typed(value, int) < 0:
        raise TypeError(f"incompatible function arguments: expected an unsigned int, got {value!r}")
    return value
