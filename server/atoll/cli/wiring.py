"""Hands the options of a command line to the parts of the server that they are for."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from atoll import __version__
from atoll.cli.lifecycle import Endpoint, Listener
from atoll.cli.options import Options
from atoll.observe.distributions import DEFAULT_QUANTILES, DistributionOptions
from atoll.observe.log import LogSettings
from atoll.observe.metrics import MetricsOptions

if TYPE_CHECKING:
    from atoll.core.server import Server

__all__ = ["backend_path", "backend_settings", "endpoints", "log_settings", "metrics_options", "option_rows"]


def log_settings(options: Options) -> LogSettings:
    """Raises OSError when the log's file cannot be opened."""
    return LogSettings(
        verbose_level=options.log_verbose,
        info=options.log_info,
        warning=options.log_warning,
        error=options.log_error,
        format=options.log_format,
        file=options.log_file,
    )


def metrics_options(options: Options) -> MetricsOptions:
    config = options.metrics_config
    return MetricsOptions(
        counter_latencies=config.counter_latencies,
        cpu=options.allow_cpu_metrics,
        interval_s=max(options.metrics_interval_ms / 1000, 0.01),
        pinned_pool_nbytes=options.pinned_memory_pool_byte_size,
        distributions=DistributionOptions(
            quantiles=(config.summary_quantiles or DEFAULT_QUANTILES) if config.summary_latencies else (),
            first_responses=config.histogram_latencies,
            stages=config.stage_histograms,
        ),
    )


def endpoints(server: Server, options: Options) -> list[Endpoint]:
    """The frontends to start, in their order. One that is switched off is not even imported."""
    chosen = []
    if options.allow_grpc:
        from atoll.frontends.grpc.options import GrpcOptions

        grpc_options = GrpcOptions(
            address=options.grpc_address,
            port=options.grpc_port,
            reuse_port=options.reuse_grpc_port,
            header_forward_pattern=options.grpc_header_forward_pattern,
            restricted_protocol=_restrictions(options.grpc_restricted_protocol),
            use_ssl=options.grpc_use_ssl,
            use_ssl_mutual=options.grpc_use_ssl_mutual,
            server_cert=options.grpc_server_cert,
            server_key=options.grpc_server_key,
            root_cert=options.grpc_root_cert,
            infer_response_compression_level=options.grpc_infer_response_compression_level,
            keepalive_time_ms=options.grpc_keepalive_time,
            keepalive_timeout_ms=options.grpc_keepalive_timeout,
            keepalive_permit_without_calls=options.grpc_keepalive_permit_without_calls,
            http2_max_pings_without_data=options.grpc_http2_max_pings_without_data,
            http2_min_recv_ping_interval_without_data_ms=options.grpc_http2_min_recv_ping_interval_without_data,
            http2_max_ping_strikes=options.grpc_http2_max_ping_strikes,
            max_connection_age_ms=options.grpc_max_connection_age,
            max_connection_age_grace_ms=options.grpc_max_connection_age_grace,
        )
        grpc: Listener
        if options.grpc_transport == "grpcio":
            from atoll.frontends.grpc.grpcio_transport import GrpcFrontend

            grpc = GrpcFrontend(server, grpc_options)
        else:
            from atoll.frontends.grpc.http2.frontend import Http2Frontend

            grpc = Http2Frontend(server, grpc_options)
        what = "gRPC service connections and inference handlers"
        chosen.append(Endpoint("GRPC", "GRPCInferenceService", options.grpc_address, grpc, what))
    if options.allow_http:
        from atoll.frontends.http.listener import HttpFrontend, HttpOptions
        from atoll.frontends.http.tls import TlsOptions

        tls = None
        if options.http_use_ssl:
            root_cert = options.http_root_cert if options.http_use_ssl_mutual else None
            tls = TlsOptions(options.http_server_cert, options.http_server_key, root_cert)
        http_options = HttpOptions(
            address=options.http_address,
            port=options.http_port,
            reuse_port=options.reuse_http_port,
            header_forward_pattern=options.http_header_forward_pattern,
            restricted_api=_restrictions(options.http_restricted_api),
            max_input_size=options.http_max_input_size,
            tls=tls,
        )
        http = HttpFrontend(server, http_options)
        chosen.append(Endpoint("HTTP", "HTTPService", options.http_address, http, "HTTP service connections"))
    if options.allow_metrics:
        from atoll.frontends.metrics.listener import MetricsFrontend, MetricsListenOptions

        metrics = MetricsFrontend(
            server.metrics.page, MetricsListenOptions(options.metrics_address, options.metrics_port)
        )
        chosen.append(
            Endpoint(
                "Metrics", "Metrics Service", options.metrics_address, metrics, "metrics connections", auxiliary=True
            )
        )
    return chosen


def _restrictions(groups: Iterable[tuple[tuple[str, ...], str, str]]) -> dict[str, tuple[str, str]]:
    """By category, the name and the value of the header that its callers must send."""
    return {category: (name, value) for categories, name, value in groups for category in categories}


def backend_path() -> str:
    """Where the code that runs in the stubs lies; found without importing it, which only a stub may do."""
    spec = importlib.util.find_spec("atoll_stub")
    return str(Path(spec.origin).parent) if spec is not None and spec.origin else ""


def backend_settings(options: Options) -> dict[str, str]:
    """The settings of the Python backend, as the table of backends and the original's backends see them."""
    settings = {
        "auto-complete-config": "false" if options.disable_auto_complete_config else "true",
        "backend-directory": options.backend_directory,
        "min-compute-capability": f"{options.min_supported_compute_capability:f}",
        **options.backend_settings("python"),
    }
    common = {"default-max-batch-size": "4", **options.backend_settings("")}
    return {**settings, **{name: value for name, value in common.items() if name not in settings}}


def option_rows(options: Options, extensions: tuple[str, ...]) -> Iterator[tuple[str, object]]:
    """The rows of the table of options."""
    yield "server_id", options.id
    yield "server_version", __version__
    yield "server_extensions", " ".join(extensions)
    for index, path in enumerate(options.model_repository):
        yield f"model_repository_path[{index}]", path
    yield "model_control_mode", f"MODE_{options.model_control_mode.upper()}"
    for index, name in enumerate(options.load_model):
        yield f"startup_models_{index}", name
    yield "strict_model_config", int(options.disable_auto_complete_config)
    yield "model_config_name", options.model_config_name
    yield "rate_limit", "EXEC_COUNT" if options.rate_limit == "execution_count" else "OFF"
    for index, (resource, count, device) in enumerate(options.rate_limit_resource):
        yield f"rate_limit_resource[{index}]", f"{resource}:{count}" + ("" if device is None else f":{device}")
    yield "pinned_memory_pool_byte_size", options.pinned_memory_pool_byte_size
    for gpu, nbytes in options.cuda_memory_pool_byte_size:
        yield f"cuda_memory_pool_byte_size{{{gpu}}}", nbytes
    yield "min_supported_compute_capability", options.min_supported_compute_capability
    yield "strict_readiness", int(options.strict_readiness)
    yield "exit_timeout", options.exit_timeout_secs
    yield "cache_enabled", int(bool(options.cache_config))
