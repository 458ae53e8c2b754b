"""What a model asks of others, as the supervisor hears it: who executes it, and how the answers find their way back."""

from __future__ import annotations

import collections
from typing import Any, cast

import pytest
from atoll.errors import Code, ServerError
from atoll.inference import Request, Response, Tensor
from atoll.instances.calls import Answer, Calls
from atoll.instances.channel import Channel
from atoll.instances.exchange import Execution
from atoll.instances.instance import Instance
from atoll.instances.receipts import Receipt, Receipts
from atoll_ipc.wire import Kind
from channel_twin import FREED, ChannelTwin


class InstanceTwin:
    name = "m_0_0"

    def __init__(self) -> None:
        self.executions: collections.deque[Execution] = collections.deque()


class Setup:
    """The calls of one instance, and what their owner was asked for."""

    def __init__(self) -> None:
        self.channel = ChannelTwin()
        self.instance = InstanceTwin()
        self.calls = Calls(cast(Instance, self.instance), self)
        self.requests: list[tuple[Request, bool]] = []
        self.cancelled: list[Request] = []
        self.logged: list[tuple[Any, ...]] = []
        self.questions: list[tuple[str, list[Any], Answer]] = []
        self.gone: list[int] = []
        self.refuse_with: ServerError | None = None

    def infer_for(self, instance: Instance, request: Request, *, streaming: bool) -> None:
        if self.refuse_with is not None:
            raise self.refuse_with
        self.requests.append((request, streaming))

    def cancel_for(self, instance: Instance, request: Request) -> None:
        self.cancelled.append(request)

    def chunks_gone(self, chunk_ids: list[int]) -> None:
        self.gone += chunk_ids

    def log(self, instance: Instance, level: int, origin: str, text: str) -> None:
        self.logged.append((instance.name, level, origin, text))

    def ask(self, instance: Instance, topic: str, arguments: list[Any], answer: Answer) -> None:
        self.questions.append((topic, arguments, answer))

    def on_message(self, *message: Any) -> None:
        self.calls.on_message(list(message), cast(Channel, self.channel))

    def infer(self, call_id: int, *, streaming: bool = False, blocking: bool = False) -> Request:
        inputs = [["IN", 2, [1], b"i"]]
        fields = ["r", "seq", 3, 9, {"p": 1}, ["OUT"], inputs, "other", 2, streaming, blocking, 0]
        self.on_message(Kind.INFER, call_id, fields, [[0, 0]])
        return self.requests[-1][0]


@pytest.fixture
def on() -> Setup:
    return Setup()


def answer(request: Request, *, final: bool = True, error: ServerError | None = None) -> None:
    outputs = [] if error else [Tensor("OUT", "UINT8", [1], b"o")]
    request.respond(Response(request, 2, outputs, parameters={"n": 1}, final=final, error=error))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_call_is_a_request_to_the_named_model(on: Setup, streaming: bool) -> None:
    request = on.infer(1, streaming=streaming)
    assert on.requests == [(request, streaming)]
    assert (request.model_name, request.model_version, request.id, request.correlation_id) == ("other", 2, "r", "seq")
    assert (request.flags, request.timeout_us, request.parameters, request.outputs) == (3, 9, {"p": 1}, ["OUT"])
    assert [(tensor.name, tensor.data) for tensor in request.inputs] == [("IN", b"i")]
    assert on.channel.released == [[0, 0]]


def test_an_answer_goes_back_to_the_call_that_it_is_for(on: Setup) -> None:
    first, second = on.infer(1), on.infer(2)
    answer(second)
    answer(first)
    answers = [[["OUT"]], None, {"n": 1}]
    assert on.channel.sent == [[Kind.REPLY, call_id, answers, FREED, True] for call_id in (2, 1)]


def test_a_stream_ends_with_its_final_answer(on: Setup) -> None:
    request = on.infer(1, streaming=True)
    for final in (False, False, True):
        answer(request, final=final)
    assert [message[4] for message in on.channel.sent] == [False, False, True]
    on.on_message(Kind.CANCEL_CALL, 1, False)
    assert on.cancelled == []  # there is nothing left to cancel


class ReceiptsTwin(Receipts):
    def __init__(self) -> None:
        self.read: list[int] = []

    def taken(self, key: tuple[int, int], nbytes: int) -> None:
        self.read.append(nbytes)


def stream(request: Request, receipts: Receipts, *sizes: int) -> None:
    """Responses that more will follow."""
    for nbytes in sizes:
        response = Response(request, 2, [], final=False)
        response.receipt = Receipt(receipts, (1, 0), nbytes)
        request.respond(response)


def test_responses_count_as_read_when_the_caller_says_so(on: Setup) -> None:
    receipts = ReceiptsTwin()
    stream(on.infer(1, streaming=True), receipts, 10, 20, 30)
    assert receipts.read == []
    on.on_message(Kind.READ, 1, 30)
    assert receipts.read == [10, 20]
    on.on_message(Kind.READ, 7, 30)  # of a call that has ended
    assert receipts.read == [10, 20]


@pytest.mark.parametrize("end", ["dropped", "final", "gone"])
def test_nothing_is_held_back_for_a_caller_that_reads_no_more(on: Setup, end: str) -> None:
    receipts = ReceiptsTwin()
    request = on.infer(1, streaming=True)
    stream(request, receipts, 10, 20)
    on.on_message(Kind.CANCEL_CALL, 1, False)  # it reads on
    assert receipts.read == []
    if end == "dropped":
        on.on_message(Kind.CANCEL_CALL, 1, True)
    elif end == "final":
        answer(request)
    else:
        on.calls.end()
    assert receipts.read == [10, 20]
    stream(request, receipts, 30)
    assert receipts.read == [10, 20, 30]


def test_an_error_is_an_answer(on: Setup) -> None:
    answer(on.infer(1), error=ServerError(Code.UNAVAILABLE, "no"))
    assert on.channel.sent[0][2][:2] == [[], [int(Code.UNAVAILABLE), "no"]]


def test_a_call_that_is_refused_is_answered_at_once(on: Setup) -> None:
    on.refuse_with = ServerError(Code.NOT_FOUND, "Request for unknown model: 'other' is not found")
    on.requests.append((Request("", [], lambda response: None), False))
    on.infer(1)
    text = "Model other - Error when running inference: Request for unknown model: 'other' is not found"
    assert on.channel.sent == [[Kind.REPLY, 1, [[], [int(Code.INTERNAL), text], None], FREED, True]]
    on.calls.end()
    assert on.cancelled == []


def test_what_nobody_waits_for_is_cancelled(on: Setup) -> None:
    first, second = on.infer(1), on.infer(2)
    on.on_message(Kind.CANCEL_CALL, 2, False)
    on.on_message(Kind.CANCEL_CALL, 99, True)
    assert on.cancelled == [second]
    on.calls.end()
    assert on.cancelled == [second, first, second]
    on.calls.end()
    assert len(on.cancelled) == 3


def test_a_call_from_execute_knows_who_waits_for_it(on: Setup) -> None:
    executing = Request("m", [], lambda response: None)
    executing.callers = ("caller_0_0",)
    assert on.infer(1, blocking=True).callers == ()  # made by a model that executes nothing
    on.instance.executions.append(Execution(1, [executing], 0))
    assert on.infer(2, blocking=True).callers == ("m_0_0", "caller_0_0")
    assert on.infer(3, blocking=False).callers == ()  # another thread's; nothing waits for it


def test_a_line_of_the_log_is_passed_on(on: Setup) -> None:
    on.on_message(Kind.LOG, 2, "model.py:7", "text")
    assert on.logged == [("m_0_0", 2, "model.py:7", "text")]


def test_a_question_is_answered_by_its_number(on: Setup) -> None:
    on.on_message(Kind.ASK, 5, "value", [1])
    on.on_message(Kind.ASK, 6, "set", [1, 2.0])
    (topic, arguments, first), (_, _, second) = on.questions
    assert (topic, arguments) == ("value", [1])
    second(None, "no")
    first(1.5, None)
    assert on.channel.sent == [[Kind.ANSWER, 6, None, "no"], [Kind.ANSWER, 5, 1.5, None]]


def test_what_a_finalizer_tells_is_not_answered(on: Setup) -> None:
    on.on_message(Kind.ASK, 0, "delete_family", [1])
    on.questions[0][2](None, None)
    assert on.channel.sent == []


def test_released_blocks_and_chunks_that_are_gone_are_passed_on(on: Setup) -> None:
    on.on_message(Kind.RELEASE, [[0, 4096]])
    assert on.channel.released == [[0, 4096]]
    on.calls.chunks_gone([5])
    assert on.gone == [5]


def test_an_unknown_kind_makes_no_sense(on: Setup) -> None:
    with pytest.raises(ValueError, match="unknown kind of message: 99"):
        on.on_message(99)
