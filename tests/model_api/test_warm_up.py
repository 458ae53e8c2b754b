"""Warm-up: what ``model_warmup`` has an instance execute before its version is ready."""

from __future__ import annotations

import json
import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Served, serve, write_model

# Says what it was given, before initialize is known to have ended well.
TELLING = """
    import json
    import triton_python_backend_utils as pb_utils

    class TritonPythonModel:
        def execute(self, requests):
            print("executes", json.dumps([
                {tensor.name(): self.describe(tensor.as_numpy()) for tensor in request.inputs()} for request in requests
            ]))
            return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", request.inputs()[0].as_numpy())])
                    for request in requests]

        def describe(self, array):
            return [str(array.dtype), list(array.shape), list(map(str, array.ravel()[:2]))]
"""
CONFIG = """
    backend: "python"
    max_batch_size: {max_batch_size}
    input [
      {{ name: "IN" data_type: TYPE_INT32 dims: [ 2 ] }},
      {{ name: "TEXT" data_type: TYPE_STRING dims: [ 2 ] optional: true }}
    ]
    output [ {{ name: "OUT" data_type: TYPE_INT32 dims: [ -1 ] }} ]
    {more}
"""
SAMPLES = """
    model_warmup [
      { name: "zeros" batch_size: 2
        inputs { key: "IN" value { data_type: TYPE_INT32 dims: [ 2 ] zero_data: true } }
        inputs { key: "TEXT" value { data_type: TYPE_STRING dims: [ 2 ] random_data: true } } },
      { name: "twice" batch_size: 1 count: 2
        inputs { key: "IN" value { data_type: TYPE_INT32 dims: [ 2 ] input_data_file: "numbers" } }
        inputs { key: "TEXT" value { data_type: TYPE_STRING dims: [ 2 ] input_data_file: "words" } } },
      { name: "extra" batch_size: 1
        inputs { key: "START" value { data_type: TYPE_BOOL dims: [ 1 ] random_data: true } }
        inputs { key: "IN" value { data_type: TYPE_INT32 dims: [ 2 ] random_data: true } } },
      { name: "skipped" batch_size: 0
        inputs { key: "IN" value { data_type: TYPE_INT32 dims: [ 2 ] zero_data: true } } }
    ]
    instance_group [ { count: 2 kind: KIND_CPU } ]
"""
DECOUPLED = """
    import triton_python_backend_utils as pb_utils

    class TritonPythonModel:
        def execute(self, requests):
            for request in requests:
                request.get_response_sender().send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
CALLING = """
    import triton_python_backend_utils as pb_utils

    class TritonPythonModel:
        def execute(self, requests):
            answer = pb_utils.InferenceRequest(
                model_name="telling", requested_output_names=["OUT"], inputs=[requests[0].inputs()[0]]).exec()
            print("was told:", answer.error().message() if answer.has_error() else "all is well")
            return [pb_utils.InferenceResponse([requests[0].inputs()[0]]) for _ in requests]
"""
FAILING = """
    import os
    import triton_python_backend_utils as pb_utils

    class TritonPythonModel:
        def execute(self, requests):
            {what}

        def finalize(self):
            print("failing model was finalized")
"""
ONE_SAMPLE = 'model_warmup [ {{ name: "it" batch_size: 1 inputs {{ key: "IN" value {{ {value} }} }} }} ]'
ZEROS = ONE_SAMPLE.format(value="data_type: TYPE_INT32 dims: [ 2 ] zero_data: true")


def write_warming(repository: Path, name: str, code: str, more: str, max_batch_size: int = 4) -> Path:
    return write_model(repository, name, code, CONFIG.format(max_batch_size=max_batch_size, more=more))


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[Served]:
    telling = write_warming(repository, "telling", TELLING, SAMPLES)
    (telling / "warmup").mkdir()
    (telling / "warmup" / "numbers").write_bytes(struct.pack("<3i", 7, 8, 9))
    (telling / "warmup" / "words").write_bytes(b"\1\0\0\0a\2\0\0\0bc\1\0\0\0d")
    write_warming(repository, "unbatched", TELLING, ZEROS, max_batch_size=0)
    write_warming(repository, "decoupled", DECOUPLED, ZEROS + "model_transaction_policy { decoupled: true }")
    write_warming(
        repository,
        "large",
        TELLING,
        ONE_SAMPLE.format(value="data_type: TYPE_INT32 dims: [ 100000 ] zero_data: true"),
    )
    write_warming(repository, "raising", FAILING.format(what="raise ValueError('too cold')"), ZEROS)
    write_warming(repository, "dying", FAILING.format(what="os._exit(3)"), ZEROS)
    flags = ("--model-control-mode=explicit", "--load-model=telling", "--log-verbose=1")
    with serve(repository, *flags) as server:
        yield server


def executions(log: str, instance: str) -> list[list[dict[str, list[object]]]]:
    return [
        json.loads(line.partition("executes ")[2].rstrip().rstrip('"').replace('\\"', '"'))
        for line in log.splitlines()
        if "executes" in line and instance in line
    ]


def load(served: Served, name: str) -> tuple[int, object]:
    return served.post(f"/v2/repository/models/{name}/load", {})


@pytest.mark.spec("server:233")
@pytest.mark.spec("python_backend:C40")
def test_every_instance_executes_the_samples_before_it_is_ready(served: Served) -> None:
    before = served.log.partition("successfully loaded 'telling'")[0]
    zeros = {"IN": ["int32", [1, 2], ["0", "0"]], "TEXT": ["object", [1, 2], ["b''", "b''"]]}
    file = {"IN": ["int32", [1, 2], ["7", "8"]], "TEXT": ["object", [1, 2], ["b'a'", "b'bc'"]]}
    for instance in ("telling_0_0", "telling_0_1"):
        assert f"instance {instance} is running warmup sample 'zeros'" in before
        first, second, third, fourth = executions(before, instance)
        assert first == [zeros, zeros]
        assert second == third == [file]
        assert fourth[0]["START"][:2] == ["bool", [1]]  # no batch dimension: the configuration does not know it
        assert fourth[0]["IN"][:2] == ["int32", [1, 2]]
    assert "sample 'skipped'" not in before


@pytest.mark.spec("server:233")
def test_warm_up_is_counted_like_ordinary_requests(served: Served) -> None:
    _, statistics = served.get("/v2/models/telling/stats")
    (entry,) = statistics["model_stats"]
    assert entry["inference_count"] == entry["inference_stats"]["success"]["count"] == 10
    assert entry["execution_count"] == 8


def test_an_instance_that_is_started_again_warms_up_again(served: Served) -> None:
    os.kill(served.stubs()["telling_0_1"], signal.SIGKILL)
    served.wait_for_log("instance 'telling_0_1' serves again")
    assert len(executions(served.log, "telling_0_1")) == 8


@pytest.mark.spec("server:233")
def test_a_model_without_batches_gets_the_shape_as_it_is(served: Served) -> None:
    assert load(served, "unbatched") == (200, b"")
    assert executions(served.log, "unbatched_0") == [[{"IN": ["int32", [2], ["0", "0"]]}]]


@pytest.mark.spec("python_backend:C40")
@pytest.mark.spec("python_backend:Q119")
@pytest.mark.spec("python_backend:Q56")
def test_a_decoupled_model_may_answer_its_warm_up_with_nothing(served: Served) -> None:
    assert load(served, "decoupled") == (200, b"")


def test_a_large_sample_goes_through_shared_memory(served: Served) -> None:
    assert load(served, "large") == (200, b"")
    assert executions(served.log, "large_0") == [[{"IN": ["int32", [1, 100000], ["0", "0"]]}]]


@pytest.mark.spec("server:233")
@pytest.mark.spec("python_backend:Q119")
def test_a_model_that_fails_its_warm_up_fails_to_load(served: Served) -> None:
    status, body = load(served, "raising")
    assert status == 400
    assert isinstance(body, dict)
    assert "load failed for model 'raising': version 1 is at UNAVAILABLE state: Invalid argument: " in body["error"]
    assert "failed to run warmup sample 'it': Failed to process the request(s) for model 'raising_0'" in body["error"]
    assert "ValueError: too cold" in body["error"]
    assert "failing model was finalized" in served.log
    assert "raising_0" not in served.stubs()


@pytest.mark.spec("server:233")
def test_a_model_that_dies_of_its_warm_up_fails_to_load(served: Served) -> None:
    status, body = load(served, "dying")
    assert status == 400
    assert isinstance(body, dict)
    assert "failed to run warmup sample 'it': " in body["error"]
    assert "It exited with code 3." in body["error"]
    assert "dying_0" not in served.stubs()


@pytest.mark.spec("server:233")
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "variable",
            "data_type: TYPE_INT32 dims: [ -1 ] zero_data: true",
            "warmup setting expects all variable-size dimensions are specified for input 'IN'",
        ),
        (
            "empty",
            "data_type: TYPE_INT32 dims: [ 2 ]",
            "[request id: <id_unknown>] warmup setting expects input 'IN' to have input_data_type set",
        ),
        ("typeless", "dims: [ 2 ] zero_data: true", "warmup setting expects a data_type for input 'IN'"),
        ("absent", 'data_type: TYPE_INT32 dims: [ 2 ] input_data_file: "none"', "failed to open text file for read "),
        (
            "escaping",
            'data_type: TYPE_INT32 dims: [ 2 ] input_data_file: "../config.pbtxt"',
            "is outside the directory",
        ),
        (
            "short",
            'data_type: TYPE_INT32 dims: [ 2 ] input_data_file: "short"',
            "[request id: <id_unknown>] warmup setting expects 8 bytes, but the data provided from ",
        ),
        (
            "short_text",
            'data_type: TYPE_STRING dims: [ 2 ] input_data_file: "short"',
            "[request id: <id_unknown>] warmup setting expects 11 bytes, but the data provided from ",
        ),
    ],
)
def test_a_sample_that_is_not_right_fails_the_load(
    served: Served, repository: Path, name: str, value: str, message: str
) -> None:
    folder = write_warming(repository, name, TELLING, ONE_SAMPLE.format(value=value))
    (folder / "warmup").mkdir()
    (folder / "warmup" / "short").write_bytes(b"\3\0\0\0abc")
    status, body = load(served, name)
    assert status == 400
    assert isinstance(body, dict)
    assert message in body["error"]


@pytest.mark.spec("python_backend:C260")
def test_no_call_of_another_model_is_answered_while_the_server_starts(tmp_path: Path) -> None:
    write_warming(tmp_path, "telling", TELLING, "")
    write_warming(tmp_path, "calling", CALLING, ZEROS)
    flags = ("--model-control-mode=explicit", "--load-model=calling", "--load-model=telling", "--exit-on-error=false")
    with serve(tmp_path, *flags) as served:
        told = served.wait_for_log("was told: .*").group()
        # Which of the two comes first is open; neither gets through.
        assert "Server not ready" in told or "Request for unknown model: 'telling'" in told or "not at ready" in told
