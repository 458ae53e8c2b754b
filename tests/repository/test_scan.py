"""Repositories and flat folders on disk."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from atoll.errors import Code, ServerError
from atoll.repository.config import Host
from atoll.repository.repositories import Look, Repositories
from atoll.repository.scan import Listed, ModelSource, Options
from atoll.repository.scan import read_model as read

WriteModel = Callable[..., Path]

OPTIONS = Options()
STRICT = Options(strict=True)


def scan(*repositories: Path, options: Options = OPTIONS) -> Look:
    return Repositories([str(path) for path in repositories], options).look({})


def models(look: Look) -> dict[str, ModelSource]:
    return {found.source.name: found.source for found in look.changed}


def read_model(directory: Path, options: Options, *, name: str = "", override: Any = None) -> ModelSource:
    return read(Listed(name or directory.name, directory, directory.parent), options, override)


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
    found = scan(tmp_path)
    assert found.failures == {}
    assert list(found.present) == list(models(found)) == ["a", "b"]
    a, b = models(found).values()
    assert (a.name, a.path, a.listed.repository, a.config_path) == ("a", tmp_path / "a", tmp_path, None)
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
    found = models(scan(tmp_path))
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
    source = models(scan(tmp_path))["m"]
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
    found = scan(tmp_path / "absent", tmp_path / "file", tmp_path / "good")
    assert list(found.present) == ["m"]
    assert {path.name: fault(error) for path, error in found.failures.items()} == {
        "absent": (Code.INTERNAL, f"failed to stat file {tmp_path}/absent"),
        "file": (Code.INVALID_ARG, "repository path is not a valid directory"),
    }


@pytest.mark.spec("server:197")
def test_a_name_in_two_repositories(tmp_path: Path, write_model: WriteModel) -> None:
    for path in ("one/shared", "two/shared", "one/a", "two/b"):
        write_model(tmp_path / path)
    one, two = tmp_path / "one", tmp_path / "two"
    found = scan(one, two)
    assert sorted(models(found)) == ["a", "b"]
    assert found.duplicates == {"shared"}
    assert list(models(scan(one, one))) == ["a", "shared"]
    with pytest.raises(ServerError, match="not unique across all model repositories"):
        Repositories([str(one), str(two)], OPTIONS).find("shared")


@pytest.mark.spec("server:198")
def test_with_namespacing_a_name_may_be_in_two_repositories(tmp_path: Path, write_model: WriteModel) -> None:
    for path in ("one/shared", "two/shared", "two/b"):
        write_model(tmp_path / path)
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    repositories = Repositories([one, two], OPTIONS, namespacing=True)
    found = repositories.look({})
    assert list(found.present) == [f"{one}::shared", f"{two}::b", f"{two}::shared"]
    assert found.duplicates == set()
    assert [found.source.listed.namespace for found in repositories.find("shared")] == [one, two]


@pytest.mark.parametrize("name", ["", ".", "..", "../one/a", "a/1", "a\0", ".hidden", "absent"])
@pytest.mark.spec("server:283")
def test_only_plain_names_are_found(tmp_path: Path, write_model: WriteModel, name: str) -> None:
    write_model(tmp_path / "one" / "a")
    (tmp_path / "one" / ".hidden").mkdir()
    repositories = Repositories([str(tmp_path / "one"), str(tmp_path / "absent")], OPTIONS)
    with pytest.raises(ServerError, match="unable to find it in the repositories"):
        repositories.find(name)
    assert len(repositories.find("a")) == 1


def test_only_what_is_not_known_already_is_read(tmp_path: Path, write_model: WriteModel) -> None:
    for name in ("a", "b"):
        write_model(tmp_path / name, "")
    repositories = Repositories([str(tmp_path)], OPTIONS)
    known = {found.source.identifier: found.files for found in repositories.look({}).changed}
    assert repositories.look(known).changed == []
    (tmp_path / "b" / "config.pbtxt").write_text("max_batch_size: 1")
    look = repositories.look(known)
    assert list(models(look)) == ["b"]
    assert list(look.present) == ["a", "b"]


@pytest.mark.spec("server:175")
def test_custom_configuration_name(tmp_path: Path, write_model: WriteModel) -> None:
    model = write_model(tmp_path / "m", "max_batch_size: 1")
    options = Options(config_name="large")
    assert read_model(model, options).config_path == model / "config.pbtxt"
    (model / "configs").mkdir()
    (model / "configs" / "large.pbtxt").write_text("max_batch_size: 64")
    source = read_model(model, options)
    assert source.config_path == model / "configs" / "large.pbtxt"
    assert source.config is not None
    assert source.config.max_batch_size == 64


@pytest.mark.spec("server:191")
def test_strict_asks_for_a_complete_configuration(tmp_path: Path, write_model: WriteModel) -> None:
    write_model(tmp_path / "absent")
    write_model(tmp_path / "partial", "input { name: 'I' }")
    write_model(tmp_path / "sound", "input { name: 'I' data_type: TYPE_INT8 dims: 1 }")
    found = models(scan(tmp_path, options=STRICT))
    assert fault(found["absent"].error) == (
        Code.INTERNAL,
        f"failed to open text file for read {tmp_path}/absent/config.pbtxt: No such file or directory",
    )
    assert fault(found["partial"].error) == (
        Code.INVALID_ARG,
        "model input 'I' must specify 'data_type' for partial",
    )
    assert found["sound"].error is None
    assert all(source.error is None for source in models(scan(tmp_path)).values())


@pytest.mark.spec("server:103")
def test_an_override_stands_in_for_the_file(tmp_path: Path, write_model: WriteModel) -> None:
    model = write_model(tmp_path / "m", "broken")
    source = read_model(model, STRICT, name="served", override='{"max_batch_size": 3}')
    assert (source.name, source.error) == ("served", None)
    assert source.config is not None
    assert (source.config.name, source.config.max_batch_size) == ("served", 3)
    refused = read_model(model, OPTIONS, override={"name": "other"})
    assert fault(refused.error)[1].startswith("unexpected directory name 'm' for model 'other'")
    assert fault(read_model(model, OPTIONS, override="{").error)[0] is Code.INVALID_ARG


def test_the_host_decides_about_gpus(tmp_path: Path, write_model: WriteModel) -> None:
    model = write_model(tmp_path / "m", "instance_group { kind: KIND_GPU }")
    assert fault(read_model(model, OPTIONS).error) == (
        Code.INVALID_ARG,
        "instance group m_0 of model m has kind KIND_GPU but no GPUs are available",
    )
    source = read_model(model, Options(host=Host(gpus=(0, 1))))
    assert source.config is not None
    assert [instance.device_id for instance in source.config.instances] == [0, 1]


def test_an_unreadable_configuration_is_not_an_absent_one(tmp_path: Path, write_model: WriteModel) -> None:
    model = write_model(tmp_path / "m")
    (model / "config.pbtxt").symlink_to("nowhere")
    assert fault(read_model(model, OPTIONS).error) == (
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
    (source,) = models(scan(folder)).values()
    assert (source.name, source.path, source.error) == ("add_sub", folder, None)
    assert source.versions == {1: folder}
    assert source.config is not None
    assert source.config.backend == "python"


def test_a_flat_folder_is_named_by_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_flat(tmp_path / "one", 'name: "other"')
    assert list(models(scan(tmp_path / "one"))) == ["other"]
    write_flat(tmp_path / "two")
    for name in ("../evil", ".."):
        write_flat(tmp_path / "three", f'name: "{name}"')
        assert fault(models(scan(tmp_path / "three"))["three"].error)[1].startswith(
            f"unexpected directory name 'three' for model '{name}'"
        )
    monkeypatch.chdir(tmp_path / "two")
    assert list(models(scan(Path(".")))) == ["two"]


def test_flat_and_ordinary_models_in_a_flat_folder(tmp_path: Path, write_model: WriteModel) -> None:
    write_flat(tmp_path / "bls", "foo: 1")
    write_flat(tmp_path / "bls" / "add")
    write_model(tmp_path / "bls" / "sub", versions=("3",))
    write_model(tmp_path / "bls" / "unfinished", "backend: 'python'", versions=())
    found = models(scan(tmp_path / "bls"))
    assert sorted(found) == ["add", "bls", "sub", "unfinished"]
    assert found["bls"].error is not None
    assert found["unfinished"].error is not None
    assert list(found["add"].versions) == [1]
    assert list(found["sub"].versions) == [3]
    (tmp_path / "bls" / "model.py").unlink()
    assert sorted(models(scan(tmp_path / "bls"))) == ["add", "sub", "unfinished"]


def test_an_ensemble_in_a_flat_folder_is_its_configuration(tmp_path: Path) -> None:
    write_flat(tmp_path / "one")
    (tmp_path / "both").mkdir()
    step = "step { model_name: 'one' input_map { key: 'X' value: 'X' } output_map { key: 'Y' value: 'Y' } }"
    kinds = {"input": "X", "output": "Y"}
    tensors = " ".join(f"{kind} {{ name: '{name}' data_type: TYPE_INT8 dims: [ 1 ] }}" for kind, name in kinds.items())
    (tmp_path / "both" / "config.pbtxt").write_text(f"platform: 'ensemble' {tensors} ensemble_scheduling {{ {step} }}")
    found = models(scan(tmp_path))
    assert found["both"].error is None
    assert found["both"].versions == {1: tmp_path / "both"}


def test_a_model_with_versions_is_not_flat(tmp_path: Path, write_model: WriteModel) -> None:
    model = write_model(tmp_path / "m", "")
    (model / "model.py").touch()
    (tmp_path / "unfinished").mkdir()
    assert list(scan(tmp_path).present) == ["m", "unfinished"]


def test_a_configuration_stands_in_for_that_of_a_flat_model(tmp_path: Path) -> None:
    write_flat(tmp_path / "m", "foo: 1")
    [found] = Repositories([str(tmp_path / "m")], OPTIONS).find("m", '{"max_batch_size": 2}')
    assert found.source.config is not None
    assert found.source.config.max_batch_size == 2
    assert found.source.versions == {1: tmp_path / "m"}
