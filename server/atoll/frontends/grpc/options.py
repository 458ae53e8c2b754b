"""The gRPC frontend's settings, each named as its ``--grpc-…`` flag and with the flag's default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["GrpcOptions"]


@dataclass(frozen=True)
class GrpcOptions:
    """``restricted_protocol`` maps a category to its key and value; port 0 lets the system pick one."""

    address: str = "0.0.0.0"
    port: int = 8001
    reuse_port: bool = False
    header_forward_pattern: str = ""
    restricted_protocol: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    use_ssl: bool = False
    use_ssl_mutual: bool = False
    server_cert: str = ""
    server_key: str = ""
    root_cert: str = ""
    infer_response_compression_level: str = "none"
    keepalive_time_ms: int = 7_200_000
    keepalive_timeout_ms: int = 20_000
    keepalive_permit_without_calls: bool = False
    http2_max_pings_without_data: int = 2
    http2_min_recv_ping_interval_without_data_ms: int = 300_000
    http2_max_ping_strikes: int = 2
    max_connection_age_ms: int | None = None
    max_connection_age_grace_ms: int | None = None
