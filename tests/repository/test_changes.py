"""Whether files changed, and directories that a request's files make."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from atoll.errors import Code, ServerError
from atoll.repository.changes import Snapshot, snapshot
from atoll.repository.override import ModelFolder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.py").write_text("one")
    (tmp_path / "m" / "config.pbtxt").write_text("")
    return tmp_path / "m"


def test_the_same_files_are_the_same(model: Path) -> None:
    before = snapshot(model)
    assert [len(before.config), len(before.shared), len(before.versions["1"])] == [1, 0, 1]
    assert snapshot(model) == before
    os.utime(model / "1")  # a directory's own time counts for nothing
    assert snapshot(model) == before


@pytest.mark.spec("server:182")
@pytest.mark.parametrize(
    "name",
    ["1/__pycache__/model.pyc", "1/.model.py.swp", "1/model.py~", "1/#model.py#", ".git/HEAD", "config.pbtxt.bak"],
)
def test_what_python_and_editors_leave_behind_is_no_change(model: Path, name: str) -> None:
    before = snapshot(model)
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).touch()
    assert snapshot(model) == before


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("config.pbtxt", "config"),
        ("configs/large.pbtxt", "config"),
        ("labels.txt", "shared"),
        ("warmup/input", "shared"),
        ("1/model.py", "1"),
        ("1/data/weights", "1"),
        ("2/model.py", "2"),
    ],
)
def test_a_change_concerns_a_part(model: Path, path: str, part: str) -> None:
    before = snapshot(model)
    (model / path).parent.mkdir(parents=True, exist_ok=True)
    (model / path).write_text("something else")
    after = snapshot(model)
    changed = {
        "config": before.config != after.config,
        "shared": before.shared != after.shared,
        **{version: before.versions.get(version) != after.versions.get(version) for version in ("1", "2")},
    }
    assert [name for name, is_changed in changed.items() if is_changed] == [part]


@pytest.mark.spec("server:181")
@pytest.mark.parametrize("change", ["written", "older", "added", "removed", "renamed"])
def test_a_change_is_seen(model: Path, change: str) -> None:
    path = model / "1" / "model.py"
    before = snapshot(model)
    if change == "written":
        path.write_text("twice")
    elif change == "older":
        os.utime(path, (1, 1))
    elif change == "added":
        (model / "weights").touch()
    elif change == "removed":
        path.unlink()
    else:
        path.rename(model / "1" / "other.py")
    assert snapshot(model) != before


def test_links_are_followed_once(model: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    weights = tmp_path / "elsewhere" / "weights"
    weights.write_text("a")
    (model / "1" / "data").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(model)
    (model / "nowhere").symlink_to(tmp_path / "nothing")
    before = snapshot(model)
    weights.write_text("longer")
    assert snapshot(model) != before


def test_what_is_not_there_has_no_files(tmp_path: Path) -> None:
    assert snapshot(tmp_path / "nothing") == Snapshot()


# -- files of a request


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_lives_as_long_as_it_is_held(temporary: Path) -> None:
    folder = ModelFolder("m", {"file:1/model.py": b"code", "file:/data/word.txt": b"word"})
    assert folder.path.name == "m"
    assert (folder.path / "1" / "model.py").read_bytes() == b"code"
    assert (folder.path / "data" / "word.txt").read_bytes() == b"word"
    folder.hold()
    folder.hold()
    folder.release()
    assert folder.path.is_dir()
    folder.release()
    assert list(temporary.glob("atoll_model_*")) == []


@pytest.mark.spec("python_backend:C208")
@pytest.mark.parametrize(
    "key", ["file:../x.py", "file:1/../../x", "file:../../m/1/x", "file:..", "file:", "file:.", "file:/../x"]
)
def test_a_path_that_leaves_the_directory_is_refused(temporary: Path, key: str) -> None:
    with pytest.raises(ServerError) as caught:
        ModelFolder("m", {"file:1/model.py": b"", key: b""})
    assert caught.value.code is Code.INVALID_ARG
    assert caught.value.message == f"file override '{key}' must stay within model directory."
    assert list(temporary.glob("atoll_model_*")) == []


@pytest.mark.parametrize("key", ["file:1", "file:a\0b", f"file:{'x' * 300}"])
def test_a_path_that_cannot_be_written_is_refused(temporary: Path, key: str) -> None:
    with pytest.raises(ServerError, match="file override"):
        ModelFolder("m", {"file:1/model.py": b"", key: b""})
    assert list(temporary.glob("atoll_model_*")) == []
