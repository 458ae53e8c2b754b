"""Environments that cannot be: the model's load error says which and why, and the server serves the others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from evaluating import evaluate, write
from python_prefixes import pyenv_python
from serving import Served, serve

Make = Callable[[Path], Path]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("bad") / "models"
    write(repository, "plain")
    return repository


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[Served]:
    flags = ["--model-control-mode=explicit", "--load-model=plain"]
    cache = f"--backend-config=python,env-cache-directory={repository.parent / 'cache'}"
    with serve(repository, *flags, cache) as served:
        yield served


def load_error(served: Served, repository: Path, environment: object) -> str:
    write(repository, "bad", environment)
    status, answer = served.post("/v2/repository/models/bad/load", {})
    assert status == 400
    assert evaluate(served, "plain", "1 + 1") == "2"
    prefix = "load failed for model 'bad': version 1 is at UNAVAILABLE state: Invalid argument: "
    assert answer["error"].startswith(prefix)
    return str(answer["error"]).removeprefix(prefix)


def environment(folder: Path, python: str = "") -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "activate").touch()
    if python:
        (folder / "bin" / "python").write_text(f'#!/bin/sh\nexec {python} "$@"\n')
        (folder / "bin" / "python").chmod(0o755)
    return folder


def packed(folder: Path) -> Path:
    archive = folder.with_suffix(".tar.gz")
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, str(path.relative_to(folder)), recursive=False)
    return archive


def no_archive(folder: Path) -> Path:
    archive = folder.with_suffix(".tar.gz")
    archive.write_text("no archive")
    return archive


def truncated(folder: Path) -> Path:
    (environment(folder) / "large").write_bytes(os.urandom(100_000))
    archive = packed(folder)
    archive.write_bytes(archive.read_bytes()[:50_000])
    return archive


def without_script(folder: Path) -> Path:
    folder.mkdir()
    (folder / "file").touch()
    return packed(folder)


def wrong_machine(folder: Path) -> Path:
    true = Path(shutil.which("true") or "/bin/true").read_bytes()
    (environment(folder) / "bin" / "python").write_bytes(true[:18] + b"\xff\xfe" + true[20:])
    (folder / "bin" / "python").chmod(0o755)
    (folder / "bin" / "conda-unpack").touch()
    return packed(folder)


def failing_unpack(folder: Path) -> Path:
    environment(folder, "python3")
    (folder / "bin" / "conda-unpack").write_text("raise SystemExit('no new place for this')")
    return packed(folder)


def too_old(folder: Path) -> Path:
    return packed(environment(folder, f"{pyenv_python('3.7')}/bin/python3.7"))


def without_numpy(folder: Path) -> Path:
    return packed(environment(folder, "python3 -S"))


def missing_package(folder: Path) -> Path:
    folder.mkdir()
    (folder / "requirements.txt").write_text("./there-is-no-such-package\n")
    return folder / "requirements.txt"


@pytest.mark.spec("python_backend:C227")
@pytest.mark.parametrize(
    ("make", "texts"),
    [
        (lambda folder: folder / "missing.tar.gz", ["Failed to get the canonical path for ", "missing.tar.gz."]),
        (
            lambda folder: environment(folder).joinpath("bin"),
            ["bin/bin/activate does not exist. The Python environment"],
        ),
        (no_archive, ["cannot be unpacked: it is no archive that can be read, or it is cut short"]),
        (truncated, ["cannot be unpacked: it is no archive that can be read, or it is cut short"]),
        (without_script, ["/bin/activate does not exist. The Python environment should contain an 'activate' script."]),
        (wrong_machine, ["its Python does not run here (Exec format error); it must be built for Linux on"]),
        (failing_unpack, ["conda-unpack failed: no new place for this"]),
        (lambda folder: packed(environment(folder)), ["there is no Python in it (", "it must hold bin/python"]),
        (too_old, ["its Python is 3.7.", "; stubs need 3.8 or newer"]),
        (without_numpy, ["numpy cannot be imported in it (ModuleNotFoundError", "-m pip install numpy"]),
        (missing_package, ["requirements.txt cannot be made: '", "failed:\n", "there-is-no-such-package"]),
    ],
)
def test_the_load_error_says_what_is_wrong(
    served: Served, repository: Path, tmp_path: Path, make: Make, texts: list[str]
) -> None:
    complaint = load_error(served, repository, make(tmp_path / "environment"))
    assert [text for text in texts if text not in complaint] == [], complaint


@pytest.mark.spec("python_backend:C226")
@pytest.mark.spec("python_backend:Q84")
@pytest.mark.parametrize(("name", "text"), [("../evil", "Path contains '..'"), ("/{root}/evil", "Path is absolute")])
def test_an_unsafe_archive_writes_nothing(
    served: Served, repository: Path, tmp_path: Path, name: str, text: str
) -> None:
    archive = tmp_path / "unsafe.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo(name.format(root=tmp_path)))
    assert text in load_error(served, repository, archive)
    assert text in served.log
    assert [path.name for path in tmp_path.iterdir()] == ["unsafe.tar.gz"]
    assert not list(repository.parent.rglob("evil"))


def test_a_model_that_was_bad_can_be_repaired(served: Served, repository: Path, tmp_path: Path) -> None:
    place = environment(tmp_path / "environment")
    assert "there is no Python in it" in load_error(served, repository, place)
    (place / "bin" / "python").symlink_to(sys.executable)
    (place / "pyvenv.cfg").write_text((Path(sys.prefix) / "pyvenv.cfg").read_text())
    (place / "lib").symlink_to(Path(sys.prefix) / "lib")
    assert served.post("/v2/repository/models/bad/load", {})[0] == 200
    assert evaluate(served, "bad", "sys.prefix") == str(place)
    assert served.post("/v2/repository/models/bad/unload", {})[0] == 200
    served.wait_for_log("successfully unloaded 'bad'")


def test_a_stub_of_the_original_is_not_used(served: Served, repository: Path) -> None:
    folder = write(repository, "with_stub")
    (folder / "triton_python_backend_stub").write_text("compiled for another Python")
    assert served.post("/v2/repository/models/with_stub/load", {})[0] == 200
    assert "model 'with_stub': triton_python_backend_stub is not used; stubs are Python" in served.log


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """In a mount namespace of the server's own, where the cache is a file system of 64 KiB."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("this user cannot make a mount namespace")
    repository = tmp_path / "models"
    write(repository, "plain")
    cache = tmp_path / "cache"
    cache.mkdir()
    (environment(tmp_path / "environment") / "large").write_bytes(os.urandom(100_000))
    archive = packed(tmp_path / "environment")
    script = f'mount -t tmpfs -o size=65536 tmpfs {cache} && exec "$@"'
    within = ["unshare", "-m", "sh", "-c", script, "sh"]
    flags = ["--model-control-mode=explicit", "--load-model=plain"]
    with serve(repository, *flags, f"--backend-config=python,env-cache-directory={cache}", within=within) as served:
        assert "No space left on device" in load_error(served, repository, archive)
