"""Environments from requirements: a ``requirements.txt``, or the block that PEP 723 puts into ``model.py`` itself.

``uv`` makes them where it is installed, else ``venv`` and ``pip``; both obey the settings of their own
(``UV_INDEX_URL``, ``PIP_INDEX_URL``, ``PIP_NO_INDEX``, ``pip.conf``, …), so an offline index works as it does for
people. numpy is always installed too: the stub needs it. Which Python: ``requires-python`` of the block, or a file
``.python-version`` beside the requirements, as pyenv and uv read it; else the server's own.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from atoll.environments.pythons import VersionRange, find_python
from atoll.errors import Code, ServerError

__all__ = ["Requirements", "install", "read_requirements"]

_BLOCK = re.compile(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
_PYTHON_VERSION = ".python-version"
_VERSION = re.compile(r"(?:cpython-|python-?)?(3(?:\.\d+){0,2})")
_OTHER_FILE = re.compile(r"\s*(?:-r|-c|--requirement|--constraint)[ =]?\s*(?P<name>[^\s#]+)")
_LAST_LINES = 12


@dataclass(frozen=True, slots=True)
class Requirements:
    """What to install, as lines of a requirements file, and in which versions of Python: a specifier, "" for any."""

    source: Path
    lines: tuple[str, ...]
    python: str

    @property
    def key(self) -> str:
        """Of the environment that these make on this kind of machine."""
        parts = [*self.lines, self.python, platform.python_version(), platform.machine(), platform.system()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read_requirements(path: Path) -> Requirements | None:
    """From a requirements file or a ``.py`` file with a PEP 723 block; None for one without. Raises ServerError."""
    text = _read(path, path)
    if path.suffix != ".py":
        return Requirements(path, tuple(_lines(path, path, text, set())), _wanted_beside(path))
    match = _BLOCK.search(text)
    if match is None:
        return None
    content = "".join(line[2:] if line.startswith("# ") else line[1:] for line in match["content"].splitlines(True))
    return _from_block(path, content)


def _read(path: Path, source: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")  # a model's file may be written in another encoding
    except OSError as error:
        raise _refused(source, f"{path} cannot be read: {error.strerror}") from error


def _wanted_beside(path: Path) -> str:
    version = path.with_name(_PYTHON_VERSION)
    if not version.is_file():
        return ""
    lines = _read(version, path).split("\n")
    words = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    match = _VERSION.fullmatch(words[0]) if words else None
    if match is None:
        raise _refused(path, f"{version} names no version of CPython such as 3.12")
    number = match[1]
    return f"=={number}" if number.count(".") == 2 else f"=={number}.*"


def _lines(path: Path, source: Path, text: str, seen: set[Path]) -> Iterator[str]:
    """Of a file and of those that it refers to: what they say is part of the key."""
    seen.add(path.resolve())
    for line in text.splitlines():
        yield line
        match = _OTHER_FILE.match(line)
        if match is None:
            continue
        other = path.parent / match["name"]
        if other.is_file() and other.resolve() not in seen:
            yield from _lines(other, source, _read(other, source), seen)


def _from_block(path: Path, content: str) -> Requirements:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        block = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise _refused(path, f"its PEP 723 block is not TOML: {error}") from error
    wanted, lines = block.get("requires-python", ""), block.get("dependencies", [])
    if not isinstance(wanted, str):
        raise _refused(path, "requires-python of its PEP 723 block is not a text")
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise _refused(path, "dependencies of its PEP 723 block is not a list of texts")
    return Requirements(path, tuple(lines), wanted)


def install(requirements: Requirements, folder: Path) -> None:
    """Make an environment in ``folder``. Raises ServerError with the last lines of what the installer said."""
    source = requirements.source
    uv = shutil.which("uv")
    python = _python_for(requirements, uv is not None)
    wanted = requirements.lines if source.suffix == ".py" else ("--requirement", str(source))
    executable = str(folder / "bin" / "python")
    if uv is not None:
        _run(source, [uv, "venv", "--quiet", "--no-project", "--allow-existing", "--python", python, str(folder)])
        _run(source, [uv, "pip", "install", "--quiet", "--python", executable, *wanted, "numpy"])
    else:
        _run(source, [python, "-m", "venv", str(folder)])
        pip = [executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run(source, [*pip, *wanted, "numpy"])


def _python_for(requirements: Requirements, has_uv: bool) -> str:
    """The path of a fitting interpreter; for uv, which may know or get more, what to look for."""
    try:
        python = find_python(VersionRange(requirements.python))
    except ValueError as error:
        raise _refused(requirements.source, f"requires-python: {error}") from None
    if python is None and not has_uv:
        raise _refused(
            requirements.source,
            f"it wants Python {requirements.python}, which is not installed here; install it, or uv, which can get it",
        )
    return python or requirements.python


def _run(source: Path, command: list[str]) -> None:
    # Relative paths among the requirements are relative to where these lie.
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
    ended = subprocess.run(
        command,
        env=variables,
        cwd=source.parent,
        close_fds=False,  # for the lock of the place that is being filled
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if ended.returncode != 0:
        said = "\n".join(ended.stdout.strip().splitlines()[-_LAST_LINES:])
        raise _refused(source, f"'{' '.join(command)}' failed:\n{said}")


def _refused(source: Path, reason: str) -> ServerError:
    return ServerError(Code.INVALID_ARG, f"the execution environment of {source} cannot be made: {reason}")
