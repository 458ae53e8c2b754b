"""What ``execute`` may return and raise, and what becomes of it, in models that are not decoupled."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from calling import Caller, call, in_background, metric, statistics, wait_until
from commands import CONFIG, Driver, driver
from grpc_wire import RpcClient, infer_request
from rendezvous import Rendezvous, write
from serving import Served, serve

__all__ = ["driver"]

MODEL = """
import gc
import numpy as np
import triton_python_backend_utils as pb_utils
from rendezvous import at

def response(text, *more, **options):
    names = ("OUT", "MORE")
    tensors = [pb_utils.Tensor(name, np.array([[value]], object)) for name, value in zip(names, (text, *more))]
    return pb_utils.InferenceResponse(tensors, **options)

class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

class Leaving(Exception):
    def __str__(self):
        raise SystemExit(3)

class Responses(list):
    pass

class TritonPythonModel:
    def execute(self, requests):
        self.sizes = len(requests)
        whats = [pb_utils.get_input_tensor_by_name(r, "IN").as_numpy().item().decode() for r in requests]
        verb, _, argument = whats[0].partition(":")
        if hasattr(self, verb):
            return getattr(self, verb)(requests, argument)
        return [self.answer(request, what) for request, what in zip(requests, whats)]

    def answer(self, request, what):
        if what == "gate":
            at("gate")
        if what.startswith("error"):
            outputs = response("ignored").output_tensors() if what == "error with outputs" else []
            code = pb_utils.TritonError.NOT_FOUND if what == "error not found" else pb_utils.TritonError.INTERNAL
            return pb_utils.InferenceResponse(outputs, error=pb_utils.TritonError(what, code))
        if what == "size":
            what = str(self.sizes)
        return response(what, "more") if what == "both" else response(what)

    def value(self, requests, kind):
        good = response("good")
        return {
            "tuple": (good,),
            "str": "good",
            "dict": {"OUT": good},
            "generator": (good for _ in requests),
            "nothing": [],
            "surplus": [good, good],
            "strings": ["good"],
            "none": None,
            "subclass": Responses([good]),
        }[kind]

    def crash(self, requests, what):
        return self._crash(what)

    def _crash(self, what):
        if what == "chained":
            try:
                {}["inner"]
            except KeyError as error:
                raise ValueError("outer") from error
        if what == "unprintable":
            raise Unprintable()
        if what == "leaving":
            raise Leaving()
        if what == "exit":
            raise SystemExit(7)
        if what == "model exception":
            raise pb_utils.TritonModelException("mine")
        raise ValueError(what)

    def sent(self, requests, what):
        requests[1].get_response_sender().send(
            response("sent before"), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        )
        raise ValueError("after that")

    def unknown(self, requests, what):
        tensors = [pb_utils.Tensor("NOBODY", np.zeros(3)), *response("known").output_tensors()]
        return [pb_utils.InferenceResponse(tensors)]

    def missing(self, requests, what):
        return [pb_utils.InferenceResponse([])]
"""
PREFIX = "Failed to process the request(s) for model 'rules_0_0', message: "

HALF = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([1.5], np.float16))]) for _ in requests]
"""

OPTIONAL = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        assert pb_utils.get_input_tensor_by_name(requests[0], "MAYBE") is None
        names = ",".join(tensor.name() for tensor in requests[0].inputs())
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([names], object))]) for _ in requests]
"""

ITERATIVE = CONFIG.replace("dynamic_batching { }", "sequence_batching { iterative_sequence: true }")
RESCHEDULING = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    executions = 0

    def execute(self, requests):
        self.executions += 1
        [request] = requests
        what = request.inputs()[0].as_numpy().item()
        answer = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([[str(self.executions)]], object))])
        if what == b"ok":
            return [answer]
        request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
        if what == b"crash":
            raise ValueError("rescheduled and crashed")
        return [answer]
"""

HOLDING = """
import ctypes
import os
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            path = request.inputs()[0].as_numpy()[0].decode()
            descriptor = os.open(path, os.O_RDWR)
            print("holding the interpreter lock", flush=True)
            ctypes.PyDLL(None).read(descriptor, ctypes.create_string_buffer(1), ctypes.c_size_t(1))
            os.close(descriptor)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", r.inputs()[0].as_numpy())]) for r in requests]
"""
STRING = """
backend: "python"
input [ { name: "IN" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "OUT" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""


@pytest.fixture(scope="module")
def served(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    write(repository, "rules", MODEL, CONFIG)
    write(repository, "unable", "class TritonPythonModel:\n    pass\n", CONFIG)
    write(
        repository,
        "half",
        HALF,
        STRING.replace('"OUT" data_type: TYPE_STRING dims: [ 1 ]', '"OUT" data_type: TYPE_FP32 dims: [ 16 ]'),
    )
    maybe = 'input [ { name: "MAYBE" data_type: TYPE_STRING dims: [ 1 ] optional: true } ]\n'
    write(repository, "optional", OPTIONAL, STRING + maybe)
    write(repository, "rescheduling", RESCHEDULING, ITERATIVE)
    write(repository, "holding", HOLDING, STRING)
    with serve(repository) as served:
        yield served


@pytest.mark.spec("python_backend:C41")
def test_a_model_without_execute_loads_and_fails_each_request(driver: Driver, repository: Path) -> None:
    path = repository / "unable" / "1" / "model.py"
    text = f"Failed to process the request(s) for model 'unable_0_0', message: Python model {path} does not implement "
    for _ in range(2):
        assert driver.one("unable", "go") == {"": f"{text}`execute` method."}


@pytest.mark.spec("python_backend:C45")
def test_a_list_may_be_of_a_subclass(driver: Driver) -> None:
    assert driver.one("rules", "value:subclass") == {"OUT": "good"}


@pytest.mark.parametrize("kind", ["tuple", "str", "dict", "generator"])
def test_what_is_no_list_is_named_by_its_type(driver: Driver, kind: str) -> None:
    expected = f"{PREFIX}Expected a list in the execute return, found type '<class '{kind}'>'."
    assert driver.fails("rules", f"value:{kind}") == expected


@pytest.mark.spec("python_backend:C46")
@pytest.mark.parametrize(("kind", "count"), [("nothing", 0), ("surplus", 2)])
def test_a_list_of_another_length_is_an_error(driver: Driver, kind: str, count: int) -> None:
    assert driver.fails("rules", f"value:{kind}") == (
        f"{PREFIX}Number of InferenceResponse objects do not match the number of InferenceRequest objects. "
        f"InferenceRequest(s) size is:1, and InferenceResponse(s) size is:{count}\n"
    )


@pytest.mark.spec("python_backend:C47")
def test_an_element_that_is_no_response_is_named_by_its_type(driver: Driver) -> None:
    assert driver.fails("rules", "value:strings") == (
        f"{PREFIX}Expected an 'InferenceResponse' object in the execute function return list, found type "
        "'<class 'str'>'."
    )


@pytest.mark.spec("python_backend:C44")
@pytest.mark.spec("python_backend:K2")
def test_a_request_that_nobody_answers_is_answered_with_an_error(driver: Driver) -> None:
    assert "neither returned a response nor sent its final one" in driver.fails("rules", "value:none")


@pytest.mark.spec("python_backend:C48")
@pytest.mark.spec("python_backend:Q103")
def test_a_response_to_a_rescheduled_request_is_an_error(driver: Driver) -> None:
    text = driver.one("rescheduling", "answered")[""]
    assert text.startswith(
        "Failed to process the request(s) for model 'rescheduling_0_0', message: Expected a None object in the execute "
        "function return list for reschduled request, found type '<class '"
    )
    assert text.endswith("InferenceResponse'>'.")


@pytest.mark.spec("python_backend:C51")
def test_a_rescheduled_request_of_a_failed_batch_does_not_come_again(driver: Driver) -> None:
    before = int(driver.one("rescheduling", "ok")["OUT"])
    assert "ValueError: rescheduled and crashed" in driver.one("rescheduling", "crash")[""]
    assert int(driver.one("rescheduling", "ok")["OUT"]) == before + 2


@pytest.mark.spec("python_backend:C50")
def test_a_failed_batch_answers_each_request_once(driver: Driver) -> None:
    first, second, third = driver.batch("rules", "sent", "ok", "ok")
    assert second == {"OUT": "sent before"}
    for failed in (first, third):
        assert failed[""].startswith(f"{PREFIX}ValueError: after that\n\nAt:\n")


@pytest.mark.spec("python_backend:C53")
@pytest.mark.spec("python_backend:C55")
@pytest.mark.spec("python_backend:Q27")
def test_errors_are_those_of_single_requests(driver: Driver) -> None:
    answers = driver.batch("rules", "error", "size", "error with outputs")
    assert answers == [{"": "error"}, {"OUT": "3"}, {"": "error with outputs"}]


@pytest.mark.spec("python_backend:C52")
@pytest.mark.spec("python_backend:C54")
@pytest.mark.spec("python_backend:Q28")
def test_exceptions_count_as_failures_of_the_backend_and_error_responses_do_not(driver: Driver) -> None:
    served = driver.served

    def failures() -> float:
        lines = [line for line in served.metrics().splitlines() if line.startswith("nv_inference_request_failure{")]
        [line] = [line for line in lines if 'model="rules"' in line and 'reason="BACKEND"' in line]
        return float(line.rpartition(" ")[2])

    before, succeeded = failures(), statistics(served, "rules")["inference_stats"]["success"]["count"]
    assert driver.fails("rules", "crash:kaboom").startswith(f"{PREFIX}ValueError: kaboom\n\nAt:\n")
    assert failures() == before + 1
    assert driver.fails("rules", "error not found") == "error not found"
    assert failures() == before + 1
    assert statistics(served, "rules")["inference_stats"]["success"]["count"] == succeeded + 3


@pytest.mark.spec("python_backend:Q88")
@pytest.mark.spec("python_backend:C56")
def test_only_requested_outputs_are_sent(driver: Driver) -> None:
    assert driver.one("rules", "both") == {"OUT": "both", "MORE": "more"}
    assert driver.one("rules", "both", outputs=["MORE"]) == {"MORE": "more"}


@pytest.mark.spec("python_backend:C58")
def test_an_output_that_the_configuration_does_not_know_vanishes(driver: Driver) -> None:
    assert driver.one("rules", "unknown") == {"OUT": "known"}


@pytest.mark.spec("python_backend:C59")
def test_a_response_may_lack_outputs(driver: Driver) -> None:
    assert driver.one("rules", "missing") == {}
    assert driver.one("rules", "ok", outputs=["MORE"]) == {}


@pytest.mark.spec("python_backend:Q38")
@pytest.mark.spec("python_backend:C60")
def test_outputs_may_have_another_type_and_shape_than_configured(served: Served) -> None:
    raw = (1).to_bytes(4, "little") + b"x"
    request = infer_request("half", {"name": "IN", "datatype": "BYTES", "shape": [1]}, raw_input_contents=[raw])
    with RpcClient(served.grpc_url) as client:
        answer = client.infer(request)
    assert (answer.outputs[0].datatype, list(answer.outputs[0].shape)) == ("FP16", [1])
    assert np.frombuffer(answer.raw_output_contents[0], np.float16).tolist() == [1.5]


@pytest.mark.spec("python_backend:C62")
def test_an_optional_input_that_was_not_sent_is_none(served: Served) -> None:
    assert call(served, "optional", {"IN": ["x"]})["OUT"] == [b"IN"]


@pytest.mark.spec("python_backend:C64")
def test_a_batch_of_nothing_is_answered(driver: Driver) -> None:
    request = infer_request("rules", {"name": "IN", "datatype": "BYTES", "shape": [0, 1]}, raw_input_contents=[b""])
    [answer] = driver.stream(request)
    assert answer.error_message


@pytest.mark.spec("python_backend:C120")
def test_sys_exit_is_an_error_and_the_process_lives(driver: Driver) -> None:
    pids = driver.served.stubs()
    assert driver.fails("rules", "crash:exit").startswith(f"{PREFIX}SystemExit: 7\n\nAt:\n")
    assert driver.served.stubs() == pids


@pytest.mark.spec("python_backend:C122")
def test_of_chained_exceptions_the_outer_is_shown_innermost_frame_first(driver: Driver, repository: Path) -> None:
    text = driver.fails("rules", "crash:chained")
    path = repository / "rules" / "1" / "model.py"
    lines = path.read_text().splitlines()
    frames = [("_crash", 'raise ValueError("outer")'), ("crash", "self._crash(what)"), ("execute", "getattr(self, v")]
    at = "".join(
        f"  {path}({next(n for n, line in enumerate(lines, 1) if code in line)}): {name}\n" for name, code in frames
    )
    assert text == f"{PREFIX}ValueError: outer\n\nAt:\n{at}"


def test_a_model_exception_is_rendered_as_any_other(driver: Driver) -> None:
    text = driver.fails("rules", "crash:model exception")
    assert text.startswith(f"{PREFIX}TritonModelException: mine\n\nAt:\n")


def test_an_exception_whose_text_fails_is_no_reason_to_die(driver: Driver) -> None:
    pids = driver.served.stubs()
    assert driver.fails("rules", "crash:leaving").startswith(f"{PREFIX}Leaving: <no text")
    assert driver.fails("rules", "crash:unprintable").startswith(f"{PREFIX}Unprintable: <no text")
    assert driver.served.stubs() == pids


@pytest.mark.spec("python_backend:C118")
@pytest.mark.spec("python_backend:K5")
def test_a_stub_that_stood_still_answers_each_request_with_its_own(served: Served) -> None:
    pid = served.stubs()["rules_0_0"]
    os.kill(pid, signal.SIGSTOP)
    try:
        waiting = "nv_inference_pending_request_count"
        with RpcClient(served.grpc_url) as client:
            calls = []
            for number in range(12):
                raw = len(str(number)).to_bytes(4, "little") + str(number).encode()
                tensor = {"name": "IN", "datatype": "BYTES", "shape": [1, 1]}
                calls.append(client.start(infer_request("rules", tensor, raw_input_contents=[raw])))
            wait_until(lambda: metric(served, waiting, "rules") >= 11, "all but one are queued")
            calls[0].cancel()
            os.kill(pid, signal.SIGCONT)
            answers = [future.result() for future in calls[1:]]
    finally:
        os.kill(pid, signal.SIGCONT)
    numbers = [str(number).encode() for number in range(1, 12)]
    assert [number in answer for number, answer in zip(numbers, answers, strict=True)] == [True] * 11
    assert served.stubs()["rules_0_0"] == pid


@pytest.mark.spec("python_backend:C119")
def test_a_model_that_holds_the_interpreter_lock_is_not_given_up(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with Caller(served) as caller, in_background(caller, "holding", {"IN": [str(path)]}) as answered:
        served.wait_for_log("holding the interpreter lock")
        status, _ = served.get("/v2/models/holding/ready")
        assert status == 200
        path.write_bytes(b"x")
        assert answered.result()["OUT"] == [str(path).encode()]
