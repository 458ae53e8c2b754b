"""Unpacks an archive of an environment (conda-pack's, mostly) without letting it write anywhere but into its folder.

The kind is told by the content, not by the name: tar, plain or compressed with gzip, bzip2, xz or zstandard, and zip.
Refused are members with absolute names or ``..``, links that lead out of the folder, and devices. Names are checked
against what the folder really looks like when a member is written: a link unpacked before may have bent the way.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from atoll.errors import Code, ServerError

__all__ = ["unpack"]

_ZSTANDARD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")  # at its start: at the end of a tar there may be a zip, too
_UNREADABLE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    ValueError,  # names that no file can have
    RuntimeError,  # an encrypted zip
    NotImplementedError,  # a zip compressed in a way that Python does not know
)
_PERMISSIONS = 0o777  # no setuid, no setgid


def unpack(archive: Path, folder: Path) -> None:
    """Unpack into ``folder``, which is empty. Raises ServerError: not an archive, cut, not safe, no room."""
    try:
        if _begins_with(archive, *_ZIP_MAGICS):
            _unpack_zip(archive, folder)
        else:
            with _open_tar(archive) as tar:
                for member in tar:
                    _unpack_member(tar, member, folder)
        _check_links(folder)
    except _UNREADABLE as error:
        reason = str(error).partition(":\n")[0]  # what follows is what each kind of archive had to say
        raise _refused(archive, f"it is no archive that can be read, or it is cut short ({reason})") from error
    except OSError as error:
        raise _refused(archive, f"{error.strerror or error}: {error.filename or folder}") from error


@contextlib.contextmanager
def _open_tar(archive: Path) -> Iterator[tarfile.TarFile]:
    with open(archive, "rb") as file:
        if not _begins_with(archive, _ZSTANDARD_MAGIC):
            with tarfile.open(fileobj=file, mode="r:*") as tar:
                yield tar
            return
        try:
            import zstandard
        except ImportError:
            reason = "it is compressed with zstandard, for which the server needs a package: pip install 'atoll[env]'"
            raise _refused(archive, reason) from None
        try:
            content = cast("IO[bytes]", zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))
            with tarfile.open(fileobj=content, mode="r|") as tar:
                yield tar
        except zstandard.ZstdError as error:
            raise tarfile.ReadError(str(error)) from error


def _begins_with(archive: Path, *magics: bytes) -> bool:
    with open(archive, "rb") as file:
        return file.read(4) in magics


def _unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    path = _path_of(member.name, folder)
    if path == folder:
        return
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or path.exists():
        path.unlink()
    if member.issym():
        _check_inside(Path(os.path.realpath(path.parent / member.linkname)), folder, member.name)
        path.symlink_to(member.linkname)
    elif member.islnk():
        os.link(_path_of(member.linkname, folder), path, follow_symlinks=False)
    elif member.isreg():
        content = tar.extractfile(member)
        assert content is not None
        _write(path, content, member.mode)
    else:
        raise _unsafe(member.name, "is neither a file, a directory nor a link")


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            path = _path_of(member.filename, folder)
            mode = member.external_attr >> 16
            if path == folder or member.is_dir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink() or path.exists():
                path.unlink()
            if stat.S_ISLNK(mode):
                target = opened.read(member).decode()
                _check_inside(Path(os.path.realpath(path.parent / target)), folder, member.filename)
                path.symlink_to(target)
            else:
                with opened.open(member) as content:
                    _write(path, content, mode or 0o644)


def _write(path: Path, content: IO[bytes] | Any, mode: int) -> None:
    with open(path, "xb") as file:
        shutil.copyfileobj(content, file, 1 << 20)
        os.fchmod(file.fileno(), mode & _PERMISSIONS | stat.S_IRUSR | stat.S_IWUSR)


def _path_of(name: str, folder: Path) -> Path:
    """Where a member goes. Raises ServerError for one that would be elsewhere than in the folder."""
    if name.startswith("/"):
        raise _unsafe(name, "Path is absolute")
    if ".." in Path(name).parts:
        raise _unsafe(name, "Path contains '..'")
    path = folder / name
    if path != folder:
        _check_inside(Path(os.path.realpath(path.parent)), folder, name)
    return path


def _check_inside(path: Path, folder: Path, name: str) -> None:
    if not path.is_relative_to(os.path.realpath(folder)):
        raise _unsafe(name, "it leads out of the folder")


def _check_links(folder: Path) -> None:
    """A link may have been harmless alone, and lead out by what was unpacked after it."""
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink():
                _check_inside(Path(os.path.realpath(path)), folder, str(path.relative_to(folder)))


def _unsafe(name: str, reason: str) -> ServerError:
    return ServerError(Code.INVALID_ARG, f"the archive's member '{name}' is refused: {reason}")


def _refused(archive: Path, reason: str) -> ServerError:
    return ServerError(Code.INVALID_ARG, f"the execution environment {archive} cannot be unpacked: {reason}")
