"""``Metrics``: the metrics page."""

from __future__ import annotations

from dataclasses import dataclass

from atoll.core.server import Server as Core
from atoll.embedding.server import Listener
from atoll.frontends.metrics.listener import MetricsFrontend, MetricsListenOptions

from tritonfrontend._api._checks import check_number, check_port, check_text
from tritonfrontend._api._frontend import Frontend

__all__ = ["Metrics"]


@dataclass
class _Options:
    """``thread_count`` has no meaning here."""

    address: str = "0.0.0.0"
    port: int = 8002
    thread_count: int = 1

    def __post_init__(self) -> None:
        check_text("address", self.address)
        check_port(self.port)
        check_number("thread_count", self.thread_count, 1)


class Metrics(Frontend):
    """``Metrics(server, Metrics.Options(port=…))``."""

    Options = _Options
    _protocol = "HTTP"  # in the original's texts

    def _make(self, core: Core) -> Listener:
        return MetricsFrontend(self._embedded.page, MetricsListenOptions(self.options.address, self.options.port))


Metrics.Server = Metrics  # type: ignore[attr-defined]  # as the others have it
