"""Repositories and flat folders on disk."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from atoll.errors import Code, ServerError
from atoll.repository.config import Host
from atoll.repository.scan import Options, find_model, is_flat, load_flat, read_model, scan

WriteModel = Callable[..., Path]

OPTIONS = Options()
STRICT = Options(strict=True)


def fault(error: ServerError | None) -> tuple[Code, str]:
    assert error is not None
    return error.code, error.message


@pytest.mark.spec("server:174")
def test_every_sub_directory_is_a_model(tmp_path: Path, write_model: WriteModel) -> None:
    write_model(tmp_path / "b", "max_batch_size: 4 version_policy { all {} }", ("1", "2"))
    write_model(tmp_path / "a")
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".git").mkdir()
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / os.fsdecode(b"\xff")).mkdir()
    found = scan([tmp_path], OPTIONS)
    assert found.failures == {}
    assert list(found.models) == ["a", "b"]
    a, b = found.sources
    assert (a.name, a.path, a.repository, a.config_path) == ("a", tmp_path / "a", tmp_path, None)
    assert a.versions == {1: tmp_path / "a" / "1"}
    assert a.config is not None
    assert a.config.backend == "python"
    assert b.config_path == tmp_path / "b" / "config.pbtxt"
    assert list(b.versions) == [1, 2]


@pytest.mark.spec("server:187")
def test_a_broken_model_spoils_no_other(tmp_path: Path, write_model: WriteModel) -> None:
    write_model(tmp_path / "bad_name", 'name: "other"')
    write_model(tmp_path / "bad_text", "foo: 1")
    write_model(tmp_path / "empty", versions=())
    write_model(tmp_path / "good")
    found = scan([tmp_path], OPTIONS).models
    assert fault(found["bad_name"].error) == (
        Code.INVALID_ARG,
        "unexpected directory name 'bad_name' for model 'other', directory name must equal model name",
    )
    code, message = fault(found["bad_text"].error)
    assert code is Code.INTERNAL
    assert message.startswith(f"failed to read text proto from {tmp_path}/bad_text/config.pbtxt: line 1, column 1")
    assert fault(found["empty"].error) == (
        Code.INVALID_ARG,
        "Invalid model name: Could not determine backend for model 'empty' with no backend in model configuration. "
        "Expected model name of the form 'model.<backend_name>'.",
    )
    assert all(found[name].config is None and not found[name].versions for name in ("bad_name", "bad_text", "empty"))
    assert found["good"].error is None


@pytest.mark.spec("server:176")
def test_no_version_under_the_policy_leaves_the_configuration(tmp_path: Path, write_model: WriteModel) -> None:
    write_model(tmp_path / "m", "version_policy { specific { versions: 7 } }")
    source = scan([tmp_path], OPTIONS).models["m"]
    assert fault(source.error) == (
        Code.INVALID_ARG,
        "at least one version must be available under the version policy of model 'm'",
    )
    assert source.config is not None
    assert source.versions == {}


@pytest.mark.spec("server:160")
def test_a_broken_repository_spoils_no_other(tmp_path: Path, write_model: WriteModel) -> None:
    write_model(tmp_path / "good" / "m")
    (tmp_path / "file").touch()
    found = scan([tmp_path / "absent", tmp_path / "file", tmp_path / "good"], OPTIONS)
    assert list(found.models) == ["m"]
    assert {path.name: fault(error) for path, error in found.failures.items()} == {
        "absent": (Code.INTERNAL, f"failed to stat file {tmp_path}/absent"),
        "file": (Code.INVALID_ARG, "repository path is not a valid directory"),
    }


@pytest.mark.spec("server:197")
def test_a_name_in_two_repositories(tmp_path: Path, write_model: WriteModel) -> None:
    for path in ("one/shared", "two/shared", "one/a", "two/b"):
        write_model(tmp_path / path)
    found = scan([tmp_path / "one", tmp_path / "two"], OPTIONS)
    assert sorted(found.models) == ["a", "b"]
    assert {name: [source.repository.name for source in sources] for name, sources in found.duplicates.items()} == {
        "shared": ["one", "two"]
    }
    assert [source.repository.name for source in find_model(found_in(tmp_path), "shared", OPTIONS)] == ["one", "two"]
    assert list(scan([tmp_path / "one", tmp_path / "one"], OPTIONS).models) == ["a", "shared"]


def found_in(tmp_path: Path) -> list[Path]:
    return [tmp_path / "one", tmp_path / "absent", tmp_path / "two"]


@pytest.mark.parametrize("name", ["", ".", "..", "../one/a", "a/1", "a\0", ".hidden", "absent"])
@pytest.mark.spec("server:283")
def test_find_model_takes_only_plain_names(tmp_path: Path, write_model: WriteModel, name: str) -> None:
    write_model(tmp_path / "one" / "a")
    (tmp_path / "one" / ".hidden").mkdir()
    assert find_model([tmp_path / "one"], name, OPTIONS) == []
    assert len(find_model([tmp_path / "one"], "a", OPTIONS)) == 1


@pytest.mark.spec("server:175")
def test_custom_configuration_name(tmp_path: Path, write_model: WriteModel) -> None:
    model = write_model(tmp_path / "m", "max_batch_size: 1")
    options = Options(config_name="large")
    assert read_model(model, tmp_path, options).config_path == model / "config.pbtxt"
    (model / "configs").mkdir()
    (model / "configs" / "large.pbtxt").write_text("max_batch_size: 64")
    source = read_model(model, tmp_path, options)
    assert source.config_path == model / "configs" / "large.pbtxt"
    assert source.config is not None
    assert source.config.max_batch_size == 64


@pytest.mark.spec("server:191")
def test_strict_asks_for_a_complete_configuration(tmp_path: Path, write_model: WriteModel) -> None:
    write_model(tmp_path / "absent")
    write_model(tmp_path / "partial", "input { name: 'I' }")
    write_model(tmp_path / "sound", "input { name: 'I' data_type: TYPE_INT8 dims: 1 }")
    found = scan([tmp_path], STRICT).models
    assert fault(found["absent"].error) == (
        Code.INTERNAL,
        f"failed to open text file for read {tmp_path}/absent/config.pbtxt: No such file or directory",
    )
    assert fault(found["partial"].error) == (
        Code.INVALID_ARG,
        "model input 'I' must specify 'data_type' for partial",
    )
    assert found["sound"].error is None
    assert all(source.error is None for source in scan([tmp_path], OPTIONS).sources)


@pytest.mark.spec("server:103")
def test_an_override_stands_in_for_the_file(tmp_path: Path, write_model: WriteModel) -> None:
    model = write_model(tmp_path / "m", "broken")
    source = read_model(model, tmp_path, STRICT, name="served", override='{"max_batch_size": 3}')
    assert (source.name, source.error) == ("served", None)
    assert source.config is not None
    assert (source.config.name, source.config.max_batch_size) == ("served", 3)
    refused = read_model(model, tmp_path, OPTIONS, override={"name": "other"})
    assert fault(refused.error)[1].startswith("unexpected directory name 'm' for model 'other'")
    assert fault(read_model(model, tmp_path, OPTIONS, override="{").error)[0] is Code.INVALID_ARG


def test_the_host_decides_about_gpus(tmp_path: Path, write_model: WriteModel) -> None:
    model = write_model(tmp_path / "m", "instance_group { kind: KIND_GPU }")
    assert fault(read_model(model, tmp_path, OPTIONS).error) == (
        Code.INVALID_ARG,
        "instance group m_0 of model m has kind KIND_GPU but no GPUs are available",
    )
    source = read_model(model, tmp_path, Options(host=Host(gpus=(0, 1))))
    assert source.config is not None
    assert [instance.device_id for instance in source.config.instances] == [0, 1]


def test_an_unreadable_configuration_is_not_an_absent_one(tmp_path: Path, write_model: WriteModel) -> None:
    model = write_model(tmp_path / "m")
    (model / "config.pbtxt").symlink_to("nowhere")
    assert fault(read_model(model, tmp_path, OPTIONS).error) == (
        Code.INTERNAL,
        f"failed to open text file for read {model}/config.pbtxt: No such file or directory",
    )


def write_flat(directory: Path, config: str = "") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.py").touch()
    (directory / "config.pbtxt").write_text(config)
    return directory


def test_a_flat_folder(tmp_path: Path) -> None:
    folder = write_flat(tmp_path / "add_sub")
    (folder / "__pycache__").mkdir()
    (folder / "data").mkdir()
    assert is_flat(folder)
    (source,) = load_flat(folder, OPTIONS).sources
    assert (source.name, source.path, source.error) == ("add_sub", folder, None)
    assert source.versions == {1: folder}
    assert source.config is not None
    assert source.config.backend == "python"


def test_a_flat_folder_is_named_by_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_flat(tmp_path / "one", 'name: "other"')
    assert list(load_flat(tmp_path / "one", OPTIONS).models) == ["other"]
    write_flat(tmp_path / "two")
    monkeypatch.chdir(tmp_path / "two")
    assert list(load_flat(Path("."), OPTIONS).models) == ["two"]


def test_flat_and_ordinary_models_in_a_flat_folder(tmp_path: Path, write_model: WriteModel) -> None:
    write_flat(tmp_path / "bls", "foo: 1")
    write_flat(tmp_path / "bls" / "add")
    write_model(tmp_path / "bls" / "sub", versions=("3",))
    write_model(tmp_path / "bls" / "unfinished", "backend: 'python'", versions=())
    found = load_flat(tmp_path / "bls", OPTIONS).models
    assert sorted(found) == ["add", "bls", "sub", "unfinished"]
    assert found["bls"].error is not None
    assert found["unfinished"].error is not None
    assert list(found["add"].versions) == [1]
    assert list(found["sub"].versions) == [3]
    (tmp_path / "bls" / "model.py").unlink()
    assert is_flat(tmp_path / "bls")
    assert sorted(load_flat(tmp_path / "bls", OPTIONS).models) == ["add", "sub", "unfinished"]


def test_a_repository_is_not_flat(tmp_path: Path, write_model: WriteModel) -> None:
    model = write_model(tmp_path / "m", "")
    assert not is_flat(tmp_path)
    assert not is_flat(tmp_path / "absent")
    (model / "model.py").touch()
    assert not is_flat(tmp_path)


def test_a_flat_folder_that_is_not_there(tmp_path: Path) -> None:
    found = load_flat(tmp_path / "absent", OPTIONS)
    assert fault(found.failures[tmp_path / "absent"]) == (
        Code.INTERNAL,
        f"failed to stat file {tmp_path}/absent",
    )
