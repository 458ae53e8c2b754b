"""Models that call other models, with ``InferenceRequest.exec()``."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from calling import Answer, call, leased_blocks, metric, refuses_connections, statistics, wait_until
from rendezvous import Rendezvous, config, write
from serving import Served, serve

CALLER = '''
"""Makes the calls that its input describes; tells what came back. A call whose input is a call makes a chain."""
import json
import threading
from concurrent.futures import ThreadPoolExecutor
import numpy
import triton_python_backend_utils as pb_utils
from rendezvous import at

def tensor(name, values):
    dtype = object if isinstance(values[0], str) else numpy.int32
    return pb_utils.Tensor(name, numpy.array(values, dtype=dtype))

def request(order):
    inputs = [tensor(name, values) for name, values in order["inputs"].items()]
    return pb_utils.InferenceRequest(
        model_name=order["model"], inputs=inputs, requested_output_names=order.get("outputs", []),
        **order.get("options", {}),
    )

def told(response):
    error = response.error()
    outputs = {}
    for tensor in response.output_tensors():
        values = tensor.as_numpy().tolist()
        outputs[tensor.name()] = [value.decode() if isinstance(value, bytes) else value for value in values]
    return {
        "error": error and error.message(), "code": error and int(error.code()), "outputs": outputs,
        "parameters": response.parameters(),
    }

def in_threads(order):
    def work(number):
        results = [told(request({**order, "inputs": {"IN": [number, turn]}}).exec()) for turn in range(order["calls"])]
        return [result["outputs"].get("OUT") for result in results]
    with ThreadPoolExecutor(order["threads"]) as pool:
        return list(pool.map(work, range(order["threads"])))

def later(order):
    at("thread")
    at(json.dumps(told(request(order).exec())))

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for received in requests:
            order = json.loads(received.inputs()[0].as_numpy()[0])
            if "meet" in order:
                at(order["meet"])
            if "threads" in order:
                result = in_threads(order)
            elif "later" in order:
                threading.Thread(target=later, args=(order,)).start()
                result = "later"
            else:
                made = request(order)
                result = [told(made.exec()) for _ in range(order.get("times", 1))]
            output = pb_utils.Tensor("OUT", numpy.array([json.dumps(result)], dtype=object))
            responses.append(pb_utils.InferenceResponse([output]))
        return responses
'''

ADD_SUB = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            a = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            b = pb_utils.get_input_tensor_by_name(request, "INPUT1").as_numpy()
            outputs = [pb_utils.Tensor("OUTPUT0", a + b), pb_utils.Tensor("OUTPUT1", a - b)]
            responses.append(pb_utils.InferenceResponse(outputs, parameters={"kind": "sum"}))
        return responses
"""

SQUARE = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUT", request.inputs()[0].as_numpy() ** 2)])
            for request in requests
        ]
"""

TROUBLE = """
import os, signal
import triton_python_backend_utils as pb_utils
from rendezvous import at

class TritonPythonModel:
    def execute(self, requests):
        (kind,) = requests[0].inputs()[0].as_numpy().tolist()
        if kind < 0:
            raise KeyError("k")
        if kind == 100:
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == 101:
            at("callee")
        error = pb_utils.TritonError("chosen text", list(type(pb_utils.TritonError.INTERNAL))[kind % 100])
        return [pb_utils.InferenceResponse(error=error) for _ in requests]
"""

MIRROR = """
import json
import numpy
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.version = args["model_version"]

    def execute(self, requests):
        responses = []
        for request in requests:
            seen = {
                "version": self.version, "id": request.request_id(), "correlation_id": request.correlation_id(),
                "flags": request.flags(), "timeout": request.timeout(), "parameters": json.loads(request.parameters()),
                "names": sorted(request.requested_output_names()),
            }
            output = pb_utils.Tensor("OUT", numpy.array([json.dumps(seen)], dtype=object))
            responses.append(pb_utils.InferenceResponse([output]))
        return responses
"""

TOO_EARLY = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        pb_utils.InferenceRequest(model_name="square", inputs=[], requested_output_names=[]).exec()
"""

TOO_LATE = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return []

    def finalize(self):
        pb_utils.InferenceRequest(model_name="square", inputs=[], requested_output_names=[]).exec()
"""

REFUSED = "BLS is only supported during the 'execute' function."


def write_models(repository: Path) -> None:
    strings = config(inputs="IN:STRING", outputs="OUT:STRING")
    for name in ("caller", "caller_2", "caller_3"):
        write(repository, name, CALLER, strings)
    write(repository, "recursive", CALLER, config(inputs="IN:STRING", outputs="OUT:STRING", count=2))
    write(repository, "add_sub", ADD_SUB, config("INPUT0:INT32 INPUT1:INT32", "OUTPUT0:INT32 OUTPUT1:INT32"))
    write(repository, "square_int32", SQUARE, config("IN:INT32", "OUT:INT32"))
    write(repository, "trouble", TROUBLE, config("IN:INT32", "OUT:INT32"))
    for version in (1, 2):
        folder = write(repository, "mirror", MIRROR, config("IN:INT32", "OUT:STRING", more="version_policy { all {} }"))
        (folder / str(version)).mkdir(exist_ok=True)
        (folder / str(version) / "model.py").write_text(MIRROR)


@pytest.fixture(scope="module")
def server(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    write_models(repository)
    write(repository, "too_early", TOO_EARLY)
    with serve(repository, "--exit-on-error=false") as served:
        yield served


def tell(served: Served, order: dict[str, Any], caller: str = "caller") -> Any:
    """What a caller answers to an order."""
    return json.loads(call(served, caller, {"IN": [json.dumps(order)]})["OUT"][0])


def one(served: Served, model: str, inputs: dict[str, list[Any]], **order: Any) -> dict[str, Any]:
    """What a caller tells of one call."""
    (result,) = tell(served, {"model": model, "inputs": inputs, **order})
    assert isinstance(result, dict)
    return result


NUMBERS = {"INPUT0": [5, 6], "INPUT1": [1, 2]}


# -- calls that succeed


def test_a_call_returns_outputs_and_parameters(server: Served) -> None:
    assert one(server, "add_sub", NUMBERS) == {
        "error": None,
        "code": None,
        "outputs": {"OUTPUT0": [6, 8], "OUTPUT1": [4, 4]},
        "parameters": '{"kind": "sum"}',
    }


@pytest.mark.spec("python_backend:Q48")
def test_one_request_object_executes_many_times(server: Served) -> None:
    results = tell(server, {"model": "square_int32", "inputs": {"IN": [3]}, "times": 100})
    assert [result["outputs"] for result in results] == [{"OUT": [9]}] * 100


def test_only_requested_outputs_come_back(server: Served) -> None:
    assert one(server, "add_sub", NUMBERS, outputs=["OUTPUT1"])["outputs"] == {"OUTPUT1": [4, 4]}


@pytest.mark.spec("python_backend:C175")
@pytest.mark.spec("python_backend:Q57")
def test_what_a_request_carries_reaches_the_callee(server: Served) -> None:
    options = {
        "request_id": "an id",
        "correlation_id": 7,
        "flags": 3,
        "timeout": 11_000_000_000,
        "parameters": {"bool": True, "int": -1, "text": "ü"},
    }
    result = one(server, "mirror", {"IN": [1]}, options=options, outputs=["OUT"])
    assert json.loads(result["outputs"]["OUT"][0]) == {
        "version": "2",
        "id": "an id",
        "correlation_id": 7,
        "flags": 3,
        "timeout": 11_000_000_000,
        "parameters": options["parameters"],
        "names": ["OUT"],
    }


@pytest.mark.parametrize("version", [1, 2])
def test_a_version_can_be_chosen(server: Served, version: int) -> None:
    result = one(server, "mirror", {"IN": [1]}, options={"model_version": version})
    assert json.loads(result["outputs"]["OUT"][0])["version"] == str(version)


def nested(*callers: str) -> dict[str, Any]:
    """An order to call a model that calls a model …, the last of which squares."""
    order: dict[str, Any] = {"model": "square_int32", "inputs": {"IN": [12]}}
    for caller in reversed(callers):
        order = {"model": caller, "inputs": {"IN": [json.dumps(order)]}}
    return order


def test_a_chain_of_models_calls_through(server: Served) -> None:
    (outer,) = tell(server, nested("caller_2", "caller_3"))
    (middle,) = json.loads(outer["outputs"]["OUT"][0])
    (inner,) = json.loads(middle["outputs"]["OUT"][0])
    assert inner["outputs"] == {"OUT": [144]}


def test_a_model_with_a_free_instance_calls_itself(server: Served) -> None:
    (outer,) = tell(server, nested("recursive"), "recursive")
    (inner,) = json.loads(outer["outputs"]["OUT"][0])
    assert inner["outputs"] == {"OUT": [144]}


def test_threads_of_a_model_call_at_the_same_time(server: Served) -> None:
    results = tell(server, {"model": "square_int32", "threads": 8, "calls": 40})
    assert results == [[[number**2, turn**2] for turn in range(40)] for number in range(8)]


def test_a_thread_calls_after_execute_has_returned(server: Served, rendezvous: Rendezvous) -> None:
    assert tell(server, {"model": "square_int32", "inputs": {"IN": [5]}, "later": True}) == "later"
    rendezvous.next().let_go()  # the answer is out, the main thread waits for the next command
    visit = rendezvous.next()
    assert json.loads(visit.place)["outputs"] == {"OUT": [25]}
    visit.let_go()
    assert one(server, "square_int32", {"IN": [6]})["outputs"] == {"OUT": [36]}


def test_nested_requests_count_in_the_callees_statistics(server: Served) -> None:
    before = statistics(server, "square_int32")["inference_count"]
    tell(server, {"model": "square_int32", "inputs": {"IN": [3]}, "times": 5})
    assert statistics(server, "square_int32")["inference_count"] == before + 5


# -- calls that fail


@pytest.mark.spec("python_backend:Q46")
def test_an_unknown_model_is_an_error_and_the_next_call_succeeds(server: Served) -> None:
    assert one(server, "non_existent_model", {"IN": [1]}) == {
        "error": "Model non_existent_model - Error when running inference: Request for unknown model: "
        "'non_existent_model' is not found",
        "code": 1,
        "outputs": {},
        "parameters": "",
    }
    assert one(server, "square_int32", {"IN": [2]})["outputs"] == {"OUT": [4]}


def test_a_model_that_failed_to_load_is_an_error(server: Served) -> None:
    error = one(server, "too_early", {"IN": [1]})["error"]
    assert error.startswith("Model too_early - Error when running inference: Request for unknown model: 'too_early' ")


@pytest.mark.spec("python_backend:Q39")
@pytest.mark.spec("python_backend:Q47")
def test_wrong_inputs_are_refused_with_the_sentence_of_a_client(server: Served) -> None:
    result = one(server, "add_sub", {"INPUT0": [1]})
    assert "Model add_sub - Error when running inference: " in result["error"]
    assert "expected 2 inputs but got 1 inputs for model 'add_sub'" in result["error"]
    assert result["outputs"] == {}
    assert (
        "expected 1 inputs but got 0 inputs for model 'square_int32'. Got input(s) [], but missing required input(s) "
        "['IN']. Please provide all required input(s)."
    ) in one(server, "square_int32", {})["error"]
    assert (
        "unexpected inference output 'NO' for model 'add_sub'"
        in one(server, "add_sub", NUMBERS, outputs=["NO"])["error"]
    )
    assert (
        "inference input 'IN' data-type is 'BYTES', but model 'square_int32' expects 'INT32'"
        in one(server, "square_int32", {"IN": ["text"]})["error"]
    )


def test_an_exception_in_the_callee_comes_with_its_traceback(server: Served) -> None:
    result = one(server, "trouble", {"IN": [-1]})
    assert result["code"] == 1
    assert result["error"].startswith(
        "Failed to process the request(s) for model 'trouble_0_0', message: KeyError: 'k'\n\nAt:\n"
    )


@pytest.mark.parametrize("code", range(8))
def test_the_callees_error_keeps_its_text_and_code(server: Served, code: int) -> None:
    result = one(server, "trouble", {"IN": [code]})
    assert (result["error"], result["code"]) == ("chosen text", code)


def test_the_callees_death_is_an_error_of_the_call_alone(server: Served) -> None:
    result = one(server, "trouble", {"IN": [100]})
    assert result["code"] == 1
    assert "Stub process 'trouble_0_0' is not healthy. It was killed by signal 9 (SIGKILL)." in result["error"]
    wait_until(lambda: server.get("/v2/models/trouble/ready")[0] == 200, "the callee is back")
    assert one(server, "trouble", {"IN": [2]})["code"] == 2
    assert metric(server, "atoll_instance_restarts", "caller") == 0


def test_the_callers_death_leaves_the_callee_alone(server: Served, rendezvous: Rendezvous) -> None:
    order = json.dumps({"model": "trouble", "inputs": {"IN": [101]}})
    with ThreadPoolExecutor(1) as pool:
        calling = pool.submit(call, server, "caller_3", {"IN": [order]})
        visit = rendezvous.next()
        kill(server, "caller_3_0_0")
        answer: Answer = calling.result()
        assert "Stub process 'caller_3_0_0' is not healthy." in answer.error
        restarts = metric(server, "atoll_instance_restarts", "trouble")
        visit.let_go()
    assert one(server, "trouble", {"IN": [3]})["code"] == 3
    assert metric(server, "atoll_instance_restarts", "trouble") == restarts
    assert leased_blocks(server, "trouble") == 0


def kill(served: Served, instance: str) -> None:
    os.kill(served.stubs()[instance], signal.SIGKILL)


@pytest.mark.spec("python_backend:C38")
@pytest.mark.spec("python_backend:Q54")
def test_a_call_in_initialize_is_refused(server: Served) -> None:
    (row,) = [row for row in server.post("/v2/repository/index", {})[1] if row["name"] == "too_early"]
    assert f"TritonModelException: {REFUSED}" in row["reason"]


# -- while the server ends


@pytest.mark.spec("python_backend:Q54")
def test_a_request_in_flight_calls_while_the_server_drains_but_finalize_may_not(
    tmp_path: Path, rendezvous: Rendezvous
) -> None:
    write_models(tmp_path)
    write(tmp_path, "too_late", TOO_LATE)
    with serve(tmp_path) as served, ThreadPoolExecutor(1) as pool:
        calling = pool.submit(one, served, "square_int32", {"IN": [7]}, meet="execute")
        visit = rendezvous.next()
        served.process.send_signal(signal.SIGTERM)
        wait_until(lambda: refuses_connections(served), "the port is closed")
        visit.let_go()
        assert calling.result()["outputs"] == {"OUT": [49]}
        assert served.process.wait(20) == 0
        served.stop()
    assert f"TritonModelException: {REFUSED}" in served.log


def test_no_block_is_held_after_all_this(server: Served) -> None:
    for model in ("caller", "caller_2", "caller_3", "add_sub", "square_int32", "trouble", "mirror"):
        wait_until(lambda model=model: leased_blocks(server, model) == 0, f"no leased blocks of {model}")
        assert metric(server, "atoll_shared_memory_used_bytes", model) == 0
