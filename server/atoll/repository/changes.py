"""Whether the files of a model are still those that it was loaded from, and which of its versions a change concerns."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Snapshot", "fingerprint", "snapshot"]

_READ_NBYTES = 1 << 20

_Files = frozenset[tuple[str, int, int]]
"""Path, modification time and size of files."""

_CONFIG = ("config.pbtxt", "configs")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of a model's directory at one time; equal as long as none changed.

    Without what does not belong to the model: bytecode caches, which Python itself writes when the model is imported,
    hidden files and what editors leave behind. Directories count by the files in them: their own times change with
    every such file.
    """

    config: _Files = frozenset()
    """The configuration, and custom ones."""
    shared: _Files = frozenset()
    """What all versions may use."""
    versions: dict[str, _Files] = field(default_factory=dict)
    """What only one version has, by the version's directory name."""

    @property
    def files(self) -> _Files:
        """All of them."""
        return self.config.union(self.shared, *self.versions.values())


def snapshot(directory: Path) -> Snapshot:
    """The files of a model now; none at all where there is no directory."""
    config: set[tuple[str, int, int]] = set()
    shared: set[tuple[str, int, int]] = set()
    versions: dict[str, _Files] = {}
    for entry in _entries(str(directory)):
        if entry.name in _CONFIG:
            config.update(_files_at(entry, set()))
        elif entry.name.isdecimal() and entry.is_dir():
            versions[entry.name] = frozenset(_files_at(entry, set()))
        else:
            shared.update(_files_at(entry, set()))
    return Snapshot(frozenset(config), frozenset(shared), versions)


def fingerprint(directory: Path, made_from: bytes) -> bytes:
    """32 bytes that change with ``made_from`` and with any file of a model's directory.

    Equal on other machines too, if all files are small: a large one counts by its modification time.
    """
    digest = hashlib.sha256(made_from)
    for path, mtime_ns, nbytes in sorted(snapshot(directory).files):
        digest.update(f"{os.path.relpath(path, directory)} {nbytes} ".encode("utf-8", "surrogateescape"))
        if nbytes > _READ_NBYTES:
            digest.update(b"%d" % mtime_ns)
        elif nbytes:
            with open(path, "rb") as file:
                digest.update(file.read())
    return digest.digest()


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return [entry for entry in entries if not _is_left_behind(entry.name)]
    except OSError:
        return []


def _is_left_behind(name: str) -> bool:
    """Whether a file is no part of a model, but made by Python, an editor or a tool of version control."""
    return (
        name.startswith(".")
        or name == "__pycache__"
        or name.endswith(("~", ".swp", ".bak"))
        or (name.startswith("#") and name.endswith("#"))
    )


def _files_at(entry: os.DirEntry[str], seen: set[tuple[int, int]]) -> Iterator[tuple[str, int, int]]:
    """``seen`` are the directories on the way: a link may lead back to one."""
    try:
        about = entry.stat()
        if not entry.is_dir():
            yield entry.path, about.st_mtime_ns, about.st_size
            return
    except OSError:
        yield entry.path, 0, 0  # a link to nowhere
        return
    place = (about.st_dev, about.st_ino)
    if place not in seen:
        for inner in _entries(entry.path):
            yield from _files_at(inner, {*seen, place})
