"""One name in several repositories, each of them a namespace."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc
from calling import call, wait_until
from controlling import control, is_ready, word_of, write_answering
from serving import Served, serve
from tritonclient.utils import InferenceServerException

AMBIGUOUS = (
    "There are 2 identifiers of model 'twin' in global map, model namespace must be provided to resolve ambiguity."
)
READY = {"version": "1", "state": "READY"}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        write_answering(folder, "twin", folder.name)
    write_answering(two, "single", "single")
    return one, two


@pytest.fixture
def served(folders: tuple[Path, Path]) -> Iterator[Served]:
    one, two = folders
    flags = ("--model-control-mode=poll", "--repository-poll-secs=1", "--model-namespacing=true")
    with serve(one, f"--model-repository={two}", *flags) as served:
        yield served


@pytest.mark.spec("server:198")
@pytest.mark.spec("server:248")
def test_both_are_served_and_a_name_alone_is_ambiguous(served: Served, folders: tuple[Path, Path]) -> None:
    one, two = folders
    for folder in folders:
        assert f"loading: {folder}::twin:1" in served.log
        assert f"successfully loaded '{folder}::twin'" in served.log
    _, rows = served.post("/v2/repository/index", {})
    assert rows == [{"name": "single", **READY}, {"name": "twin", **READY}, {"name": "twin", **READY}]
    assert served.get("/v2/health/ready")[0] == 200
    assert word_of(served, "single") == "single"
    answer = call(served, "twin", {"IN": ["?"]})
    assert (answer.status, answer.error) == (400, AMBIGUOUS)
    for path in ("", "/config", "/versions/1", "/stats"):
        assert served.get(f"/v2/models/twin{path}") == (400, {"error": AMBIGUOUS})
    with tritonclient.grpc.InferenceServerClient(served.grpc_url) as client:
        with pytest.raises(InferenceServerException) as caught:
            client.get_model_metadata("twin")
        assert (caught.value.status(), caught.value.message()) == ("StatusCode.INVALID_ARGUMENT", AMBIGUOUS)
    _, statistics = served.get("/v2/models/stats")
    assert [entry["name"] for entry in statistics["model_stats"]] == ["single", "twin", "twin"]
    page = served.metrics()
    for name, folder in (("twin", one), ("twin", two), ("single", two)):
        assert f'nv_inference_count{{model="{name}",namespace="{folder}",version="1"}}' in page

    shutil.rmtree(one / "twin")
    wait_until(lambda: is_ready(served, "twin") and word_of(served, "twin") == "two", "one of the twins is left")
    served.wait_for_log(f"successfully unloaded '{one}::twin' version 1")
    assert f'namespace="{one}"' not in served.metrics()


@pytest.mark.spec("server:198")
def test_a_load_by_name_means_all_of_that_name(folders: tuple[Path, Path]) -> None:
    one, two = folders
    flags = ("--model-control-mode=explicit", "--model-namespacing=true")
    with serve(one, f"--model-repository={two}", *flags) as served:
        _, rows = served.post("/v2/repository/index", {})
        assert rows == [{"name": "single"}, {"name": "twin"}, {"name": "twin"}]
        assert control(served, "twin", "load") == (200, b"")
        _, rows = served.post("/v2/repository/index", {"ready": True})
        assert rows == [{"name": "twin", **READY}] * 2
        assert call(served, "twin", {"IN": ["?"]}).error == AMBIGUOUS
        assert control(served, "twin", "unload") == (200, b"")
        served.wait_for_log("successfully unloaded", times=2)
        assert call(served, "twin", {"IN": ["?"]}).error == (
            "Request for unknown model: 'twin' has no available versions"
        )
