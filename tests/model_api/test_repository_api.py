"""Loading and unloading over HTTP and gRPC: the texts, and what clients of the models see meanwhile."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from calling import Answer, call, in_background, wait_until
from controlling import (
    answering,
    control,
    entries,
    is_ready,
    json_config,
    load,
    load_over_grpc,
    reason,
    state,
    unload,
    unload_over_grpc,
    wait_until_unloaded,
    word_of,
    write_answering,
    write_controller,
    write_gated,
)
from rendezvous import Rendezvous, write
from serving import Served, serve

POLL_FAILED = "failed to load '{}', failed to poll from model repository"
TWO_VERSIONS = "version_policy: { all: { } }"
BAD_INIT = "class TritonPythonModel:\n    def initialize(self, args):\n        raise Exception('no')"


@pytest.fixture(scope="module")
def models(repository: Path) -> Path:
    write_controller(repository)
    write_answering(repository, "one", "first")
    for version in (1, 2):
        write_answering(repository, "two", f"second {version}", TWO_VERSIONS, version)
    for version in (1, 2):
        write_answering(repository, "half", "half", TWO_VERSIONS, version)
    (repository / "half" / "2" / "model.py").write_text("class TritonPythonModel:\n    __init__ = None\n")
    write(repository, "bad_init", BAD_INIT)
    write_gated(repository)
    return repository


@pytest.fixture(scope="module")
def served(models: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    with serve(models, "--model-control-mode=explicit", "--load-model=controller") as served:
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
    assert entries(served, "bad_init") == [{"name": "bad_init", "version": "1", "state": "UNAVAILABLE", "reason": text}]
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


@pytest.mark.spec("server:111")
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
    load_over_grpc(served, "from_grpc", json_config(), {"file:1/model.py": answering("over gRPC")})
    assert word_of(served, "from_grpc") == "over gRPC"
    unload_over_grpc(served, "from_grpc")
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
    assert entries(served, "one") == [{"name": "one", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}]
    served.wait_for_log("first has gone", times=5)
    served.wait_for_log("successfully unloaded 'one' version 1", times=5)
    assert 'model="one"' not in served.metrics()


def test_all_versions_come_or_none(served: Served) -> None:
    load(served, "two")
    assert [row["state"] for row in entries(served, "two")] == ["READY", "READY"]
    unload(served, "two")
    status, body = control(served, "half", "load")
    assert status == 400
    assert re.match(
        r"load failed for model 'half': version 2 is at UNAVAILABLE state: Internal: TypeError", body["error"]
    )
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
