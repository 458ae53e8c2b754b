"""Environments of Pythons that the server does not run, as conda makes them: a relocatable prefix with ``conda-meta``.

Each is built once from an interpreter of pyenv, into pytest's cache; numpy for it comes from the package index. Tests
that need one are skipped, with the reason, where the machine has no such interpreter or reaches no index.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import warnings
from pathlib import Path

import conda_pack
import pytest

__all__ = ["Prefix", "conda_archive", "conda_prefix", "prefixes_folder", "pyenv_python"]

_INSTALL_TIMEOUT_S = 100
_LEFT_OUT = shutil.ignore_patterns(
    *("__pycache__", "test", "tests", "idlelib", "tkinter", "turtledemo", "config-*", "ensurepip", "lib2to3"),
    *("pydoc_data", "site-packages"),
)
PACKAGE = "a_package_of_the_environment"


class Prefix:
    """An environment in ``path``. It has numpy, and a package that the server does not have."""

    def __init__(self, version: str, path: Path) -> None:
        self.version = version
        self.path = path
        self.python = path / "bin" / "python"
        self.packages = path / "lib" / f"python{version}" / "site-packages"


def prefixes_folder(request: pytest.FixtureRequest, otherwise: Path) -> Path:
    """Where they are built, once for all sessions; ``otherwise`` is for pytest without a cache."""
    cache = getattr(request.config, "cache", None)  # none with -p no:cacheprovider
    return otherwise if cache is None else Path(cache.mkdir("environments"))


def pyenv_python(version: str) -> Path:
    """The folder of pyenv's newest interpreter of a version; skips the test where there is none."""
    root = Path(os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv"), "versions")
    found = [path for path in root.glob(f"{version}.*") if (path / "bin" / f"python{version}").exists()]
    if not found:
        pytest.skip(f"no Python {version} under pyenv")
    return max(found, key=lambda path: int(path.name.rpartition(".")[2]))


def conda_prefix(version: str, cache: Path) -> Prefix:
    """The prefix for a version, built where it is not there yet."""
    prefix = Prefix(version, cache / version)
    if (prefix.path / "conda-meta" / "history").exists():
        return prefix
    source = pyenv_python(version)
    shutil.rmtree(prefix.path, ignore_errors=True)
    (prefix.path / "bin").mkdir(parents=True)
    shutil.copy2(source / "bin" / f"python{version}", prefix.path / "bin")
    for name in ("python", "python3"):
        (prefix.path / "bin" / name).symlink_to(f"python{version}")
    name = f"python{version}"
    shutil.copytree(source / "lib" / name, prefix.path / "lib" / name, symlinks=True, ignore=_LEFT_OUT)
    for library in (source / "lib").glob("libpython*.so*"):
        shutil.copy2(library, prefix.path / "lib", follow_symlinks=False)
    prefix.packages.mkdir()
    _install_numpy(prefix, source)
    (prefix.packages / f"{PACKAGE}.py").write_text("WORDS = 'only here'\n")
    tool = prefix.path / "bin" / "tool-of-the-environment"
    tool.write_text(f"#!{prefix.python}\nimport {PACKAGE}\nprint({PACKAGE}.WORDS)\n")
    tool.chmod(0o755)
    meta = prefix.path / "conda-meta"
    meta.mkdir()
    about = {"name": "python", "version": source.name, "build": "0", "url": "", "files": [], "link": None}
    (meta / f"python-{source.name}-0.json").write_text(json.dumps(about))
    (meta / "history").touch()
    return prefix


def _install_numpy(prefix: Prefix, source: Path) -> None:
    python, uv = str(source / "bin" / f"python{prefix.version}"), shutil.which("uv")
    installer = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    command = [*installer, "--quiet", "--only-binary=:all:", f"--target={prefix.packages}", "numpy"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        pytest.skip(f"numpy for Python {prefix.version} took longer than {_INSTALL_TIMEOUT_S} s to install")
    if ended.returncode:
        reason = ended.stderr.strip().splitlines()[-1:]
        pytest.skip(f"numpy cannot be installed for Python {prefix.version}: {reason}")


def conda_archive(prefix: Prefix, archive: Path) -> Path:
    """The prefix packed by conda-pack; the format follows from the name."""
    if not archive.exists():
        draft = archive.with_name(f"draft-{archive.name}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that conda's cache of packages does not have these
            conda_pack.pack(prefix=str(prefix.path), output=str(draft), compress_level=1, force=True)
        draft.rename(archive)
    return archive
