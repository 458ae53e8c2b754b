"""Answers that go on after ``execute``: decoupled models, coroutines, and clients that give up."""

from __future__ import annotations

import pytest
from atoll_ipc.wire import Kind
from replying import CLOSED, executes, numbered, refused, text
from stub_twin import LoadedModel, SupervisorTwin, execute, request

pytestmark = pytest.mark.usefixtures("fresh_imports")


# -- decoupled models


def test_a_decoupled_model_sends_as_often_as_it_likes(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(
        executes(
            "sender = requests[0].get_response_sender()\n"
            "for value in range(3):\n"
            "    sender.send(number(value))\n"
            "sender.send(flags=FINAL)\n"
            "self.kept = refusal(sender.send, number(9))\n"
            "requests[1].get_response_sender().send(self.kept, FINAL)"
        ),
        decoupled=True,
    )
    twin.send(execute(1, request(), request()))
    sent = [twin.receive(Kind.RESPONSE) for _ in range(5)]
    assert [message[2:5] for message in sent[:4]] == [
        *([0, numbered(value), False] for value in range(3)),
        [0, None, True],
    ]
    assert refused(sent[4]) == CLOSED
    assert twin.receive(Kind.RESULT)[2] == [None, None]


@pytest.mark.spec("python_backend:C75")
def test_a_stream_whose_sender_is_gone_ends_with_an_error(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(executes("requests[0].get_response_sender().send(number(1))"), decoupled=True)
    twin.send(execute(1, request()))
    assert twin.receive(Kind.RESPONSE)[3:5] == [numbered(1), False]
    assert "the request and its response sender are gone" in text(twin.receive(Kind.RESPONSE))
    twin.receive(Kind.RESULT)


@pytest.mark.spec("python_backend:C49")
def test_a_decoupled_model_may_not_return(model: LoadedModel) -> None:
    model.load(executes("return []"), decoupled=True)
    assert model.fail(request()) == (
        "Python model 'm_0_0' is using the decoupled mode and the execute function must return None."
    )


# -- coroutines


@pytest.mark.spec("python_backend:C66")
def test_a_coroutine_is_awaited(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(
        executes(
            "await asyncio.sleep(0)\n"
            "if requests[0].request_id():\n"
            "    raise ValueError(requests[0].request_id())\n"
            "return [number(1)]",
            async_=True,
        )
    )
    assert model.run(request()) == [numbered(1)]
    path = model.folder / "m" / "1" / "model.py"
    assert model.fail(request(id="no")) == f"ValueError: no\n\nAt:\n  {path}(27): execute\n"
    model.finalize()


@pytest.mark.spec("python_backend:C67")
def test_a_task_goes_on_after_execute_returned(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(
        executes(
            "if self.kept is None:\n"
            "    self.kept = asyncio.Event()\n"
            "    sender = requests[0].get_response_sender()\n"
            "    async def later():\n"
            "        await self.kept.wait()\n"
            "        sender.send(number(1), FINAL)\n"
            "    self.task = asyncio.ensure_future(later())\n"
            "    return None\n"
            "self.kept.set()\n"
            "return [number(2)]",
            async_=True,
        )
    )
    twin.send(execute(1, request()))
    assert twin.receive(Kind.RESULT)[2] == [None]
    twin.send(execute(2, request()))
    messages = {message[0]: message for message in (twin.receive_any() for _ in range(2))}
    assert messages[Kind.RESPONSE][1:5] == [1, 0, numbered(1), True]
    assert messages[Kind.RESULT][1:3] == [2, [numbered(2)]]
    model.finalize()


@pytest.mark.spec("python_backend:C68")
def test_coroutines_of_a_decoupled_model_run_beside_each_other(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(
        executes(
            "if self.kept is None:\n"
            "    self.kept = asyncio.Event()\n"
            "    await self.kept.wait()\n"
            "else:\n"
            "    self.kept.set()\n"
            "requests[0].get_response_sender().send(number(1), FINAL)",
            async_=True,
        ),
        decoupled=True,
    )
    twin.send(execute(1, request()))
    assert twin.receive(Kind.RESULT)[1:3] == [1, [None]]
    twin.send(execute(2, request()))
    messages = [twin.receive_any() for _ in range(3)]
    assert sorted(message[1] for message in messages if message[0] == Kind.RESPONSE) == [1, 2]
    model.finalize()


@pytest.mark.spec("python_backend:C69")
@pytest.mark.spec("python_backend:C70")
def test_an_exception_of_a_decoupled_coroutine_is_logged_and_ends_the_stream(
    model: LoadedModel, twin: SupervisorTwin
) -> None:
    model.load(executes("raise ValueError('wait_secs cannot be negative')", async_=True), decoupled=True)
    twin.send(execute(1, request()))
    messages = {message[0]: message for message in (twin.receive_any() for _ in range(3))}
    _, level, origin, traceback = messages[Kind.LOG]
    assert (level, origin) == (2, "m_0_0")
    assert traceback.startswith("Traceback (most recent call last):\n")
    assert traceback.endswith("ValueError: wait_secs cannot be negative\n")
    assert text(messages[Kind.RESPONSE])
    model.finalize()


# -- cancellation


@pytest.mark.spec("python_backend:C92")
def test_a_request_knows_when_its_client_has_given_up(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(
        executes(
            "if self.kept is None:\n"
            "    self.kept = requests[0].get_response_sender()\n"
            "    self.kept.send(number(requests[0].is_cancelled()))\n"
            "    return\n"
            "was = self.kept.is_cancelled(), self.kept.is_cancelled(), requests[0].is_cancelled()\n"
            "self.kept.send(number(str(was)), FINAL)\n"
            "requests[0].get_response_sender().send(flags=FINAL)"
        ),
        decoupled=True,
    )
    twin.send(execute(1, request()))
    assert twin.receive(Kind.RESPONSE)[3] == numbered(False)
    twin.receive(Kind.RESULT)
    twin.send([Kind.CANCEL, 1, 0, False], execute(2, request()))
    assert twin.receive(Kind.RESPONSE)[3] == numbered("(True, True, False)")


def test_a_cancellation_of_what_is_answered_leaves_nothing_behind(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(executes("return [number(request.is_cancelled()) for request in requests]"))
    assert model.run(request()) == [numbered(False)]
    twin.send([Kind.CANCEL, 1, 0, False], [Kind.CANCEL, 2, 1, False])
    assert model.run(request(), request()) == [numbered(False), numbered(True)]
    assert model.run(request(), request()) == [numbered(False), numbered(False)]


def test_what_is_dropped_before_it_begins_is_passed_over(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(executes("return [number(1) for _ in requests]"))
    assert model.run(request()) == [numbered(1)]
    twin.send([Kind.CANCEL, 2, 0, True], execute(2, request()), execute(3, request()))
    assert twin.receive(Kind.RESULT)[1:3] == [2, [None]]
    assert twin.receive(Kind.RESULT)[1:3] == [3, [numbered(1)]]
