"""Archives of environments: every kind is unpacked, and nothing that one holds gets out of its folder."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from atoll.environments import archive as archive_module
from atoll.environments.archive import unpack
from atoll.errors import ServerError

CONTENT = b"content " * 5000


def plain(path: Path, mode: str = "w:gz") -> Path:
    """An archive of a script, a folder, a symbolic and a hard link."""
    with tarfile.open(path, mode) as tar:
        add(tar, "bin/run", CONTENT, mode=0o4755)
        add(tar, "lib", kind=tarfile.DIRTYPE)
        add(tar, "bin/link", kind=tarfile.SYMTYPE, link="../bin/run")
        add(tar, "lib/hard", kind=tarfile.LNKTYPE, link="bin/run")
        add(tar, ".", kind=tarfile.DIRTYPE)
    return path


def add(
    tar: tarfile.TarFile, name: str, content: bytes = b"", *, kind: bytes = b"0", link: str = "", mode: int = 0o644
):
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size, member.mode = kind, link, len(content), mode
    tar.addfile(member, io.BytesIO(content))


def zip_member(name: str, mode: int) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    return member


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "outside" / "folder"
    folder.mkdir(parents=True)
    return folder


def compressed_with_zstandard(path: Path) -> Path:
    path.write_bytes(zstandard.ZstdCompressor().compress(plain(path.with_suffix(""), "w:").read_bytes()))
    return path


def zipped(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zip_member("lib/", 0o40755), b"")
        archive.writestr(zip_member("bin/run", 0o104755), CONTENT)
        archive.writestr(zip_member("bin/link", 0o120777), b"../bin/run")
        archive.writestr(zip_member("lib/hard", 0o100755), CONTENT)
    return path


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar", "a.tar.bz2", "a.tar.xz", "a.tar.zst", "a.zip", "nothing"])
def test_the_kind_is_told_by_the_content(tmp_path: Path, folder: Path, name: str) -> None:
    kinds: dict[str, Callable[[Path], Path]] = {
        "a.tar": lambda path: plain(path, "w:"),
        "a.tar.bz2": lambda path: plain(path, "w:bz2"),
        "a.tar.xz": lambda path: plain(path, "w:xz"),
        "a.tar.zst": compressed_with_zstandard,
        "a.zip": zipped,
    }
    unpack(kinds.get(name, plain)(tmp_path / name), folder)
    assert (folder / "bin" / "run").read_bytes() == CONTENT
    assert stat.S_IMODE((folder / "bin" / "run").stat().st_mode) == 0o755  # without setuid
    assert os.readlink(folder / "bin" / "link") == "../bin/run"
    assert (folder / "lib" / "hard").read_bytes() == CONTENT


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path: Path, folder: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as zipped_file:
        zipped_file.writestr("inner", b"")
    with tarfile.open(tmp_path / "a.tar", "w:") as tar:
        add(tar, "a.egg", inner.getvalue())
    unpack(tmp_path / "a.tar", folder)
    assert [path.name for path in folder.iterdir()] == ["a.egg"]


def test_the_last_of_several_members_of_one_name_counts(tmp_path: Path, folder: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:") as tar:
        add(tar, "file", b"first")
        add(tar, "file", kind=tarfile.SYMTYPE, link="other")
        add(tar, "file", b"last")
    unpack(tmp_path / "a.tar", folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"file": b"last"}


LINK, HARD, FILE, DIR = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.REGTYPE, tarfile.DIRTYPE

HOSTILE = {
    "absolute name": ([("/{outside}/evil", FILE, "")], "Path is absolute"),
    "parent": ([("../evil", FILE, "")], "Path contains '..'"),
    "parent within": ([("bin/../../evil", FILE, "")], "Path contains '..'"),
    "folder above": ([("../evil/", DIR, "")], "Path contains '..'"),
    "link to absolute": ([("link", LINK, "{outside}")], "it leads out of the folder"),
    "link to parent": ([("link", LINK, "..")], "it leads out of the folder"),
    "file through a link": ([("link", LINK, "{outside}"), ("link/evil", FILE, "")], "it leads out of the folder"),
    "hard link to absolute": ([("hard", HARD, "{outside}/there")], "Path is absolute"),
    "hard link to parent": ([("hard", HARD, "../there")], "Path contains '..'"),
    "hard link that moves a link": (
        [("a/b/link", LINK, "../file"), ("moved", HARD, "a/b/link")],
        "it leads out of the folder",
    ),
    "links that bend each other": (
        [("a", LINK, "b/c/../evil"), ("b", LINK, "."), ("c", LINK, "."), ("a", FILE, "")],
        None,
    ),
    "a link bent later": (
        [("a", LINK, "b/c/.."), ("b", LINK, "."), ("c", LINK, "."), ("a/evil", FILE, "")],
        "it leads out of the folder",
    ),
    "a link bent last": (
        [("a", LINK, "b/c/../there"), ("b", LINK, "."), ("c", LINK, ".")],
        "it leads out of the folder",
    ),
    "device": ([("device", tarfile.CHRTYPE, "")], "is neither a file, a directory nor a link"),
    "pipe": ([("pipe", tarfile.FIFOTYPE, "")], "is neither a file, a directory nor a link"),
}


@pytest.mark.spec("python_backend:C226")
@pytest.mark.spec("python_backend:Q84")
@pytest.mark.parametrize("case", HOSTILE)
def test_nothing_gets_out_of_the_folder(tmp_path: Path, folder: Path, case: str) -> None:
    outside = folder.parent
    (outside / "there").write_text("mine")
    members, complaint = HOSTILE[case]
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        for name, kind, link in members:
            content = b"evil" if kind == FILE else b""
            add(tar, name.format(outside=outside), content, kind=kind, link=link.format(outside=outside))
    if complaint is None:
        unpack(tmp_path / "a.tar.gz", folder)
    else:
        with pytest.raises(ServerError, match=complaint):
            unpack(tmp_path / "a.tar.gz", folder)
    assert {path.name for path in outside.iterdir()} == {"folder", "there"}
    assert (outside / "there").read_text() == "mine"
    assert (outside / "there").stat().st_nlink == 1


@pytest.mark.spec("python_backend:C226")
@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ([("/{outside}/evil", 0o100644, "evil")], "Path is absolute"),
        ([("../evil", 0o100644, "evil")], "Path contains '..'"),
        ([("link", 0o120777, "{outside}")], "it leads out of the folder"),
        ([("link", 0o120777, ".."), ("link/evil", 0o100644, "evil")], "it leads out of the folder"),
    ],
)
def test_nothing_gets_out_of_a_zip(
    tmp_path: Path, folder: Path, members: list[tuple[str, int, str]], complaint: str
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped_file:
        for name, mode, content in members:
            member = zip_member(name.format(outside=folder.parent), mode)
            zipped_file.writestr(member, content.format(outside=folder.parent))
    with pytest.raises(ServerError, match=complaint):
        unpack(tmp_path / "a.zip", folder)
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]


UNREADABLE = "cannot be unpacked: it is no archive that can be read, or it is cut short"


@pytest.mark.parametrize("content", [b"", b"text\n" * 1000, os.urandom(3000), b"PK\x03\x04 no", b"\x1f\x8b\x08 no"])
def test_what_is_no_archive_is_refused(tmp_path: Path, folder: Path, content: bytes) -> None:
    (tmp_path / "a.tar.gz").write_bytes(content)
    with pytest.raises(ServerError, match=r"a\.tar\.gz cannot be unpacked"):
        unpack(tmp_path / "a.tar.gz", folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["w:gz", "w:", "w:bz2", "w:xz", "zst", "zip"])
def test_an_archive_that_is_cut_short_is_refused(tmp_path: Path, folder: Path, name: str) -> None:
    whole = tmp_path / "a"
    if name == "zst":
        compressed_with_zstandard(whole)
    elif name == "zip":
        zipped(whole)
    else:
        with tarfile.open(whole, name) as tar:
            add(tar, "bin/run", os.urandom(100_000))
    content = whole.read_bytes()
    whole.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(ServerError, match=UNREADABLE):
        unpack(whole, folder)


def test_an_encrypted_zip_is_refused(tmp_path: Path, folder: Path) -> None:
    content = bytearray(zipped(tmp_path / "a.zip").read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.index(signature)
        while at >= 0:
            content[at + offset] |= 1
            at = content.find(signature, at + 1)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ServerError, match="encrypted"):
        unpack(tmp_path / "a.zip", folder)


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, folder: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("name")
        member.pax_headers = {"path": "a\0b"}
        tar.addfile(member)
    with pytest.raises(ServerError, match=UNREADABLE):
        unpack(tmp_path / "a.tar", folder)


def test_zstandard_needs_a_package_that_the_text_names(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed_with_zstandard(tmp_path / "a.tar.zst")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ServerError, match=r"pip install 'atoll\[env\]'"):
        unpack(tmp_path / "a.tar.zst", folder)


def test_a_full_disk_is_named(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(archive_module.shutil, "copyfileobj", full)
    with pytest.raises(ServerError, match=f"cannot be unpacked: No space left on device: {folder}"):
        unpack(plain(tmp_path / "a.tar.gz"), folder)
