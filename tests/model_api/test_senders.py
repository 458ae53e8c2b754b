"""Response senders in models that are not decoupled, and the order in which ``send`` refuses what it may not do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calling import Caller, leased_blocks, metric, wait_until
from commands import CONFIG, DECOUPLED, Driver, command, driver, final_of
from rendezvous import Rendezvous, config, write
from serving import Served, serve

__all__ = ["driver"]

COMMON = """
import json
import threading
import numpy as np
import triton_python_backend_utils as pb_utils
from rendezvous import at

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL

def response(text):
    return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([[text]], object))])

def text_of(request):
    return request.inputs()[0].as_numpy().item().decode()

def refusals(*attempts):
    '''What each attempt to send is refused with.'''
    texts = []
    for sender, arguments in attempts:
        try:
            sender.send(*arguments)
            texts.append("")
        except pb_utils.TritonModelException as error:
            texts.append(str(error))
        except TypeError:
            texts.append("TypeError")
    return texts
"""

MODEL = (
    COMMON
    + """
class TritonPythonModel:
    kept = None
    told = None

    def execute(self, requests):
        whats = [text_of(request) for request in requests]
        if whats[0] == "gate":
            at("gate")
        self.responses = [self.answer(r, r.get_response_sender(), *what.partition(":")[::2])
                          for r, what in zip(requests, whats)]
        if "crash" in whats:
            raise ValueError("crash")
        return None if all(r is None for r in self.responses) else self.responses

    def answer(self, request, sender, what, argument):
        if what == "sent":
            sender.send(response("sent"), FINAL)
        elif what == "in two steps":
            sender.send(response("sent"))
            sender.send(flags=FINAL)
        elif what == "positional none":
            sender.send(response("sent"), 0)
            sender.send(None, FINAL)
        elif what == "later":
            threading.Thread(target=self.later, args=(sender,)).start()
        elif what == "sent and returned":
            sender.send(response("sent"))
            return response("returned")
        elif what == "final and returned":
            sender.send(response("sent"), FINAL)
            return response("returned")
        elif what == "lone final":
            sender.send(flags=FINAL)
        elif what == "two":
            sender.send(response("first"))
            sender.send(response("second"))
        elif what == "lone final later":
            threading.Thread(target=self.misuse, args=(sender, (None, FINAL))).start()
        elif what == "two later":
            threading.Thread(target=self.misuse, args=(sender, (response("first"),), (response("second"),))).start()
        elif what == "keep":
            self.kept = (request, sender)
            return response("kept")
        elif what == "keep request":
            self.kept = (request, None)
            return response("kept")
        elif what in ("crash", "lost"):
            self.kept = None if what == "lost" else (request, sender)
        elif what == "same":
            return response(str(sender is request.get_response_sender() is request.get_response_sender()))
        else:
            return response(json.dumps(getattr(self, what)(request, sender)))
        return None

    def later(self, sender):
        at("later")
        sender.send(response("later"), FINAL)

    def misuse(self, sender, *attempts):
        self.told = refusals(*((sender, attempt) for attempt in attempts))
        print("misused:", self.told, flush=True)

    def attempts(self, request, sender):
        # In the order of the checks: each attempt would also be refused by those below it.
        local = pb_utils.InferenceRequest(model_name="m", requested_output_names=[], inputs=[]).get_response_sender()
        good = response("good")
        before = refusals(
            (local, (None, 2)), (local, (good, 3)), (local, (None, 0)), (local, ()), (local, (good,)), (sender, ("x",)),
            (sender, (None, FINAL)),
        )
        return before + [str(hasattr(sender, "close"))]

    def kept_sender(self, request, sender):
        kept, kept_sender = self.kept
        kept_sender = kept_sender or kept.get_response_sender()
        self.kept = None
        return refusals((kept_sender, (response("again"),)), (kept_sender, (response("again"), FINAL)))

    def after_final(self, request, sender):
        return []

    def ok(self, request, sender):
        return "ok"
"""
)

CLOSED = (
    COMMON
    + """
class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            sender.send(response("first"), FINAL)
            for text in refusals((sender, (response("x"),)), (sender, (None, FINAL))):
                print("refused:", text, flush=True)
"""
)

LARGE = """
import numpy as np
import threading
import triton_python_backend_utils as pb_utils
from rendezvous import at

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            array = request.inputs()[0].as_numpy()
            tensor = pb_utils.Tensor("OUT", array if array[0] else np.zeros(1 << 21, np.uint8))
            self.answer = threading.Thread(target=self.send, args=(request.get_response_sender(), tensor, array[0]))
            self.answer.start()

    def send(self, sender, tensor, wait):
        if wait:
            at("large")
        sender.send(pb_utils.InferenceResponse([tensor]), pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

PARAMETERS = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils

WRONG = {
    "list": [], "integer key": {1: "x"}, "float": {"k": 1.5}, "null": {"k": None}, "nested": {"k": [1]},
    "huge": {"k": 1 << 64},
}

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            what = request.inputs()[0].as_numpy().item().decode()
            tensor = pb_utils.Tensor("OUT", np.array([[what]], object))
            try:
                parameters = WRONG[what] if what in WRONG else json.loads(what)
                answer = pb_utils.InferenceResponse([tensor], parameters=parameters)
                assert json.loads(answer.parameters()) == parameters
            except pb_utils.TritonModelException as error:
                error = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
                answer = pb_utils.InferenceResponse(error=error)
            answers.append(answer)
        return answers
"""

UNABLE = "Unable to send response. "
CLOSED_TEXT = UNABLE + "Response sender has been closed."
SECOND = UNABLE + "Non-decoupled model cannot send more than one response."
LONE = UNABLE + "Non-decoupled model cannot send complete final before sending a response."


@pytest.fixture(scope="module")
def served(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    write(repository, "senders", MODEL, CONFIG)
    write(repository, "closed", CLOSED, DECOUPLED)
    write(repository, "large", LARGE, config())
    write(repository, "parameters", PARAMETERS, CONFIG)
    with serve(repository) as served:
        yield served


@pytest.mark.spec("python_backend:C43")
@pytest.mark.spec("python_backend:Q72")
@pytest.mark.parametrize("what", ["sent", "in two steps"])
def test_a_response_may_be_sent_instead_of_returned(driver: Driver, what: str) -> None:
    [answer] = driver.stream(command("senders", what))
    assert final_of(answer) is True
    assert driver.one("senders", what) == {"OUT": "sent"}


@pytest.mark.spec("python_backend:C43")
@pytest.mark.spec("python_backend:Q72")
def test_a_response_may_be_sent_after_execute_has_returned(driver: Driver, rendezvous: Rendezvous) -> None:
    call = driver.open(command("senders", "later"), command("senders", "ok"))
    visit = rendezvous.next()
    assert driver.one("senders", "ok") == {"OUT": '"ok"'}  # the instance is free meanwhile
    visit.let_go()
    texts = [message.infer_response.raw_output_contents[0][4:] for message in call]
    assert texts == [b"later", b'"ok"']


def test_one_batch_holds_returned_sent_and_later_sent_answers(driver: Driver, rendezvous: Rendezvous) -> None:
    def let_threads_go() -> None:
        for visit in [rendezvous.next() for _ in range(2)]:
            visit.let_go()

    answers = driver.batch("senders", "later", "ok", "sent", "later", meanwhile=let_threads_go)
    assert answers == [{"OUT": "later"}, {"OUT": '"ok"'}, {"OUT": "sent"}, {"OUT": "later"}]


@pytest.mark.spec("python_backend:Q76")
@pytest.mark.parametrize("what", ["sent and returned", "final and returned"])
def test_of_a_sent_and_a_returned_response_the_sent_one_counts(driver: Driver, what: str) -> None:
    assert driver.all("senders", what, "ok") == [{"OUT": "sent"}, {"OUT": '"ok"'}]


@pytest.mark.spec("python_backend:Q76")
@pytest.mark.spec("python_backend:C80")
def test_of_two_sent_responses_the_first_counts_and_the_second_is_refused(driver: Driver) -> None:
    assert driver.all("senders", "two", "ok") == [{"OUT": "first"}, {"OUT": '"ok"'}]
    driver.served.wait_for_log(f"TritonModelException: {SECOND}")


@pytest.mark.spec("python_backend:C81")
@pytest.mark.spec("python_backend:Q75")
def test_a_final_flag_alone_and_first_is_refused(driver: Driver) -> None:
    text = driver.one("senders", "lone final")[""]
    assert text.startswith(
        f"Failed to process the request(s) for model 'senders_0_0', message: TritonModelException: {LONE}"
    )


@pytest.mark.spec("python_backend:C77")
@pytest.mark.spec("python_backend:C78")
@pytest.mark.spec("python_backend:C79")
@pytest.mark.spec("python_backend:C81")
@pytest.mark.spec("python_backend:C85")
def test_send_refuses_in_the_order_of_its_checks(driver: Driver) -> None:
    assert json.loads(driver.one("senders", "attempts")["OUT"]) == [
        UNABLE + "Unsupported flag provided.",
        UNABLE + "Unsupported flag provided.",
        "Inference Response object must be provided when the response flags is set to zero.",
        "Inference Response object must be provided when the response flags is set to zero.",
        UNABLE + "Response sender has no reference to the decoupled state of the model.",
        "TypeError",
        LONE,
        "False",
    ]


@pytest.mark.spec("python_backend:C82")
@pytest.mark.parametrize("what", ["keep", "keep request", "crash"])
def test_a_sender_is_closed_when_its_request_was_answered_otherwise(driver: Driver, what: str) -> None:
    driver.one("senders", what)
    assert json.loads(driver.one("senders", "kept_sender")["OUT"]) == [CLOSED_TEXT, CLOSED_TEXT]


@pytest.mark.spec("python_backend:C82")
@pytest.mark.spec("python_backend:Q78")
def test_a_sender_is_closed_after_the_final_flag(driver: Driver) -> None:
    assert driver.all("closed", "x") == [{"OUT": "first"}]
    driver.served.wait_for_log(f"refused: {CLOSED_TEXT}", times=2)


@pytest.mark.spec("python_backend:C83")
def test_a_second_response_of_a_closed_sender_is_refused_as_a_second_one(driver: Driver) -> None:
    assert driver.one("senders", "two later") == {"OUT": "first"}
    driver.served.wait_for_log(rf"misused: \['', '{SECOND}'\]")


@pytest.mark.spec("python_backend:Q77")
def test_a_lone_final_after_execute_is_refused_and_its_client_answered(driver: Driver) -> None:
    assert "neither returned a response nor sent its final one" in driver.one("senders", "lone final later")[""]
    driver.served.wait_for_log(rf"misused: \['{LONE}'\]")


@pytest.mark.spec("python_backend:C84")
def test_arguments_of_send_may_be_positional(driver: Driver) -> None:
    assert driver.one("senders", "positional none") == {"OUT": "sent"}


@pytest.mark.spec("python_backend:C86")
def test_a_request_has_one_sender(driver: Driver) -> None:
    assert driver.one("senders", "same") == {"OUT": "True"}


@pytest.mark.spec("python_backend:C75")
@pytest.mark.spec("python_backend:K2")
def test_a_sender_that_is_gone_unused_answers_its_client(driver: Driver) -> None:
    assert "neither returned a response nor sent its final one" in driver.one("senders", "lost")[""]
    assert driver.one("senders", "ok") == {"OUT": '"ok"'}


def test_large_tensors_are_sent_from_threads_and_nothing_stays(served: Served, rendezvous: Rendezvous) -> None:
    array = np.full(1 << 20, 7, np.uint8)
    with Caller(served) as caller, ThreadPoolExecutor(1) as pool:
        for _ in range(3):
            answered = pool.submit(caller, "large", {"IN": array})
            rendezvous.next().let_go()
            assert np.array_equal(answered.result()["OUT"], array)
        wait_until(lambda: leased_blocks(served, "large") == 0, "the input is released")
        wait_until(lambda: metric(served, "atoll_shared_memory_used_bytes", "large") == 0, "its block is free")


@pytest.mark.spec("python_backend:Q97")
@pytest.mark.parametrize(
    "parameters", [{}, {"a": 1}, {"a": True, "b": "", "c": -(1 << 63)}, dict.fromkeys("abcdef", "ó")]
)
def test_response_parameters_arrive(driver: Driver, parameters: dict[str, Any]) -> None:
    [message] = driver.stream(command("parameters", json.dumps(parameters)))
    arrived = message.infer_response.parameters
    assert arrived.pop("triton_final_response").bool_param is True
    kinds: dict[type, Callable[[Any], Any]] = {
        bool: lambda value: value.bool_param,
        int: lambda value: value.int64_param,
        str: lambda value: value.string_param,
    }
    assert {name: kinds[type(parameters[name])](value) for name, value in arrived.items()} == parameters


def test_a_response_parameter_that_is_no_utf8_arrives_with_replacements(driver: Driver) -> None:
    [message] = driver.stream(command("parameters", json.dumps({"path\udcff": "a\udcfeb"})))
    assert message.infer_response.parameters["path\ufffd"].string_param == "a\ufffdb"


@pytest.mark.spec("python_backend:Q98")
@pytest.mark.spec("python_backend:K10")
@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("list", ", got <class 'list'>"),
        ("integer key", "Expect parameters keys to have type str, found type <class 'int'>"),
        ("float", "Expect parameters values to have type bool/int/str, found type <class 'float'>"),
        ("null", "Expect parameters values to have type bool/int/str, found type <class 'NoneType'>"),
        ("nested", "Expect parameters values to have type bool/int/str, found type <class 'list'>"),
        ("huge", "Parameter 'k' does not fit a signed 64-bit integer: "),
    ],
)
def test_wrong_response_parameters_are_refused(driver: Driver, what: str, text: str) -> None:
    assert text in driver.one("parameters", what)[""]
