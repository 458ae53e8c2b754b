"""Requests that come again: ``set_release_flags`` in models with iterative sequences, and in those without."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calling import call, in_background, leased_blocks, metric, statistics, wait_until
from grpc_wire import RpcClient, infer_request
from rendezvous import Rendezvous, config, write
from serving import Served, serve

ITERATIVE = "sequence_batching { iterative_sequence: true oldest { max_candidate_sequences: 8 } }"
DECOUPLED = ITERATIVE + "\nmodel_transaction_policy { decoupled: true }"
COUNTING = """
import os
import numpy as np
import triton_python_backend_utils as pb_utils
from rendezvous import at

START = pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START
AGAIN = pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL

class TritonPythonModel:
    def initialize(self, args):
        self.seen = {}

    def execute(self, requests):
        return [self.step(request) for request in requests]

    def step(self, request):
        flags, key = request.flags(), request.correlation_id()
        before = [] if flags & START else self.seen.pop(key)
        steps = [*before, (os.getpid(), flags, key)]
        if len(steps) < int(request.inputs()[0].as_numpy()[0]):
            self.seen[key] = steps
            request.set_release_flags(AGAIN)
            return None
        return answer(np.array(steps, np.int32).ravel())

def answer(array):
    return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array)])
"""
"""Comes as often as the input says, and answers with three numbers for each time: process, flags, correlation id."""

STREAMING = """
from rendezvous import at
import numpy as np
import triton_python_backend_utils as pb_utils

AGAIN = pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL

class TritonPythonModel:
    def initialize(self, args):
        self.left = {}

    def execute(self, requests):
        for request in requests:
            self.step(request)

    def step(self, request):
        key, sender = request.correlation_id(), request.get_response_sender()
        left = self.left.pop(key, int(request.inputs()[0].as_numpy()[0]))
        out = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([left], np.int32))])
        if request.parameters() != "{}" and at(f"step, cancelled: {request.is_cancelled()}") == "stop":
            sender.send(out, flags=FINAL)
        elif left:
            sender.send(out)
            self.left[key] = left - 1
            request.set_release_flags(AGAIN)
        else:
            sender.send(out, flags=FINAL)
"""
"""Counts down to 0, one response for each step."""

UNDECIDED = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
            if request.inputs()[0].as_numpy()[0]:
                request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_ALL)
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUT", request.inputs()[0].as_numpy())])
            if request.inputs()[0].as_numpy()[0] else None
            for request in requests
        ]
"""
CALLING = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.call(request) for request in requests]

    def call(self, request):
        three = pb_utils.Tensor("IN", request.inputs()[0].as_numpy())
        nested = pb_utils.InferenceRequest(
            model_name="streaming", requested_output_names=["OUT"], inputs=[three], correlation_id=7
        )
        values = [
            pb_utils.get_output_tensor_by_name(response, "OUT").as_numpy()[0]
            for response in nested.exec(decoupled=True)
            if response.output_tensors()
        ]
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array(values, np.int32))])
"""


BATCHED = """
import numpy as np
import triton_python_backend_utils as pb_utils
from rendezvous import at

class TritonPythonModel:
    def initialize(self, args):
        self.seen = {}

    def execute(self, requests):
        if any(request.parameters() != "{}" and request.flags() for request in requests):
            at("first step")
        return [self.step(request, len(requests)) for request in requests]

    def step(self, request, size):
        key = request.correlation_id()
        sizes = self.seen.pop(key, []) + [size]
        if key and len(sizes) < request.inputs()[0].as_numpy().ravel()[0]:
            self.seen[key] = sizes
            request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
            return None
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([sizes], np.int32))])
"""
"""Tells how many requests were in the batch at each step."""
READY = 'control_input [ { name: "READY" control [ { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } ] } ]'
BATCHED_MODELS = {
    "batched_direct": ("", [1, 2, 2], [2, 2, 1]),
    "batched_direct_ready": (READY, [1, 2, 2], [2, 2, 2]),
    "batched_oldest": ("oldest { }", [1, 2, 2], [2, 2, 1]),
}


@pytest.fixture(scope="module")
def served(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    numbers = ("IN:INT32", "OUT:INT32")
    write(repository, "counting", COUNTING, config(*numbers, more=ITERATIVE))
    write(repository, "counting_twice", COUNTING, config(*numbers, count=2, more=ITERATIVE))
    write(repository, "streaming", STREAMING, config(*numbers, more=DECOUPLED))
    for name, (more, _, _) in BATCHED_MODELS.items():
        batching = f"max_batch_size: 4\nsequence_batching {{ iterative_sequence: true {more} }}"
        write(repository, name, BATCHED, config(*numbers, more=batching))
    write(repository, "undecided", UNDECIDED, config(*numbers, more=ITERATIVE))
    write(repository, "calling", CALLING, config(*numbers))
    write(repository, "unprepared", UNDECIDED, config(*numbers))
    write(
        repository,
        "unprepared_stream",
        STREAMING,
        config(*numbers, more="model_transaction_policy { decoupled: true }"),
    )
    with serve(repository) as served:
        yield served


def number(value: int) -> dict[str, Any]:
    return {"IN": np.array([value], np.int32)}


def steps(served: Served, model: str, times: int, **options: Any) -> list[tuple[int, int, int]]:
    """Process, flags and correlation id of each time that a request came."""
    rows = call(served, model, number(times), **options)["OUT"].reshape(-1, 3).tolist()
    return [(pid, flags, key) for pid, flags, key in rows]


def countdown(value: int, model: str = "streaming", **fields: Any) -> Any:
    tensor = {"name": "IN", "datatype": "INT32", "shape": [1]}
    return infer_request(model, tensor, raw_input_contents=[np.array([value], "<i4").tobytes()], **fields)


def values(messages: Any) -> dict[str, list[int]]:
    """What was streamed, by the request's id."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for message in messages:
        assert not message.error_message
        for raw in message.infer_response.raw_output_contents:
            found[message.infer_response.id] += np.frombuffer(raw, "<i4").tolist()
    return found


# -- the default mode


@pytest.mark.spec("python_backend:C88")
@pytest.mark.spec("python_backend:Q102")
@pytest.mark.spec("server:224")
def test_a_request_comes_again_without_the_start_flag_until_it_is_answered(served: Served) -> None:
    came = steps(served, "counting", 4)
    assert [flags for _, flags, _ in came] == [1, 0, 0, 0]
    assert len({key for _, _, key in came}) == 1
    assert came[0][2] != 0


def test_each_request_is_a_sequence_of_its_own(served: Served) -> None:
    keys = {steps(served, "counting", 1)[0][2] for _ in range(5)}
    assert len(keys) == 5


def test_a_sequence_id_of_the_clients_is_kept(served: Served) -> None:
    came = steps(served, "counting", 2, parameters={"sequence_id": 4711, "sequence_start": True})
    assert [(flags, key) for _, flags, key in came] == [(1, 4711), (0, 4711)]


def test_every_time_counts_as_an_execution(served: Served) -> None:
    before = statistics(served, "counting")["execution_count"]
    steps(served, "counting", 5)
    assert statistics(served, "counting")["execution_count"] == before + 5


def test_a_sequence_stays_with_its_instance(served: Served) -> None:
    with ThreadPoolExecutor(6) as pool:
        sequences = list(pool.map(lambda _: steps(served, "counting_twice", 40), range(12)))
    assert all(len({pid for pid, _, _ in sequence}) == 1 for sequence in sequences)
    assert {sequence[0][0] for sequence in sequences} == {
        pid for name, pid in served.stubs().items() if name.startswith("counting_twice")
    }


def test_a_long_sequence_does_not_keep_others_out(served: Served) -> None:
    with in_background(steps, served, "counting", 3000) as long:
        wait_until(lambda: metric(served, "nv_inference_exec_count", "counting") > 20, "the long one is under way")
        assert len(steps(served, "counting", 3)) == 3
        assert not long.done()
        assert len(long.result(30)) == 3000


@pytest.mark.spec("server:224")
@pytest.mark.parametrize("model", BATCHED_MODELS)
def test_steps_of_several_requests_make_a_batch(served: Served, rendezvous: Rendezvous, model: str) -> None:
    def sizes(meet: bool) -> Any:
        inputs = {"IN": np.array([[3]], np.int32)}
        return call(served, model, inputs, parameters={"meet": True} if meet else {})["OUT"][0].tolist()

    _, first, second = BATCHED_MODELS[model]
    with in_background(sizes, True) as one:
        visit = rendezvous.next()
        with in_background(sizes, False) as two:
            wait_until(lambda: metric(served, "nv_inference_pending_request_count", model) == 1, "the second waits")
            visit.let_go()
            assert [one.result(20), two.result(20)] == [first, second]


@pytest.mark.spec("python_backend:C91")
def test_the_last_flags_count(served: Served) -> None:
    assert call(served, "undecided", number(1))["OUT"].tolist() == [1]


# -- decoupled models


@pytest.mark.spec("python_backend:C89")
@pytest.mark.spec("python_backend:Q102")
def test_a_decoupled_model_answers_at_each_step(served: Served) -> None:
    with RpcClient(served.grpc_url) as client:
        requests = [countdown(count, id=str(count)) for count in (2, 0, 5)]
        assert values(client.stream(requests)) == {"2": [2, 1, 0], "0": [0], "5": [5, 4, 3, 2, 1, 0]}
    assert leased_blocks(served, "streaming") == 0


@pytest.mark.spec("python_backend:Q102")
def test_a_model_may_call_such_a_model(served: Served) -> None:
    assert call(served, "calling", number(2))["OUT"].tolist() == [2, 1, 0]


def test_a_model_sees_that_its_client_went_away_between_two_steps(served: Served, rendezvous: Rendezvous) -> None:
    with RpcClient(served.grpc_url) as client:
        stream = client.stream([countdown(1000, parameters={"meet": True})])
        visit = rendezvous.next()
        assert visit.place == "step, cancelled: False"
        stream.cancel()
        while visit.place == "step, cancelled: False":
            visit.let_go()
            visit = rendezvous.next()
        visit.let_go()
        visit = rendezvous.next()
        assert visit.place == "step, cancelled: True"  # at every step from then on
        visit.let_go("stop")
    wait_until(lambda: metric(served, "nv_inference_pending_request_count", "streaming") == 0, "nothing waits")


# -- without iterative sequences


@pytest.mark.spec("python_backend:C90")
@pytest.mark.spec("python_backend:Q104")
def test_other_models_cannot_see_a_request_again(served: Served) -> None:
    text = (
        "Request is released with TRITONSERVER_REQUEST_RELEASE_RESCHEDULE, while the model is not configured to handle "
        "such a flag."
    )
    answer = call(served, "unprepared", number(0))
    assert (answer.status, answer.error) == (400, text)
    assert call(served, "unprepared", number(1))["OUT"].tolist() == [1]
    with RpcClient(served.grpc_url) as client:
        first, last = client.stream([countdown(3, "unprepared_stream")])
    assert np.frombuffer(first.infer_response.raw_output_contents[0], "<i4").tolist() == [3]
    assert last.error_message == text


# -- the end of an instance


def test_sequences_end_with_their_instance(tmp_path: Path, rendezvous: Rendezvous) -> None:
    code = COUNTING.replace("        before = [", '        flags & START and at("start")\n        before = [')
    write(tmp_path, "m", code, config("IN:INT32", "OUT:INT32", more=ITERATIVE))
    with serve(tmp_path) as served, in_background(call, served, "m", number(3)) as one:
        first = rendezvous.next()
        with in_background(call, served, "m", number(3)) as two:
            wait_until(lambda: metric(served, "nv_inference_pending_request_count", "m") == 1, "the second waits")
            first.let_go()
            second = rendezvous.next()  # the first waits behind it for its second step
            os.kill(second.pid, signal.SIGKILL)
            answers = [future.result(20) for future in (one, two)]
        assert [answer.status for answer in answers] == [500, 500]
        assert all("Stub process 'm_0_0' is not healthy." in answer.error for answer in answers)
        with in_background(steps, served, "m", 1) as three:
            rendezvous.next().let_go()
            assert len(three.result(20)) == 1
