"""``atoll env`` and ``tools/pack-env``: what is kept, whether a model loads in its environment, room for others."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from atoll.cli import atoll as atoll_command
from atoll.environments.cache import EnvironmentCache
from evaluating import MODEL, write
from python_prefixes import Prefix

ROOT = Path(__file__).resolve().parents[2]

Captured = pytest.CaptureFixture[str]


def env(*arguments: object) -> int:
    return atoll_command.main(["env", *map(str, arguments)])


def keep(cache: EnvironmentCache, key: str, nbytes: int, used: int) -> Path:
    path = cache.obtain(key, f"/models/{key}", lambda folder: (folder / "f").write_bytes(os.urandom(nbytes)) and None)
    os.utime(cache.directory / f"{key}.json", (used, used))
    return path


def test_what_is_kept_is_listed_and_pruned(tmp_path: Path, capsys: Captured) -> None:
    cache = EnvironmentCache(tmp_path, 0)
    keep(cache, "used" * 16, 2_000_000, used=3)
    for number, key in enumerate(("old" * 20, "new" * 20)):
        cache.release(keep(cache, key, 1_000_000, used=number))
    assert env("list", "--cache-directory", tmp_path) == 0
    head, *lines, total = capsys.readouterr().out.splitlines()
    assert head.split() == ["ENVIRONMENT", "SIZE", "LAST", "USED", "NOW", "MADE", "FROM"]
    assert [line.split()[0] for line in lines] == ["usedusedused", "newnewnewnew", "oldoldoldold"]
    assert lines[0].split()[1:3] == ["2.0", "MB"]
    assert "in use" in lines[0]
    assert "in use" not in lines[1]
    assert lines[0].endswith("/models/" + "used" * 16)
    assert total == f"3 in {tmp_path}, 4.0 MB"

    assert env("prune", "--cache-directory", tmp_path, "--to", "3500K") == 0
    first, total = capsys.readouterr().out.splitlines()
    assert first.startswith("oldoldoldold     1.0 MB  /models/old")
    assert total == "1 removed, 1.0 MB"
    assert env("prune", "--cache-directory", tmp_path) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 removed, 1.0 MB"
    assert [one.key for one in cache.environments()] == ["used" * 16]
    cache.close()


def test_an_empty_cache(tmp_path: Path, capsys: Captured) -> None:
    assert env("list", "--cache-directory", tmp_path / "none") == 0
    assert capsys.readouterr().out == f"0 in {tmp_path}/none, 0.0 MB\n"
    assert env("prune", "--cache-directory", tmp_path / "none") == 0
    assert capsys.readouterr().out == "0 removed, 0.0 MB\n"


def check(place: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from atoll.cli.atoll import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "env", "check", str(place), "--cache-directory", str(tmp_path / "cache")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_model_is_loaded_in_its_environment(tmp_path: Path, python38: Prefix) -> None:
    folder = write(tmp_path / "models", "good", python38.path)
    ended = check(folder, tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"{folder} loads: Python 3.8.")
    assert ended.stdout.endswith(f", in {python38.path}\n")


def test_a_flat_model_is_loaded_in_the_servers_own(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "model.py").write_text(MODEL)
    (tmp_path / "flat" / "config.pbtxt").write_text((write(tmp_path / "models", "m") / "config.pbtxt").read_text())
    ended = check(tmp_path / "flat", tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.endswith(f", in {sys.executable}\n")


def test_a_model_that_does_not_load_is_told_why(tmp_path: Path, python38: Prefix) -> None:
    folder = write(tmp_path / "models", "bad", python38.path, code="import orjson\n" + MODEL)
    ended = check(folder, tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "ModuleNotFoundError: No module named 'orjson'" in ended.stderr


def test_an_environment_alone_is_checked(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_text("no archive")
    ended = check(tmp_path / "a.tar.gz", tmp_path)
    assert ended.returncode == 1
    assert (
        "it is no archive that can be read, or it is cut short (file could not be opened successfully)" in ended.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "the following arguments are required: command"),
        (["check"], "the following arguments are required: MODEL"),
        (["prune", "--to", "much"], "'much' is no size such as 500M or 5G"),
        (["clean"], "invalid choice: 'clean'"),
    ],
)
def test_what_is_no_command_is_refused(arguments: list[str], complaint: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit):
        env(*arguments)
    assert complaint in capsys.readouterr().err


def test_pack_env_packs_the_active_environment_and_starts_a_stub_from_it(tmp_path: Path, python38: Prefix) -> None:
    archive = tmp_path / "packed.tar"
    variables = {**os.environ, "CONDA_PREFIX": str(python38.path)}
    command = [str(ROOT / "tools" / "pack-env"), str(archive)]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert f"{archive} loads: Python 3.8." in ended.stdout
    with tarfile.open(archive) as tar:
        assert "bin/conda-unpack" in tar.getnames()


def test_pack_env_says_what_it_lacks(tmp_path: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if name != "CONDA_PREFIX"}
    command = [str(ROOT / "tools" / "pack-env")]
    ended = subprocess.run([*command, "a.tar.gz"], env=variables, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "no conda environment is active; name one: pack-env PREFIX ARCHIVE" in ended.stderr
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (2, "usage: pack-env [PREFIX] ARCHIVE\n")
