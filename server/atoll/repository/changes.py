"""Whether the files of a model are still those that it was loaded from."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Snapshot", "fingerprint", "snapshot"]

_READ_NBYTES = 1 << 20

Snapshot = frozenset[tuple[str, int, int]]


def snapshot(directory: Path) -> Snapshot:
    """Path, modification time and size of every file in a model's directory; equal as long as no file changed.

    Without bytecode caches, which Python itself writes when the model is imported. Directories count by the files in
    them: their own times change with every such cache.
    """
    return frozenset(_files(str(directory), set()))


def fingerprint(directory: Path, made_from: bytes) -> bytes:
    """32 bytes that change with ``made_from`` and with any file of a model's directory.

    Equal on other machines too, if all files are small: a large one counts by its modification time.
    """
    digest = hashlib.sha256(made_from)
    for path, mtime_ns, nbytes in sorted(_files(str(directory), set())):
        digest.update(f"{os.path.relpath(path, directory)} {nbytes} ".encode("utf-8", "surrogateescape"))
        if nbytes > _READ_NBYTES:
            digest.update(b"%d" % mtime_ns)
        elif nbytes:
            with open(path, "rb") as file:
                digest.update(file.read())
    return digest.digest()


def _files(directory: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, int, int]]:
    """``seen`` are the directories on the way: a link may lead back to one."""
    try:
        about = os.stat(directory)
        entries = list(os.scandir(directory))
    except OSError:
        return
    if (about.st_dev, about.st_ino) in seen:
        return
    seen.add((about.st_dev, about.st_ino))
    for entry in entries:
        try:
            if not entry.is_dir():
                file = entry.stat()
                yield entry.path, file.st_mtime_ns, file.st_size
            elif entry.name != "__pycache__":
                yield from _files(entry.path, seen)
        except OSError:
            yield entry.path, 0, 0  # a link to nowhere
