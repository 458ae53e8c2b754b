"""Flags that are understood but whose feature this version lacks: the one table of them.

A value that asks for such a feature is refused, because a server that quietly ran without it would mislead. A
feature that arrives deletes its row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["refusal"]

_Check = Callable[[Any], "str | None"]
"""Given one value of the flag: None if it asks for nothing unsupported, else what to show behind the flag's name."""


def _trace_level(value: str) -> str | None:
    return None if value in ("off", "false") else f"={value}"


def _trace_config(value: tuple[str, str, str]) -> str | None:
    _, setting, text = value
    return f"=level={text}" if setting == "level" and _trace_level(text.lower()) else None


_UNSUPPORTED: dict[str, _Check] = {
    "trace-level": _trace_level,
    "trace-config": _trace_config,
}


def refusal(given: Mapping[str, Any]) -> str | None:
    """The sentence that refuses the first unsupported value among the flags given, or None."""
    for name, check in _UNSUPPORTED.items():
        value = given.get(name)
        for single in value if isinstance(value, tuple) else () if value is None else (value,):
            shown = check(single)
            if shown is not None:
                return f"--{name}{shown} is not supported by this version of Atoll"
    return None
