"""``KServeHttp``: the v2 protocol over HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from atoll.core.server import Server as Core
from atoll.embedding.server import Listener
from atoll.frontends.http.listener import HttpFrontend, HttpOptions

from tritonfrontend._api._checks import (
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

__all__ = ["KServeHttp"]


@dataclass
class _Options:
    """``thread_count`` has no meaning here: one event loop serves all connections."""

    address: str = "0.0.0.0"
    port: int = 8000
    reuse_port: bool = False
    thread_count: int = 8
    header_forward_pattern: str = ""
    restricted_features: RestrictedFeatures | None = None
    tracing: Tracing | None = None

    def __post_init__(self) -> None:
        check_text("address", self.address)
        check_port(self.port)
        check_bool("reuse_port", self.reuse_port)
        check_number("thread_count", self.thread_count, 1)
        check_pattern("header_forward_pattern", self.header_forward_pattern)
        check_features(self.restricted_features)
        check_tracing(self.tracing)


class KServeHttp(Frontend):
    """``KServeHttp(server, KServeHttp.Options(port=…))``."""

    Options = _Options
    _protocol = "HTTP"

    def _make(self, core: Core) -> Listener:
        options: _Options = self.options
        restricted = options.restricted_features
        return HttpFrontend(
            core,
            HttpOptions(
                address=options.address,
                port=options.port,
                reuse_port=options.reuse_port,
                header_forward_pattern=options.header_forward_pattern,
                restricted_api={} if restricted is None else restricted._by_category(),
            ),
        )


KServeHttp.Server = KServeHttp  # type: ignore[attr-defined]  # as releases before 24.11 spell it
