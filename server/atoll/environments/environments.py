"""From what a model's configuration says of its environment to the interpreter of its stubs."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from weakref import WeakValueDictionary

from atoll.environments.archive import unpack
from atoll.environments.cache import EnvironmentCache
from atoll.environments.interpreter import OWN, Interpreter, probe
from atoll.environments.requirements import Requirements, install, read_requirements
from atoll.errors import Code, ServerError

__all__ = ["Environments", "locate"]

_log = logging.getLogger(__name__)

_MODEL_DIRECTORY = "$$TRITON_MODEL_DIRECTORY"
_READ_NBYTES = 1 << 20


class RemoteArchive(Protocol):
    """An archive in a store; ``mark`` differs when its content does."""

    mark: str

    def copy_to(self, path: Path) -> None: ...


class Environments:
    """Those of one server. :meth:`prepare` blocks; :meth:`interpreter` has it done in a thread."""

    def __init__(self, cache: EnvironmentCache, find_remote: Callable[[str], RemoteArchive]) -> None:
        """``find_remote`` gives the file in a store that a URL names, or raises ServerError."""
        self._cache = cache
        self._find_remote = find_remote
        self._probed: dict[Interpreter, str] = {}
        self._digests: dict[tuple[str, int, int], str] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def interpreter(self, value: str, model_dir: Path, model_file: Path) -> Interpreter:
        """The interpreter for a model with this ``EXECUTION_ENV_PATH``, or "" where it has none. Raises ServerError.

        A model without one may still carry requirements in its file (PEP 723). To be given to :meth:`release`.
        """
        place = value if "://" in value else locate(value, model_dir) if value else model_file
        async with self._turns.setdefault(str(place), asyncio.Lock()):
            if isinstance(place, str):
                return await asyncio.to_thread(self.prepare_remote, place)
            return await asyncio.to_thread(self.prepare, place, not value)

    def prepare(self, place: Path, is_model_file: bool = False) -> Interpreter:
        """The same for a path, in the calling thread."""
        if place.is_file() and (place.suffix == ".py" or (place.suffix == ".txt" and not is_model_file)):
            requirements = read_requirements(place)
            if requirements is None and is_model_file:
                return OWN
            if requirements is None:
                raise ServerError(
                    Code.INVALID_ARG, f"the execution environment of {place} cannot be made: it has no PEP 723 block"
                )
            interpreter = self._installed(requirements)
        elif is_model_file:
            return OWN
        elif place.is_dir():
            interpreter = self._found(place)
        else:
            interpreter = self._unpacked(place)
        _log.info(f"Using Python execution env {place}")
        return interpreter

    def prepare_remote(self, url: str) -> Interpreter:
        """The same for an archive in a store, which is fetched where it is not unpacked yet."""
        archive = self._find_remote(url)

        def make(folder: Path) -> None:
            _log.info(f"Extracting Python execution env {url}")
            with tempfile.NamedTemporaryFile(dir=folder.parent) as copy:
                archive.copy_to(Path(copy.name))
                try:
                    unpack(Path(copy.name), folder)
                except ServerError as error:
                    raise ServerError(error.code, error.message.replace(copy.name, url)) from error
            _run_conda_unpack(url, folder)

        interpreter = self._cached(hashlib.sha256(f"{url} {archive.mark}".encode()).hexdigest(), url, make)
        _log.info(f"Using Python execution env {url}")
        return interpreter

    def release(self, interpreter: Interpreter) -> None:
        """A model uses it no longer: what was made for it may go when there is no room."""
        if interpreter.prefix is not None and Path(interpreter.prefix).parent == self._cache.directory:
            self._cache.release(Path(interpreter.prefix))

    def close(self) -> None:
        self._cache.close()

    def _installed(self, requirements: Requirements) -> Interpreter:
        def make(folder: Path) -> None:
            _log.info(f"Installing Python execution env {requirements.source}")
            install(requirements, folder)

        return self._cached(requirements.key, requirements.source, make)

    def _unpacked(self, archive: Path) -> Interpreter:
        def make(folder: Path) -> None:
            _log.info(f"Extracting Python execution env {archive}")
            unpack(archive, folder)
            _run_conda_unpack(archive, folder)

        return self._cached(self._digest(archive), archive, make)

    def _cached(self, key: str, source: Path | str, make: Callable[[Path], None]) -> Interpreter:
        folder = self._cache.obtain(key, str(source), make)
        try:
            return self._found(folder)
        except BaseException:
            self._cache.release(folder)
            raise

    def _digest(self, archive: Path) -> str:
        """Of the archive's content; computed anew when its time or size changed."""
        try:
            about = archive.stat()
            known = (str(archive), about.st_mtime_ns, about.st_size)
            if known not in self._digests:
                digest = hashlib.sha256()
                with open(archive, "rb") as file:
                    while data := file.read(_READ_NBYTES):
                        digest.update(data)
                self._digests[known] = digest.hexdigest()
            return self._digests[known]
        except OSError as error:
            text = f"the execution environment {archive} cannot be read: {error.strerror}"
            raise ServerError(Code.INVALID_ARG, text) from error

    def _found(self, folder: Path) -> Interpreter:
        if not any((folder / name).exists() for name in ("bin/activate", "pyvenv.cfg", "conda-meta")):
            raise ServerError(
                Code.INVALID_ARG,
                f"Path {folder}/bin/activate does not exist. The Python environment should contain an 'activate' "
                "script.",
            )
        interpreter = Interpreter(str(folder / "bin" / "python"), str(folder), _changed_ns(folder))
        if interpreter not in self._probed:
            self._probed[interpreter] = probe(interpreter)
            _log.info(f"execution environment {folder}: {self._probed[interpreter]}")
        return interpreter


def locate(value: str, model_dir: Path) -> Path:
    """The file or folder that ``EXECUTION_ENV_PATH`` names; relative paths are within the model's directory."""
    if value.startswith(_MODEL_DIRECTORY):
        path = model_dir / value[len(_MODEL_DIRECTORY) :].lstrip("/")
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(model_dir)):
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


def _run_conda_unpack(archive: Path | str, folder: Path) -> None:
    """conda-pack's own script: puts the environment's new place into the files that hold the old one."""
    script = folder / "bin" / "conda-unpack"
    if not script.exists():
        return
    interpreter = Interpreter(str(folder / "bin" / "python"), str(folder))
    try:
        ended = subprocess.run(
            [interpreter.python, str(script)],
            env=interpreter.variables(),
            close_fds=False,  # for the lock of the folder
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except OSError:
        probe(interpreter)  # says why
        raise
    if ended.returncode != 0:
        raise ServerError(
            Code.INVALID_ARG,
            f"the execution environment {archive} cannot be unpacked: conda-unpack failed: {ended.stderr.strip()}",
        )
