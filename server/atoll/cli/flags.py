"""The table of command-line flags: name, kind, default, meaning, and whether this host has a use for it.

One row per flag of ``tritonserver``; :mod:`.parser` reads a command line with it, :mod:`.options` turns the values
into :class:`Options`, the usage text is printed from it. A flag whose feature does not exist here (``IGNORED``) is
accepted, so that an existing command line keeps working, and answered with one warning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from atoll.cli import settings, values
from atoll.cli.values import BOOL, FLOAT, INT, INT64, PATH, PORT, STRING, SWITCH, Kind, choice, positive, within
from atoll.observe.log import FORMATS

__all__ = ["FLAGS", "GROUPS", "Flag", "usage"]


@dataclass(frozen=True, slots=True)
class Flag:
    """One row. A repeatable flag collects its values into a tuple; of any other, the last occurrence wins."""

    name: str
    kind: Kind
    default: Any
    meaning: str
    repeatable: bool = False
    ignored: bool = False

    @property
    def field(self) -> str:
        """The flag's name as an attribute of :class:`Options`."""
        return self.name.replace("-", "_")


def _many(name: str, kind: Kind, meaning: str, *, ignored: bool = False) -> Flag:
    return Flag(name, kind, (), meaning, repeatable=True, ignored=ignored)


def _ignored(name: str, kind: Kind, default: Any = None) -> Flag:
    return Flag(name, kind, default, "Accepted for compatibility; has no meaning here.", ignored=True)


_SERVER = (
    Flag("help", SWITCH, False, "Print this text."),
    Flag("id", STRING, "triton", "Name of this server, as clients read it in its metadata."),
    Flag("exit-timeout-secs", INT, 30, "Seconds that everything in flight has to finish after SIGINT or SIGTERM."),
)

_LOGGING = (
    Flag("log-verbose", values.VERBOSE_LEVEL, 0, "Verbose level; 0 is off, 1 shows each request, 2 shows more."),
    Flag("log-info", BOOL, True, "Log information messages."),
    Flag("log-warning", BOOL, True, "Log warnings."),
    Flag("log-error", BOOL, True, "Log errors."),
    Flag(
        "log-format",
        choice("invalid argument for --log-format", *FORMATS),
        "default",
        "Layout of a log line; json is one object per line.",
    ),
    Flag("log-file", PATH, "", "File that log lines are appended to, instead of the console."),
)

_REPOSITORY = (
    _many("model-repository", PATH, "A model repository; give it once per repository."),
    _many("model-store", PATH, "Another name of --model-repository."),
    Flag("exit-on-error", BOOL, True, "Exit when a model fails to load at start-up."),
    Flag("disable-auto-complete-config", SWITCH, False, "Ask no model to complete its own configuration."),
    Flag("strict-model-config", BOOL, False, "Deprecated: true is --disable-auto-complete-config."),
    Flag("strict-readiness", BOOL, True, "Report ready only while every model is."),
    Flag(
        "model-control-mode",
        choice("invalid argument for --model-control-mode", "none", "poll", "explicit"),
        "none",
        "When models load: all at start-up (none), on changes of the repository (poll), on request (explicit).",
    ),
    Flag(
        "repository-poll-secs",
        positive(INT, "Error: --repository-poll-secs must be greater than 0."),
        15,
        "Seconds between two looks at the repository in poll mode.",
    ),
    _many("load-model", STRING, "Model to load at start-up in explicit mode; '*' alone is all of them."),
    Flag(
        "model-config-name",
        settings.MODEL_CONFIG_NAME,
        "",
        "Prefer configs/<name>.pbtxt in a model's directory to its config.pbtxt.",
    ),
    Flag(
        "model-load-thread-count",
        positive(INT, "Error: --model-load-thread-count must be greater than 0."),
        4,
        "Models that may load at the same time.",
    ),
    Flag("model-load-retry-count", INT, 0, "Times a failed load is tried again."),
    _many("host-policy", settings.HOST_POLICY, "Cores of the instances under a policy: numa-node or cpu-cores."),
    Flag("model-namespacing", BOOL, False, "Allow the same model name in several repositories."),
)

_HTTP = (
    Flag("allow-http", BOOL, True, "Serve HTTP."),
    Flag("http-address", STRING, "0.0.0.0", "Address of the HTTP service."),
    Flag("http-port", PORT, 8000, "Port of the HTTP service; 0 picks a free one."),
    Flag("reuse-http-port", BOOL, False, "Share the HTTP port with other servers (SO_REUSEPORT)."),
    Flag(
        "http-header-forward-pattern",
        settings.HEADER_PATTERN,
        "",
        "Pass request headers whose name matches on to the model.",
    ),
    _many("http-restricted-api", settings.HTTP_RESTRICTED_API, "APIs that need the given request header."),
    Flag(
        "http-max-input-size",
        positive(INT64, "Error: --http-max-input-size must be greater than 0."),
        64 << 20,
        "Largest HTTP request body, in bytes.",
    ),
    Flag("http-use-ssl", BOOL, False, "Serve HTTP over TLS. (This and the next four are not Triton's.)"),
    Flag("http-use-ssl-mutual", BOOL, False, "Require and verify client certificates; implies --http-use-ssl."),
    Flag("http-server-cert", PATH, "", "PEM file of the server's certificate chain."),
    Flag("http-server-key", PATH, "", "PEM file of the server's private key."),
    Flag("http-root-cert", PATH, "", "PEM file of the certificates that client certificates are verified against."),
    _ignored("http-thread-count", INT),
)

_GRPC = (
    Flag("allow-grpc", BOOL, True, "Serve gRPC."),
    Flag("grpc-address", STRING, "0.0.0.0", "Address of the gRPC service."),
    Flag("grpc-port", PORT, 8001, "Port of the gRPC service; 0 picks a free one."),
    Flag("reuse-grpc-port", BOOL, False, "Share the gRPC port with other servers (SO_REUSEPORT)."),
    Flag(
        "grpc-header-forward-pattern", settings.HEADER_PATTERN, "", "Pass metadata whose key matches on to the model."
    ),
    Flag("grpc-use-ssl", BOOL, False, "Serve gRPC over TLS."),
    Flag("grpc-use-ssl-mutual", BOOL, False, "Require and verify client certificates; implies --grpc-use-ssl."),
    Flag("grpc-server-cert", PATH, "", "PEM file of the server's certificate chain."),
    Flag("grpc-server-key", PATH, "", "PEM file of the server's private key."),
    Flag("grpc-root-cert", PATH, "", "PEM file of the certificates that client certificates are verified against."),
    Flag(
        "grpc-transport",
        choice("invalid argument for --grpc-transport", "http2", "grpcio"),
        "http2",
        "Atoll's own HTTP/2, or grpcio's.",
    ),
    Flag(
        "grpc-infer-response-compression-level",
        choice("invalid argument for --grpc_infer_response_compression_level", "none", "low", "medium", "high"),
        "none",
        "Compression of inference responses.",
    ),
    Flag("grpc-keepalive-time", INT, 7200000, "Milliseconds of silence before a keepalive ping."),
    Flag("grpc-keepalive-timeout", INT, 20000, "Milliseconds the answer to a keepalive ping may take."),
    Flag("grpc-keepalive-permit-without-calls", BOOL, False, "Send keepalive pings with no call in progress."),
    Flag("grpc-http2-max-pings-without-data", INT, 2, "Pings that may be sent with no data frame between."),
    Flag(
        "grpc-http2-min-recv-ping-interval-without-data",
        INT,
        300000,
        "Milliseconds a client must let pass between pings with no data frame between.",
    ),
    Flag("grpc-http2-max-ping-strikes", INT, 2, "Bad pings a client may send before its connection is closed."),
    Flag("grpc-max-connection-age", INT, None, "Milliseconds a connection may live."),
    Flag("grpc-max-connection-age-grace", INT, None, "Milliseconds that calls have to finish after that age."),
    _many("grpc-restricted-protocol", settings.GRPC_RESTRICTED_PROTOCOL, "Protocols that need the given metadata."),
    _ignored(
        "grpc-infer-thread-count",
        within(INT, 2, 128, "invalid argument for --grpc_infer_thread_count. Must be in the range 2 to 128."),
    ),
    _ignored("grpc-infer-allocation-pool-size", INT),
    _ignored(
        "grpc-max-response-pool-size",
        positive(INT, "Error: --grpc-max-response-pool-size must be greater than 0."),
    ),
)

_METRICS = (
    Flag("allow-metrics", BOOL, True, "Serve the metrics page."),
    Flag("metrics-address", STRING, "", "Address of the metrics service; the HTTP address unless given."),
    Flag("metrics-port", PORT, 8002, "Port of the metrics service; 0 picks a free one."),
    Flag("metrics-interval-ms", FLOAT, 2000.0, "Milliseconds between two readings of the system's gauges."),
    Flag("allow-cpu-metrics", BOOL, True, "Show processor and memory gauges."),
    _many("metrics-config", settings.METRICS_CONFIG, "A setting of the metrics page, such as counter_latencies."),
    _ignored("allow-gpu-metrics", BOOL),
)

_TRACING = (
    _many("trace-config", settings.TRACE_CONFIG, "A setting of request tracing."),
    Flag("trace-file", PATH, "", "Deprecated: use --trace-config triton,file=<path>."),
    _many("trace-level", settings.TRACE_LEVEL, "Deprecated: use --trace-config level=<level>."),
    Flag("trace-rate", INT, 1000, "Deprecated: use --trace-config rate=<n>."),
    Flag("trace-count", INT, -1, "Deprecated: use --trace-config count=<n>."),
    Flag("trace-log-frequency", INT, 0, "Deprecated: use --trace-config triton,log-frequency=<n>."),
)

_RUNNING_MODELS = (
    Flag(
        "backend-directory",
        PATH,
        "/opt/tritonserver/backends",
        "Where Python-based backends are: models of backend X are served by X/model.py there.",
    ),
    _many(
        "backend-config",
        settings.BACKEND_CONFIG,
        "A setting of a backend: python,shm-default-byte-size=<bytes>, python,shm-growth-byte-size=<bytes>, "
        "python,shm-region-prefix-name=<name>, python,shm-backing=<auto|posix|memfd>, "
        "python,stub-timeout-seconds=<n>, python,env-cache-directory=<path>, python,env-cache-size=<bytes>, "
        "default-max-batch-size=<n>.",
    ),
    _many(
        "cache-config",
        settings.CACHE_CONFIG,
        "A setting of the response cache: local,size=<bytes>; or redis,host=<host>, redis,port=<n>, …",
    ),
    Flag("cache-directory", PATH, "/opt/tritonserver/caches", "Shown when a cache is not found; caches are built in."),
    Flag("response-cache-byte-size", INT64, 0, "Deprecated: use --cache-config local,size=<bytes>."),
    Flag(
        "rate-limit",
        choice("invalid argument for --rate-limit", "off", "execution_count"),
        "off",
        "How executions of different models are weighed against each other.",
    ),
    _many("rate-limit-resource", settings.RATE_LIMIT_RESOURCE, "Units of a resource that executions share."),
    Flag(
        "allow-client-shm",
        BOOL,
        None,
        "Let clients register shared memory. Without this flag, if HTTP and gRPC listen on loopback addresses only.",
    ),
)

_COMPATIBILITY = (
    _ignored("repoagent-directory", PATH),
    _ignored("pinned-memory-pool-byte-size", INT64, 256 << 20),
    _ignored("min-supported-compute-capability", FLOAT, 6.0),
    _ignored("enable-peer-access", BOOL),
    _ignored("buffer-manager-thread-count", INT),
    _many("cuda-memory-pool-byte-size", settings.device_value("cuda-memory-pool-byte-size"), "", ignored=True),
    _many("cuda-virtual-address-size", settings.device_value("cuda-virtual-address-size"), "", ignored=True),
    _many("model-load-gpu-limit", settings.device_value("model-load-gpu-limit"), "", ignored=True),
    _ignored("allow-sagemaker", BOOL),
    _ignored("sagemaker-port", PORT),
    _ignored("sagemaker-safe-port-range", STRING),
    _ignored("sagemaker-thread-count", INT),
    _ignored("allow-vertex-ai", BOOL),
    _ignored("vertex-ai-port", PORT),
    _ignored("vertex-ai-thread-count", INT),
    _ignored("vertex-ai-default-model", STRING),
)

GROUPS: tuple[tuple[str, tuple[Flag, ...]], ...] = (
    ("Server", _SERVER),
    ("Logging", _LOGGING),
    ("Model repository", _REPOSITORY),
    ("HTTP", _HTTP),
    ("gRPC", _GRPC),
    ("Metrics", _METRICS),
    ("Tracing", _TRACING),
    ("Running models", _RUNNING_MODELS),
    ("Accepted for compatibility, without meaning here", _COMPATIBILITY),
)

FLAGS: dict[str, Flag] = {flag.name: flag for _, group in GROUPS for flag in group}


def usage(command: str = "tritonserver [options]") -> str:
    """The usage text: every flag, in its group."""
    lines = [f"Usage: {command}"]
    for title, group in GROUPS:
        lines += ["", f"{title}:"]
        for flag in group:
            lines.append(f"  --{flag.name} {flag.kind.metavar}".rstrip())
            if not flag.ignored:
                lines.append(f"        {flag.meaning}{_default_note(flag)}")
    return "\n".join(lines) + "\n"


def _default_note(flag: Flag) -> str:
    if flag.default in (None, "", ()) or not flag.kind.metavar:
        return ""
    shown = str(flag.default).lower() if isinstance(flag.default, bool) else flag.default
    return f" Default: {shown}."
