"""Requirements: what files and PEP 723 blocks say, which Python they choose, and what is said when that fails."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

import pytest
from atoll.environments import requirements
from atoll.environments.pythons import VersionRange, find_python
from atoll.environments.requirements import Requirements, install, read_requirements
from atoll.errors import ServerError


def read(path: Path, text: str) -> Requirements:
    path.write_text(text)
    found = read_requirements(path)
    assert found is not None
    return found


def test_what_other_files_say_is_part_of_the_key(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "base.txt").write_text("-c limits.txt  # with a reason\n")
    (tmp_path / "more" / "limits.txt").write_text("numpy<2\n")
    main = tmp_path / "requirements.txt"
    before = read(main, "-r more/base.txt\n--requirement=missing.txt\npandas\n")
    assert {"pandas", "numpy<2"} <= set(before.lines)
    (tmp_path / "more" / "limits.txt").write_text("numpy<3\n")
    after = read_requirements(main)
    assert after is not None
    assert after.key != before.key


def test_files_may_refer_to_each_other_in_circles(tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("-r requirements.txt\n-r ./other.txt\nb\n")
    assert read(tmp_path / "requirements.txt", "a\n-r other.txt\n").lines[-1] == "b"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("3.12\n", "==3.12.*"),
        ("# ours\n\n 3.12.1 \n3.11\n", "==3.12.1"),
        ("3", "==3.*"),
        ("cpython-3.9", "==3.9.*"),
        ("python3.10", "==3.10.*"),
    ],
)
def test_python_version_stands_beside_the_requirements(tmp_path: Path, text: str, wanted: str) -> None:
    plain = read(tmp_path / "requirements.txt", "a\n")
    assert plain.python == ""
    (tmp_path / ".python-version").write_text(text)
    found = read(tmp_path / "requirements.txt", "a\n")
    assert found.python == wanted
    assert found.key != plain.key


@pytest.mark.parametrize("text", ["", "\n# 3.12\n", "pypy3.9-7.3", "myenv", "2.7"])
def test_a_python_version_that_names_no_cpython_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / ".python-version").write_text(text)
    with pytest.raises(ServerError, match=r"\.python-version names no version of CPython such as 3\.12"):
        read(tmp_path / "requirements.txt", "a\n")


BLOCK = """
import numpy
# /// script
# requires-python = ">=3.9,<3.12"
# dependencies = [
#   "pandas>=2",
#
#   "attrs",
# ]
# ///
"""


def test_a_block_in_the_model_file(tmp_path: Path) -> None:
    found = read(tmp_path / "model.py", BLOCK)
    assert (found.lines, found.python) == (("pandas>=2", "attrs"), ">=3.9,<3.12")


def test_a_file_without_a_block(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_bytes("# coding: latin-1\nname = 'é'\n".encode("latin-1"))
    assert read_requirements(tmp_path / "model.py") is None


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ("dependencies = [", "its PEP 723 block is not TOML"),
        ("dependencies = 'a'", "dependencies of its PEP 723 block is not a list of texts"),
        ("dependencies = [1]", "dependencies of its PEP 723 block is not a list of texts"),
        ("requires-python = 3.9", "requires-python of its PEP 723 block is not a text"),
    ],
)
def test_a_block_that_is_wrong_is_refused(tmp_path: Path, lines: str, complaint: str) -> None:
    with pytest.raises(ServerError, match=f"model.py cannot be made: {complaint}"):
        read(tmp_path / "model.py", f"# /// script\n# {lines}\n# ///\n")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"requirements\.txt cannot be read: No such file or directory"):
        read_requirements(tmp_path / "requirements.txt")


@pytest.mark.parametrize(
    ("specifier", "inside", "outside"),
    [
        ("", "3.8.1 3.14.0", ""),
        (">=3.9", "3.9.0 3.10.2 4.0", "3.8.18"),
        (">3.9,<=3.11", "3.9.1 3.11.0", "3.9.0 3.11.1 3.8.2"),
        ("~=3.9", "3.9.0 3.13.0", "3.8.1 4.0.0"),
        ("~=3.9.2", "3.9.2 3.9.18", "3.9.1 3.10.0"),
        ("==3.9.*", "3.9.0 3.9.18", "3.10.0 3.90.1"),
        ("==3.9", "3.9.0", "3.9.1"),
        ("===3.9.1", "3.9.1", "3.9.0"),
        ("!=3.9.*, <3.12", "3.8.1 3.10.1", "3.9.1 3.12.0"),
        ("!=3.9.1", "3.9.2", "3.9.1"),
    ],
)
def test_version_specifiers(specifier: str, inside: str, outside: str) -> None:
    versions = VersionRange(specifier)
    assert [version for version in inside.split() if version not in versions] == []
    assert [version for version in outside.split() if version in versions] == []


def test_versions_of_development_count_by_their_numbers() -> None:
    assert "3.13.0rc1+" in VersionRange(">=3.13")
    assert "" not in VersionRange(">=3")


def test_the_servers_own_python_is_taken_where_it_will_do() -> None:
    own = ".".join(platform.python_version_tuple()[:2])
    assert find_python(VersionRange("")) == sys.executable
    assert find_python(VersionRange(f">=3.8,=={own}.*")) == sys.executable


def fake_python(path: Path, version: str) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho {version}\n" if version else "#!/bin/sh\nexit 1\n")
    path.chmod(0o755)
    return path


def test_the_newest_of_pyenv_is_taken_before_one_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for version in ("2.7.1", "2.8.9", "2.8.10", "venv"):
        fake_python(tmp_path / "versions" / version / "bin" / "python", version.replace("venv", "2.8.99"))
    shim = fake_python(tmp_path / "bin" / "python3.7", "")
    assert find_python(VersionRange("<3")) == str(tmp_path / "versions" / "2.8.10" / "bin" / "python")
    assert find_python(VersionRange("==3.7.*")) is None
    shim.write_text("#!/bin/sh\necho 3.7.1\n")
    assert find_python(VersionRange("==3.7.*")) == str(shim)
    shim.write_text("no executable")
    assert find_python(VersionRange("==3.7.*")) is None


def without_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    which = shutil.which
    monkeypatch.setattr(requirements.shutil, "which", lambda name: None if name == "uv" else which(name))


def test_a_python_that_is_not_here_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_uv(monkeypatch)
    wanted = Requirements(tmp_path / "requirements.txt", (), "==2.99.*")
    with pytest.raises(
        ServerError, match=r"it wants Python ==2\.99\.\*, which is not installed here; install it, or uv"
    ):
        install(wanted, tmp_path)


@pytest.mark.parametrize("specifier", [">=3.x", "3.9", ">=3.9 or so"])
def test_a_specifier_that_is_none_is_refused(tmp_path: Path, specifier: str) -> None:
    with pytest.raises(ServerError, match=r"requires-python: '.*' is no version specifier"):
        install(Requirements(tmp_path / "model.py", (), specifier), tmp_path)


def has_uv() -> bool:
    return shutil.which("uv") is not None


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_what_the_installer_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installer: str) -> None:
    if installer == "pip":
        without_uv(monkeypatch)
    elif not has_uv():
        pytest.skip("uv is not installed")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / "requirements.txt").write_text("a-package-that-nobody-has-made\n")
    wanted = read_requirements(tmp_path / "requirements.txt")
    assert wanted is not None
    with pytest.raises(ServerError, match=r"(?s)cannot be made: '.* install .*' failed:\n.*(a-package-that|numpy)"):
        install(wanted, tmp_path / "environment")
