"""Poll mode: a server that follows what happens in its repository."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc
import tritonclient.http
from calling import wait_until
from controlling import answering, entries, is_ready, state, word_of, write_answering
from hammering import hammering
from rendezvous import Rendezvous
from serving import Served, serve
from tritonclient.utils import InferenceServerException

POLL = ("--model-control-mode=poll", "--repository-poll-secs=1")


@pytest.fixture(scope="module")
def served(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    write_answering(repository, "steady", "steady")
    write_answering(repository, "going", "going")
    with serve(repository, *POLL, "--model-config-name=large") as served:
        yield served
        assert "Traceback" not in served.log


def wait_for_word(served: Served, model: str, word: str) -> None:
    wait_until(lambda: is_ready(served, model) and word_of(served, model) == word, f"{model} answers {word}")


@pytest.mark.spec("server:179")
def test_models_come_and_go(served: Served, repository: Path, tmp_path: Path) -> None:
    assert is_ready(served, "steady")
    assert is_ready(served, "going")
    write_answering(tmp_path, "new", "new")
    (tmp_path / "new").rename(repository / "new")  # at once, as a deployment should
    wait_for_word(served, "new", "new")
    shutil.rmtree(repository / "going")
    served.wait_for_log("successfully unloaded 'going' version 1")
    assert entries(served, "going") == [{"name": "going", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}]
    assert served.get("/v2/health/ready")[0] == 200


@pytest.mark.spec("server:113")
@pytest.mark.spec("server:179")
@pytest.mark.spec("server:184")
def test_no_request_fails_while_a_model_is_replaced(served: Served, repository: Path) -> None:
    path = write_answering(repository, "busy", "word 0") / "1" / "model.py"
    wait_for_word(served, "busy", "word 0")
    with hammering(served, "busy") as hammer:
        for turn in range(1, 4):
            path.write_text(answering(f"word {turn}"))
            hammer.wait_for_answers(f"word {turn}")
    served.wait_for_log("word 2 has gone")


@pytest.mark.spec("server:113")
@pytest.mark.spec("server:179")
def test_a_change_that_fails_keeps_the_former_and_says_why(served: Served, repository: Path) -> None:
    path = write_answering(repository, "kept", "former") / "1" / "model.py"
    wait_for_word(served, "kept", "former")
    path.write_text("def broken(:")
    served.wait_for_log("failed to load 'kept' version 1: Internal: SyntaxError")
    assert state(served, "kept") == "READY"
    config = path.parents[1] / "config.pbtxt"
    good = config.read_text()
    config.write_text("foo: 1")
    served.wait_for_log("Poll failed for model directory 'kept': failed to read text proto from .*config.pbtxt: line 1")
    assert word_of(served, "kept") == "former"
    assert served.get("/v2/health/ready")[0] == 200
    path.write_text(answering("new"))
    config.write_text(good)
    wait_for_word(served, "kept", "new")
    assert served.log.count("Poll failed for model directory 'kept'") == 1


@pytest.mark.spec("server:175")
@pytest.mark.spec("server:179")
def test_a_custom_configuration_comes_and_goes(served: Served, repository: Path) -> None:
    folder = write_answering(repository, "custom", "custom")
    wait_for_word(served, "custom", "custom")

    def parameter() -> object:
        return served.get("/v2/models/custom/config")[1]["parameters"].get("size")

    custom = folder / "configs" / "large.pbtxt"
    custom.parent.mkdir()
    text = (folder / "config.pbtxt").read_text() + 'parameters { key: "size" value { string_value: "large" } }'
    custom.write_text(text)
    wait_until(lambda: parameter() == {"string_value": "large"}, "the custom configuration counts")
    custom.unlink()
    wait_until(lambda: parameter() is None, "the plain configuration counts again")
    assert is_ready(served, "custom")


@pytest.mark.spec("server:181")
@pytest.mark.spec("server:182")
def test_what_is_no_change_reloads_nothing(served: Served, repository: Path) -> None:
    pid = served.stubs()["steady_0_0"]
    folder = repository / "steady"
    (folder / "1" / "__pycache__").mkdir(exist_ok=True)
    for name in ("1/__pycache__/model.pyc", "1/.model.py.swp", "1/model.py~", "#config.pbtxt#", ".notes"):
        (folder / name).write_text("x")
    write_answering(repository, "later", "later")
    wait_for_word(served, "later", "later")  # so that poll has seen the rest, too
    assert served.stubs()["steady_0_0"] == pid
    assert served.log.count("steady has come") == 1


@pytest.mark.spec("server:110")
def test_nobody_loads_or_unloads_by_hand(served: Served) -> None:
    text = "explicit model load / unload is not allowed if polling is enabled"
    with tritonclient.http.InferenceServerClient(served.http_url) as http:
        for call in (http.load_model, http.unload_model):
            with pytest.raises(InferenceServerException) as caught:
                call("steady")
            assert (caught.value.status(), caught.value.message()) == ("503", text)
    with tritonclient.grpc.InferenceServerClient(served.grpc_url) as grpc:
        for call in (grpc.load_model, grpc.unload_model):
            with pytest.raises(InferenceServerException) as caught:
                call("steady")
            assert (caught.value.status(), caught.value.message()) == ("StatusCode.UNAVAILABLE", text)


@pytest.mark.spec("server:179")
@pytest.mark.spec("server:197")
def test_a_server_that_polls_outlives_every_error(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    write_answering(one, "m", "from one")
    (one / "empty").mkdir()
    two.mkdir()
    with serve(one, f"--model-repository={two}", *POLL, "--exit-on-error=false") as served:
        assert "Poll failed for model directory 'empty'" in served.log
        assert served.get("/v2/health/ready")[0] == 400
        (one / "empty").rmdir()
        wait_until(lambda: served.get("/v2/health/ready")[0] == 200, "what was wrong is gone")
        shutil.move(one, tmp_path / "elsewhere")
        served.wait_for_log("failed to stat file .*one")
        assert word_of(served, "m") == "from one"
        shutil.move(tmp_path / "elsewhere", one)
        write_answering(two, "m", "from two")
        served.wait_for_log("failed to poll model 'm': not unique across all model repositories")
        served.wait_for_log("successfully unloaded 'm' version 1")
        unclear = {"name": "m", "state": "UNAVAILABLE", "reason": "model appears in two or more repositories"}
        assert unclear in entries(served, "m")
        shutil.rmtree(one / "m")
        wait_for_word(served, "m", "from two")
        assert served.get("/v2/health/ready")[0] == 200
        assert served.stop() == 0
