"""Models that load and unload models, themselves included; and servers that do not allow it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from calling import call, in_background, wait_until
from controlling import (
    answering,
    ask,
    control,
    entries,
    is_ready,
    json_config,
    load,
    reason,
    state,
    unload,
    wait_until_unloaded,
    word_of,
    write_answering,
    write_controller,
    write_gated,
)
from rendezvous import Rendezvous, identity, write
from serving import Served, serve

POLL_FAILED = "failed to load '{}', failed to poll from model repository"
TWO_VERSIONS = "version_policy: { all: { } }"


@pytest.fixture(scope="module")
def models(repository: Path) -> Path:
    write_controller(repository)
    write_answering(repository, "one", "first")
    for version in (1, 2):
        write_answering(repository, "two", f"second {version}", TWO_VERSIONS, version)
    write_gated(repository)
    identity(repository)
    return repository


@pytest.fixture(scope="module")
def served(models: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    with serve(models, "--model-control-mode=explicit", "--load-model=controller") as served:
        yield served


# -- what models may ask


@pytest.mark.spec("python_backend:C204")
@pytest.mark.spec("python_backend:C205")
@pytest.mark.spec("python_backend:Q55")
def test_a_model_loads_and_unloads_others(served: Served) -> None:
    unknown = "Failed to check model readiness: Failed to process the request for model 'controller_0_0', message: "
    assert ask(served, "load_model", "one") == ["value", None]
    assert ask(served, "is_model_ready", "one") == ["value", True]
    assert ask(served, "is_model_ready", "one", "1") == ["value", True]
    assert ask(served, "is_model_ready", "one", "2") == [
        "TritonModelException",
        f"{unknown}Request for unknown model: 'one' version 2 is not found",
    ]
    assert ask(served, "unload_model", "one") == ["value", None]
    wait_until_unloaded(served, "one")
    assert ask(served, "is_model_ready", "one") == [
        "TritonModelException",
        f"{unknown}Request for unknown model: 'one' has no available versions",
    ]
    assert ask(served, "is_model_ready", "nope")[1].endswith("Request for unknown model: 'nope' is not found")
    assert ask(served, "unload_model", "nope", True) == ["value", None]


def test_a_model_without_a_living_instance_is_not_ready(served: Served) -> None:
    code = """
import os

class TritonPythonModel:
    def initialize(self, args):
        os.mkdir(os.path.join(args["model_repository"], "only once"))

    def execute(self, requests):
        os._exit(3)
"""
    load(served, "mortal", json_config(), {"file:1/model.py": code})
    assert ask(served, "is_model_ready", "mortal") == ["value", True]
    assert call(served, "mortal", {"IN": ["?"]}).status == 500
    assert ask(served, "is_model_ready", "mortal") == ["value", False]
    unload(served, "mortal")
    wait_until_unloaded(served, "mortal")


@pytest.mark.spec("python_backend:C206")
def test_versions_that_are_none(served: Served) -> None:
    text = ask(served, "is_model_ready", "controller", "x")[1]
    assert text.endswith(
        "failed to get model version from specified version string 'x' (details: stol), version should be an integral "
        "value > 0"
    )
    assert "version should be an integral value > 0" in ask(served, "is_model_ready", "controller", "-1")[1]
    assert ask(served, "is_model_ready", "controller", 1)[0] == "TypeError"


@pytest.mark.spec("python_backend:C207")
@pytest.mark.spec("python_backend:Q55")
def test_a_model_loads_with_a_configuration_of_its_own(served: Served) -> None:
    policy = json_config(version_policy={"specific": {"versions": [1]}})
    assert ask(served, "load_model", "two", policy) == ["value", None]
    assert [row["version"] for row in entries(served, "two") if row["state"] == "READY"] == ["1"]
    name, text = ask(served, "load_model", "two", '{"parameters": 1}')
    assert name == "TritonModelException"
    assert text.startswith(
        "Failed to load model: Failed to process the request for model 'controller_0_0', message: failed to load "
        "'two', failed to poll from model repository: Invalid config override: "
    )
    assert word_of(served, "two") == "second 1"  # as before
    unload(served, "two")


@pytest.mark.spec("python_backend:C208")
@pytest.mark.spec("python_backend:Q55")
def test_a_model_loads_files_of_its_own(served: Served) -> None:
    files = {"file:1/model.py": answering("made by a model")}
    name, text = ask(served, "load_model", "made", "", files)
    assert name == "TritonModelException"
    assert "Load parameter 'config' must be specified for model file override" in text
    assert ask(served, "load_model", "made", json_config(), files) == ["value", None]
    assert word_of(served, "made") == "made by a model"
    load(served, "one")
    assert word_of(served, "one") == "first"
    assert (
        "must stay within model directory."
        in ask(served, "load_model", "made", json_config(), {"file:../../model.py": "x"})[1]
    )
    unload(served, "made")
    unload(served, "one")


@pytest.mark.spec("python_backend:C209")
def test_arguments_of_the_wrong_kind(served: Served) -> None:
    assert ask(served, "load_model", "one", "", ["file:1/model.py"]) == [
        "TritonModelException",
        "failed to load model 'one', files should be a dictionary of file paths and file contents",
    ]
    assert ask(served, "load_model", 1)[0] == "TypeError"
    assert ask(served, "unload_model", None)[0] == "TypeError"


@pytest.mark.spec("python_backend:C211")
def test_a_load_does_not_hold_up_the_other_threads_of_the_model_that_asks(
    served: Served, models: Path, rendezvous: Rendezvous
) -> None:
    code = """
        import threading
        import numpy as np
        import triton_python_backend_utils as pb_utils
        from rendezvous import at

        def call():
            at("thread")
            ones = pb_utils.Tensor("IN", np.ones(2, np.uint8))
            request = pb_utils.InferenceRequest(
                model_name="identity", requested_output_names=["OUT"], inputs=[ones]
            )
            answer = pb_utils.get_output_tensor_by_name(request.exec(), "OUT").as_numpy().tolist()
            pb_utils.Logger.log_info(f"meanwhile {answer}")
            at(f"called {answer}")

        class TritonPythonModel:
            def execute(self, requests):
                thread = threading.Thread(target=call)
                thread.start()
                pb_utils.load_model("gated")
                thread.join()
                out = pb_utils.Tensor("OUT", requests[0].inputs()[0].as_numpy())
                return [pb_utils.InferenceResponse([out])]
    """
    write(models, "busy", code)
    load(served, "busy")
    load(served, "identity")
    with in_background(call, served, "busy", {"IN": np.array([3], np.uint8)}) as answer:
        thread, gated = sorted([rendezvous.next(), rendezvous.next()], key=lambda visit: visit.place == "initialize")
        assert (thread.place, gated.place) == ("thread", "initialize")
        thread.let_go()
        visit = rendezvous.next()
        assert visit.place == "called [1, 1]"
        served.wait_for_log(r"meanwhile \[1, 1\]")
        assert state(served, "gated") == "LOADING"
        visit.let_go()
        gated.let_go()
        assert answer.result(20)["OUT"].tolist() == [3]
    for name in ("busy", "identity", "gated"):
        unload(served, name)
    rendezvous.next().let_go()
    wait_until_unloaded(served, "gated")


def test_a_model_reloads_itself_while_it_executes(served: Served, models: Path) -> None:
    write_controller(models, "selfish")
    load(served, "selfish")
    pid = served.stubs()["selfish_0_0"]
    path = models / "selfish" / "1" / "model.py"
    path.write_text(path.read_text() + "\n")
    assert ask(served, "load_model", "selfish", model="selfish") == ["value", None]
    wait_until(lambda: served.stubs()["selfish_0_0"] != pid, "another process serves")
    assert ask(served, "is_model_ready", "selfish", model="selfish") == ["value", True]
    assert ask(served, "unload_model", "selfish", model="selfish") == ["value", None]
    wait_until_unloaded(served, "selfish")


INITIALIZING = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        for name in {names}:
            pb_utils.load_model(name)

    def execute(self, requests):
        pass
"""


def test_a_model_loads_others_while_it_is_loaded_itself(models: Path, tmp_path: Path) -> None:
    for name, needs in {"root": ["left", "right"], "left": ["leaf"], "right": ["leaf"], "leaf": []}.items():
        write_answering(tmp_path, name, name)
        (tmp_path / name / "1" / "model.py").write_text(INITIALIZING.format(names=needs))
    with serve(tmp_path, "--model-control-mode=explicit", "--model-load-thread-count=1") as served:
        load(served, "root")
        assert all(is_ready(served, name) for name in ("root", "left", "right", "leaf"))


def test_models_that_wait_for_each_others_load_are_told(served: Served, models: Path) -> None:
    for name, needs in {"mirror": ["mirror"], "chicken": ["egg"], "egg": ["chicken"]}.items():
        write_answering(models, name, name)
        (models / name / "1" / "model.py").write_text(INITIALIZING.format(names=needs))
    status, body = control(served, "mirror", "load")
    assert status == 400
    assert "model 'mirror' cannot load or unload itself while it is being loaded" in body["error"]
    status, body = control(served, "chicken", "load")
    assert status == 400
    assert "model 'egg' cannot wait for 'chicken' while it is being loaded" in body["error"]
    for name in ("mirror", "chicken", "egg"):
        unload(served, name)


# -- other servers


@pytest.mark.spec("python_backend:C210")
def test_without_explicit_mode_nothing_is_loaded_or_unloaded(tmp_path: Path) -> None:
    text = "explicit model load / unload is not allowed if polling is enabled"
    write_controller(tmp_path)
    with serve(tmp_path) as served:
        for action in ("load", "unload"):
            assert control(served, "controller", action) == (503, {"error": text})
            name, said = ask(served, f"{action}_model", "controller")
            prefix = "Failed to process the request for model 'controller_0_0', message: "
            assert (name, said) == ("TritonModelException", f"Failed to {action} model: {prefix}{text}")
        assert ask(served, "is_model_ready", "controller") == ["value", True]


def test_before_the_server_has_started_it_takes_no_orders(tmp_path: Path) -> None:
    write_answering(tmp_path, "eager", "eager")
    (tmp_path / "eager" / "1" / "model.py").write_text(INITIALIZING.format(names=["other"]))
    flags = ("--model-control-mode=explicit", "--load-model=eager", "--exit-on-error=false")
    with serve(tmp_path, *flags) as served:
        assert "Failed to load model: " in reason(served, "eager")
        assert "Server not ready" in reason(served, "eager")


def test_all_models_may_be_loaded_at_the_start(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_answering(tmp_path, name, name)
    with serve(tmp_path, "--model-control-mode=explicit", "--load-model=*") as served:
        assert [word_of(served, name) for name in "ab"] == ["a", "b"]
        unload(served, "a")
        wait_until_unloaded(served, "a")
        assert served.get("/v2/health/ready")[0] == 200


def test_a_start_up_model_that_is_not_there_ends_the_server(tmp_path: Path) -> None:
    flags = ("--model-control-mode=explicit", "--load-model=nope")
    with serve(tmp_path, *flags, expect_start=False) as served:
        assert served.process.wait(30) == 1
        served.stop()
    assert "failed to load 'nope', failed to poll from model repository" in served.log


def test_a_name_in_two_repositories_is_nobodys(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        write_answering(tmp_path / folder, "twin", folder)
    with serve(tmp_path / "x", f"--model-repository={tmp_path / 'y'}", "--model-control-mode=explicit") as served:
        unclear = {"state": "UNAVAILABLE", "reason": "model appears in two or more repositories"}
        assert entries(served, "twin") == [{"name": "twin", **unclear}]
        assert control(served, "twin", "load") == (500, {"error": POLL_FAILED.format("twin")})


@pytest.mark.spec("python_backend:C37")
@pytest.mark.spec("python_backend:Q118")
def test_a_load_is_tried_again_as_often_as_told(tmp_path: Path) -> None:
    code = """
        import os

        class TritonPythonModel:
            def initialize(self, args):
                attempts = os.path.join(args["model_repository"], "attempts")
                with open(attempts, "a") as file:
                    file.write("x")
                if os.path.getsize(attempts) < 3:
                    raise Exception("not yet")

            def execute(self, requests):
                pass
    """
    for name in ("enough", "not_enough"):
        write(tmp_path / name, "m", code)
    with serve(tmp_path / "enough", "--model-load-retry-count=2") as served:
        assert is_ready(served, "m")
        assert served.log.count("Exception: not yet") == 2
    with serve(tmp_path / "not_enough", "--model-load-retry-count=1", "--exit-on-error=false") as served:
        assert "not yet" in reason(served, "m")


def test_a_load_under_way_does_not_hold_up_the_servers_end(tmp_path: Path, rendezvous: Rendezvous) -> None:
    write_gated(tmp_path)
    write_controller(tmp_path)
    flags = ("--model-control-mode=explicit", "--load-model=controller", "--exit-timeout-secs=2")
    with serve(tmp_path, *flags) as served, in_background(control, served, "gated", "load"):
        visit = rendezvous.next()
        served.stop()
        visit.close()
