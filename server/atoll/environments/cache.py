"""Environments that were made, each once, on disk: unpacked archives and those installed from requirements.

::

    DIRECTORY/<key>.lock      held exclusively while the environment is made or removed, shared while a server uses it
    DIRECTORY/<key>/          the environment; its content says what it is, so that two servers may share it
    DIRECTORY/<key>.json      what it was made from, and how large it is; written last: without it the folder is nothing

The key is a digest of what it is made from. The locks end with the processes that hold them, so a killed server leaves
nothing locked, and what it left half-made is removed by who comes next. ``<key>.json`` is touched at each use: when the
environments together grow larger than allowed, those go first that were not used for longest and that nobody uses.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from atoll.errors import Code, ServerError

__all__ = ["CachedEnvironment", "EnvironmentCache", "default_directory"]


def default_directory() -> Path:
    home = os.path.expanduser("~")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join("/" if home == "~" else home, ".cache")
    return Path(cache) / "atoll" / "environments"


@dataclass(frozen=True, slots=True)
class CachedEnvironment:
    """One that is complete. ``used`` is when it was obtained last, in seconds since the epoch."""

    key: str
    path: Path
    source: str
    nbytes: int
    used: float
    in_use: bool


class EnvironmentCache:
    """The environments in one directory, which several servers may share."""

    def __init__(self, directory: Path, max_nbytes: int) -> None:
        """``max_nbytes`` 0 means that nothing is ever removed to make room."""
        self.directory = directory.absolute()
        self._max_nbytes = max_nbytes
        self._uses: defaultdict[str, list[IO[bytes]]] = defaultdict(list)

    def obtain(self, key: str, source: str, make: Callable[[Path], None]) -> Path:
        """The environment's folder, made now where it is not there yet; it stays until :meth:`release`.

        ``make`` fills an empty folder at its final place: environments know where they are. Blocks while another
        process makes the same one. Raises ServerError.
        """
        path = self.directory / key
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            about = self._about(key)
            while True:
                use = self._locked(key, fcntl.LOCK_SH)
                if about.exists():
                    os.utime(about)
                    self._uses[key].append(use)
                    return path
                use.close()
                with self._locked(key, fcntl.LOCK_EX) as lock:
                    os.set_inheritable(lock.fileno(), True)  # an installer that outlives a killed server still has it
                    if not about.exists():
                        self._make(key, source, make)
        except OSError as error:
            place = error.filename or self.directory
            raise ServerError(
                Code.INVALID_ARG,
                f"the execution environment {source} cannot be kept in {self.directory}: {error.strerror or error}: "
                f"{place} (--backend-config=python,env-cache-directory=… names another place)",
            ) from error

    def release(self, path: Path) -> None:
        """One of those who obtained this folder uses it no longer."""
        self._uses[path.name].pop().close()

    def environments(self) -> list[CachedEnvironment]:
        """Those that are complete, the one that was used last first."""
        found = []
        for about in self.directory.glob("*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                content = json.loads(about.read_text())
                path = self.directory / about.stem
                used = about.stat().st_mtime
                in_use = self._is_used(about.stem)
                found.append(CachedEnvironment(about.stem, path, content["source"], content["nbytes"], used, in_use))
        return sorted(found, key=lambda environment: environment.used, reverse=True)

    def prune(self, max_nbytes: int) -> list[CachedEnvironment]:
        """Remove what no server uses until at most ``max_nbytes`` are left; returns what was removed."""
        for lock in self.directory.glob("*.lock"):
            if (self.directory / lock.stem).exists() and not self._about(lock.stem).exists():
                self._remove(lock.stem)  # half-made, by one that was killed
        known = self.environments()
        total = sum(environment.nbytes for environment in known)
        removed = []
        for environment in reversed(known):
            if total <= max_nbytes:
                break
            if self._remove(environment.key):
                total -= environment.nbytes
                removed.append(environment)
        return removed

    def close(self) -> None:
        """This server uses none of them any more."""
        for uses in self._uses.values():
            for use in uses:
                use.close()
        self._uses.clear()

    def _make(self, key: str, source: str, make: Callable[[Path], None]) -> None:
        path = self.directory / key
        shutil.rmtree(path, ignore_errors=True)  # half-made, by one that was killed
        path.mkdir()
        draft = self.directory / f"{key}.draft"
        try:
            make(path)
            draft.write_text(json.dumps({"source": source, "nbytes": _size(path)}))
            draft.rename(self._about(key))
        except BaseException:
            draft.unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)
            raise
        if self._max_nbytes:
            self._make_room(key)

    def _make_room(self, newest: str) -> None:
        """The newest stays, whatever its size: it is needed now."""
        others = [environment for environment in self.environments() if environment.key != newest]
        total = sum(environment.nbytes for environment in self.environments())
        for environment in reversed(others):
            if total > self._max_nbytes and self._remove(environment.key):
                total -= environment.nbytes

    def _remove(self, key: str) -> bool:
        """False when somebody uses it."""
        with open(self._lock_path(key), "ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self._about(key).unlink(missing_ok=True)
            shutil.rmtree(self.directory / key, ignore_errors=True)
        return True

    def _is_used(self, key: str) -> bool:
        with open(self._lock_path(key), "ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def _about(self, key: str) -> Path:
        return self.directory / f"{key}.json"

    def _lock_path(self, key: str) -> Path:
        """Lock files stay: to remove one that somebody waits for would let two in."""
        return self.directory / f"{key}.lock"

    def _locked(self, key: str, how: int) -> IO[bytes]:
        """The lock is held until the file is closed; each file has a lock of its own, also within one process."""
        lock = open(self._lock_path(key), "ab")  # noqa: SIM115
        fcntl.flock(lock, how)
        return lock


def _size(path: Path) -> int:
    """What a folder takes on disk; hard links within it count once."""
    seen: dict[int, int] = {}
    for place, _, files in os.walk(path):
        for name in files:
            about = os.lstat(os.path.join(place, name))
            seen[about.st_ino] = about.st_blocks * 512
    return sum(seen.values())
