"""A load that finds only other instances or another choice of versions leaves alone what serves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from calling import call, in_background, metric, wait_until
from controlling import answering, control, entries, load, unload, wait_until_unloaded, word_of, write_answering
from hammering import hammering
from rendezvous import Rendezvous, config, write
from serving import Served, serve

ALL = "version_policy: { all: { } }"


@pytest.fixture(scope="module")
def served(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    with serve(repository, "--model-control-mode=explicit") as served:
        yield served


def instances(served: Served, model: str) -> dict[str, int]:
    return {name: pid for name, pid in served.stubs().items() if name.startswith(f"{model}_0_")}


def configure(folder: Path, count: int, more: str = "") -> None:
    path = folder / "config.pbtxt"
    head = path.read_text().partition("instance_group")[0]
    path.write_text(f"{head}instance_group [ {{ kind: KIND_CPU count: {count} }} ] {more}")


@pytest.mark.spec("python_backend:C235")
@pytest.mark.spec("python_backend:Q117")
@pytest.mark.spec("server:183")
def test_instances_come_and_go_without_a_failed_request(served: Served, repository: Path) -> None:
    folder = write_answering(repository, "m", "word")
    load(served, "m")
    [first] = instances(served, "m").values()
    with hammering(served, "m") as hammer:
        for count in (3, 1, 2):
            configure(folder, count)
            load(served, "m")
            assert served.get("/v2/models/m/config")[1]["instance_group"][0]["count"] == count
            wait_until(lambda count=count: len(instances(served, "m")) == count, f"{count} instances")
            hammer.wait_for_answers("word", 20)
    assert instances(served, "m")["m_0_0"] == first
    assert metric(served, "nv_inference_request_success", "m") == hammer.answers["word"]  # counted on
    load(served, "m")
    assert instances(served, "m")["m_0_0"] == first
    unload(served, "m")
    wait_until_unloaded(served, "m")
    assert instances(served, "m") == {}


@pytest.mark.spec("server:183")
def test_an_instance_that_goes_finishes_what_it_has(served: Served, repository: Path, rendezvous: Rendezvous) -> None:
    code = """
        from rendezvous import at
        import triton_python_backend_utils as pb_utils

        class TritonPythonModel:
            def initialize(self, args):
                self.name = args["model_instance_name"]

            def execute(self, requests):
                at(self.name)
                outs = [pb_utils.Tensor("OUT", request.inputs()[0].as_numpy()) for request in requests]
                return [pb_utils.InferenceResponse([out]) for out in outs]

            def finalize(self):
                print(self.name, "has gone")
    """
    folder = write(repository, "slow", code, config(count=2))
    load(served, "slow")
    one = {"IN": np.array([1], np.uint8)}
    with in_background(call, served, "slow", one) as first, in_background(call, served, "slow", one) as second:
        visits = {visit.place: visit for visit in (rendezvous.next(), rendezvous.next())}
        path = folder / "config.pbtxt"
        path.write_text(path.read_text().replace("count: 2", "count: 1"))
        load(served, "slow")
        assert served.get("/v2/models/slow/ready")[0] == 200
        assert not first.done()
        assert not second.done()
        assert len(instances(served, "slow")) == 2
        for visit in visits.values():
            visit.let_go()
        assert [answer.result(20)["OUT"].tolist() for answer in (first, second)] == [[1], [1]]
    served.wait_for_log("slow_0_1 has gone")
    with in_background(call, served, "slow", one) as third:
        visit = rendezvous.next()
        assert visit.place == "slow_0_0"
        visit.let_go()
        assert third.result(20).status == 200
    path.write_text(path.read_text().replace("count: 1", "count: 2"))
    load(served, "slow")
    with in_background(call, served, "slow", one), in_background(call, served, "slow", one):
        visits = {visit.place: visit for visit in (rendezvous.next(), rendezvous.next())}
        path.write_text(path.read_text().replace("count: 2", "count: 1"))
        load(served, "slow")
        psutil.Process(visits["slow_0_1"].pid).kill()
        visits["slow_0_0"].let_go()
        visits["slow_0_1"].close()
    wait_until(lambda: set(instances(served, "slow")) == {"slow_0_0"}, "the one that died is not started again")
    unload(served, "slow")
    wait_until_unloaded(served, "slow")


@pytest.mark.spec("server:183")
def test_an_instance_that_cannot_come_up_changes_nothing(served: Served, repository: Path) -> None:
    code = answering("word").replace(
        'print("word has come")', 'assert args["model_instance_name"] != "picky_0_2", "not me"'
    )
    folder = write_answering(repository, "picky", "word")
    (folder / "1" / "model.py").write_text(code)
    load(served, "picky")
    before = instances(served, "picky")
    configure(folder, 3)
    status, body = control(served, "picky", "load")
    assert status == 400
    assert "version 1 is at UNAVAILABLE state: Internal: AssertionError: not me" in body["error"]
    wait_until(lambda: instances(served, "picky") == before, "what had come up has gone")
    assert word_of(served, "picky") == "word"
    assert entries(served, "picky") == [{"name": "picky", "version": "1", "state": "READY"}]
    assert served.get("/v2/health/ready")[0] == 200
    assert served.get("/v2/models/picky/config")[1]["instance_group"][0]["count"] == 1
    unload(served, "picky")
    wait_until_unloaded(served, "picky")


@pytest.mark.spec("server:176")
@pytest.mark.spec("server:183")
def test_versions_come_and_go_beside_one_that_stays(served: Served, repository: Path, tmp_path: Path) -> None:
    for version in (1, 2):
        folder = write_answering(repository, "versions", f"version {version}", ALL, version)
    (folder / "2").rename(tmp_path / "2")
    load(served, "versions")
    first = served.stubs()["versions_0_0"]
    (tmp_path / "2").rename(folder / "2")
    load(served, "versions")
    assert word_of(served, "versions") == "version 2"
    assert served.get("/v2/models/versions")[1]["versions"] == ["1", "2"]
    assert served.log.count("version 1 has come") == 1
    (folder / "2" / "model.py").write_text(answering("version two"))
    load(served, "versions")
    assert word_of(served, "versions") == "version two"
    path = folder / "config.pbtxt"
    path.write_text(path.read_text().replace(ALL, "version_policy: { specific: { versions: [ 1 ] } }"))
    load(served, "versions")
    assert word_of(served, "versions") == "version 1"
    assert served.get("/v2/models/versions/config")[1]["version_policy"] == {"specific": {"versions": [1]}}
    served.wait_for_log("version two has gone")
    assert psutil.pid_exists(first)
    assert served.log.count("version 1 has come") == 1
    unload(served, "versions")
    wait_until_unloaded(served, "versions")
