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

from atoll.errors import Code, ServerError

__all__ = ["Requirements", "install", "read_requirements"]

_BLOCK = re.compile(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
_PYTHON_VERSION = ".python-version"
_OTHER_FILE = re.compile(r"\s*(-r|-c|--requirement|--constraint)[ =]?\s*(?P<name>\S+)")
_LAST_LINES = 12


@dataclass(frozen=True, slots=True)
class Requirements:
    """What to install, as lines of a requirements file, and for which Python: ``3.13`` or an exact version, or ""."""

    source: Path
    lines: tuple[str, ...]
    python: str

    @property
    def key(self) -> str:
        """Of the environment that these make on this kind of machine."""
        parts = [*self.lines, self.python or platform.python_version(), platform.machine(), platform.system()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read_requirements(path: Path) -> Requirements | None:
    """From a requirements file or a ``.py`` file with a PEP 723 block; None for one without. Raises ServerError."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise _refused(path, str(error)) from error
    if path.suffix != ".py":
        version = path.with_name(_PYTHON_VERSION)
        python = version.read_text().split()[0] if version.is_file() else ""
        return Requirements(path, tuple(_lines(path, text)), python)
    match = _BLOCK.search(text)
    if match is None:
        return None
    content = "".join(line[2:] if line.startswith("# ") else line[1:] for line in match["content"].splitlines(True))
    return _from_block(path, content)


def _lines(path: Path, text: str) -> Iterator[str]:
    """Of a file and of those that it refers to: what they say is part of the key."""
    for line in text.splitlines():
        yield line
        match = _OTHER_FILE.match(line)
        other = path.parent / match["name"] if match is not None else path
        if other != path and other.is_file():
            yield from _lines(other, other.read_text())


def _from_block(path: Path, content: str) -> Requirements:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        block = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise _refused(path, f"its PEP 723 block is not TOML: {error}") from error
    wanted = str(block.get("requires-python", ""))
    match = re.search(r"(?:==|~=|>=)\s*(3\.\d+)", wanted)
    return Requirements(path, tuple(block.get("dependencies", ())), match[1] if match else "")


def install(requirements: Requirements, folder: Path) -> None:
    """Make an environment in ``folder``. Raises ServerError with the last lines of what the installer said."""
    uv = shutil.which("uv")
    python = _find_python(requirements, uv)
    source = requirements.source
    wanted = requirements.lines if source.suffix == ".py" else ("--requirement", str(source))
    executable = str(folder / "bin" / "python")
    if uv is not None:
        _run(source, [uv, "venv", "--quiet", "--allow-existing", "--python", python, str(folder)])
        _run(source, [uv, "pip", "install", "--quiet", "--python", executable, *wanted, "numpy"])
    else:
        _run(source, [python, "-m", "venv", str(folder)])
        pip = [executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run(source, [*pip, *wanted, "numpy"])


def _find_python(requirements: Requirements, uv: str | None) -> str:
    """The path of an interpreter of the wanted version, or for uv, which may find more, the version itself."""
    wanted = requirements.python
    if not wanted or platform.python_version().startswith(f"{wanted}."):
        return sys.executable
    minor = ".".join(wanted.split(".")[:2])
    candidates = [shutil.which(f"python{minor}")]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates += [str(path / "bin" / "python") for path in sorted(pyenv.glob(f"{wanted}*"), reverse=True)]
    for candidate in candidates:
        if candidate is not None and _is_version(candidate, wanted):
            return candidate
    if uv is not None:
        return wanted
    raise _refused(
        requirements.source,
        f"it wants Python {wanted}, which is not installed here; install it, or uv, which can get it",
    )


def _is_version(python: str, wanted: str) -> bool:
    """A shim may be there and not run."""
    try:
        ended = subprocess.run(
            [python, "-c", "import platform; print(platform.python_version())"], capture_output=True, text=True
        )
    except OSError:
        return False
    return ended.returncode == 0 and f"{ended.stdout.strip()}.".startswith(f"{wanted}.")


def _run(source: Path, command: list[str]) -> None:
    # Relative paths among the requirements are relative to where these lie.
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
    ended = subprocess.run(
        command,
        env=variables,
        cwd=source.parent,
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
