"""From what a model's configuration says of its environment to the interpreter of its stubs."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import subprocess
from pathlib import Path

from atoll.environments.archive import unpack
from atoll.environments.cache import EnvironmentCache
from atoll.environments.interpreter import OWN, Interpreter, probe
from atoll.environments.requirements import Requirements, install, read_requirements
from atoll.errors import Code, ServerError

__all__ = ["Environments", "locate"]

_log = logging.getLogger(__name__)

_MODEL_DIRECTORY = "$$TRITON_MODEL_DIRECTORY"
_READ_NBYTES = 1 << 20


class Environments:
    """Those of one server. All but :meth:`interpreter` may block and is called in threads."""

    def __init__(self, cache: EnvironmentCache) -> None:
        self._cache = cache
        self._probed: dict[Interpreter, tuple[int, str]] = {}
        self._digests: dict[tuple[str, int, int], str] = {}
        self._turns: dict[str, asyncio.Lock] = {}

    async def interpreter(self, value: str, model_dir: Path, model_file: Path) -> Interpreter:
        """The interpreter for a model with this ``EXECUTION_ENV_PATH``, or "" where it has none. Raises ServerError.

        A model without one may still carry requirements in its file (PEP 723).
        """
        place = locate(value, model_dir) if value else model_file
        async with self._turns.setdefault(str(place), asyncio.Lock()):
            return await asyncio.get_running_loop().run_in_executor(None, self.prepare, place, not value)

    def prepare(self, place: Path, is_model_file: bool = False) -> Interpreter:
        """The same for a path, in the calling thread."""
        if is_model_file:
            requirements = read_requirements(place) if place.is_file() else None
            if requirements is None:
                return OWN
            folder = self._installed(requirements)
        elif place.is_dir():
            folder = place
        elif place.suffix in (".txt", ".py"):
            requirements = read_requirements(place)
            if requirements is None:
                raise ServerError(
                    Code.INVALID_ARG, f"the execution environment of {place} cannot be made: it has no PEP 723 block"
                )
            folder = self._installed(requirements)
        else:
            folder = self._unpacked(place)
        _log.info(f"Using Python execution env {place}")
        return self._checked(folder)

    def close(self) -> None:
        self._cache.close()

    def _installed(self, requirements: Requirements) -> Path:
        def make(folder: Path) -> None:
            _log.info(f"Installing Python execution env {requirements.source}")
            install(requirements, folder)

        return self._cache.obtain(requirements.key, str(requirements.source), make)

    def _unpacked(self, archive: Path) -> Path:
        def make(folder: Path) -> None:
            _log.info(f"Extracting Python execution env {archive}")
            unpack(archive, folder)
            _run_conda_unpack(archive, folder)

        return self._cache.obtain(self._digest(archive), str(archive), make)

    def _digest(self, archive: Path) -> str:
        """Of the archive's content; computed anew when its time or size changed."""
        about = archive.stat()
        known = (str(archive), about.st_mtime_ns, about.st_size)
        if known not in self._digests:
            digest = hashlib.sha256()
            with open(archive, "rb") as file:
                while data := file.read(_READ_NBYTES):
                    digest.update(data)
            self._digests[known] = digest.hexdigest()
        return self._digests[known]

    def _checked(self, folder: Path) -> Interpreter:
        if not any((folder / name).exists() for name in ("bin/activate", "pyvenv.cfg", "conda-meta")):
            raise ServerError(
                Code.INVALID_ARG,
                f"Path {folder}/bin/activate does not exist. The Python environment should contain an 'activate' "
                "script.",
            )
        interpreter = Interpreter(str(folder / "bin" / "python"), str(folder))
        changed_ns = _changed_ns(folder)
        if self._probed.get(interpreter, (0, ""))[0] != changed_ns:
            found = probe(interpreter)
            _log.info(f"execution environment {folder}: {found}")
            self._probed[interpreter] = (changed_ns, found)
        return interpreter


def locate(value: str, model_dir: Path) -> Path:
    """The file or folder that ``EXECUTION_ENV_PATH`` names; relative paths are within the model's directory."""
    if value.startswith(_MODEL_DIRECTORY):
        path = model_dir / value[len(_MODEL_DIRECTORY) :].lstrip("/")
        inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(model_dir))
        if not inside:
            raise ServerError(Code.INVALID_ARG, f"EXECUTION_ENV_PATH {value} leads out of the model's directory")
    else:
        path = model_dir / value  # an absolute one stays what it is
    if not path.exists():
        raise ServerError(Code.INVALID_ARG, f"Failed to get the canonical path for {path}.")
    return Path(os.path.realpath(path))


def _changed_ns(folder: Path) -> int:
    """Changes when packages come or go: an environment in use may be repaired, and must be looked at again then."""
    times = [folder.stat().st_mtime_ns]
    times += [path.stat().st_mtime_ns for path in (folder / "lib").glob("python*/site-packages")]
    return max(times)


def _run_conda_unpack(archive: Path, folder: Path) -> None:
    """conda-pack's own script: puts the environment's new place into the files that hold the old one."""
    script = folder / "bin" / "conda-unpack"
    if not script.exists():
        return
    python = Interpreter(str(folder / "bin" / "python"), str(folder))
    ended = subprocess.run(
        [python.python, str(script)], env=python.variables(), stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if ended.returncode != 0:
        raise ServerError(
            Code.INVALID_ARG,
            f"the execution environment {archive} cannot be unpacked: conda-unpack failed: {ended.stderr.strip()}",
        )
