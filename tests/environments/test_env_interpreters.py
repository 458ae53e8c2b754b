"""Interpreters of environments: where they are looked for, and what is said of those that stubs cannot run under."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from atoll.environments.cache import EnvironmentCache
from atoll.environments.environments import Environments, locate
from atoll.environments.interpreter import OWN, Interpreter, probe
from atoll.errors import ServerError
from atoll.repository.stores import RemoteFile

MODEL_DIR = Path("/models/m")


@pytest.fixture
def environments(tmp_path: Path):
    environments = Environments(EnvironmentCache(tmp_path / "cache", 0), RemoteFile)
    yield environments
    environments.close()


def fake(folder: Path, script: str) -> Path:
    """An environment whose Python is a shell script."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    (folder / "bin" / "activate").touch()
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return folder


def pyenv(version: str) -> Path:
    root = Path(os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv"), "versions")
    for folder in sorted(root.glob(f"{version}.*")):
        if (folder / "bin" / "python").exists():
            return folder
    pytest.skip(f"no Python {version} under pyenv")


@pytest.mark.spec("python_backend:C224")
def test_paths(tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "in.txt").touch()
    inside = (tmp_path / "m" / "in.txt").resolve()
    assert locate(str(tmp_path / "env"), tmp_path / "m") == (tmp_path / "env").resolve()
    assert locate("../env", tmp_path / "m") == (tmp_path / "env").resolve()
    assert locate("in.txt", tmp_path / "m") == inside
    assert locate("$$TRITON_MODEL_DIRECTORY/in.txt", tmp_path / "m") == inside


@pytest.mark.spec("python_backend:C227")
@pytest.mark.parametrize("value", ["missing.tar.gz", "$$TRITON_MODEL_DIRECTORY/missing.tar.gz"])
def test_a_path_that_leads_nowhere(tmp_path: Path, value: str) -> None:
    with pytest.raises(ServerError, match=rf"Failed to get the canonical path for {tmp_path}/missing\.tar\.gz\."):
        locate(value, tmp_path)


@pytest.mark.parametrize("value", ["$$TRITON_MODEL_DIRECTORY/../other", "$$TRITON_MODEL_DIRECTORY/link"])
def test_the_models_directory_is_not_left(tmp_path: Path, value: str) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "link").symlink_to(tmp_path)
    (tmp_path / "other").mkdir()
    with pytest.raises(ServerError, match="leads out of the model's directory"):
        locate(value, tmp_path / "m")


@pytest.mark.spec("python_backend:C228")
def test_the_variables_are_those_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/elsewhere")
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/lib")
    prefix = str(tmp_path)
    variables = Interpreter(f"{prefix}/bin/python", prefix).variables()
    assert "PYTHONHOME" not in variables
    assert "CONDA_PREFIX" not in variables
    assert variables["PYTHONNOUSERSITE"] == "1"
    assert (variables["VIRTUAL_ENV"], variables["VIRTUAL_ENV_PROMPT"]) == (prefix, f"({prefix})")
    assert variables["PATH"] == f"{prefix}/bin:/usr/bin"
    assert variables["LD_LIBRARY_PATH"] == f"{prefix}/lib:/opt/lib"
    monkeypatch.delenv("LD_LIBRARY_PATH")
    (tmp_path / "conda-meta").mkdir()
    variables = Interpreter(f"{prefix}/bin/python", prefix).variables()
    assert variables["LD_LIBRARY_PATH"] == f"{prefix}/lib"
    assert variables["CONDA_PREFIX"] == prefix
    assert OWN.variables() == dict(os.environ)


def test_a_good_one_is_described(tmp_path: Path, environments: Environments) -> None:
    prefix = fake(tmp_path / "env", f'exec {sys.executable} "$@"')
    text = probe(Interpreter(str(prefix / "bin" / "python"), str(prefix)))
    assert text.startswith(f"Python {sys.version.split()[0].rstrip('+')}, numpy ")
    assert environments.prepare(prefix).prefix == str(prefix)


def test_packages_that_come_make_another_interpreter_of_it(tmp_path: Path, environments: Environments) -> None:
    prefix = fake(tmp_path / "env", f'exec {sys.executable} "$@"')
    packages = prefix / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    before = environments.prepare(prefix)
    assert environments.prepare(prefix) == before
    os.utime(packages, (2, 2_000_000_000))
    assert environments.prepare(prefix) != before


def test_what_lies_in_the_working_directory_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("numpy", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    assert "numpy" in probe(OWN)


def refusal(environments: Environments, place: Path) -> str:
    with pytest.raises(ServerError) as caught:
        environments.prepare(place)
    return caught.value.message


@pytest.mark.spec("python_backend:C227")
def test_a_folder_that_is_no_environment(tmp_path: Path, environments: Environments) -> None:
    assert refusal(environments, tmp_path) == (
        f"Path {tmp_path}/bin/activate does not exist. The Python environment should contain an 'activate' script."
    )


def test_no_python_inside(tmp_path: Path, environments: Environments) -> None:
    prefix = fake(tmp_path / "env", "")
    (prefix / "bin" / "python").unlink()
    assert refusal(environments, prefix) == (
        f"the execution environment {prefix} cannot be used: there is no Python in it ({prefix}/bin/python); it must "
        "hold bin/python"
    )


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.7"])
def test_a_python_that_is_too_old(tmp_path: Path, environments: Environments, version: str) -> None:
    prefix = fake(tmp_path / "env", f'exec {pyenv(version)}/bin/python "$@"')
    text = refusal(environments, prefix)
    assert f"its Python is {version}." in text
    assert text.endswith("; stubs need 3.8 or newer")


def test_a_python_of_another_kind(tmp_path: Path, environments: Environments) -> None:
    found = '{"version": [3, 10, 1], "implementation": "PyPy", "libc": "", "numpy": "1"}'
    prefix = fake(tmp_path / "env", f"echo '{found}'")
    assert refusal(environments, prefix).endswith("its Python is PyPy 3.10.1; stubs need CPython")


def test_no_numpy(tmp_path: Path, environments: Environments) -> None:
    python = getattr(sys, "_base_executable", sys.executable)
    prefix = fake(tmp_path / "env", f'exec {python} -S "$@"')
    text = refusal(environments, prefix)
    assert "numpy cannot be imported in it (ModuleNotFoundError: No module named 'numpy')" in text
    assert text.endswith(f"add it, for example with: {prefix}/bin/python -m pip install numpy")


def test_a_program_for_another_machine(tmp_path: Path, environments: Environments) -> None:
    prefix = fake(tmp_path / "env", "")
    real = Path(shutil.which("true") or "/bin/true").read_bytes()
    python = prefix / "bin" / "python"
    python.write_bytes(real[:18] + b"\xff\xfe" + real[20:])  # e_machine of an ELF header
    text = refusal(environments, prefix)
    assert "its Python does not run here (Exec format error); it must be built for Linux on " in text


def test_a_python_that_may_not_be_executed(tmp_path: Path, environments: Environments) -> None:
    prefix = fake(tmp_path / "env", "")
    (prefix / "bin" / "python").chmod(0o644)
    assert "its Python does not run here (Permission denied)" in refusal(environments, prefix)


def test_a_python_that_fails(tmp_path: Path, environments: Environments) -> None:
    prefix = fake(tmp_path / "env", "echo one >&2; echo libpython3.9.so: cannot open >&2; exit 127")
    assert refusal(environments, prefix).endswith("its Python fails: libpython3.9.so: cannot open")
    silent = fake(tmp_path / "silent", "exit 3")
    assert refusal(environments, silent).endswith("its Python fails: exit status 3")


def test_a_program_that_is_no_python(tmp_path: Path, environments: Environments) -> None:
    prefix = fake(tmp_path / "env", "echo hello")
    assert refusal(environments, prefix).endswith("its Python does not behave as one: 'hello'")


def test_a_python_that_hangs(tmp_path: Path, environments: Environments, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atoll.environments.interpreter._PROBE_TIMEOUT_S", 0.1)
    prefix = fake(tmp_path / "env", "exec sleep 60")
    assert refusal(environments, prefix).endswith("its Python did not answer within 0.1 s")


def test_a_python_file_without_requirements(tmp_path: Path, environments: Environments) -> None:
    (tmp_path / "setup.py").touch()
    assert refusal(environments, tmp_path / "setup.py").endswith("cannot be made: it has no PEP 723 block")
    assert environments.prepare(tmp_path / "setup.py", is_model_file=True) is OWN
    assert environments.prepare(tmp_path / "missing.py", is_model_file=True) is OWN
    (tmp_path / "model.txt").write_text("no requirements: default_model_filename may name anything")
    assert environments.prepare(tmp_path / "model.txt", is_model_file=True) is OWN


@pytest.fixture
def store() -> Iterator[str]:
    """The URL of a folder in fsspec's store in memory."""
    store = fsspec.filesystem("memory")
    yield "memory://environments"
    store.rm("/environments", recursive=True)


def upload(prefix: Path, url: str) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(prefix, ".")
    with fsspec.open(url, "wb") as file:
        file.write(packed.getvalue())


@pytest.mark.spec("python_backend:Q83")
def test_an_archive_in_a_store_is_fetched_once(tmp_path: Path, environments: Environments, store: str) -> None:
    url = f"{store}/env.tar.gz"
    upload(fake(tmp_path / "env", f'exec {sys.executable} "$@"'), url)

    def prefix() -> str:
        interpreter = asyncio.run(environments.interpreter(url, tmp_path, tmp_path / "model.py"))
        environments.release(interpreter)
        assert interpreter.prefix is not None
        return interpreter.prefix

    first = prefix()
    (Path(first) / "still the same").touch()
    assert prefix() == first
    assert (Path(first) / "still the same").exists()
    (tmp_path / "env" / "more").touch()
    upload(tmp_path / "env", url)
    assert (Path(prefix()) / "more").exists()
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name.startswith("tmp")]


def test_what_a_store_does_not_have(tmp_path: Path, environments: Environments, store: str) -> None:
    with fsspec.open(f"{store}/folder/file", "wb") as file:
        file.write(b"no archive")
    for url, complaint in (
        (f"{store}/missing.tar.gz", f"failed to read file {store}/missing.tar.gz: "),
        (f"{store}/folder", f"{store}/folder is no file"),
        (f"{store}/folder/file", f"{store}/folder/file cannot be unpacked: it is no archive that can be read"),
        ("nostore://bucket/env.tar.gz", "failed to read file nostore://bucket/env.tar.gz: "),
    ):
        with pytest.raises(ServerError) as caught:
            asyncio.run(environments.interpreter(url, tmp_path, tmp_path / "model.py"))
        assert complaint in caught.value.message
