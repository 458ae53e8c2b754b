"""Models come and go while the server runs: over HTTP, over gRPC, and because a model says so."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from calling import Answer, call, in_background, metric, wait_until
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
)
from grpc_wire import RpcClient, parameter
from rendezvous import IDENTITY, Rendezvous, config, write
from serving import Served, serve

POLL_FAILED = "failed to load '{}', failed to poll from model repository"
TWO_VERSIONS = 'version_policy: { all: { } }'
GATED = """
from rendezvous import at
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        at("initialize")

    def execute(self, requests):
        at("execute")
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", r.inputs()[0].as_numpy())]) for r in requests]

    def finalize(self):
        at("finalize")
"""


@pytest.fixture(scope="module")
def models(repository: Path) -> Path:
    write_controller(repository)
    write_answering(repository, "one", "first")
    for version in (1, 2):
        write_answering(repository, "two", f"second {version}", TWO_VERSIONS, version)
    write_answering(repository, "half", "half", TWO_VERSIONS, 1)
    write_answering(repository, "half", "half", TWO_VERSIONS, 2)
    (repository / "half" / "2" / "model.py").write_text("class TritonPythonModel:\n    __init__ = None\n")
    write(repository, "bad_init", "class TritonPythonModel:\n    def initialize(self, args):\n        raise Exception('no')")
    write(repository, "gated", GATED)
    write(repository, "identity", IDENTITY)
    write_answering(repository, "no_version", "never")
    (repository / "no_version" / "1").rename(repository / "no_version" / "configs")
    return repository


@pytest.fixture(scope="module")
def served(models: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    with serve(models, "--model-control-mode=explicit", "--load-model=controller", "--log-verbose=1") as served:
        yield served


# -- the texts of the repository extension


@pytest.mark.parametrize(
    ("name", "parameters", "status", "error"),
    [
        pytest.param(name, parameters, status, error, id=row, marks=pytest.mark.spec(f"server:{row}"))
        for row, name, parameters, status, error in [
            ("A207", "nope", None, 500, POLL_FAILED.format("nope")),
            ("A211", "one", 5, 400, "attempt to get members for non-object"),
            ("A212", "one", {"foo": "x"}, 400, "unexpected error on creating Triton parameter"),
            ("A213", "one", {"config": 5}, 400, "attempt to access JSON non-string as string"),
            ("A214", "one", {"config": "{"}, 500, POLL_FAILED.format("one")),
            ("A215", "one", {"config": json_config(nope=1)}, 500, POLL_FAILED.format("one")),
            ("A216", "one", {"config": json_config(name="other")}, 500, POLL_FAILED.format("one")),
            ("A217", "new", {"file:1/model.py": ""}, 500, POLL_FAILED.format("new")),
            ("A219", "new", {"config": json_config(), "file:../../x.py": ""}, 500, POLL_FAILED.format("new")),
            (
                "A220",
                "new",
                {"config": json_config(), "file:1/model.py": "!!!!"},
                400,
                "load failed for model 'new': version 1 is at UNAVAILABLE state: Internal: AttributeError: module "
                "'1.model' has no attribute 'TritonPythonModel';\n",
            ),
            (
                "A221",
                "new",
                {"config": json_config(), "file:model.py": ""},
                400,
                "load failed for model 'new': at least one version must be available under the version policy of "
                "model 'new'\n",
            ),
            (
                "A222",
                "new",
                {"config": json_config(), "file:1": "", "file:1/model.py": ""},
                500,
                POLL_FAILED.format("new"),
            ),
            (
                "A227",
                "..",
                None,
                400,
                "invalid model name '..', model name must not contain path traversal characters",
            ),
        ]
    ],
)
def test_a_load_that_is_refused(served: Served, name: str, parameters: object, status: int, error: str) -> None:
    assert control(served, name, "load", parameters) == (status, {"error": error})
    unload(served, name)


@pytest.mark.spec("server:A209")
def test_a_load_that_fails_tells_what_the_model_raised(served: Served, models: Path) -> None:
    status, body = control(served, "bad_init", "load")
    text = f"Internal: Exception: no\n\nAt:\n  {models}/bad_init/1/model.py(3): initialize\n"
    assert (status, body["error"]) == (
        400,
        f"load failed for model 'bad_init': version 1 is at UNAVAILABLE state: {text};\n",
    )
    assert entries(served, "bad_init") == [
        {"name": "bad_init", "version": "1", "state": "UNAVAILABLE", "reason": text}
    ]
    assert served.get("/v2/health/ready")[0] == 400
    unload(served, "bad_init")  # says that it need not be there
    assert reason(served, "bad_init") == "unloaded"
    assert served.get("/v2/health/ready")[0] == 200


@pytest.mark.spec("server:A210")
@pytest.mark.parametrize("action", ["load", "unload"])
def test_a_body_that_is_no_json(served: Served, action: str) -> None:
    status, body = served.post(f"/v2/repository/models/one/{action}", None)
    assert (status, body) == (200, b"")  # null: no options
    wire = "failed to parse the request JSON buffer: "
    status, body = post_bytes(served, f"/v2/repository/models/one/{action}", b"{")
    assert status == 400
    assert body["error"].startswith(wire)


def post_bytes(served: Served, path: str, data: bytes) -> tuple[int, dict[str, str]]:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", served.http_port, timeout=10)
    connection.request("POST", path, data)
    response = connection.getresponse()
    body = json.loads(response.read())
    connection.close()
    return response.status, body


@pytest.mark.spec("server:A223")
@pytest.mark.spec("server:A224")
@pytest.mark.spec("server:A225")
@pytest.mark.parametrize("parameters", [None, {"unload_dependents": "x"}, {"foo": 1}])
def test_unloading_what_nobody_knows_is_no_error(served: Served, parameters: object) -> None:
    assert control(served, "nope", "unload", parameters) == (200, b"")
    assert entries(served, "nope") == []


@pytest.mark.spec("server:A226")
@pytest.mark.parametrize("action", ["load", "unload"])
def test_a_repository_cannot_be_named(served: Served, action: str) -> None:
    error = {"error": "'repository_name' specification is not supported"}
    assert served.post(f"/v2/repository/foo/models/one/{action}", {}) == (501, error)


@pytest.mark.spec("server:A228")
@pytest.mark.spec("server:A229")
def test_paths_and_methods_of_the_repository(served: Served) -> None:
    assert served.post("/v2/repository/models//load", {}) == (404, {"error": "Not Found"})
    assert served.get("/v2/repository/models/one/load") == (405, {"error": "Method Not Allowed"})


def test_over_grpc_the_same_happens(served: Served) -> None:
    with RpcClient(served.grpc_url) as client:
        parameters = {
            "config": parameter(string_param=json_config()),
            "file:1/model.py": parameter(bytes_param=answering("over gRPC").encode()),
        }
        client.call("RepositoryModelLoad", model_name="from_grpc", parameters=parameters)
        assert word_of(served, "from_grpc") == "over gRPC"
        client.call("RepositoryModelUnload", model_name="from_grpc")
    wait_until_unloaded(served, "from_grpc")


@pytest.mark.spec("server:A206")
def test_the_index_names_models_that_nobody_loaded(served: Served) -> None:
    assert entries(served, "gated") == [{"name": "gated"}]
    _, rows = served.post("/v2/repository/index", {"ready": True})
    assert [row["name"] for row in rows] == ["controller"]


# -- loading and unloading


@pytest.mark.spec("server:A208")
@pytest.mark.spec("server:A230")
@pytest.mark.spec("python_backend:Q90")
def test_a_model_comes_and_goes_again_and_again(served: Served) -> None:
    for _ in range(5):
        load(served, "one")
        assert is_ready(served, "one")
        assert word_of(served, "one") == "first"
        unload(served, "one")
        assert not is_ready(served, "one")
        assert call(served, "one", {"IN": ["?"]}) == Answer(
            404, "Request for unknown model: 'one' has no available versions"
        )
    wait_until_unloaded(served, "one")
    assert entries(served, "one") == [
        {"name": "one", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
    ]
    served.wait_for_log("first has gone", times=5)
    served.wait_for_log("successfully unloaded 'one' version 1", times=5)
    assert 'model="one"' not in served.metrics()


def test_all_versions_come_or_none(served: Served) -> None:
    load(served, "two")
    assert [row["state"] for row in entries(served, "two")] == ["READY", "READY"]
    unload(served, "two")
    status, body = control(served, "half", "load")
    assert status == 400
    assert re.match(r"load failed for model 'half': version 2 is at UNAVAILABLE state: Internal: TypeError", body["error"])
    wait_until_unloaded(served, "half")
    first, second = entries(served, "half")
    assert first["reason"] == "unloaded"
    assert second["reason"].startswith("Internal: TypeError")
    unload(served, "half")


def test_a_version_no_longer_selected_goes_when_the_others_are_there(served: Served) -> None:
    load(served, "two")
    load(served, "two", json_config(version_policy={"specific": {"versions": [2]}}))
    assert word_of(served, "two") == "second 2"
    wait_until(lambda: [row["state"] for row in entries(served, "two")] == ["UNAVAILABLE", "READY"], "1 is unloaded")
    assert served.get("/v2/health/ready")[0] == 200
    unload(served, "two")


def test_what_was_accepted_before_an_unload_is_answered(served: Served, rendezvous: Rendezvous) -> None:
    with in_background(load, served, "gated") as loading:
        visit = rendezvous.next()
        assert state(served, "gated") == "LOADING"
        visit.let_go()
        loading.result(20)
    from calling import Array  # noqa: F401
    import numpy as np

    with in_background(call, served, "gated", {"IN": np.array([7], np.uint8)}) as answer:
        visit = rendezvous.next()
        unload(served, "gated")
        assert state(served, "gated") == "UNLOADING"
        assert call(served, "gated", {"IN": np.array([8], np.uint8)}).status == 404
        visit.let_go()
        assert answer.result(20)["OUT"].tolist() == [7]
    visit = rendezvous.next()
    assert visit.place == "finalize"
    assert state(served, "gated") == "UNLOADING"
    visit.let_go()
    wait_until_unloaded(served, "gated")


def test_a_model_loads_while_its_predecessor_still_unloads(served: Served, rendezvous: Rendezvous) -> None:
    with in_background(load, served, "gated") as loading:
        rendezvous.next().let_go()
        loading.result(20)
    unload(served, "gated")
    leaving = rendezvous.next()
    with in_background(load, served, "gated") as loading:
        coming = rendezvous.next()
        assert (leaving.place, coming.place) == ("finalize", "initialize")
        coming.let_go()
        loading.result(20)
    assert state(served, "gated") == "READY"
    leaving.let_go()
    served.wait_for_log("successfully unloaded 'gated' version 1", times=2)
    assert is_ready(served, "gated")
    unload(served, "gated")
    rendezvous.next().let_go()
    wait_until_unloaded(served, "gated")


def test_loads_and_unloads_of_one_model_at_the_same_time_take_turns(served: Served) -> None:
    actions = ["load", "unload", "load", "load", "unload"] * 4
    with ThreadPoolExecutor(len(actions)) as pool:
        outcomes = list(pool.map(lambda action: control(served, "one", action), actions))
    assert outcomes == [(200, b"")] * len(actions)
    load(served, "one")
    assert word_of(served, "one") == "first"
    unload(served, "one")
    wait_until_unloaded(served, "one")
    wait_until(lambda: set(served.stubs()) == {"controller_0_0"}, "no process is left behind")


# -- loading again


def test_a_load_of_what_has_not_changed_does_nothing(served: Served, models: Path) -> None:
    load(served, "one")
    pid = served.stubs()["one_0_0"]
    load(served, "one")
    assert (models / "one" / "1" / "__pycache__").is_dir()  # which Python wrote since, and which is no change
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
    with RpcClient(served.grpc_url) as client, pytest.raises(Exception, match="load failed|failed to load") as caught:
        parameters = {
            "config": parameter(string_param=json_config()),
            "file:1/model.py": parameter(bytes_param=answering("never").encode()),
        }
        client.call("RepositoryModelLoad", model_name=name, parameters=parameters)
    assert "Invalid stub name: contains invalid characters" in str(caught.value)
    unload_over_grpc(served, name)


def unload_over_grpc(served: Served, name: str) -> None:
    with RpcClient(served.grpc_url) as client:
        client.call("RepositoryModelUnload", model_name=name)


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
    code = "import os\nclass TritonPythonModel:\n    def execute(self, requests):\n        os._exit(3)\n"
    code += "    def initialize(self, args):\n        if not os.path.exists(args['model_repository'] + '/once'):\n"
    code += "            open(args['model_repository'] + '/once', 'w').close()\n        else:\n            raise Exception('twice')\n"
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
    assert "must stay within model directory." in ask(
        served, "load_model", "made", json_config(), {"file:../../model.py": "x"}
    )[1]
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
            request = pb_utils.InferenceRequest(
                model_name="identity", requested_output_names=["OUT"], inputs=[pb_utils.Tensor("IN", np.ones(2, np.uint8))]
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
                return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", r.inputs()[0].as_numpy())]) for r in requests]
    """
    import numpy as np

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
    write(tmp_path, "gated", GATED)
    write_controller(tmp_path)
    flags = ("--model-control-mode=explicit", "--load-model=controller", "--exit-timeout-secs=2")
    with serve(tmp_path, *flags) as served, in_background(control, served, "gated", "load"):
        visit = rendezvous.next()
        served.stop()
        visit.close()
