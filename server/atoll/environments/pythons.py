"""Finds a Python of a wanted version on this machine: the server's own, pyenv's, or one on the ``PATH``."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["VersionRange", "find_python"]

_CLAUSE = re.compile(r"\s*(===|~=|==|!=|<=|>=|<|>)\s*(\d+(?:\.\d+)*)(\.\*)?\s*")
_NEWEST_MINOR = 20


class VersionRange:
    """Versions that a specifier such as ``>=3.9,<3.12`` allows, as PEP 440 reads it. Raises ValueError."""

    def __init__(self, specifier: str) -> None:
        self.specifier = specifier
        self._clauses = []
        for clause in filter(str.strip, specifier.split(",")):
            match = _CLAUSE.fullmatch(clause)
            if match is None:
                raise ValueError(f"'{clause.strip()}' is no version specifier")
            operator, numbers, any_after = match.groups()
            self._clauses.append((operator, tuple(map(int, numbers.split("."))), any_after is not None))

    def __contains__(self, version: str) -> bool:
        match = re.match(r"\d+(?:\.\d+)*", version)
        numbers = tuple(map(int, match.group().split("."))) if match is not None else ()
        return all(_fits(numbers, *clause) for clause in self._clauses)


def _fits(version: tuple[int, ...], operator: str, wanted: tuple[int, ...], any_after: bool) -> bool:
    width = max(len(version), len(wanted))
    padded, limit = (numbers + (0,) * (width - len(numbers)) for numbers in (version, wanted))
    begins = version[: len(wanted)] == wanted
    return {
        "===": padded == limit,
        "==": begins if any_after else padded == limit,
        "!=": not begins if any_after else padded != limit,
        "~=": padded >= limit and version[: len(wanted) - 1] == wanted[:-1],
        "<=": padded <= limit,
        ">=": padded >= limit,
        "<": padded < limit,
        ">": padded > limit,
    }[operator]


def find_python(wanted: VersionRange) -> str | None:
    """The path of an interpreter: the server's own where that will do, else the newest of pyenv's, else another."""
    if platform.python_version() in wanted:
        return sys.executable
    return next((python for python in _candidates() if _version_of(python) in wanted), None)


def _candidates() -> Iterator[str]:
    pyenv = Path(os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")) / "versions"
    numbered = [path for path in pyenv.glob("*") if re.fullmatch(r"\d+(\.\d+)*", path.name)]
    for folder in sorted(numbered, key=lambda path: tuple(map(int, path.name.split("."))), reverse=True):
        yield str(folder / "bin" / "python")
    for minor in range(_NEWEST_MINOR, 0, -1):
        found = shutil.which(f"python3.{minor}")
        if found is not None:
            yield found


def _version_of(python: str) -> str:
    """Empty for one that does not run: a shim of pyenv may stand for a version that is not chosen."""
    try:
        code = "import platform; print(platform.python_version())"
        ended = subprocess.run([python, "-I", "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError:
        return ""
    return ended.stdout.strip() if ended.returncode == 0 else ""
