"""What all ``--metrics-config`` settings of a command line mean together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from atoll.cli.values import BOOL, BadValue

__all__ = ["MetricsConfig", "metrics_config"]


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """Which latencies the metrics page shows, named after the settings."""

    counter_latencies: bool = True
    summary_latencies: bool = False
    summary_quantiles: tuple[float, ...] = ()
    """Empty for the default ones."""
    histogram_latencies: bool = False
    stage_histograms: bool = False
    """Ours."""
    ignored: tuple[str, ...] = ()
    """Settings of other names."""


def metrics_config(settings: Sequence[tuple[str, str]]) -> MetricsConfig:
    """The last of several settings of one name counts; of an unknown name only the name is kept. Raises BadValue."""
    config = MetricsConfig()
    for name, text in settings:
        if name in ("counter_latencies", "summary_latencies", "histogram_latencies", "stage_histograms"):
            config = replace(config, **{name: BOOL.read(text)})
        elif name == "summary_quantiles":
            config = replace(config, summary_quantiles=tuple(_quantile(pair) for pair in text.split(",")))
        else:
            config = replace(config, ignored=(*config.ignored, name))
    return config


def _quantile(text: str) -> float:
    """One ``<quantile>:<error>``. The error says how far the original may be off; ours keeps a bound of its own."""
    quantile_text, _, error_text = text.partition(":")
    try:
        quantile, error = float(quantile_text), float(error_text)
    except ValueError:
        raise BadValue(f"summary_quantiles format is <quantile>:<error>[,<quantile>:<error>...]. Got {text}") from None
    if not (0 <= quantile <= 1 and 0 <= error <= 1):
        raise BadValue(f"quantile and error in summary_quantiles must be between 0 and 1. Got {text}")
    return quantile
