"""Models that call each other in circles: refused at once where nothing could ever answer, else served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from calling import call, in_background, wait_until
from controlling import entries
from ensembles import write_ensemble
from rendezvous import Rendezvous, config, write
from serving import Served, serve

CALLER = """
import json
import threading

import numpy as np
import triton_python_backend_utils as pb_utils
from rendezvous import at


def call(path, **options):
    '''What the first of a path of models answers, which calls the rest of it.'''
    name, _, version = path[0].partition(":")
    text = json.dumps([path[1:], options])
    request = pb_utils.InferenceRequest(
        model_name=name,
        model_version=int(version or -1),
        requested_output_names=["OUT"],
        inputs=[pb_utils.Tensor("IN", np.array([text], dtype=object))],
    )
    response = request.exec()
    if response.has_error():
        return response.error().message()
    return pb_utils.get_output_tensor_by_name(response, "OUT").as_numpy()[0].decode()


class TritonPythonModel:
    def initialize(self, args):
        self.name = args["model_instance_name"]

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        path, options = json.loads(request.inputs()[0].as_numpy()[0])
        if options.get("meet") == len(path):
            at(self.name)
        said = call(path, **options) if path else "reached"
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([f"{self.name}, {said}"], dtype=object))])
"""
THREADED = CALLER.replace(
    "    def answer(self, request):",
    """
    def answer(self, request):
        sender = request.get_response_sender()
        threading.Thread(target=lambda: sender.send(self.now(request), flags=1)).start()

    def now(self, request):""",
)
"""Leaves the answer to a thread, so that its instance is free again at once."""

STRINGS = ("IN:STRING", "OUT:STRING")


@pytest.fixture(scope="module")
def served(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    for name, count in {"a": 1, "b": 1, "c": 1, "a2": 2, "b2": 2}.items():
        write(repository, name, CALLER, config(*STRINGS, count=count))
    write(repository, "threaded", THREADED, config(*STRINGS))
    for name in ("a", "b"):
        write_ensemble(repository, f"of_{name}", f"{name}: IN=IN -> OUT=OUT", inputs=STRINGS[0], outputs=STRINGS[1])
    write_ensemble(repository, "nested", "of_b: IN=IN -> OUT=OUT", inputs=STRINGS[0], outputs=STRINGS[1])
    folder = write(repository, "v", CALLER, config(*STRINGS, more="version_policy: { all: { } }"))
    (folder / "2").mkdir()
    for file in (folder / "1").glob("*.py"):
        (folder / "2" / file.name).write_text(file.read_text())
    with serve(repository) as served:
        yield served


def walk(served: Served, *path: str, **options: Any) -> list[str]:
    """The instances on a way through models, and what is said at its end."""
    text = json.dumps([path[1:], options])
    answer = call(served, path[0], {"IN": [text]})
    said: str = answer["OUT"][0].decode()
    return said.split(", ", len(path))


def refusal(chain: str, model: str) -> str:
    return (
        f"Model {model} - Error when running inference: circular call with no instance to spare: {chain}. Every "
        f"instance of '{model}' waits for this call; raise the count of its instance_group"
    )


@pytest.mark.spec("python_backend:C257")
@pytest.mark.parametrize(
    ("path", "chain"),
    [
        (("a", "a"), "a_0_0 -> a"),
        (("a", "b", "a"), "a_0_0 -> b_0_0 -> a"),
        (("a", "b", "c", "b"), "a_0_0 -> b_0_0 -> c_0_0 -> b"),
        (("a2", "b2", "a2", "b2", "a2"), None),
    ],
)
def test_a_circle_without_an_instance_to_spare_is_refused_by_name(
    served: Served, path: tuple[str, ...], chain: str | None
) -> None:
    said = walk(served, *path)
    if chain is None:
        assert "circular call with no instance to spare: a2_0_" in said[-1]
    else:
        assert said == [f"{name}_0_0" for name in path[:-1]] + [refusal(chain, path[-1])]
    assert walk(served, "a", "b", "c") == ["a_0_0", "b_0_0", "c_0_0", "reached"]  # nobody hangs


@pytest.mark.spec("python_backend:C256")
@pytest.mark.parametrize("path", [("a2", "a2"), ("a2", "b", "a2"), ("a2", "b2", "a2", "b2")])
def test_with_an_instance_to_spare_a_circle_is_served(served: Served, path: tuple[str, ...]) -> None:
    said = walk(served, *path)
    assert said[-1] == "reached"
    assert len(set(said)) == len(path) + 1


@pytest.mark.parametrize("ensemble", ["of_b", "nested"])
def test_circles_through_ensembles_are_seen(served: Served, ensemble: str) -> None:
    assert ", ".join(walk(served, "a", "of_a")) == (
        "a_0_0, in ensemble 'of_a', circular call with no instance to spare: a_0_0 -> a. Every instance of 'a' waits "
        "for this call; raise the count of its instance_group"
    )
    assert walk(served, "a", ensemble, "a") == ["a_0_0", "b_0_0", refusal("a_0_0 -> b_0_0 -> a", "a")]
    said = walk(served, "a2", ensemble, "a2")
    assert (said[1], said[3], {said[0], said[2]}) == ("b_0_0", "reached", {"a2_0_0", "a2_0_1"})
    assert walk(served, "a", ensemble, "c") == ["a_0_0", "b_0_0", "c_0_0", "reached"]


def test_two_versions_are_two_models_though_their_instances_share_a_name(served: Served) -> None:
    assert [entry["state"] for entry in entries(served, "v")] == ["READY", "READY"]
    assert walk(served, "v", "v:1") == ["v_0_0", "v_0_0", "reached"]
    assert "circular call" in walk(served, "v", "v:1", "v:2")[-1]


@pytest.mark.spec("python_backend:C257")
def test_two_chains_that_wait_for_each_other_are_seen(served: Served, rendezvous: Rendezvous) -> None:
    """Each of them alone has an instance to spare, which the other holds."""
    with ThreadPoolExecutor(2) as pool:
        walks = [pool.submit(walk, served, "a2", "b2", "a2", meet=1) for _ in range(2)]
        visits = [rendezvous.next(), rendezvous.next()]
        assert {visit.place for visit in visits} == {"b2_0_0", "b2_0_1"}
        for visit in visits:
            visit.let_go()
        ends = [walked.result(20)[-1] for walked in walks]
    assert sorted("circular call" in end for end in ends) == [False, True]
    assert "reached" in ends


def test_who_waits_for_a_busy_model_waits(served: Served, rendezvous: Rendezvous) -> None:
    with in_background(partial(walk, served, "a", meet=0)) as busy:
        visit = rendezvous.next()
        with in_background(walk, served, "b", "a") as waiting:
            wait_until(
                lambda: 'nv_inference_pending_request_count{model="a",version="1"} 1' in served.metrics(),
                "b's call waits",
            )
            visit.let_go()
            assert waiting.result(20) == ["b_0_0", "a_0_0", "reached"]
        assert busy.result(20) == ["a_0_0", "reached"]


@pytest.mark.spec("python_backend:C257")
def test_a_call_from_a_thread_holds_nobody_up(served: Served) -> None:
    assert walk(served, "threaded", "threaded") == ["threaded_0_0", "threaded_0_0", "reached"]
    assert walk(served, "threaded", "b", "threaded") == ["threaded_0_0", "b_0_0", "threaded_0_0", "reached"]


def test_a_refused_call_leaves_nothing_behind(served: Served) -> None:
    for _ in range(20):
        walk(served, "a", "b", "a")
    page = served.metrics()
    for name in ("a", "b"):
        assert f'atoll_shared_memory_used_bytes{{model="{name}",version="1"}} 0' in page
        assert f'nv_inference_pending_request_count{{model="{name}",version="1"}} 0' in page
