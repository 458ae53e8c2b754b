"""Requests at a stub: which message answers which, what stays open after an execution, and what a death leaves.

No stub, no socket: the messages of the stub are made here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from atoll.errors import Code, ServerError
from atoll.inference import Request, Response, Tensor
from atoll.instances.channel import Channel
from atoll.instances.exchange import Exchange, Execution
from atoll.instances.instance import Instance
from atoll_ipc.wire import Kind
from channel_twin import FREED, ChannelTwin

TIMES = [1000, 8000, 2000]
ANSWER: list[Any] = [[["OUT", 2, [1], b"x"]], None, {"n": 1}]


class InstanceTwin:
    name = "m_0_0"


class Setup:
    """An exchange, and what its owner heard: (what, request ids or responses)."""

    def __init__(self) -> None:
        self.channel = ChannelTwin()
        self.heard: list[tuple[Any, ...]] = []
        self.responses: list[Response] = []
        self.exchange = Exchange(cast(Instance, InstanceTwin()), self, version=3)
        self.soon: list[Callable[[], None]] = []
        self.exchange.attach(cast(Channel, self.channel), self.soon.append)

    def executed(
        self, instance: Instance, execution: Execution, responses: list[Response], times_ns: tuple[int, int, int]
    ) -> None:
        self.heard.append(("executed", execution.id, [response.request.id for response in responses], times_ns))
        self.responses += responses

    def dropped_ended(self, instance: Instance) -> None:
        self.heard.append(("dropped ended",))

    def execution_failed(self, instance: Instance, execution: Execution, error: ServerError) -> None:
        self.heard.append(("failed", execution.id, error.code, error.message))

    def responded(self, instance: Instance, request: Request, response: Response, output_ns: int) -> None:
        assert response.request is request
        error = None if response.error is None else response.error.message
        self.heard.append(("responded", request.id, response.final, response.empty, error))
        self.responses.append(response)

    def rescheduled(self, instance: Instance, requests: list[Request]) -> None:
        self.heard.append(("rescheduled", [request.id for request in requests]))

    def execute(self, ids: str) -> list[Request]:
        requests = [Request("m", [Tensor("IN", "UINT8", [1], b"i")], lambda response: None, id=id) for id in ids]
        self.exchange.execute(requests, now_ns=5)
        return requests

    def result(self, execution_id: int, *results: Any, rescheduled: Any = (), released: Any = ()) -> None:
        self.exchange.on_result([Kind.RESULT, execution_id, list(results), list(released), TIMES, list(rescheduled), 5])

    def response(self, execution_id: int, index: int, result: Any, final: bool = True, released: Any = ()) -> None:
        self.exchange.on_response([Kind.RESPONSE, execution_id, index, result, final, list(released), 5])


@pytest.fixture
def on() -> Setup:
    return Setup()


def executed(execution_id: int, *ids: str) -> tuple[Any, ...]:
    return ("executed", execution_id, list(ids), TIMES)


def responded(id: str, final: bool = True, *, empty: bool = False, error: str | None = None) -> tuple[Any, ...]:
    return ("responded", id, final, empty, error)


# -- to the stub


def test_a_batch_is_sent_with_all_that_a_model_may_ask_of_its_requests(on: Setup) -> None:
    request = Request(
        "m",
        [Tensor("A", "UINT8", [1], b"a")],
        lambda response: None,
        id="r",
        outputs=["OUT"],
        parameters={"p": 1},
        correlation_id="seq",
        flags=3,
        timeout_us=9,
    )
    on.exchange.execute([request], now_ns=5)
    fields = ["r", "seq", 3, 9, {"p": 1}, ["OUT"], [["A"]], None]
    assert on.channel.sent == [[Kind.EXECUTE, 1, [fields], [(7, 0)], True, []]]
    assert on.exchange.executions[0].began_ns == 5


def test_the_stub_is_told_when_it_has_other_work_already(on: Setup) -> None:
    on.execute("a")
    on.execute("b")
    on.result(1, ANSWER)
    on.result(2, ANSWER)
    on.execute("c")
    assert [(message[1], message[4]) for message in on.channel.sent] == [(1, True), (2, False), (3, True)]


# -- answers that execute returned


def test_what_execute_returned_answers_the_batch(on: Setup) -> None:
    requests = on.execute("ab")
    on.result(1, ANSWER, [[], [2, "no"], None], released=[[0, 0]])
    assert on.heard == [executed(1, "a", "b")]
    first, second = on.responses
    assert (first.final, first.model_version, first.parameters, first.error) == (True, 3, {"n": 1}, None)
    assert [(tensor.name, tensor.data) for tensor in first.outputs] == [("OUT", b"x")]
    assert second.error is not None
    assert (second.error.code, second.error.message, second.outputs) == (Code.NOT_FOUND, "no", [])
    assert on.channel.released == [[0, 0]]
    assert not on.exchange.executions
    assert [request.inputs for request in requests] == [[], []]  # their blocks are free now
    assert on.exchange.open_count == 0


def test_the_execution_after_it_begins_when_one_ends(on: Setup) -> None:
    on.execute("a")
    on.execute("b")
    assert on.exchange.executions[1].began_ns == 5
    on.result(1, ANSWER)
    assert on.exchange.executions[0].began_ns > 5


def test_the_time_of_executions_is_averaged(on: Setup) -> None:
    averages = []
    for execution_id in range(1, 4):
        on.execute("a")
        on.result(execution_id, ANSWER)
        averages.append(on.exchange.recent_execution_ns)
    assert averages == [2000, 3500, 4625]


def test_a_failed_execution_is_failed_with_the_name_of_the_instance(on: Setup) -> None:
    (request,) = on.execute("a")
    on.exchange.on_failed([Kind.FAILED, 1, "ValueError: no", [[0, 0]]])
    text = "Failed to process the request(s) for model 'm_0_0', message: ValueError: no"
    assert on.heard == [("failed", 1, Code.INTERNAL, text)]
    assert on.channel.released == [[0, 0]]
    assert request.inputs == []
    assert not on.exchange.executions


@pytest.mark.parametrize("execution_id", [0, 2, 3])
def test_an_answer_to_another_execution_makes_no_sense(on: Setup, execution_id: int) -> None:
    on.execute("a")
    on.execute("b")
    with pytest.raises(ValueError, match=f"answer to execution {execution_id}, expected 1"):
        on.result(execution_id, ANSWER)
    with pytest.raises(ValueError, match="expected 1"):
        on.exchange.on_failed([Kind.FAILED, execution_id, "", []])
    assert on.heard == []


def test_a_result_that_makes_no_sense_leaves_the_execution_to_be_failed(on: Setup) -> None:
    on.execute("ab")
    with pytest.raises(ValueError, match="zip"):
        on.result(1, ANSWER)
    assert [execution.id for execution in on.exchange.executions] == [1]


# -- answers of response senders


def test_a_request_that_was_not_answered_stays_open_until_its_final_response(on: Setup) -> None:
    on.execute("ab")
    on.result(1, None, ANSWER)
    assert on.heard == [executed(1, "b")]
    assert on.exchange.open_count == 1
    on.response(1, 0, ANSWER, final=False)
    on.response(1, 0, ANSWER, released=[[0, 0]])
    assert on.heard[1:] == [responded("a", False), responded("a")]
    assert on.exchange.open_count == 0
    assert on.channel.released == [[0, 0]]


def test_a_final_response_before_the_result_leaves_nothing_open(on: Setup) -> None:
    on.execute("ab")
    on.response(1, 1, ANSWER)
    on.result(1, ANSWER, None)
    assert on.heard == [responded("b"), executed(1, "a")]
    assert on.exchange.open_count == 0


def test_a_stream_may_begin_before_the_result_and_end_after_it(on: Setup) -> None:
    on.execute("a")
    on.response(1, 0, ANSWER, final=False)
    on.result(1, None)
    assert on.exchange.open_count == 1
    on.response(1, 0, None)
    assert on.heard == [responded("a", False), executed(1), responded("a", empty=True)]
    assert on.exchange.open_count == 0


MIB = 1 << 20


def test_a_stub_is_told_in_steps_what_was_read_of_its_streams(on: Setup) -> None:
    on.execute("ab")
    large: list[Any] = [[["OUT", 2, [3 * MIB], [0, 0, 3 * MIB, 0, 3 * MIB]]], None, None]
    on.channel.sent.clear()
    for index in (0, 1, 0, 1):
        on.response(1, index, large, final=False)
    assert on.soon == []  # the responses are kept, as by a slow reader
    del on.responses[:3]
    assert on.channel.sent == []  # finalizers send nothing themselves
    (tell,) = on.soon
    tell()
    counted = 3 * MIB + 512
    assert on.channel.sent == [[Kind.TAKEN, [[1, 0, 2 * counted], [1, 1, counted]], FREED]]
    on.responses.clear()
    assert len(on.soon) == 1  # not enough for another step


def test_the_last_response_of_a_request_holds_nobody_back(on: Setup) -> None:
    on.execute("a")
    on.response(1, 0, ANSWER, final=False)
    on.response(1, 0, ANSWER)
    assert [response.receipt is None for response in on.responses] == [False, True]


def test_a_response_that_nobody_waits_for_counts_as_read_at_once(on: Setup) -> None:
    for _ in range(5 * MIB // 512):
        on.response(9, 0, [[], None, None], final=False)
    assert len(on.soon) == 1


def test_responses_find_their_request_among_several_executions(on: Setup) -> None:
    for ids in ("ab", "cd"):
        on.execute(ids)
    on.result(1, None, None)
    on.response(2, 0, ANSWER, final=False)
    on.response(1, 1, ANSWER)
    on.result(2, None, None)
    on.response(1, 0, ANSWER)
    on.response(2, 1, ANSWER)
    on.response(2, 0, ANSWER)
    assert [event[1] for event in on.heard if event[0] == "responded"] == ["c", "b", "a", "d", "c"]
    assert on.exchange.open_count == 0


def test_an_error_may_be_sent(on: Setup) -> None:
    on.execute("a")
    on.response(1, 0, [[], [7, "cancelled"], None])
    assert on.heard == [responded("a", error="cancelled")]
    (response,) = on.responses
    assert response.error is not None
    assert response.error.code is Code.CANCELLED


def test_a_response_to_what_is_ended_is_taken_apart_and_told_to_nobody(on: Setup) -> None:
    """Its blocks are the stub's own: to open them and let go is to give them back."""
    on.execute("a")
    on.response(1, 0, ANSWER)
    on.response(1, 0, ANSWER, released=[[0, 0]])
    on.result(1, None)
    on.response(1, 0, ANSWER)
    on.response(9, 0, None)
    assert on.heard == [responded("a"), executed(1)]
    assert on.channel.opened == ["OUT"] * 3
    assert on.channel.released == [[0, 0]]


def test_after_a_failed_execution_nothing_is_open(on: Setup) -> None:
    on.execute("ab")
    on.response(1, 0, ANSWER, final=False)
    on.exchange.on_failed([Kind.FAILED, 1, "no", []])
    on.response(1, 0, ANSWER)
    assert [event[0] for event in on.heard] == ["responded", "failed"]
    assert on.exchange.open_count == 0


# -- requests that come again


def test_rescheduled_requests_keep_their_inputs_and_are_not_open(on: Setup) -> None:
    again, answered = on.execute("ab")
    on.result(1, None, ANSWER, rescheduled=[0])
    assert on.heard == [executed(1, "b"), ("rescheduled", ["a"])]
    assert (len(again.inputs), answered.inputs) == (1, [])
    assert on.exchange.open_count == 0


# -- cancellation


def test_a_cancellation_names_the_execution_and_the_place_in_it(on: Setup) -> None:
    first, second = on.execute("ab"), on.execute("cd")
    on.result(1, None, None)
    for request in (first[1], second[0], Request("m", [], lambda response: None)):
        on.exchange.cancel(request)
    assert on.channel.sent[2:] == [[Kind.CANCEL, 1, 1, False], [Kind.CANCEL, 2, 0, False]]


def test_what_is_answered_cannot_be_cancelled_any_more(on: Setup) -> None:
    (request,) = on.execute("a")
    on.result(1, ANSWER)
    on.exchange.cancel(request)
    assert len(on.channel.sent) == 1


# -- death


def test_a_death_fails_what_was_begun_and_hands_back_what_was_not(on: Setup) -> None:
    on.execute("a")
    on.result(1, None)
    on.execute("bc")
    unstarted = [*on.execute("d"), *on.execute("e")]
    on.heard.clear()
    gone = ServerError(Code.INTERNAL, "gone")
    assert on.exchange.end(gone) == unstarted
    assert sorted(on.heard) == [("failed", 2, Code.INTERNAL, "gone"), responded("a", error="gone")]
    assert [len(request.inputs) for request in unstarted] == [1, 1]
    assert (on.exchange.open_count, len(on.exchange.executions)) == (0, 0)
    on.heard.clear()
    assert on.exchange.end(gone) == []
    assert on.heard == []


def test_the_next_stub_is_given_other_numbers(on: Setup) -> None:
    """A request of its predecessor's is never answered by it."""
    on.execute("a")
    on.exchange.end(ServerError(Code.INTERNAL, "gone"))
    channel = ChannelTwin()
    on.exchange.attach(cast(Channel, channel), on.soon.append)
    on.execute("b")
    assert channel.sent[0][1] == 2


def test_what_waits_at_the_stub_is_dropped_with_its_client(on: Setup) -> None:
    running, waiting = on.execute("a"), on.execute("b")
    for execution in on.exchange.executions:
        execution.was_sent_ahead = True
    assert not on.exchange.cancel(running[0])
    assert on.exchange.cancel(waiting[0])
    assert on.channel.sent[2:] == [[Kind.CANCEL, 1, 0, False], [Kind.CANCEL, 2, 0, True]]
    on.result(1, ANSWER)
    on.result(2, ANSWER)  # the news came too late: it was run
    assert on.heard == [executed(1, "a"), ("dropped ended",)]
    assert on.channel.opened == ["OUT"] * 2
    assert not on.exchange.executions
    assert on.exchange.open_count == 0


def test_what_was_dropped_is_not_given_to_another_stub(on: Setup) -> None:
    on.execute("a")
    (dropped,) = on.execute("b")
    on.exchange.executions[1].was_sent_ahead = True
    on.exchange.cancel(dropped)
    assert on.exchange.end(ServerError(Code.INTERNAL, "gone")) == []
