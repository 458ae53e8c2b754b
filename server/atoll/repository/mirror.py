"""A repository in an object store (``s3://``, ``gs://``, ``as://``), copied to a local folder that is read instead.

The copy of a model is made beside the one that is there and takes its place at once, by one link: nobody sees half a
model. Files that the store says are unchanged are linked, not fetched again.

Everything here waits for a network, and is called in threads.
"""

import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from atoll.errors import Code, ServerError
from atoll.repository.names import is_plain_name
from atoll.repository.stores import connect, explained, mark_of

__all__ = ["Mirror"]

_Files = dict[str, tuple[object, ...]]
"""The files of a model, relative to it, and what tells their content from another. A directory has an empty mark."""

_ATTEMPTS = 3


class Mirror:
    """The local copy of the repository at ``url``; its models are in ``path`` once they were refreshed."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._folder = Path(tempfile.mkdtemp(prefix="atoll_repository_"))
        self.path = self._folder / "models"
        self.path.mkdir()
        self._copied: dict[str, _Files] = {}
        self._count = 0
        self._lock = threading.Lock()
        self._store: Any = None
        self._root = ""

    def close(self) -> None:
        """Remove the copy."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def names(self) -> list[str]:
        """The models in the store, copied or not. Raises ServerError."""
        with self._lock, explained(f"model repository {self.url}"):
            self._connect()
            return sorted(self._names())

    def refresh(self, name: str = "") -> dict[str, ServerError]:
        """Copy what changed of the model ``name``, or of all models; drop what is gone.

        Returns the errors of models that could not be copied and are as they were. Raises ServerError when the store
        does not answer.
        """
        failures: dict[str, ServerError] = {}
        with self._lock:
            with explained(f"model repository {self.url}"):
                self._connect()
                names = [name] if name else self._names()
            for known in names:
                try:
                    with explained(f"model repository {self.url}"):
                        files = self._files(known)
                        if files and files != self._copied.get(known):
                            self._copy(known, files)
                        elif not files:
                            self._drop(known)
                except ServerError as error:
                    failures[known] = error
            for gone in [] if name else set(self._copied).difference(names):
                self._drop(gone)
        return failures

    # -- the store

    def _connect(self) -> None:
        """Find the store, at the first call, and see that the repository is there, at every one."""
        if self._store is None:
            self._store, self._root = connect(self.url)
        self._store.invalidate_cache()
        if not self._store.isdir(self._root):
            raise ServerError(Code.INTERNAL, f"failed to stat file {self.url}")

    def _names(self) -> list[str]:
        entries = self._store.ls(self._root, detail=True)
        directories = [entry["name"] for entry in entries if entry["type"] == "directory"]
        names = [name.rstrip("/").rpartition("/")[2] for name in directories]
        return [name for name in names if is_plain_name(name) and not name.startswith(".")]

    def _files(self, name: str) -> _Files:
        """What the store has of a model, if anything. Raises ServerError for a path that leads elsewhere."""
        root = f"{self._root.rstrip('/')}/{name}"
        files: _Files = {}
        for path, about in self._store.find(root, withdirs=True, detail=True).items():
            relative = path[len(root) :].strip("/")
            if not relative:
                continue
            if not all(map(is_plain_name, relative.split("/"))):
                raise ServerError(Code.INVALID_ARG, f"'{path}' is no path that a model may have")
            files[relative] = () if about["type"] == "directory" or path.endswith("/") else mark_of(about)
        return files

    # -- the copy

    def _copy(self, name: str, files: _Files) -> None:
        """Copy a model as it is at one moment: if it changes meanwhile, again."""
        for _ in range(_ATTEMPTS):
            self._count += 1
            target = self._folder / f"{self._count}" / name
            try:
                self._fill(target, name, files)
                now = self._files_again(name)
                if now == files:
                    self._switch(name, target)
                    self._copied[name] = files
                    return
            except BaseException:
                shutil.rmtree(target.parent, ignore_errors=True)
                raise
            shutil.rmtree(target.parent, ignore_errors=True)
            files = now
        raise ServerError(Code.UNAVAILABLE, f"model '{name}' changes all the time while it is copied from {self.url}")

    def _files_again(self, name: str) -> _Files:
        self._store.invalidate_cache()
        return self._files(name)

    def _fill(self, target: Path, name: str, files: _Files) -> None:
        before = self._copied.get(name, {})
        target.mkdir(parents=True)
        fetched: list[str] = []
        for relative, mark in files.items():
            place = target / relative
            if mark == ():
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            if before.get(relative) == mark:
                os.link(self.path / name / relative, place)
            else:
                fetched.append(relative)
        if fetched:
            remote = [f"{self._root.rstrip('/')}/{name}/{relative}" for relative in fetched]
            self._store.get(remote, [str(target / relative) for relative in fetched])

    def _switch(self, name: str, target: Path) -> None:
        link = self.path / name
        before = Path(os.readlink(link)) if link.is_symlink() else None
        new = target.parent / "link"
        new.symlink_to(target)
        os.replace(new, link)  # at once
        if before is not None:
            shutil.rmtree(before.parent, ignore_errors=True)

    def _drop(self, name: str) -> None:
        if self._copied.pop(name, None) is not None:
            link = self.path / name
            before = Path(os.readlink(link))
            link.unlink()
            shutil.rmtree(before.parent, ignore_errors=True)
