"""The page that Prometheus reads: families of samples, and their text in format 0.0.4.

Written here and not with ``prometheus-client``: that library appends ``_total`` to the name of every counter, and
dashboards made for the original look for ``nv_inference_count``.

A :class:`Registry` holds collectors: callables that yield the families as they are now. Several may yield parts of
one family (two models, two backends); the page shows them as one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

__all__ = ["CONTENT_TYPE", "Collector", "Family", "Registry", "label_text", "number_text"]

CONTENT_TYPE = "text/plain; charset=utf-8"

_LAST = frozenset(("quantile", "le"))


class Family:
    """Samples that share a name, a type (``counter``, ``gauge``, ``histogram``, ``summary``) and a HELP line.

    A sample is its suffix (such as ``_sum``; mostly empty), its labels as :func:`label_text` writes them, its value.
    """

    __slots__ = ("help", "kind", "name", "samples")

    def __init__(self, name: str, kind: str, help: str) -> None:
        self.name = name
        self.kind = kind
        self.help = help
        self.samples: list[tuple[str, str, int | float]] = []

    def add(self, labels: str, value: int | float, suffix: str = "") -> None:
        self.samples.append((suffix, labels, value))


Collector = Callable[[], Iterable[Family]]


class Registry:
    """Everything one server shows on its metrics page."""

    def __init__(self) -> None:
        self._collectors: list[Collector] = []

    def register(self, collector: Collector) -> None:
        self._collectors.append(collector)

    def unregister(self, collector: Collector) -> None:
        self._collectors.remove(collector)

    def names(self, but: Collector) -> set[str]:
        """Of all families, and of their samples; those of one collector left out."""
        families = [family for collector in self._collectors if collector != but for family in collector()]
        samples = {family.name + suffix for family in families for suffix, _, _ in family.samples}
        return samples.union(family.name for family in families)

    def page(self) -> str:
        """The whole page. A family without samples is left out."""
        families: dict[str, list[Family]] = {}
        for collector in self._collectors:
            for family in collector():
                if family.samples:
                    families.setdefault(family.name, []).append(family)
        return "".join(_family_text(name, parts) for name, parts in families.items())


def label_text(labels: Mapping[str, str]) -> str:
    """``{name="value",…}``, sorted by name, with ``quantile`` or ``le`` last; empty without labels."""
    if not labels:
        return ""
    names = sorted(labels, key=lambda name: (name in _LAST, name))
    return "{" + ",".join(f'{name}="{_escape(labels[name], quotes=True)}"' for name in names) + "}"


def _family_text(name: str, parts: list[Family]) -> str:
    lines = [f"# HELP {name} {_escape(parts[0].help)}", f"# TYPE {name} {parts[0].kind}"]
    for part in parts:
        lines += [f"{name}{suffix}{labels} {number_text(value)}" for suffix, labels, value in part.samples]
    return "\n".join(lines) + "\n"


def _escape(text: str, quotes: bool = False) -> str:
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n")
    return escaped.replace('"', '\\"') if quotes else escaped


def number_text(value: int | float) -> str:
    """A sample's value, or a bucket's bound; numbers that differ have texts that differ."""
    if isinstance(value, int):
        return str(int(value))
    if math.isnan(value):
        return "Nan"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
