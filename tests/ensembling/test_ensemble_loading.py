"""Loading and unloading of ensembles by their names, over HTTP, gRPC and from a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from atoll_protos import messages
from calling import call, in_background, wait_until
from controlling import ask, control, entries, is_ready, load, state, unload, wait_until_unloaded, write_controller
from ensembles import write_ensemble
from grpc_wire import RpcClient
from rendezvous import Rendezvous, identity, write
from serving import Served, serve

# Stops where its input begins with a one.
STOPS = """
import triton_python_backend_utils as pb_utils
from rendezvous import at

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            if request.inputs()[0].as_numpy()[0] == 1:
                at("stops")
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", r.inputs()[0].as_numpy())]) for r in requests]
"""


@pytest.fixture(scope="module")
def server(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    write(repository, "stops", STOPS)
    identity(repository, "a")
    identity(repository, "b")
    write_controller(repository)
    write_ensemble(repository, "e", "stops: IN=IN -> OUT=T", "a: IN=T -> OUT=U", "b: IN=U -> OUT=OUT")
    write_ensemble(repository, "broken", "a: X=IN -> OUT=OUT")
    with serve(repository, "--model-control-mode=explicit", "--load-model=controller") as served:
        yield served


def answer(served: Served, *numbers: int) -> list[int]:
    values: list[int] = call(served, "e", {"IN": np.array(numbers, np.uint8)})["OUT"].tolist()
    return values


def states(served: Served) -> list[str]:
    """Of the ensemble and its steps."""
    return [state(served, name) for name in ("e", "stops", "a", "b")]


@pytest.mark.spec("python_backend:Q90")
def test_an_ensemble_comes_and_goes(server: Served) -> None:
    for _ in range(5):
        load(server, "e")
        assert answer(server, 9) == [9]
        unload(server, "e")
        assert not is_ready(server, "e")
        assert states(server)[1:] == ["READY", "READY", "READY"]
        assert control(server, "e", "unload", {"unload_dependents": True}) == (200, b"")
    assert states(server) == ["UNAVAILABLE", "READY", "READY", "READY"]  # it was not known any more


@pytest.mark.spec("server:108")
@pytest.mark.parametrize("way", ["http", "grpc", "model"])
def test_its_steps_go_with_it(server: Served, way: str) -> None:
    load(server, "a")
    load(server, "e")
    if way == "http":
        assert control(server, "e", "unload", {"unload_dependents": True}) == (200, b"")
    elif way == "model":
        assert ask(server, "unload_model", "e", True) == ["value", None]
    else:
        with RpcClient(server.grpc_url) as client:
            parameters = {"unload_dependents": messages.ModelRepositoryParameter(bool_param=True)}
            client.call("RepositoryModelUnload", model_name="e", parameters=parameters)
    for name in ("e", "stops", "b"):
        wait_until_unloaded(server, name)
    assert state(server, "a") == "READY"


@pytest.mark.spec("server:108")
@pytest.mark.parametrize("value", [False, "x", 1])
def test_its_steps_stay_unless_that_is_said(server: Served, value: object) -> None:
    load(server, "e")
    assert control(server, "e", "unload", {"unload_dependents": value}) == (200, b"")
    wait_until_unloaded(server, "e")
    assert states(server)[1:] == ["READY", "READY", "READY"]


@pytest.mark.spec("server:109")
@pytest.mark.spec("server:A232")
def test_what_is_under_way_is_answered_before_a_step_goes(server: Served, rendezvous: Rendezvous) -> None:
    load(server, "e")
    with in_background(answer, server, 1, 2) as answered:
        visit = rendezvous.next()
        unload(server, "b")
        assert not is_ready(server, "e")
        assert states(server) == ["UNLOADING", "READY", "READY", "UNLOADING"]
        visit.let_go()
    assert answered.result() == [1, 2]
    wait_until_unloaded(server, "b")
    wait_until_unloaded(server, "e")
    assert server.get("/v2/health/ready")[0] == 200
    load(server, "b")
    assert answer(server, 9) == [9]


def test_a_step_that_is_loaded_again_breaks_no_request(
    server: Served, repository: Path, rendezvous: Rendezvous
) -> None:
    load(server, "e")
    with in_background(answer, server, 1, 2) as answered:
        visit = rendezvous.next()
        (repository / "b" / "1" / "changed").touch()
        load(server, "b")
        visit.let_go()
    assert answered.result() == [1, 2]
    assert answer(server, 9) == [9]


@pytest.mark.spec("server:188")
def test_an_ensemble_that_does_not_fit_its_steps(server: Served) -> None:
    text = "in ensemble broken, ensemble tensor IN is mapping to non-existing input X in model a"
    assert control(server, "broken", "load") == (
        400,
        {"error": f"load failed for model 'broken': {text}\n"},
    )
    [entry] = entries(server, "broken")
    assert (entry["state"], entry["reason"]) == ("UNAVAILABLE", f"Invalid argument: {text}")
    server.wait_for_log(f"failed to load model 'broken': Invalid argument: {text}")
    unload(server, "broken")
    wait_until(lambda: server.get("/v2/health/ready")[0] == 200, "nothing is wrong any more")
