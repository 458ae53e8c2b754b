"""``Tracing``: where traces of requests go, and of how many."""

from __future__ import annotations

from dataclasses import dataclass

from atoll.observe.trace_settings import TraceOptions, TraceSettings

from tritonfrontend._api._checks import InvalidOption, check_number, check_text

__all__ = ["Tracing", "check_tracing"]

_LEVELS = {"OFF": ("OFF",), "TIMESTAMPS": ("TIMESTAMPS",), "TENSORS": ("TENSORS",)}


@dataclass
class Tracing:
    """Of one server: the last frontend that is started with it decides. A ``count`` of -1 is for ever."""

    filepath: str = ""
    rate: int = 1000
    count: int = -1
    level: str = "TIMESTAMPS"

    def __post_init__(self) -> None:
        check_text("filepath", self.filepath)
        check_number("rate", self.rate)
        check_number("count", self.count, -1)
        if self.level not in _LEVELS:
            raise InvalidOption(f"level must be one of {', '.join(_LEVELS)}, got {self.level!r}")

    def _for_core(self) -> TraceOptions:
        return TraceOptions(file=self.filepath, settings=TraceSettings(_LEVELS[self.level], self.rate, self.count))


def check_tracing(value: object) -> None:
    if value is not None and not isinstance(value, Tracing):
        raise InvalidOption("tracing needs an instance of Tracing.")
