"""The trace settings of a server and of its models, and which requests they choose. State without IO.

1. Three layers: what the server was started with, over it what was set for all models, over it what was set for one.
2. A cleared setting shows the layer below; a model without settings of its own is sampled together with all others.
3. Every ``rate``-th request is traced, as long as ``count`` lasts (-1: for ever). What is shown of ``count`` is what is
   left of it.
4. A change begins the wait for the next ``rate``-th request anew. It does not replenish ``count``, unless it names it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from atoll.errors import Code, ServerError

__all__ = ["OFF", "Sampler", "TraceControl", "TraceOptions", "TraceSettings", "read_changes"]

OFF = ("OFF",)
_LEVELS = ("TIMESTAMPS", "TENSORS")
_FIELDS = {
    "trace_level": "level",
    "trace_rate": "rate",
    "trace_count": "count",
    "log_frequency": "log_frequency",
}
_MAX_UINT32 = 2**32 - 1
_MAX_INT32 = 2**31 - 1


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """What can be set while the server runs. A ``rate`` of 0 chooses no request."""

    level: tuple[str, ...] = OFF
    rate: int = 1000
    count: int = -1
    log_frequency: int = 0

    @property
    def is_on(self) -> bool:
        return self.level != OFF


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """What tracing starts with. ``exporter`` holds the settings that only the mode ``opentelemetry`` has."""

    mode: str = "triton"
    settings: TraceSettings = TraceSettings()
    file: str = ""
    exporter: Mapping[str, str] = field(default_factory=dict)


class Sampler:
    """Chooses requests, of all models or of one."""

    __slots__ = ("_seen", "remaining", "settings")

    def __init__(self, settings: TraceSettings, remaining: int) -> None:
        self.settings = settings
        self.remaining = remaining
        self._seen = 0

    def change(self, settings: TraceSettings, recount: bool) -> None:
        self._seen = 0
        if recount or settings.count != self.settings.count:
            self.remaining = settings.count
        self.settings = settings

    def take(self) -> bool:
        """Whether to trace the request that has just come."""
        rate = self.settings.rate
        if not (self.remaining and rate and self.settings.is_on):
            return False
        self._seen += 1
        if self._seen < rate:
            return False
        self._seen = 0
        if self.remaining > 0:
            self.remaining -= 1
        return True


class TraceControl:
    """All settings of one server. The empty name stands for all models that have none of their own."""

    def __init__(self, options: TraceOptions) -> None:
        """Raises ServerError for a level that cannot be."""
        self._options = options
        self._layers: dict[str, dict[str, Any]] = {}
        self._check(options.settings)
        self._common = Sampler(options.settings, options.settings.count)
        self._own: dict[str, Sampler] = {}

    @property
    def is_on(self) -> bool:
        return self._common.settings.is_on or any(sampler.settings.is_on for sampler in self._own.values())

    def sampler(self, model: str) -> Sampler:
        return self._own.get(model, self._common)

    def shown(self, model: str = "") -> dict[str, list[str]]:
        """The settings in the protocol's words and order."""
        sampler = self.sampler(model)
        settings = sampler.settings
        shown = {
            "trace_level": list(settings.level),
            "trace_rate": [str(settings.rate)],
            "trace_count": [str(sampler.remaining)],
        }
        if self._options.mode == "triton":
            shown["log_frequency"] = [str(settings.log_frequency)]
            shown["trace_file"] = [self._options.file]
        shown["trace_mode"] = [self._options.mode]
        return {**shown, **{name: [value] for name, value in self._options.exporter.items()}}

    def update(self, changes: Mapping[str, Any], model: str = "") -> None:
        """Set what ``changes`` holds, by field of :class:`TraceSettings`; None clears. Raises ServerError."""
        layer = {**self._layers.get(model, {}), **changes}
        layer = {name: value for name, value in layer.items() if value is not None}
        settings = replace(self._common.settings if model else self._options.settings, **layer)
        self._check(settings)
        self._layers[model] = layer
        recount = "count" in changes
        if model:
            self._settle(model, recount)
            return
        self._common.change(settings, recount)
        for name in list(self._own):
            self._settle(name, recount and "count" not in self._layers[name])

    def _settle(self, model: str, recount: bool) -> None:
        """What a model's own settings amount to now."""
        layer = self._layers[model]
        if not layer:
            self._own.pop(model, None)
            return
        settings = replace(self._common.settings, **layer)
        sampler = self._own.get(model)
        if sampler is None:
            sampler = self._own[model] = Sampler(self._common.settings, self._common.remaining)
        if recount or settings != sampler.settings:
            sampler.change(settings, recount)

    def _check(self, settings: TraceSettings) -> None:
        if settings.is_on and self._options.mode == "triton" and not self._options.file:
            raise ServerError(Code.INVALID_ARG, "Attempting to set invalid trace setting :trace file name is not given")


def read_changes(given: Mapping[str, Sequence[str] | None], gap: str = "") -> dict[str, Any]:
    """What a client wants changed, by field of :class:`TraceSettings`. Raises ServerError.

    ``given`` maps the protocol's names to texts; None clears, unknown names mean nothing. ``gap`` is what stands
    before a count in the text that refuses it, where the protocols differ.
    """
    if given.get("trace_file") is not None:
        raise ServerError(Code.UNSUPPORTED, "trace file location can not be updated through network protocol")
    changes: dict[str, Any] = {}
    for name, texts in given.items():
        key = _FIELDS.get(name)
        if key is None:
            continue
        if texts is None:
            changes[key] = None
        elif key == "level":
            changes[key] = _read_level(texts)
        elif len(texts) != 1:
            raise _invalid(f"expect only 1 value for '{name}'")
        elif key == "count":
            changes[key] = _read_count(name, texts[0], gap)
        else:
            changes[key] = _read_unsigned(name, texts[0])
    return changes


def _read_level(names: Sequence[str]) -> tuple[str, ...]:
    """Names that are no level are skipped."""
    if "OFF" in names and len(names) > 1:
        raise _invalid("Expect only one trace level 'OFF' is specified")
    return tuple(level for level in _LEVELS if level in names) or OFF


def _read_count(name: str, text: str, gap: str) -> int:
    number = _number(name, text)
    if not -_MAX_INT32 - 1 <= number <= _MAX_INT32:
        raise _out_of_range(name, f"[ -1, {_MAX_INT32} ]", text)
    if number < -1:
        raise _invalid(f"Unable to parse '{name}'. Expecting value >= -1, got:{gap}{text}")
    return number


def _read_unsigned(name: str, text: str) -> int:
    """A negative number counts down from the largest, as it does in the original."""
    number = _number(name, text)
    if not -_MAX_UINT32 <= number <= _MAX_UINT32:
        raise _out_of_range(name, f"[ 0, {_MAX_UINT32} ]", text)
    return number % (_MAX_UINT32 + 1)


def _number(name: str, text: str) -> int:
    if not re.fullmatch(r"\s*[+-]?[0-9]+", text):
        raise _invalid(f"Unable to parse '{name}', got: {text}")
    # int() refuses texts of thousands of digits with an error of its own.
    return int(text[:40])


def _out_of_range(name: str, bounds: str, text: str) -> ServerError:
    return _invalid(f"Unable to parse '{name}', value is out of range {bounds}, got: {text}")


def _invalid(message: str) -> ServerError:
    return ServerError(Code.INVALID_ARG, message)
