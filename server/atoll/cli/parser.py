"""Reads a command line as ``getopt_long`` does, with the table of :mod:`.flags`.

``--name value`` and ``--name=value``, unambiguous prefixes of a name, switches without a value, words without dashes
anywhere between, ``--`` ending the flags. There are no short options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from atoll.cli.flags import FLAGS, Flag
from atoll.cli.values import BadValue

__all__ = ["HelpRequested", "Parsed", "UsageError", "parse"]


class UsageError(Exception):
    """The command line is wrong; the message follows the usage text."""


class HelpRequested(Exception):
    """``--help`` was given."""


@dataclass(slots=True)
class Parsed:
    """What a command line says: the values of the flags given, and the other words."""

    given: dict[str, Any] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)


def parse(argv: Sequence[str]) -> Parsed:
    """Read ``argv`` (without the program's name)."""
    parsed = Parsed()
    rest = iter(argv)
    for argument in rest:
        if argument == "--":
            parsed.words.extend(rest)
        elif argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            flag = _find(name)
            if not flag.kind.metavar:
                if equals:
                    raise UsageError(f"option '--{flag.name}' doesn't allow an argument")
            elif not equals:
                try:
                    value = next(rest)
                except StopIteration:
                    raise UsageError(f"option '--{flag.name}' requires an argument") from None
            _store(parsed, flag, value)
        elif argument.startswith("-") and argument != "-":
            raise UsageError(f"invalid option -- '{argument[1]}'")
        else:
            parsed.words.append(argument)
    return parsed


def _find(name: str) -> Flag:
    """The flag called ``name``, or the only one whose name begins with it."""
    flag = FLAGS.get(name)
    if flag is not None:
        return flag
    candidates = [candidate for candidate in FLAGS if candidate.startswith(name)]
    if not candidates:
        raise UsageError(f"unrecognized option '--{name}'")
    if len(candidates) > 1:
        possibilities = " ".join(f"'--{candidate}'" for candidate in candidates)
        raise UsageError(f"option '--{name}' is ambiguous; possibilities: {possibilities}")
    return FLAGS[candidates[0]]


def _store(parsed: Parsed, flag: Flag, text: str) -> None:
    if flag.name == "help":
        raise HelpRequested
    try:
        value = flag.kind.read(text)
    except BadValue as bad:
        raise UsageError(f'Bad option: "--{flag.name}".\n{bad}') from None
    if flag.repeatable:
        value = (*parsed.given.get(flag.name, ()), value)
    parsed.given[flag.name] = value
