"""``Options``: the settings of a server in one dataclass. Nothing is checked before the server starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tritonserver._c.enums import (
    TRITONSERVER_InstanceGroupKind,
    TRITONSERVER_LogFormat,
    TRITONSERVER_ModelControlMode,
    TRITONSERVER_RateLimitMode,
)
from tritonserver._c.errors import InvalidArgumentError
from tritonserver._c.options import TRITONSERVER_ServerOptions

__all__ = ["ModelLoadDeviceLimit", "Options", "RateLimiterResource"]


@dataclass
class RateLimiterResource:
    """Units of a resource that executions share; device -1 for one that all devices share."""

    name: str
    count: int
    device: int


@dataclass
class ModelLoadDeviceLimit:
    """How much of a GPU's memory may be used when a model is loaded."""

    kind: TRITONSERVER_InstanceGroupKind
    device: int
    fraction: float


@dataclass(slots=True)
class Options:
    """In the original's order, names and defaults."""

    model_repository: str | list[str] = field(default_factory=list)
    server_id: str = "triton"
    model_control_mode: TRITONSERVER_ModelControlMode = TRITONSERVER_ModelControlMode.NONE
    startup_models: list[str] = field(default_factory=list)
    strict_model_config: bool = False
    rate_limiter_mode: TRITONSERVER_RateLimitMode = TRITONSERVER_RateLimitMode.OFF
    rate_limiter_resources: list[RateLimiterResource] = field(default_factory=list)
    pinned_memory_pool_size: int = 1 << 28
    cuda_memory_pool_sizes: dict[int, int] = field(default_factory=dict)
    cache_config: dict[str, dict[str, Any]] = field(default_factory=dict)
    cache_directory: str = "/opt/tritonserver/caches"
    min_supported_compute_capability: float = 6.0
    exit_on_error: bool = True
    strict_readiness: bool = True
    exit_timeout: int = 30
    buffer_manager_thread_count: int = 0
    model_load_thread_count: int = 4
    model_load_retry_count: int = 0
    model_namespacing: bool = False
    enable_peer_access: bool = True
    log_file: str | None = None
    log_info: bool = False
    log_warn: bool = False
    log_error: bool = False
    log_format: TRITONSERVER_LogFormat = TRITONSERVER_LogFormat.DEFAULT
    log_verbose: int = 0
    metrics: bool = True
    gpu_metrics: bool = True
    cpu_metrics: bool = True
    metrics_interval: int = 2000
    backend_directory: str = "/opt/tritonserver/backends"
    repo_agent_directory: str = "/opt/tritonserver/repoagents"
    model_load_device_limits: list[ModelLoadDeviceLimit] = field(default_factory=list)
    backend_configuration: dict[str, dict[str, str]] = field(default_factory=dict)
    host_policies: dict[str, dict[str, str]] = field(default_factory=dict)
    metrics_configuration: dict[str, dict[str, str]] = field(default_factory=dict)
    log_callback: Callable[[Any, str, int, int, str], object] | None = None

    def _cascade_log_levels(self) -> None:
        """Who wants verbose messages gets all the others; and so on down to errors."""
        if self.log_verbose > 0:
            self.log_info = True
        if self.log_info:
            self.log_warn = True
        if self.log_warn:
            self.log_error = True

    def _create_tritonserver_server_options(self) -> TRITONSERVER_ServerOptions:
        """The low-level options. The settings of the log act at once; no repository is looked at."""
        options = TRITONSERVER_ServerOptions()
        self._set_log(options)
        self._set_models(options)
        self._set_resources(options)
        options.set_metrics(self.metrics)
        options.set_gpu_metrics(self.gpu_metrics)
        options.set_cpu_metrics(self.cpu_metrics)
        options.set_metrics_interval(self.metrics_interval)
        for name, settings in self.metrics_configuration.items():
            for setting, value in settings.items():
                options.set_metrics_config(name, setting, value)
        return options

    def _set_log(self, options: TRITONSERVER_ServerOptions) -> None:
        self._cascade_log_levels()
        options.set_log_file(self.log_file or "")
        options.set_log_info(self.log_info)
        options.set_log_warn(self.log_warn)
        options.set_log_error(self.log_error)
        options.set_log_format(self.log_format)
        options.set_log_verbose(self.log_verbose)
        options.set_log_callback(self.log_callback)

    def _set_models(self, options: TRITONSERVER_ServerOptions) -> None:
        if self.model_repository is None:
            raise InvalidArgumentError("Model repository must be specified.")
        if isinstance(self.model_repository, str):
            self.model_repository = [self.model_repository]
        for path in self.model_repository:
            options.set_model_repository_path(path)
        options.set_server_id(self.server_id)
        options.set_model_control_mode(self.model_control_mode)
        for name in self.startup_models:
            options.set_startup_model(name)
        options.set_strict_model_config(self.strict_model_config)
        options.set_exit_on_error(self.exit_on_error)
        options.set_strict_readiness(self.strict_readiness)
        options.set_exit_timeout(self.exit_timeout)
        options.set_model_load_thread_count(self.model_load_thread_count)
        options.set_model_load_retry_count(self.model_load_retry_count)
        options.set_model_namespacing(self.model_namespacing)
        options.set_backend_directory(self.backend_directory)
        options.set_repo_agent_directory(self.repo_agent_directory)
        for backend, settings in self.backend_configuration.items():
            for setting, value in settings.items():
                options.set_backend_config(backend, setting, value)

    def _set_resources(self, options: TRITONSERVER_ServerOptions) -> None:
        options.set_rate_limiter_mode(self.rate_limiter_mode)
        for resource in self.rate_limiter_resources:
            options.add_rate_limiter_resource(resource.name, resource.count, resource.device)
        options.set_pinned_memory_pool_byte_size(self.pinned_memory_pool_size)
        for device, nbytes in self.cuda_memory_pool_sizes.items():
            options.set_cuda_memory_pool_byte_size(device, nbytes)
        if len(self.cache_config) > 1:
            raise InvalidArgumentError(
                "found multiple cache configurations, but only a single cache is currently supported"
            )
        for name, settings in self.cache_config.items():
            options.set_cache_config(name, json.dumps(settings))
        options.set_cache_directory(self.cache_directory)
        options.set_min_supported_compute_capability(self.min_supported_compute_capability)
        options.set_buffer_manager_thread_count(self.buffer_manager_thread_count)
        options.set_enable_peer_access(self.enable_peer_access)
        for limit in self.model_load_device_limits:
            options.set_model_load_device_limit(limit.kind, limit.device, limit.fraction)
        for policy, settings in self.host_policies.items():
            for setting, value in settings.items():
                options.set_host_policy(policy, setting, value)
