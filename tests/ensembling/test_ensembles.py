"""Ensembles of real stubs, over HTTP, gRPC, BLS and shared memory."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from calling import Answer, call, in_background, metric, statistics, wait_until
from controlling import is_ready
from ensembles import write_ensemble
from rendezvous import Rendezvous, config, write
from serving import Served, serve
from shared_regions import client_memory, start_tracker
from tritonclient.utils import InferenceServerException

MIB = 1 << 20
DECOUPLED = "model_transaction_policy { decoupled: true }"

# The first number of its input says what it does; it tells in SEEN what it saw.
STEP = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils
from rendezvous import at

class TritonPythonModel:
    def initialize(self, args):
        self.name = args["model_name"]

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        x = request.inputs()[0].as_numpy()
        if x[0] == 1:
            at(self.name)
        elif x[0] == 2:
            error = pb_utils.TritonError("no twos", pb_utils.TritonError.UNSUPPORTED)
            return pb_utils.InferenceResponse([], error=error)
        elif x[0] == 3:
            raise ValueError("no threes")
        elif x[0] == 4:
            return pb_utils.InferenceResponse([])
        elif x[0] == 5:
            at(self.name)
            while not request.is_cancelled():
                pass
            at("cancelled")
        outputs = [pb_utils.Tensor("OUT", x)]
        if "SEEN" in request.requested_output_names():
            seen = [self.name, request.request_id(), request.correlation_id(), request.flags(), request.timeout(),
                    json.loads(request.parameters()), sorted(request.requested_output_names())]
            outputs.append(pb_utils.Tensor("SEEN", np.array([json.dumps(seen)], dtype=object)))
        return pb_utils.InferenceResponse(outputs, parameters={"of": self.name})
"""

# Its input is how many responses it sends, and what the first of them holds; for 100 or more an error ends them.
SOURCE = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            count, first = request.inputs()[0].as_numpy().tolist()
            for index in range(first, first + count % 100):
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([index], np.uint8))]))
            if count >= 100:
                sender.send(pb_utils.InferenceResponse([], error=pb_utils.TritonError("enough")))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

# Calls the model that its input names with the numbers after it.
CALLER = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(*json.loads(request.inputs()[0].as_numpy()[0])) for request in requests]

    def answer(self, model, *numbers):
        request = pb_utils.InferenceRequest(
            model_name=model, requested_output_names=["OUT"],
            inputs=[pb_utils.Tensor("IN", np.array(numbers, np.uint8))],
        )
        response = request.exec()
        if response.has_error():
            said = [response.error().message(), response.error().code()]
        else:
            said = response.output_tensors()[0].as_numpy().tolist()
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([json.dumps(said)], dtype=object))])
"""


@pytest.fixture(scope="module")
def server(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    start_tracker()
    for name in ("first", "second", "third", "left", "right", "fragile"):
        write(repository, name, STEP, config(outputs="OUT:UINT8 SEEN:STRING"))
    write(repository, "source", SOURCE, config(more=DECOUPLED))
    write(repository, "caller", CALLER, config("IN:STRING", "OUT:STRING"))
    # An ensemble may come before its steps in the alphabet.
    write_ensemble(repository, "chain", "first: IN=IN -> OUT=A", "second: IN=A -> OUT=B", "third: IN=B -> OUT=OUT")
    write_ensemble(
        repository,
        "told",
        "first: IN=IN -> OUT=A SEEN=SEEN1",
        "second: IN=A -> OUT=OUT SEEN=SEEN2",
        outputs="OUT:UINT8 SEEN1:STRING SEEN2:STRING",
    )
    write_ensemble(
        repository,
        "parallel",
        "left: IN=A -> OUT=X",
        "right: IN=B -> OUT=Y",
        inputs="A:UINT8 B:UINT8",
        outputs="X:UINT8 Y:UINT8",
    )
    write_ensemble(repository, "nested", "chain: IN=IN -> OUT=A", "first: IN=A -> OUT=OUT")
    write_ensemble(repository, "stream", "first: IN=IN -> OUT=A", "source: IN=A -> OUT=B", "second: IN=B -> OUT=OUT")
    write_ensemble(
        repository,
        "narrow",
        "source: IN=IN -> OUT=A",
        "second: IN=A -> OUT=OUT",
        scheduling="max_inflight_requests: 1",
    )
    write_ensemble(repository, "of_fragile", "fragile: IN=IN -> OUT=OUT")
    write_ensemble(repository, "cached", "third: IN=IN -> OUT=OUT", more="response_cache { enable: true }")
    with serve(repository, "--cache-config=local,size=1000000") as served:
        yield served


def ask(served: Served, model: str, *numbers: int, **options: Any) -> Answer:
    return call(served, model, {"IN": np.array(numbers, np.uint8)}, **options)


def stream(served: Served, model: str, *numbers: int) -> list[Any]:
    """What comes of a request over a stream: outputs and whether it was the last, or the text of an error."""
    answers: SimpleQueue[Any] = SimpleQueue()
    with tritonclient.grpc.InferenceServerClient(served.grpc_url) as client:
        client.start_stream(lambda result, error: answers.put(error or result))
        tensor = tritonclient.grpc.InferInput("IN", [len(numbers)], "UINT8")
        tensor.set_data_from_numpy(np.array(numbers, np.uint8))
        client.async_stream_infer(model, [tensor], enable_empty_final_response=True)
        said: list[Any] = []
        while not said or (isinstance(said[-1], tuple) and not said[-1][1]):
            answer = answers.get(timeout=20)
            if isinstance(answer, InferenceServerException):
                said.append(answer.message())
            else:
                out = answer.as_numpy("OUT")
                final = answer.get_response().parameters["triton_final_response"].bool_param
                said.append(([] if out is None else out.tolist(), final))
        client.stop_stream()
    return said


# -- steps


@pytest.mark.spec("server:225")
@pytest.mark.spec("python_backend:Q79")
@pytest.mark.parametrize("model", ["chain", "nested"])
def test_steps_one_after_another(server: Served, model: str) -> None:
    answer = ask(server, model, 7, 8)
    assert answer["OUT"].tolist() == [7, 8]
    assert answer.parameters == {"sequence_id": 0, "sequence_start": False, "sequence_end": False}


@pytest.mark.spec("server:225")
def test_steps_side_by_side(server: Served, rendezvous: Rendezvous) -> None:
    inputs = {"A": np.array([1], np.uint8), "B": np.array([1, 2], np.uint8)}
    with in_background(call, server, "parallel", inputs) as answer:
        visits = [rendezvous.next(), rendezvous.next()]
        assert {visit.place for visit in visits} == {"left", "right"}
        for visit in visits:
            visit.let_go()
    assert {name: value.tolist() for name, value in answer.result().outputs.items()} == {"X": [1], "Y": [1, 2]}


@pytest.mark.spec("server:225")
def test_steps_over_grpc(server: Served) -> None:
    x = np.arange(6, 100_000, dtype=np.int64).astype(np.uint8)
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        tensor = tritonclient.grpc.InferInput("IN", x.shape, "UINT8").set_data_from_numpy(x)
        result = client.infer("chain", [tensor], request_id="me")
        assert np.array_equal(result.as_numpy("OUT"), x)
        assert result.get_response().id == "me"
    assert stream(server, "chain", 9) == [([9], True)]


def test_no_step_is_given_a_copy(server: Served) -> None:
    """What is large passes from stub to stub in the block that it came in: the steps' own arenas stay empty."""
    x = np.full(4 * MIB, 9, np.uint8)
    assert np.array_equal(call(server, "chain", {"IN": x})["OUT"], x)
    assert metric(server, "atoll_shared_memory_bytes", "chain") >= 4 * MIB
    assert [metric(server, "atoll_shared_memory_bytes", name) for name in ("second", "third")] == [0, 0]
    wait_until(lambda: not metric(server, "atoll_shared_memory_used_bytes", "chain"), "the block is free again")


@pytest.mark.spec("server:225")
def test_what_a_request_carries_reaches_every_step(server: Served) -> None:
    with tritonclient.http.InferenceServerClient(server.http_url) as client:
        tensor = tritonclient.http.InferInput("IN", [1], "UINT8").set_data_from_numpy(np.array([9], np.uint8))
        result = client.infer(
            "told",
            [tensor],
            request_id="me",
            sequence_id=42,
            sequence_start=True,
            priority=1,
            timeout=9_000_000,
            parameters={"mine": "x"},
        )
    seen = [json.loads(result.as_numpy(name)[0]) for name in ("SEEN1", "SEEN2")]
    common = ["me", 42, 1, 9_000_000, {"mine": "x"}, ["OUT", "SEEN"]]
    assert seen == [["first", *common], ["second", *common]]
    sequence = {"sequence_id": 42, "sequence_start": True, "sequence_end": False}
    assert result.get_response()["parameters"] == sequence


@pytest.mark.spec("server:228")
def test_steps_that_nobody_needs_are_not_run(server: Served) -> None:
    before = statistics(server, "right")["execution_count"]
    inputs = {"A": np.array([9], np.uint8), "B": np.array([9], np.uint8)}
    assert list(call(server, "parallel", inputs, outputs=["X"]).outputs) == ["X"]
    assert statistics(server, "right")["execution_count"] == before


# -- errors


@pytest.mark.spec("server:227")
@pytest.mark.spec("python_backend:Q88")
def test_errors_name_the_ensemble(server: Served) -> None:
    assert ask(server, "chain", 2) == Answer(501, "in ensemble 'chain', no twos")
    assert ask(server, "nested", 2) == Answer(501, "in ensemble 'nested', in ensemble 'chain', no twos")
    answer = ask(server, "chain", 3)
    assert answer.status == 500
    assert answer.error.startswith("in ensemble 'chain', Failed to process the request(s) for model 'first_0_0'")
    assert "ValueError: no threes" in answer.error
    assert ask(server, "chain", 4) == Answer(
        400,
        "in ensemble 'chain', [request id: <id_unknown>] expected 1 inputs but got 0 inputs for model 'second'. Got "
        "input(s) [], but missing required input(s) ['IN']. Please provide all required input(s).",
    )
    server.wait_for_log("Ensemble 'chain' failed to schedule step : ")


def test_requests_are_checked_for_the_ensemble(server: Served) -> None:
    answer = call(server, "chain", {"X": np.array([9], np.uint8)})
    assert answer.error == "unexpected inference input 'X' for model 'chain'"
    answer = ask(server, "chain", 9, outputs=["X"])
    assert answer.error == "unexpected inference output 'X' for model 'chain'"


@pytest.mark.spec("python_backend:K20")
def test_a_step_that_dies_and_comes_back(server: Served, rendezvous: Rendezvous) -> None:
    with in_background(ask, server, "of_fragile", 1) as answer:
        rendezvous.next()
        os.kill(server.stubs()["fragile_0_0"], signal.SIGKILL)
    assert answer.result().status == 500
    assert answer.result().error.startswith("in ensemble 'of_fragile', Failed to process the request(s) for model")
    assert "Stub process 'fragile_0_0' is not healthy. It was killed by signal 9" in answer.result().error
    wait_until(lambda: is_ready(server, "of_fragile"), "the ensemble is ready again")
    assert ask(server, "of_fragile", 9)["OUT"].tolist() == [9]


def test_a_client_that_leaves(server: Served, rendezvous: Rendezvous) -> None:
    body = json.dumps({"inputs": [{"name": "IN", "datatype": "UINT8", "shape": [1], "data": [5]}]})
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port)
    connection.request("POST", "/v2/models/chain/infer", body)
    visit = rendezvous.next()
    connection.close()
    visit.let_go()
    visit = rendezvous.next()
    assert visit.place == "cancelled"
    before = statistics(server, "second")["execution_count"]
    failures = metric(server, "nv_inference_request_failure", "chain")
    visit.let_go()
    wait_until(lambda: metric(server, "nv_inference_request_failure", "chain") == failures + 1, "the request has ended")
    assert statistics(server, "second")["execution_count"] == before


# -- decoupled steps


@pytest.mark.spec("server:226")
@pytest.mark.spec("python_backend:Q85")
def test_each_response_of_a_stream_goes_through_the_rest(server: Served) -> None:
    answers = stream(server, "stream", 12, 10)
    outputs = [answer[0] for answer in answers if answer[0]]
    assert outputs == [[index] for index in range(10, 22)]
    assert [answer[1] for answer in answers] == [False] * (len(answers) - 1) + [True]
    assert stream(server, "stream", 100, 10) == ["in ensemble 'stream', enough"]


@pytest.mark.spec("server:226")
def test_an_ensemble_is_decoupled_if_a_step_is(server: Served) -> None:
    policies = [server.get(f"/v2/models/{name}/config")[1]["model_transaction_policy"] for name in ("chain", "stream")]
    assert policies == [{"decoupled": False}, {"decoupled": True}]
    assert ask(server, "stream", 9) == Answer(
        501, "HTTP end point doesn't support models with decoupled transaction policy"
    )


@pytest.mark.spec("server:230")
def test_a_stream_waits_for_a_step_that_is_held_up(server: Served, rendezvous: Rendezvous) -> None:
    """One pass at a time: while one meets us, the next is not even queued."""
    before = statistics(server, "second")["execution_count"]
    with in_background(stream, server, "narrow", 3, 0) as answers:
        visit = rendezvous.next()
        wait_until(lambda: statistics(server, "source")["execution_count"], "all was sent")
        assert statistics(server, "second")["execution_count"] == before + 1
        assert metric(server, "nv_inference_pending_request_count", "second") == 0
        visit.let_go()
    assert answers.result() == [([0], False), ([1], False), "in ensemble 'narrow', no twos"]


# -- other ways in


@pytest.mark.spec("python_backend:C255")
def test_models_call_ensembles(server: Served) -> None:
    def said(*order: Any) -> Any:
        return json.loads(call(server, "caller", {"IN": [json.dumps(order)]})["OUT"][0])

    assert said("chain", 8, 9) == [8, 9]
    assert said("chain", 2) == ["in ensemble 'chain', no twos", 5]
    assert "Model stream is using the decoupled." in said("stream", 2, 0)[0]


def test_clients_memory(server: Served) -> None:
    with client_memory(2 * MIB) as memory, tritonclient.http.InferenceServerClient(server.http_url) as client:
        memory[0] = x = np.full(MIB, 9, np.uint8)
        client.register_system_shared_memory("mine", memory.key, 2 * MIB)
        tensor, output = (
            tritonclient.http.InferInput("IN", [MIB], "UINT8"),
            tritonclient.http.InferRequestedOutput("OUT"),
        )
        tensor.set_shared_memory("mine", MIB)
        output.set_shared_memory("mine", MIB, offset=MIB)
        client.infer("chain", [tensor], outputs=[output])
        assert np.array_equal(memory.array(np.uint8, MIB, MIB), x)
        client.unregister_system_shared_memory("mine")


# -- what is told


def test_configuration_and_metadata(server: Served) -> None:
    status, told = server.get("/v2/models/parallel/config")
    assert status == 200
    assert list(told)[:7] == [
        "name",
        "platform",
        "backend",
        "runtime",
        "version_policy",
        "max_batch_size",
        "input",
    ]
    assert (told["platform"], told["backend"], told["instance_group"]) == ("ensemble", "", [])
    assert "optimization" not in told
    assert told["default_model_filename"] == ""
    assert told["ensemble_scheduling"]["step"][0] == {
        "model_name": "left",
        "model_version": -1,
        "input_map": {"IN": "A"},
        "output_map": {"OUT": "X"},
        "model_namespace": "",
    }
    status, told = server.get("/v2/models/parallel")
    assert (told["platform"], told["versions"]) == ("ensemble", ["1"])


def test_statistics_are_sums_over_the_steps(server: Served) -> None:
    steps = ("first", "second", "third")
    before = {name: statistics(server, name) for name in (*steps, "chain")}
    for _ in range(3):
        ask(server, "chain", 9)
    after = {name: statistics(server, name) for name in (*steps, "chain")}

    def more(model: str, *path: str) -> int:
        values = []
        for entry in (before[model], after[model]):
            value: Any = entry
            for key in path:
                value = value[key]
            values.append(value)
        return int(values[1] - values[0])

    assert [more("chain", key) for key in ("inference_count", "execution_count")] == [3, 3]
    assert more("chain", "inference_stats", "success", "count") == 3
    for stage in ("queue", "compute_input", "compute_infer", "compute_output"):
        path = ("inference_stats", stage, "ns")
        assert more("chain", *path) == sum(more(name, *path) for name in steps)
        assert more("chain", "inference_stats", stage, "count") == 3
    assert (
        metric(server, "nv_inference_request_success", "chain") == after["chain"]["inference_stats"]["success"]["count"]
    )
    assert metric(server, "nv_inference_exec_count", "chain") == after["chain"]["execution_count"]


def test_answers_of_an_ensemble_are_cached(server: Served) -> None:
    for _ in range(2):
        assert ask(server, "cached", 77)["OUT"].tolist() == [77]
    wait_until(lambda: statistics(server, "cached")["inference_stats"]["cache_miss"]["count"], "it was kept")
    before = statistics(server, "third")["execution_count"]
    assert ask(server, "cached", 77)["OUT"].tolist() == [77]
    assert statistics(server, "third")["execution_count"] == before
