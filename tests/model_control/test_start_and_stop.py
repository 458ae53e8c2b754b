"""The start and the end of a server with models: what loads how, what holds it up, what it says and exits with."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc
from calling import call, in_background, metric, wait_until
from controlling import control, entries, is_ready, json_config, load, unload, word_of, write_answering, write_gated
from rendezvous import Rendezvous, identity, write
from serving import Served, serve
from tritonclient.utils import InferenceServerException

ONE = {"IN": np.array([1], np.uint8)}
BROKEN = "class TritonPythonModel:\n    def initialize(self, args):\n        raise Exception('no')"


# -- starting


@pytest.mark.spec("server:160")
@pytest.mark.spec("server:180")
@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (
            ("--load-model=*", "--load-model=m"),
            "Invalid argument - Wildcard model name '*' must be the ONLY startup model if specified at all.",
        ),
        (("--load-model=nope",), "Internal - failed to load all models"),
        (("--load-model=../m",), "Internal - failed to load all models"),
        (("--load-model=m", "--model-repository=/absent"), "Internal - failed to stat file /absent"),
        (("--host-policy=cpu,cpu-cores=x",), "Invalid argument - host policy 'cpu': 'x' is no list of cores"),
    ],
)
def test_a_start_that_fails_says_why_in_its_last_line(tmp_path: Path, flags: tuple[str, ...], error: str) -> None:
    write_answering(tmp_path, "m", "word")
    with serve(tmp_path, "--model-control-mode=explicit", *flags, expect_start=False) as served:
        assert served.process.wait(30) == 1
        served.stop()
    assert served.log.rstrip().splitlines()[-1].startswith(f"error: creating server: {error}")


@pytest.mark.spec("server:162")
@pytest.mark.spec("server:195")
def test_a_server_may_run_without_its_broken_models(tmp_path: Path) -> None:
    write_answering(tmp_path, "good", "word")
    write(tmp_path, "broken", BROKEN)
    (tmp_path / "empty").mkdir()
    with serve(tmp_path, "--exit-on-error=false") as served:
        assert '"Internal: failed to load all models"' in served.log
        assert word_of(served, "good") == "word"
        assert served.get("/v2/health/live")[0] == 200
        assert served.get("/v2/health/ready")[0] == 400
        with tritonclient.grpc.InferenceServerClient(served.grpc_url) as client:
            assert client.is_server_live()
            assert not client.is_server_ready()
            assert client.is_model_ready("good")
            assert not client.is_model_ready("broken")
    with serve(tmp_path, "--exit-on-error=false", "--strict-readiness=false") as served:
        assert served.get("/v2/health/ready")[0] == 200
        assert served.get("/v2/models/broken/ready")[0] != 200


@pytest.mark.spec("server:178")
@pytest.mark.spec("server:194")
@pytest.mark.spec("server:266")
def test_endpoints_open_after_all_loads(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_answering(tmp_path, name, name)
    with serve(tmp_path) as served:
        story = [served.log.index(f"successfully loaded '{name}'") for name in "ab"]
        story.append(served.log.index("| Model "))
        story.append(served.log.index("Started GRPCInferenceService"))
        assert sorted(story)[2:] == story[2:]
        for name in "ab":
            assert served.log.index(f"loading: {name}:1") < served.log.index(f"successfully loaded '{name}'")
        write_answering(tmp_path, "c", "c")
        assert entries(served, "c") == []
        for action in ("load", "unload"):
            assert control(served, "a", action)[0] == 503
        assert served.stop() == 0
    for name in "ab":
        assert f"successfully unloaded '{name}' version 1" in served.log


@pytest.mark.spec("server:201")
def test_no_more_models_load_at_once_than_told(tmp_path: Path, rendezvous: Rendezvous) -> None:
    for name in ("a", "b", "c"):
        write_gated(tmp_path, name)
    flags = ("--model-load-thread-count=2", "--disable-auto-complete-config")
    with serve(tmp_path, *flags, expect_start=False) as served:
        visits = [rendezvous.next(), rendezvous.next()]
        assert served.log.count("loading: ") == 2
        visits[0].let_go()
        visits.append(rendezvous.next())
        for visit in visits[1:]:
            visit.let_go()
        served.wait_for_log("Started Metrics Service")
        with in_background(served.stop) as stopped:
            for _ in visits:
                rendezvous.next().let_go()
            assert stopped.result(20) == 0


@pytest.mark.spec("server:173")
def test_instances_run_where_their_policy_says(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    identity(tmp_path, "bound")
    folder = identity(tmp_path, "named")
    path = folder / "config.pbtxt"
    path.write_text(path.read_text().replace("kind: KIND_CPU", 'kind: KIND_CPU host_policy: "mine"'))
    everywhere = os.sched_getaffinity(0)
    with serve(tmp_path, f"--host-policy=mine,cpu-cores={core}") as served:
        assert "--host-policy" not in served.log
        pids = served.stubs()
        assert psutil.Process(pids["named_0_0"]).cpu_affinity() == [core]
        assert set(psutil.Process(pids["bound_0_0"]).cpu_affinity() or ()) == everywhere
        os.kill(pids["named_0_0"], signal.SIGKILL)
        wait_until(lambda: served.stubs().get("named_0_0", 0) not in (0, pids["named_0_0"]), "it is started again")
        wait_until(lambda: is_ready(served, "named"), "it is ready again")
        assert psutil.Process(served.stubs()["named_0_0"]).cpu_affinity() == [core]


# -- readiness


@pytest.fixture(scope="module")
def served(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    write_answering(repository, "m", "word")
    write(repository, "broken", BROKEN)
    write_gated(repository)
    with serve(repository, "--model-control-mode=explicit") as served:
        yield served


@pytest.mark.spec("server:195")
def test_after_a_failed_load_the_server_is_not_ready_until_that_is_settled(served: Served) -> None:
    def ready() -> list[bool]:
        with tritonclient.grpc.InferenceServerClient(served.grpc_url) as client:
            return [served.get("/v2/health/ready")[0] == 200, client.is_server_ready()]

    assert ready() == [True, True]  # that models could be loaded does not matter
    assert control(served, "broken", "load")[0] == 400
    assert ready() == [False, False]
    unload(served, "broken")
    assert ready() == [True, True]
    assert (
        control(served, "m", "load", {"config": json_config(version_policy={"specific": {"versions": [7]}})})[0] == 400
    )
    assert ready() == [False, False]
    load(served, "m")
    assert ready() == [True, True]
    unload(served, "m")


@pytest.mark.spec("server:195")
def test_a_server_whose_model_loads_or_unloads_is_not_ready(served: Served, rendezvous: Rendezvous) -> None:
    with in_background(load, served, "gated") as loading:
        visit = rendezvous.next()
        assert served.get("/v2/health/ready")[0] == 400
        visit.let_go()
        loading.result(20)
    assert served.get("/v2/health/ready")[0] == 200
    unload(served, "gated")
    visit = rendezvous.next()
    assert served.get("/v2/health/ready")[0] == 400
    visit.let_go()
    served.wait_for_log("successfully unloaded 'gated' version 1")
    wait_until(lambda: served.get("/v2/health/ready")[0] == 200, "it has ended")


@pytest.mark.spec("server:196")
def test_a_dead_stub_makes_model_and_server_not_ready(tmp_path: Path, rendezvous: Rendezvous) -> None:
    write_gated(tmp_path)
    with in_background(lambda: rendezvous.next().let_go()), serve(tmp_path, "--disable-auto-complete-config") as served:
        assert served.get("/v2/health/ready")[0] == 200
        os.kill(served.stubs()["gated_0_0"], signal.SIGKILL)
        visit = rendezvous.next()  # the next one is about to initialize
        assert served.get("/v2/models/gated/ready")[0] == 400
        assert served.get("/v2/health/ready")[0] == 400
        with tritonclient.grpc.InferenceServerClient(served.grpc_url) as client:
            assert client.is_server_live()
            assert not client.is_server_ready()
            assert not client.is_model_ready("gated")
        visit.let_go()
        wait_until(lambda: served.get("/v2/health/ready")[0] == 200, "it serves again")
        with in_background(served.stop) as stopped:
            rendezvous.next().let_go()
            assert stopped.result(20) == 0


# -- stopping


@pytest.mark.spec("server:272")
@pytest.mark.spec("server:273")
@pytest.mark.spec("server:276")
def test_what_is_under_way_is_counted_down_and_answered(tmp_path: Path, rendezvous: Rendezvous) -> None:
    write_gated(tmp_path)
    with in_background(lambda: rendezvous.next().let_go()), serve(tmp_path, "--disable-auto-complete-config") as served:
        client = tritonclient.grpc.InferenceServerClient(served.grpc_url)
        tensor = tritonclient.grpc.InferInput("IN", [1], "UINT8")
        tensor.set_data_from_numpy(ONE["IN"])
        with contextlib.ExitStack() as calls:
            http = calls.enter_context(in_background(call, served, "gated", ONE))
            first = rendezvous.next()
            grpc = calls.enter_context(in_background(client.infer, "gated", [tensor]))
            wait_until(lambda: metric(served, "nv_inference_pending_request_count", "gated") == 1, "both are there")
            stopped = calls.enter_context(in_background(served.stop))
            served.wait_for_log(r"Timeout 30: Found 1 HTTP service connections")
            served.wait_for_log(r"Timeout 30: Found 1 gRPC service connections and inference handlers")
            served.wait_for_log(r"Timeout 29: Found 1 HTTP service connections")
            with pytest.raises(InferenceServerException):
                tritonclient.grpc.InferenceServerClient(served.grpc_url).is_server_live()
            first.let_go()
            rendezvous.next().let_go()
            assert http.result(20)["OUT"].tolist() == grpc.result(20).as_numpy("OUT").tolist() == [1]
            visit = rendezvous.next()
            assert visit.place == "finalize"
            served.wait_for_log(r"Timeout \d+: Found 1 live models and 0 in-flight non-inference requests", times=2)
            visit.let_go()
            assert stopped.result(20) == 0
        client.close()
    assert "successfully unloaded 'gated' version 1" in served.log


@pytest.mark.spec("server:276")
def test_no_time_to_exit(tmp_path: Path) -> None:
    write_answering(tmp_path, "m", "word")
    with serve(tmp_path, "--exit-timeout-secs=0") as served:
        assert served.stop() == 1
    assert "failed to stop server: Internal - Exit timeout expired. Exiting immediately." in served.log
    assert "word has gone" not in served.log
    with serve(tmp_path, "--exit-timeout-secs=0", "--model-control-mode=explicit") as served:
        assert served.stop() == 0  # nothing was live


@pytest.mark.spec("server:274")
def test_an_unload_under_way_is_waited_for(tmp_path: Path, rendezvous: Rendezvous) -> None:
    write_gated(tmp_path)
    with serve(tmp_path, "--model-control-mode=explicit", "--disable-auto-complete-config") as served:
        with in_background(load, served, "gated") as loading:
            rendezvous.next().let_go()
            loading.result(20)
        unload(served, "gated")
        visit = rendezvous.next()
        assert visit.place == "finalize"
        with in_background(served.stop) as stopped:
            served.wait_for_log("Found 1 live models and 0 in-flight non-inference requests")
            visit.let_go()
            assert stopped.result(20) == 0


@pytest.mark.spec("server:274")
def test_a_signal_while_the_first_models_load(tmp_path: Path, rendezvous: Rendezvous) -> None:
    write_gated(tmp_path)
    with serve(tmp_path, "--disable-auto-complete-config", expect_start=False) as served:
        visit = rendezvous.next()
        assert served.stop() == 0
        visit.close()
    assert re.search(r"Signal \(15\) received", served.log)


@pytest.mark.spec("server:275")
def test_nothing_is_left_of_a_server_that_was_killed(tmp_path: Path) -> None:
    identity(tmp_path, count=2)
    before = set(os.listdir("/dev/shm"))
    with serve(tmp_path) as served:
        assert call(served, "identity", {"IN": np.zeros(1 << 20, np.uint8)}).status == 200
        processes = served.processes()
        assert len(processes) >= 4
        served.process.kill()
        _, left = psutil.wait_procs(processes, 10)
        assert left == []
        served.process.wait()
        assert not [name for name in set(os.listdir("/dev/shm")) - before if name.startswith("triton")]
