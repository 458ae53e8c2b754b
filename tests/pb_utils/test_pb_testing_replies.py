"""``load_model`` and all that a model may do beside returning: senders, streams, coroutines, the log, metrics."""

from __future__ import annotations

import logging
import threading
from typing import Any

import numpy as np
import pytest
from model_files import Write, ask
from triton_python_backend_utils import InferenceRequest, InferenceResponse, Tensor, TritonModelException
from triton_python_backend_utils.testing import WrongReturn, load_model

HEAD = """
import asyncio
import threading
import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
RESCHEDULE = pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE

def number(value):
    return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([value]))])

def size_of(request):
    return request.inputs()[0].as_numpy().size

class TritonPythonModel:
"""
DECOUPLED = {"model_transaction_policy": {"decoupled": True}, "output": [{"name": "OUT"}]}


@pytest.fixture
def executes(write: Write) -> Any:
    """Load a model whose ``execute`` has this body."""

    def load(body: str, async_: bool = False, **options: Any) -> Any:
        indented = "".join(f"    {line}\n" for line in body.strip().splitlines())
        return load_model(
            write(f"{'async ' if async_ else ''}def execute(self, requests):\n{indented}", head=HEAD), **options
        )

    return load


def sizes(*counts: int) -> list[InferenceRequest]:
    return [ask(np.zeros(count)) for count in counts]


def values(responses: list[InferenceResponse]) -> list[Any]:
    """Of each response its number, or its error's text."""
    found: list[Any] = []
    for response in responses:
        error = response.error()
        if error is None:
            found.append(response.output_tensors()[0].as_numpy().tolist()[0])
        else:
            found.append(error.message())
    return found


# -- one response for each request


def test_returned_and_sent_responses_come_in_the_order_of_their_requests(executes: Any) -> None:
    body = """
requests[1].get_response_sender().send(number(size_of(requests[1])), FINAL)
sender, response = requests[2].get_response_sender(), number(size_of(requests[2]))
threading.Thread(target=sender.send, args=(response, FINAL)).start()
return [number(size_of(requests[0])), None, None]
"""
    with executes(body) as model:
        assert values(model.execute(sizes(1, 2, 3))) == [1, 2, 3]


def test_a_request_that_nobody_answers_has_an_error(executes: Any) -> None:
    with executes("pass") as model:
        assert (
            values(model.execute(sizes(1, 2)))
            == [
                "The model neither returned a response nor sent its final one: the request and its response sender "
                "are gone."
            ]
            * 2
        )


def test_a_request_that_the_model_keeps_unanswered_is_told(executes: Any) -> None:
    with executes("self.kept = requests[1]\nreturn [number(1), None]") as model:
        with pytest.raises(TimeoutError, match=r"request 1 of the batch has no final response 0\.05 s on"):
            model.execute(sizes(1, 2), timeout_s=0.05)
        del model.instance.kept


def test_the_first_answer_counts_and_closes_the_sender(executes: Any) -> None:
    body = """
self.sender = requests[0].get_response_sender()
self.sender.send(number(1))
return [number(2)]
"""
    with executes(body) as model:
        assert values(model.execute(sizes(1))) == [1]
        with pytest.raises(
            TritonModelException, match=r"Unable to send response\. Non-decoupled model cannot send more"
        ):
            model.instance.sender.send(InferenceResponse())
        with pytest.raises(TritonModelException, match=r"Unable to send response\. Response sender has been closed\."):
            model.instance.sender.send(flags=1)


def test_only_outputs_that_were_asked_for_are_sent(executes: Any) -> None:
    body = "requests[0].get_response_sender().send(number(1), FINAL)"
    with executes(body, config={"output": [{"name": "OUT"}, {"name": "B"}]}) as model:
        (response,) = model.execute([ask(np.zeros(1), outputs=["B"])])
    assert response.output_tensors() == []


def test_a_rescheduled_request_is_executed_until_it_is_answered(executes: Any) -> None:
    body = """
self.count = getattr(self, "count", 0) + 1
responses = []
for request in requests:
    again = size_of(request) > self.count
    if again:
        request.set_release_flags(RESCHEDULE)
    responses.append(None if again else number(self.count))
return responses
"""
    with executes(body) as model:
        assert values(model.execute(sizes(3, 1, 2))) == [3, 1, 2]
    with executes("requests[0].set_release_flags(RESCHEDULE)\nreturn [number(1)]") as model, pytest.raises(WrongReturn):
        model.execute(sizes(1))


# -- decoupled models


def test_a_decoupled_model_gives_a_list_of_responses_for_each_request(executes: Any) -> None:
    body = """
for request in requests:
    sender = request.get_response_sender()
    for value in range(size_of(request)):
        sender.send(number(value))
    sender.send(flags=FINAL)
"""
    with executes(body, config=DECOUPLED) as model:
        assert [values(responses) for responses in model.execute(sizes(2, 0, 1))] == [[0, 1], [], [0]]


def test_a_stream_may_go_on_in_a_thread(executes: Any) -> None:
    body = """
def stream(sender):
    for value in range(3):
        sender.send(number(value), FINAL if value == 2 else 0)
for request in requests:
    threading.Thread(target=stream, args=(request.get_response_sender(),)).start()
"""
    with executes(body, config=DECOUPLED) as model:
        assert [values(responses) for responses in model.execute(sizes(1, 1))] == [[0, 1, 2]] * 2


def test_a_stream_that_nobody_ends_ends_with_an_error(executes: Any) -> None:
    with executes("requests[0].get_response_sender().send(number(1))", config=DECOUPLED) as model:
        ((first, error),) = model.execute(sizes(1))
    assert values([first]) == [1]
    assert error.has_error()


def test_a_decoupled_model_may_not_return(executes: Any) -> None:
    with executes("return []", config=DECOUPLED) as model, pytest.raises(WrongReturn) as caught:
        model.execute(sizes(1))
    assert str(caught.value) == (
        "Python model 'm_0_0' is using the decoupled mode and the execute function must return None."
    )


def test_a_decoupled_model_may_send_and_see_the_request_again(executes: Any) -> None:
    body = """
self.count = getattr(self, "count", 0) + 1
requests[0].get_response_sender().send(number(self.count), FINAL if self.count == 3 else 0)
if self.count < 3:
    requests[0].set_release_flags(RESCHEDULE)
"""
    with executes(body, config=DECOUPLED) as model:
        assert [values(responses) for responses in model.execute(sizes(1))] == [[1, 2, 3]]


# -- coroutines


def test_a_coroutine_is_awaited(executes: Any) -> None:
    body = """
await asyncio.sleep(0)
async def calls(request):
    return await pb_utils.InferenceRequest(
        model_name="other", requested_output_names=["OUT"], inputs=request.inputs()).async_exec()
return await asyncio.gather(*map(calls, requests))
"""
    meeting = threading.Barrier(2, timeout=10)

    def other(request: InferenceRequest) -> InferenceResponse:
        meeting.wait()  # both calls are under way at once
        return InferenceResponse([Tensor("OUT", np.array([request.inputs()[0].as_numpy().size]))])

    with executes(body, async_=True, bls=other) as model:
        assert values(model.execute(sizes(1, 2))) == [1, 2]


def test_an_exception_of_a_coroutine_reaches_the_test(executes: Any) -> None:
    body = "await asyncio.sleep(0)\nraise ValueError('no')"
    for config in ({}, DECOUPLED):
        with executes(body, async_=True, config=config) as model, pytest.raises(ValueError, match="no"):
            model.execute(sizes(1))


def test_a_coroutine_that_does_not_end_is_told(executes: Any) -> None:
    late = pytest.raises(TimeoutError, match=r"execute\(\) has not ended 0\.05 s on")
    with executes("await asyncio.Event().wait()", async_=True) as model, late:
        model.execute(sizes(1), timeout_s=0.05)


def test_a_coroutine_of_a_decoupled_model_answers_in_its_own_time(executes: Any) -> None:
    body = """
self.first = getattr(self, "first", None) or asyncio.Event()
for request in requests:
    sender = request.get_response_sender()
    await asyncio.sleep(0)
    sender.send(number(1))
    sender.send(number(2), FINAL)
"""
    with executes(body, async_=True, config=DECOUPLED) as model:
        for _ in range(2):
            assert [values(responses) for responses in model.execute(sizes(1, 1))] == [[1, 2]] * 2


def test_a_task_lives_on_between_executions(executes: Any) -> None:
    body = """
if not hasattr(self, "event"):
    self.event = asyncio.Event()
    self.task = asyncio.ensure_future(self.event.wait())
    return [number(self.task.done())]
self.event.set()
return [number(await self.task)]
"""
    with executes(body, async_=True) as model:
        assert [values(model.execute(sizes(1))) for _ in range(2)] == [[False], [True]]
    with executes(body, async_=True) as model:
        model.execute(sizes(1))
        task = model.instance.task
    assert task.cancelled()  # by finalize, as the process's end would


# -- streams of calls


def test_a_call_may_be_answered_by_a_stream(executes: Any) -> None:
    body = """
call = pb_utils.InferenceRequest(model_name="other", requested_output_names=["OUT"], inputs=[])
total = sum(response.output_tensors()[0].as_numpy().sum() for response in call.exec(decoupled=True))
return [number(total)]
"""

    def response(value: int) -> InferenceResponse:
        return InferenceResponse([Tensor("OUT", np.array([value])), Tensor("MORE", np.zeros(1))])

    for bls, total in ((lambda request: map(response, range(4)), 6), (lambda request: response(5), 5)):
        with executes(body, bls=bls) as model:
            assert values(model.execute(sizes(1))) == [total]
    plain = body.replace("call.exec(decoupled=True)", "[call.exec()]")
    with (
        executes(plain, bls=lambda request: [response(1)]) as model,
        pytest.raises(TritonModelException, match="Requests to model 'other' are answered as by a decoupled model"),
    ):
        model.execute(sizes(1))


# -- the rest of a server


def test_what_a_model_logs_goes_to_logging(executes: Any, caplog: pytest.LogCaptureFixture) -> None:
    body = """
pb_utils.Logger.log_info("100 % info")
pb_utils.Logger.log_warn("warning")
pb_utils.Logger.log_error("error")
pb_utils.Logger.log_verbose("verbose")
return [number(1)]
"""
    with executes(body) as model, caplog.at_level(logging.DEBUG, "pb_utils"):
        model.execute(sizes(1))
    assert caplog.record_tuples == [
        ("pb_utils", logging.INFO, "100 % info"),
        ("pb_utils", logging.WARNING, "warning"),
        ("pb_utils", logging.ERROR, "error"),
        ("pb_utils", logging.DEBUG, "verbose"),
    ]
    assert (caplog.records[0].filename, caplog.records[0].lineno) == ("model.py", 18)


METRICS = """
def initialize(self, args):
    Family = pb_utils.MetricFamily
    self.families = [Family("c", "", Family.COUNTER), Family("g", "", Family.GAUGE), Family("h", "", Family.HISTOGRAM)]
    self.counter = self.families[0].Metric(labels={"a": "x", "b": "y"})
    self.gauge = self.families[1].Metric()
    self.histogram = self.families[2].Metric(buckets=[1, 2])

def execute(self, requests):
    self.counter.increment(2)
    self.gauge.set(5)
    self.gauge.increment(-1.5)
    self.histogram.observe(3)
    self.values = self.counter.value(), self.gauge.value()
    return [pb_utils.InferenceResponse() for _ in requests]
"""


def test_metrics_are_kept_for_the_test_to_look_at(write: Write) -> None:
    with load_model(write(METRICS)) as model:
        model.execute([ask()])
        model.execute([ask()])
        assert model.instance.values == (4.0, 3.5)
    assert model.metric("c", {"b": "y", "a": "x"}).value == 4
    assert model.metric("g").value == 3.5
    assert model.metric("h").observed == [3, 3]
    for name, labels in (("c", {}), ("x", {})):
        with pytest.raises(KeyError):
            model.metric(name, labels)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("Family('a-b', '', Family.GAUGE)", "Error when creating MetricFamily: Invalid metric name: 'a-b'"),
        (
            "a, b = Family('f', '', Family.GAUGE), Family('f', '', Family.COUNTER)",
            "Error when creating MetricFamily: Metric family 'f' already exists with kind GAUGE, not COUNTER",
        ),
        ("Family('f', '', Family.GAUGE).Metric(labels={'a': 1})", "Error when creating Metric: Labels must be strings"),
        (
            "Family('f', '', Family.HISTOGRAM).Metric(labels={'le': '1'}, buckets=[])",
            "Error when creating Metric: Invalid label name: 'le'",
        ),
        (
            "Family('f', '', Family.HISTOGRAM).Metric(buckets=[2, 1])",
            "Error when creating Metric: Buckets must be in ascending order, without duplicates",
        ),
        (
            "f = Family('f', '', Family.COUNTER); f.Metric().increment(-1)",
            "Failed to increment metric value: TRITONSERVER_METRIC_KIND_COUNTER can only be incremented monotonically "
            "by non-negative values.",
        ),
        (
            "f = Family('f', '', Family.COUNTER); f.Metric().set(1)",
            "Failed to set metric value: TRITONSERVER_METRIC_KIND_COUNTER does not support Set",
        ),
        (
            "f = Family('f', '', Family.GAUGE); f.Metric().observe(1)",
            "Failed to observe metric value: TRITONSERVER_METRIC_KIND_GAUGE does not support Observe",
        ),
        (
            "f = Family('f', '', Family.HISTOGRAM); f.Metric(buckets=[]).value()",
            "Failed to get metric value: TRITONSERVER_METRIC_KIND_HISTOGRAM does not support Value",
        ),
    ],
)
def test_metrics_refuse_what_a_server_refuses(write: Write, line: str, text: str) -> None:
    path = write(f"def initialize(self, args):\n    Family = pb_utils.MetricFamily\n    {line}")
    with pytest.raises(TritonModelException) as caught:
        load_model(path)
    assert str(caught.value) == text


def test_there_is_no_server_to_control(write: Write) -> None:
    path = write("def initialize(self, args):\n    pb_utils.load_model('other')")
    with pytest.raises(TritonModelException, match="There is no server to ask for 'load_model' in a test without one"):
        load_model(path)


@pytest.mark.parametrize(
    ("body", "ready"),
    [
        ("pass", True),
        ("is_ready = True", True),
        ("def is_ready(self):\n    return False", False),
        ("async def is_ready(self):\n    return True", True),
    ],
)
def test_a_model_says_whether_it_is_ready(write: Write, body: str, ready: bool) -> None:
    with load_model(write(body)) as model:
        assert model.is_ready() is ready


def test_is_ready_returns_a_bool(write: Write) -> None:
    path = write("def is_ready(self):\n    return np.bool_(True)")
    with load_model(path) as model, pytest.raises(WrongReturn) as caught:
        model.is_ready()
    assert str(caught.value) == "is_ready() must return a boolean value"
