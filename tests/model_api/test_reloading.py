"""Loading again: what changed, what a request brings along, and who serves in between."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from calling import in_background, metric, wait_until
from controlling import (
    answering,
    control,
    entries,
    is_ready,
    json_config,
    load,
    load_over_grpc,
    state,
    unload,
    unload_over_grpc,
    wait_until_unloaded,
    word_of,
    write_answering,
    write_controller,
)
from rendezvous import Rendezvous, config, write
from serving import Served, serve


@pytest.fixture(scope="module")
def models(repository: Path) -> Path:
    write_controller(repository)
    write_answering(repository, "one", "first")
    return repository


@pytest.fixture(scope="module")
def served(models: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    with serve(models, "--model-control-mode=explicit", "--load-model=controller") as served:
        yield served


# -- loading again


def test_a_load_of_what_has_not_changed_does_nothing(served: Served, models: Path) -> None:
    load(served, "one")
    pid = served.stubs()["one_0_0"]
    load(served, "one")
    cache = models / "one" / "1" / "__pycache__"
    cache.mkdir(exist_ok=True)
    (cache / "written by Python").touch()
    load(served, "one")
    assert served.stubs()["one_0_0"] == pid
    unload(served, "one")


def test_a_changed_model_takes_the_place_of_the_former(served: Served, models: Path) -> None:
    folder = write_answering(models, "changing", "before")
    load(served, "changing")
    path = folder / "1" / "model.py"
    path.write_text(answering("after"))
    os.utime(path, (0, 0))  # as a copy that preserves times
    load(served, "changing")
    assert word_of(served, "changing") == "after"
    served.wait_for_log("before has gone")
    assert re.search("after has come.*before has gone", served.log, re.DOTALL)
    assert metric(served, "nv_inference_request_success", "changing") == 1  # counted anew
    path.write_text("def broken(:")
    status, body = control(served, "changing", "load")
    assert status == 400
    assert "SyntaxError" in body["error"]
    assert word_of(served, "changing") == "after"
    assert state(served, "changing") == "READY"
    assert served.get("/v2/health/ready")[0] == 200
    path.write_text(answering("again"))
    load(served, "changing")
    assert word_of(served, "changing") == "again"
    unload(served, "changing")
    wait_until_unloaded(served, "changing")


def test_the_former_serves_until_the_new_one_can(served: Served, models: Path, rendezvous: Rendezvous) -> None:
    folder = write(models, "relief", answering("former"), json_config_text())
    load(served, "relief")
    code = "from rendezvous import at\nat('imported')\n" + answering("new")
    (folder / "1" / "model.py").write_text(code)
    with in_background(load, served, "relief") as loading:
        for _ in ("auto-complete", "instance"):
            visit = rendezvous.next()
            assert word_of(served, "relief") == "former"
            assert state(served, "relief") == "READY"
            visit.let_go()
        loading.result(20)
    assert word_of(served, "relief") == "new"
    unload(served, "relief")
    wait_until_unloaded(served, "relief")


def json_config_text() -> str:
    return config("IN:STRING", "OUT:STRING")


def test_a_configuration_of_a_request_stays_until_the_files_change(served: Served, models: Path) -> None:
    folder = write_answering(models, "overridden", "same")
    load(served, "overridden", json_config(parameters={"k": {"string_value": "v"}}))

    def parameters() -> object:
        return served.get("/v2/models/overridden/config")[1]["parameters"]

    assert parameters() == {"k": {"string_value": "v"}}
    load(served, "overridden")
    assert parameters() == {"k": {"string_value": "v"}}
    (folder / "1" / "notes.txt").write_text("changed")
    load(served, "overridden")
    assert parameters() == {}
    unload(served, "overridden")


@pytest.mark.spec("server:A218")
def test_files_of_a_request_stand_in_for_the_directory(served: Served, models: Path) -> None:
    load(served, "one", json_config(), {"file:1/model.py": answering("from a request")})
    assert word_of(served, "one") == "from a request"
    pid = served.stubs()["one_0_0"]
    os.kill(pid, signal.SIGKILL)  # the next life has the same files
    wait_until(lambda: served.stubs().get("one_0_0", pid) != pid, "it was started again")
    wait_until(lambda: is_ready(served, "one"), "it is ready again")
    assert word_of(served, "one") == "from a request"
    load(served, "one")
    assert word_of(served, "one") == "first"
    unload(served, "one")
    load(served, "in_memory", json_config(), {"file:/7/model.py": answering("at seven")})
    assert entries(served, "in_memory") == [{"name": "in_memory", "version": "7", "state": "READY"}]
    assert word_of(served, "in_memory") == "at seven"
    unload(served, "in_memory")
    wait_until_unloaded(served, "in_memory")


def test_the_files_of_a_request_do_not_outlive_the_model(
    models: Path, rendezvous: Rendezvous, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with serve(models, "--model-control-mode=explicit") as served:
        load(served, "m", json_config(), {"file:1/model.py": answering("one")})
        load(served, "m", json_config(), {"file:1/model.py": answering("two")})
        assert control(served, "m", "load", {"config": json_config(), "file:1/model.py": "!!!!"})[0] == 400
        served.wait_for_log("one has gone")
        wait_until(lambda: len(list(tmp_path.glob("atoll_model_*"))) == 1, "only the current files are there")
        assert word_of(served, "m") == "two"
        unload(served, "m")
        wait_until_unloaded(served, "m")
        assert list(tmp_path.glob("atoll_model_*")) == []
        load(served, "m", json_config(), {"file:1/model.py": answering("three")})
    assert list(tmp_path.glob("atoll_model_*")) == []


@pytest.mark.spec("python_backend:Q92")
@pytest.mark.parametrize("name", ["TestModel123", "model-with-hyphens", "model_with_underscores", "model.with.dots"])
def test_names_that_are_fine(served: Served, name: str) -> None:
    load(served, name, json_config(), {"file:/1/model.py": answering("fine")})
    assert word_of(served, name) == "fine"
    unload(served, name)


@pytest.mark.spec("python_backend:C234")
@pytest.mark.spec("python_backend:Q91")
@pytest.mark.parametrize("character", list(";|&$`<>()[]{}\\\"'*~#!"))
def test_names_that_a_shell_would_misread_are_refused(served: Served, character: str) -> None:
    name = f"bad{character}name"
    with pytest.raises(grpc.RpcError) as caught:
        load_over_grpc(served, name, json_config(), {"file:1/model.py": answering("never")})
    assert "Invalid stub name: contains invalid characters" in str(caught.value.details())
    unload_over_grpc(served, name)
