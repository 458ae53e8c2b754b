"""``KServeGrpc``: the v2 protocol over gRPC, on HTTP/2 of our own."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields

from atoll.core.server import Server as Core
from atoll.embedding.server import Listener
from atoll.frontends.grpc.http2.frontend import Http2Frontend
from atoll.frontends.grpc.options import GrpcOptions

from tritonfrontend._api._checks import (
    InvalidOption,
    check_bool,
    check_features,
    check_number,
    check_pattern,
    check_port,
    check_text,
)
from tritonfrontend._api._frontend import Frontend
from tritonfrontend._api._restricted import RestrictedFeatures
from tritonfrontend._api._tracing import Tracing, check_tracing

__all__ = ["KServeGrpc"]


class _CompressionLevel(enum.IntEnum):
    NONE, LOW, MED, HIGH, COUNT = range(5)


_LEVELS = ("none", "low", "medium", "high")


@dataclass
class _Options:
    """Thread counts and pool sizes have no meaning here: one event loop serves all calls."""

    address: str = "0.0.0.0"
    port: int = 8001
    reuse_port: bool = False
    use_ssl: bool = False
    server_cert: str = ""
    server_key: str = ""
    root_cert: str = ""
    use_mutual_auth: bool = False
    keepalive_time_ms: int = 7_200_000
    keepalive_timeout_ms: int = 20_000
    keepalive_permit_without_calls: bool = False
    http2_max_pings_without_data: int = 2
    http2_min_recv_ping_interval_without_data_ms: int = 300_000
    http2_max_ping_strikes: int = 2
    max_connection_age_ms: int = 0
    max_connection_age_grace_ms: int = 0
    infer_compression_level: int | _CompressionLevel = _CompressionLevel.NONE
    infer_thread_count: int = 2
    infer_allocation_pool_size: int = 8
    max_response_pool_size: int = 2_147_483_647
    forward_header_pattern: str = ""
    restricted_features: RestrictedFeatures | None = None
    tracing: Tracing | None = None

    def __post_init__(self) -> None:
        check_port(self.port)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "bool":
                check_bool(field.name, value)
            elif field.type == "str":
                check_text(field.name, value)
            elif field.type == "int":
                check_number(field.name, value)
        check_pattern("forward_header_pattern", self.forward_header_pattern)
        check_features(self.restricted_features)
        check_tracing(self.tracing)
        try:
            self.infer_compression_level = int(_CompressionLevel(self.infer_compression_level))
        except ValueError as error:
            raise InvalidOption(f"infer_compression_level: {error}") from None


class KServeGrpc(Frontend):
    """``KServeGrpc(server, KServeGrpc.Options(port=…))``."""

    Options = _Options
    Grpc_compression_level = _CompressionLevel
    _protocol = "GRPC"

    def _make(self, core: Core) -> Listener:
        options: _Options = self.options
        restricted = options.restricted_features
        return Http2Frontend(
            core,
            GrpcOptions(
                address=options.address,
                port=options.port,
                reuse_port=options.reuse_port,
                header_forward_pattern=options.forward_header_pattern,
                restricted_protocol={} if restricted is None else restricted._by_category(),
                use_ssl=options.use_ssl,
                use_ssl_mutual=options.use_mutual_auth,
                server_cert=options.server_cert,
                server_key=options.server_key,
                root_cert=options.root_cert,
                infer_response_compression_level=_LEVELS[min(options.infer_compression_level, len(_LEVELS) - 1)],
                keepalive_time_ms=options.keepalive_time_ms,
                keepalive_timeout_ms=options.keepalive_timeout_ms,
                keepalive_permit_without_calls=options.keepalive_permit_without_calls,
                http2_max_pings_without_data=options.http2_max_pings_without_data,
                http2_min_recv_ping_interval_without_data_ms=options.http2_min_recv_ping_interval_without_data_ms,
                http2_max_ping_strikes=options.http2_max_ping_strikes,
                max_connection_age_ms=options.max_connection_age_ms or None,
                max_connection_age_grace_ms=options.max_connection_age_grace_ms or None,
            ),
        )


KServeGrpc.Server = KServeGrpc  # type: ignore[attr-defined]  # as releases before 24.11 spell it
