"""Every way in which an execution may answer a request once: returned, sent, rescheduled, failed."""

from __future__ import annotations

from typing import Any

import pytest
from atoll_ipc.memory import OutOfSharedMemory
from atoll_ipc.wire import Kind
from replying import CLOSED, answered, executes, numbered, refused, text
from stub_twin import LARGE, LoadedModel, SupervisorTwin, described, execute, numbers, request

pytestmark = pytest.mark.usefixtures("fresh_imports")


# -- one answer for each request


@pytest.mark.spec("python_backend:C44")
@pytest.mark.parametrize("body", ["pass", "return [None, None]"])
def test_a_request_that_nobody_can_answer_any_more_is_failed(
    model: LoadedModel, twin: SupervisorTwin, body: str
) -> None:
    model.load(executes(body))
    twin.send(execute(1, request(numbers(1)), request(numbers(2))))
    given_up = [twin.receive(Kind.RESPONSE) for _ in range(2)]
    assert sorted(message[1:3] for message in given_up) == [[1, 0], [1, 1]]
    for message in given_up:
        assert text(message).startswith("Failed to process the request(s) for model 'm_0_0', message: The model ")
    _, _, results, _, _, rescheduled, _ = twin.receive(Kind.RESULT)
    assert (results, rescheduled) == ([None, None], [])


@pytest.mark.spec("python_backend:C43")
def test_a_response_may_be_sent_and_nothing_returned(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(executes("requests[0].get_response_sender().send(answer(requests[0]), FINAL)"))
    twin.send(execute(1, request(numbers(1))))
    assert twin.receive(Kind.RESPONSE)[:6] == [Kind.RESPONSE, 1, 0, answered(1), True, []]
    assert twin.receive(Kind.RESULT)[2] == [None]


def test_requests_of_a_batch_are_answered_each_in_its_own_way(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(
        executes(
            "requests[1].get_response_sender().send(answer(requests[1]), FINAL)\n"
            "self.kept = requests[2].get_response_sender()\n"
            "later = lambda sender, response: threading.Thread(target=sender.send, args=(response, FINAL)).start()\n"
            "later(self.kept, answer(requests[2]))\n"
            "return [answer(requests[0]), None, None]"
        )
    )
    twin.send(execute(1, *(request(numbers(value)) for value in range(3))))
    messages = [twin.receive_any() for _ in range(3)]
    sent = {message[2]: message[:6] for message in messages if message[0] == Kind.RESPONSE}
    (result,) = (message for message in messages if message[0] == Kind.RESULT)
    assert sent == {index: [Kind.RESPONSE, 1, index, answered(index), True, []] for index in (1, 2)}
    assert result[2] == [answered(0), None, None]


def test_a_sender_may_be_used_after_execute_returned(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(
        executes(
            "kept, self.kept = self.kept, requests[0].get_response_sender()\n"
            "if kept is not None:\n"
            "    kept.send(number(1), FINAL)"
        )
    )
    twin.send(execute(1, request()), execute(2, request()))
    assert twin.receive(Kind.RESULT)[1:3] == [1, [None]]
    assert twin.receive(Kind.RESPONSE)[1:5] == [1, 0, numbered(1), True]
    assert twin.receive(Kind.RESULT)[1:3] == [2, [None]]


def test_a_response_returned_beside_an_unused_sender_counts_and_closes_it(
    model: LoadedModel, twin: SupervisorTwin
) -> None:
    model.load(
        executes(
            "if self.kept is not None:\n"
            "    return [refusal(self.kept.send, number(2), FINAL)]\n"
            "self.kept = requests[0].get_response_sender()\n"
            "return [number(1)]"
        )
    )
    assert model.run(request()) == [numbered(1)]
    assert model.run(request()) == [[[], None, {"refused": CLOSED}]]


def test_of_a_sent_and_a_returned_response_the_first_counts(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(executes("requests[0].get_response_sender().send(number(1))\nreturn [number(2)]"))
    twin.send(execute(1, request()))
    assert twin.receive(Kind.RESPONSE)[3:5] == [numbered(1), False]
    assert twin.receive(Kind.RESPONSE)[3:5] == [None, True]
    assert twin.receive(Kind.RESULT)[2] == [None]


def test_a_final_flag_that_was_never_sent_is_no_failure_of_an_answered_request(
    model: LoadedModel, twin: SupervisorTwin
) -> None:
    model.load(executes("requests[0].get_response_sender().send(number(1))"))
    twin.send(execute(1, request()))
    assert twin.receive(Kind.RESPONSE)[3:5] == [numbered(1), False]
    assert twin.receive(Kind.RESPONSE)[3:5] == [None, True]
    assert twin.receive(Kind.RESULT)[2] == [None]


@pytest.mark.spec("python_backend:C82")
def test_after_a_failed_execution_its_senders_are_closed(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(
        executes(
            "if self.kept is None:\n"
            "    self.kept = requests[0].get_response_sender()\n"
            "    raise ValueError('no')\n"
            "return [refusal(self.kept.send, number(2), FINAL)]"
        )
    )
    assert model.fail(request()).startswith("ValueError: no\n")
    assert model.run(request()) == [[[], None, {"refused": CLOSED}]]


@pytest.mark.spec("python_backend:C56")
def test_outputs_that_nobody_asked_for_are_not_sent_either(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(executes("requests[0].get_response_sender().send(answer(requests[0]), FINAL)"), outputs=("OUT", "B"))
    twin.send(execute(1, request(numbers(1), outputs=["B"])))
    assert twin.receive(Kind.RESPONSE)[3] == [[], None, None]


def test_a_response_that_finds_no_room_is_refused_to_its_sender(
    model: LoadedModel, twin: SupervisorTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(nbytes: int) -> Any:
        raise OutOfSharedMemory("Failed to increase the shared memory pool size")

    monkeypatch.setattr(twin.store.arena, "allocate", full)
    model.load(
        executes(
            "sender, array = requests[0].get_response_sender(), requests[0].inputs()[0].as_numpy().repeat(9000)\n"
            "response = pb_utils.InferenceResponse([pb_utils.Tensor('OUT', array)])\n"
            "sender.send(refusal(sender.send, response), FINAL)"
        ),
        decoupled=True,
    )
    twin.send(execute(1, request(numbers(1))))
    message = twin.receive(Kind.RESPONSE)
    assert refused(message) == "Failed to increase the shared memory pool size"
    assert message[4]


def test_a_sent_response_tells_of_the_inputs_that_were_dropped_for_it(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(
        executes(
            "sender = requests[0].get_response_sender()\ndel requests[0]\nsender.send(number(1), FINAL)\nself.kept = 1"
        ),
        decoupled=True,
    )
    block, reference = twin.place(LARGE.tobytes())
    twin.send(execute(1, request(described("IN", reference))))
    released = [*twin.receive(Kind.RESPONSE)[5], *twin.receive(Kind.RESULT)[3]]
    assert released == [list(block.key)]


# -- rescheduling


def test_a_request_that_is_to_come_again_is_named_in_the_result(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(executes("requests[1].set_release_flags(RESCHEDULE)\nreturn [number(1), None]"))
    twin.send(execute(1, request(), request()))
    _, _, results, _, _, rescheduled, _ = twin.receive(Kind.RESULT)
    assert (results, rescheduled) == ([numbered(1), None], [1])


@pytest.mark.spec("python_backend:C91")
def test_the_last_release_flag_counts(model: LoadedModel) -> None:
    model.load(
        executes(
            "requests[0].set_release_flags(RESCHEDULE)\n"
            "requests[0].set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_ALL)\n"
            "return [number(1)]"
        )
    )
    assert model.run(request()) == [numbered(1)]


@pytest.mark.spec("python_backend:C48")
def test_a_rescheduled_request_has_no_response_yet(model: LoadedModel) -> None:
    model.load(executes("requests[0].set_release_flags(RESCHEDULE)\nreturn [number(1)]"))
    assert model.fail(request()) == (
        "Expected a None object in the execute function return list for reschduled request, found type "
        "'<class 'triton_python_backend_utils._response.InferenceResponse'>'."
    )


def test_a_decoupled_model_may_send_before_it_sees_the_request_again(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(
        executes("requests[0].get_response_sender().send(number(1))\nrequests[0].set_release_flags(RESCHEDULE)"),
        decoupled=True,
    )
    twin.send(execute(1, request()))
    assert twin.receive(Kind.RESPONSE)[3:5] == [numbered(1), False]
    assert twin.receive(Kind.RESULT)[5] == [0]
