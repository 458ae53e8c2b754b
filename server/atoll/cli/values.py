"""The value types a flag may have: how the text is read, and the sentence said when it cannot be.

A :class:`Kind` reads one occurrence of a flag. What several occurrences mean together is for :mod:`.options`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = [
    "BOOL",
    "FLOAT",
    "INT",
    "INT64",
    "PATH",
    "PORT",
    "STRING",
    "SWITCH",
    "VERBOSE_LEVEL",
    "BadValue",
    "Kind",
    "choice",
    "positive",
    "within",
]

_BOOLS = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}
_INT_MAX = 2**31 - 1
_INT64_MAX = 2**63 - 1


class BadValue(Exception):
    """A flag's value that cannot be read; the message is the detail shown below ``Bad option``."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How one value of a flag is written in the usage text (``""``: the flag takes none) and read."""

    metavar: str
    read: Callable[[str], Any]


def _read_bool(text: str) -> bool:
    try:
        return _BOOLS[text.lower()]
    except KeyError:
        raise BadValue(f"invalid value for bool option: {text}") from None


def _whole_number(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"\s*[+-]?[0-9]+", text):
            raise BadValue(f"Invalid option value. Got {text}")
        # int() refuses texts of thousands of digits with an error of its own; the bound is known without it.
        if len(text) > 40 or not low <= int(text) <= high:
            raise BadValue(f"Provided option value is out of bound. Got {text}")
        return int(text)

    return read


def _read_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise BadValue(f"Invalid option value. Got {text}") from None
    if not abs(value) < float("inf"):
        raise BadValue(f"Provided option value is out of bound. Got {text}")
    return value


def _read_verbose(text: str) -> int:
    lowered = text.lower()
    if lowered in ("true", "on", "false", "off"):
        return int(_BOOLS[lowered])
    return _whole_number(0, _INT_MAX)(text)


SWITCH = Kind("", lambda _: True)
BOOL = Kind("<boolean>", _read_bool)
INT = Kind("<integer>", _whole_number(-_INT_MAX - 1, _INT_MAX))
INT64 = Kind("<integer>", _whole_number(-_INT64_MAX - 1, _INT64_MAX))
PORT = Kind("<integer>", _whole_number(0, 65535))
FLOAT = Kind("<float>", _read_float)
STRING = Kind("<string>", str)
PATH = Kind("<path>", str)
VERBOSE_LEVEL = Kind("<integer>", _read_verbose)


def choice(complaint: str, *words: str) -> Kind:
    """One of ``words``, in any case; ``complaint`` is the whole sentence about anything else."""
    spelled = {word.lower(): word for word in words}

    def read(text: str) -> str:
        try:
            return spelled[text.lower()]
        except KeyError:
            raise BadValue(complaint) from None

    return Kind(f"<{'|'.join(words)}>", read)


def positive(kind: Kind, complaint: str) -> Kind:
    """A number above zero."""
    return within(kind, 1, None, complaint)


def within(kind: Kind, low: int, high: int | None, complaint: str) -> Kind:
    """A number from ``low`` to ``high``."""

    def read(text: str) -> Any:
        value = kind.read(text)
        if value < low or (high is not None and value > high):
            raise BadValue(complaint)
        return value

    return Kind(kind.metavar, read)
