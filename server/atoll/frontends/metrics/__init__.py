"""The metrics page, on a port of its own. See ``listener``."""

from atoll.frontends.metrics.listener import MetricsFrontend, MetricsListenOptions

__all__ = ["MetricsFrontend", "MetricsListenOptions"]
