"""Decoupled models: any number of responses to a request, whenever, from wherever."""

from __future__ import annotations

import os
import queue
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from calling import call
from commands import DECOUPLED, Driver, command, driver, final_of, texts_of
from grpc_wire import RpcClient, infer_request
from rendezvous import Rendezvous, config, write
from serving import Served, serve

__all__ = ["driver"]

MODEL = """
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import triton_python_backend_utils as pb_utils
from rendezvous import at

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL

def response(text, *more, **options):
    names = ("OUT", "MORE")
    tensors = [pb_utils.Tensor(name, np.array([[value]], object)) for name, value in zip(names, (text, *more))]
    return pb_utils.InferenceResponse(tensors, **options)

def failure(text):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text))

class TritonPythonModel:
    def initialize(self, args):
        self.pool = ThreadPoolExecutor(8)

    def execute(self, requests):
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy().item().decode()
            verb, _, argument = text.partition(":")
            if verb == "return":
                request.get_response_sender().send(response("first"))
                if argument == "later":
                    threading.Thread(target=self.too_late, args=(request.get_response_sender(),)).start()
                return [response("returned")] * len(requests)
            if verb == "final and return":
                request.get_response_sender().send(response("first"), FINAL)
                return [response("returned")] * len(requests)
            getattr(self, verb)(request.get_response_sender(), argument, request)

    def too_late(self, sender):
        at("too late")
        try:
            sender.send(response("late"), FINAL)
        except pb_utils.TritonModelException as error:
            print("too late:", error, flush=True)

    def ok(self, sender, argument, request):
        sender.send(response("ok"), FINAL)

    def gate(self, sender, argument, request):
        at("gate")
        sender.send(flags=FINAL)

    def count(self, sender, argument, request):
        '''So many responses, the final flag with the last one.'''
        for number in range(int(argument)):
            sender.send(response(str(number)), FINAL if number + 1 == int(argument) else 0)
        if not int(argument):
            sender.send(flags=FINAL)

    def alone(self, sender, argument, request):
        '''So many responses, then the final flag alone.'''
        for number in range(int(argument)):
            sender.send(response(str(number)))
        sender.send(flags=FINAL)

    def pooled(self, sender, argument, request):
        self.pool.submit(self.alone, sender, argument, request)

    def visiting(self, sender, argument, request):
        '''One response before execute returns, one each time a visit is let go, until told to end.'''
        sender.send(response(argument))
        threading.Thread(target=self.visit, args=(sender, argument)).start()

    def visit(self, sender, name):
        while True:
            word = at(name)
            if word == "end":
                return sender.send(flags=FINAL)
            sender.send(response(f"{name} {word}"))

    def same(self, sender, argument, request):
        again = response("same", parameters={"again": True})
        for _ in range(100):
            sender.send(again)
        sender.send(flags=FINAL)

    def both(self, sender, argument, request):
        sender.send(response("both", "more"))
        sender.send(response("known", "more"), FINAL)

    def error(self, sender, argument, request):
        if argument == "then final":
            sender.send(response("before"))
            sender.send(failure("failed"))
            sender.send(flags=FINAL)
        elif argument == "final":
            sender.send(response("before"))
            sender.send(failure("failed"), FINAL)
        elif argument == "then data":
            sender.send(failure("failed"))
            sender.send(response("after"), FINAL)
        elif argument == "final later":
            sender.send(response("before"))
            sender.send(failure("failed"))
            threading.Thread(target=self.final_later, args=(sender,)).start()

    def final_later(self, sender):
        at("final later")
        sender.send(flags=FINAL)

    def after_final(self, sender, argument, request):
        sender.send(flags=FINAL)
        try:
            sender.send(response("late"))
        except pb_utils.TritonModelException:
            pass

    def crash(self, sender, argument, request):
        if argument:
            sender.send(response("before"), FINAL if argument == "after final" else 0)
        raise ValueError("Intentional Error")

    def thread(self, sender, argument, request):
        threading.Thread(target=self.crash, args=(sender, argument, request)).start()

    def lost(self, sender, argument, request):
        sender.send(response("before"))

    def full(self, sender, argument, request):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
        try:
            large = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.zeros(1 << 28, np.uint8))])
            sender.send(large, FINAL if argument == "final" else 0)
        except pb_utils.TritonModelException as error:
            if argument != "final":
                sender.send(response("refused"), FINAL)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
"""

BLOCKS = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            count = int(request.inputs()[0].as_numpy()[0])
            sender = request.get_response_sender()
            for number in range(count):
                array = np.full(3 << 20, number, np.uint8)
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array)]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

SINGLE = DECOUPLED.replace("dynamic_batching { }", "")
PREFIX = "Failed to process the request(s) for model 'streams_0_0', message: "
WRONG = f"{PREFIX}Python model 'streams_0_0' is using the decoupled mode and the execute function must return None."
GONE = "neither returned a response nor sent its final one"


@pytest.fixture(scope="module")
def served(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    write(repository, "streams", MODEL, DECOUPLED)
    write(repository, "single", MODEL, SINGLE)
    write(repository, "blocks", BLOCKS, config(more="model_transaction_policy { decoupled: true }"))
    with serve(repository) as served:
        yield served


def outs(answers: list[dict[str, str]]) -> list[str]:
    return [answer["OUT"] for answer in answers]


@pytest.mark.spec("python_backend:Q71")
@pytest.mark.parametrize("verb", ["count", "alone", "pooled"])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_a_request_is_answered_any_number_of_times(driver: Driver, verb: str, count: int) -> None:
    assert outs(driver.all("streams", f"{verb}:{count}")) == [str(number) for number in range(count)]


@pytest.mark.spec("python_backend:Q71")
def test_requests_of_one_batch_are_answered_each_as_often_as_it_is(driver: Driver) -> None:
    answers = driver.batch("streams", "count:0", "count:1", "pooled:2", "alone:3")
    assert Counter(outs(answers)) == {"0": 3, "1": 2, "2": 1}


@pytest.mark.spec("python_backend:C87")
@pytest.mark.spec("python_backend:Q70")
@pytest.mark.parametrize(
    ("text", "wanted", "unwanted"),
    [
        ("count:2", [("0", False), ("1", True)], [("0", False), ("1", True)]),
        ("alone:2", [("0", False), ("1", False), (None, True)], [("0", False), ("1", False)]),
        ("alone:0", [(None, True)], []),
    ],
)
def test_an_empty_final_response_is_sent_to_who_wants_it(
    driver: Driver, text: str, wanted: list[Any], unwanted: list[Any]
) -> None:
    for parameters, expected in (({"triton_enable_empty_final_response": True}, wanted), ({}, unwanted)):
        messages = driver.stream(command("streams", text, parameters=parameters, id="7"))
        assert [(texts_of(message).get("OUT"), final_of(message)) for message in messages] == expected
        assert {message.infer_response.id for message in messages} <= {"7"}


@pytest.mark.spec("python_backend:Q70")
def test_responses_to_different_requests_come_as_they_are_made(driver: Driver, rendezvous: Rendezvous) -> None:
    stream = driver.open(*(command("single", f"visiting:{name}", id=name) for name in ("a", "b")))
    assert {texts_of(next(stream))["OUT"] for _ in range(2)} == {"a", "b"}
    visits = {visit.place: visit for visit in (rendezvous.next(), rendezvous.next())}
    for name, word in (("b", "1"), ("a", "2"), ("b", "3")):
        visits[name].let_go(word)
        message = next(stream)
        assert (texts_of(message), message.infer_response.id) == ({"OUT": f"{name} {word}"}, name)
        visits[name] = rendezvous.next()
    for visit in visits.values():
        visit.let_go("end")
    assert list(stream) == []
    assert stream.code() == grpc.StatusCode.OK


def test_the_first_response_arrives_while_the_model_is_still_executing(driver: Driver, rendezvous: Rendezvous) -> None:
    stream = driver.open(command("single", "visiting:only"))
    assert texts_of(next(stream)) == {"OUT": "only"}
    rendezvous.next().let_go("end")
    assert list(stream) == []


@pytest.mark.spec("python_backend:C72")
def test_many_streams_are_answered_from_many_threads(served: Served) -> None:
    with RpcClient(served.grpc_url) as client:
        calls = [client.stream([command("single", "pooled:20")]) for _ in range(64)]
        for stream in calls:
            assert [texts_of(message)["OUT"] for message in stream] == [str(number) for number in range(20)]


@pytest.mark.spec("python_backend:C73")
def test_what_one_thread_sends_stays_in_order(driver: Driver) -> None:
    assert outs(driver.all("single", "alone:10000")) == [str(number) for number in range(10000)]


@pytest.mark.spec("python_backend:C74")
def test_one_response_object_may_be_sent_many_times(driver: Driver) -> None:
    messages = driver.stream(command("streams", "same"))
    assert [texts_of(message) for message in messages] == [{"OUT": "same"}] * 100
    assert all(message.infer_response.parameters["again"].bool_param for message in messages)


@pytest.mark.spec("python_backend:C57")
def test_only_requested_outputs_are_streamed(driver: Driver) -> None:
    assert driver.all("streams", "both") == [{"OUT": "both", "MORE": "more"}, {"OUT": "known", "MORE": "more"}]
    assert driver.all("streams", "both", outputs=["MORE"]) == [{"MORE": "more"}] * 2


@pytest.mark.spec("python_backend:Q30")
@pytest.mark.spec("python_backend:Q58")
@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("then final", [{"OUT": "before"}, {"": "failed"}]),
        ("final", [{"OUT": "before"}, {"": "failed"}]),
        ("then data", [{"": "failed"}, {"OUT": "after"}]),
    ],
)
def test_an_error_is_one_response_among_others(driver: Driver, what: str, expected: list[dict[str, str]]) -> None:
    assert driver.all("streams", f"error:{what}") == expected


@pytest.mark.spec("python_backend:Q30")
def test_the_final_flag_may_come_long_after_an_error(driver: Driver, rendezvous: Rendezvous) -> None:
    stream = driver.open(command("streams", "error:final later"))
    assert [texts_of(next(stream)) for _ in range(2)] == [{"OUT": "before"}, {"": "failed"}]
    rendezvous.next().let_go()
    assert list(stream) == []


@pytest.mark.spec("python_backend:Q58")
def test_an_error_for_one_request_leaves_the_next_alone(driver: Driver) -> None:
    answers = driver.batch("streams", "error:final", "count:1")
    assert Counter(map(str, answers)) == Counter(map(str, [{"OUT": "before"}, {"": "failed"}, {"OUT": "0"}]))


@pytest.mark.spec("python_backend:Q29")
@pytest.mark.spec("python_backend:Q30")
@pytest.mark.parametrize("what", ["then final", "final", "final later"])
def test_an_error_ends_the_stream_of_a_client_that_wants_status_codes(
    driver: Driver, rendezvous: Rendezvous, what: str
) -> None:
    stream = driver.open(command("streams", f"error:{what}"), metadata=(("triton_grpc_error", "true"),))
    assert texts_of(next(stream)) == {"OUT": "before"}
    with pytest.raises(grpc.RpcError):
        next(stream)
    assert (stream.code(), stream.details()) == (grpc.StatusCode.INTERNAL, "failed")
    if what == "final later":
        rendezvous.next().let_go()
    assert outs(driver.all("streams", "ok")) == ["ok"]


@pytest.mark.spec("python_backend:C49")
@pytest.mark.spec("python_backend:Q61")
@pytest.mark.spec("python_backend:Q73")
def test_a_returned_response_is_one_error(driver: Driver, rendezvous: Rendezvous) -> None:
    assert driver.all("streams", "return") == [{"OUT": "first"}, {"": WRONG}]
    stream = driver.open(command("streams", "return:later"))
    assert [texts_of(message) for message in stream] == [{"OUT": "first"}, {"": WRONG}]
    rendezvous.next().let_go()
    driver.served.wait_for_log("too late: Unable to send response. Response sender has been closed.")


@pytest.mark.spec("python_backend:Q74")
def test_what_is_returned_after_the_final_response_reaches_nobody(driver: Driver) -> None:
    assert driver.all("streams", "final and return") == [{"OUT": "first"}]


@pytest.mark.spec("python_backend:Q62")
def test_what_is_sent_after_the_final_flag_reaches_nobody(driver: Driver) -> None:
    assert driver.all("streams", "after_final") == []


@pytest.mark.spec("python_backend:Q67")
def test_exceptions_fail_their_requests_and_the_model_stays_ready(driver: Driver) -> None:
    for _ in range(10):
        [answer] = driver.all("streams", "crash")
        assert answer[""].startswith(f"{PREFIX}ValueError: Intentional Error\n\nAt:\n")
    assert driver.served.get("/v2/models/streams/ready")[0] == 200
    before, after = driver.all("streams", "crash:after data")
    assert (before, "Intentional Error" in after[""]) == ({"OUT": "before"}, True)
    assert driver.all("streams", "crash:after final") == [{"OUT": "before"}]


@pytest.mark.spec("python_backend:C71")
def test_an_exception_in_a_thread_is_told_and_its_client_answered(driver: Driver) -> None:
    pids = driver.served.stubs()
    before, after = driver.all("streams", "thread:after data")
    assert before == {"OUT": "before"}
    assert GONE in after[""]
    driver.served.wait_for_log("ValueError: Intentional Error")
    assert outs(driver.all("streams", "ok")) == ["ok"]
    assert driver.served.stubs() == pids


@pytest.mark.spec("python_backend:C75")
@pytest.mark.spec("python_backend:K2")
def test_a_sender_that_is_gone_without_the_final_flag_ends_the_request(driver: Driver) -> None:
    before, after = driver.all("streams", "lost")
    assert before == {"OUT": "before"}
    assert GONE in after[""]


def test_without_room_for_it_a_response_is_refused_and_another_may_take_its_place(driver: Driver) -> None:
    assert driver.all("streams", "full") == [{"OUT": "refused"}]


def test_without_room_for_the_final_response_the_client_is_told_so(driver: Driver) -> None:
    [answer] = driver.all("streams", "full:final")
    assert "shared memory" in answer[""]


@pytest.mark.spec("python_backend:Q69")
def test_http_and_unary_calls_are_refused(served: Served) -> None:
    text = "doesn't support models with decoupled transaction policy"
    assert text in call(served, "blocks", {"IN": np.zeros(1, np.uint8)}).error
    with RpcClient(served.grpc_url) as client, pytest.raises(grpc.RpcError) as caught:
        client.infer(command("streams", "ok"))
    assert text in str(caught.value.details())


def test_a_long_stream_of_large_responses_uses_no_more_memory_than_a_few(served: Served) -> None:
    pid = served.stubs()["blocks_0_0"]
    request = infer_request(
        "blocks", {"name": "IN", "datatype": "UINT8", "shape": [1]}, raw_input_contents=[bytes([200])]
    )
    chunks = 0
    with RpcClient(served.grpc_url) as client:
        for number, message in enumerate(client.stream([request])):
            raw = message.infer_response.raw_output_contents[0]
            assert (len(raw), raw[0], raw[-1]) == (3 << 20, number, number)
            chunks = max(chunks, chunks_of(pid))
    assert number == 199
    assert chunks <= 4  # of 64 MiB


def chunks_of(pid: int) -> int:
    """How many shared-memory objects a process has open."""
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        target = os.readlink(f"/proc/{pid}/fd/{name}")
        if "triton_python_backend_shm_region_" in target:
            found.add(target)
    return len(found)


def test_tritonclient_streams(served: Served) -> None:
    arrived: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(served.grpc_url) as client:

        def ask(text: str, **options: Any) -> None:
            tensor = tritonclient.grpc.InferInput("IN", [1, 1], "BYTES")
            tensor.set_data_from_numpy(np.array([[text.encode()]], object))
            client.async_stream_infer("single", [tensor], request_id=text, **options)

        client.start_stream(lambda result, error: arrived.put((result, error)))
        ask("alone:3", enable_empty_final_response=True)
        ask("error:final")
        answers = [arrived.get(timeout=20) for _ in range(6)]
        client.stop_stream()
    results = [result for result, error in answers if error is None]
    assert [result.as_numpy("OUT").item() for result in results if result.as_numpy("OUT") is not None] == [
        b"0", b"1", b"2", b"before",
    ]  # fmt: skip
    finals = [result.get_response().parameters["triton_final_response"].bool_param for result in results]
    assert finals == [False, False, False, True, False]
    assert [str(error) for _, error in answers if error is not None] == ["failed"]


def test_a_stub_that_dies_ends_its_open_requests_with_an_error(driver: Driver, rendezvous: Rendezvous) -> None:
    stream = driver.open(*(command("single", f"visiting:{name}") for name in "ab"))
    assert {texts_of(next(stream))["OUT"] for _ in range(2)} == {"a", "b"}
    visits = [rendezvous.next(), rendezvous.next()]
    os.kill(visits[0].pid, 9)
    errors = [texts_of(message)[""] for message in stream]
    assert len(errors) == 2
    assert all("Stub process 'single_0_0' is not healthy." in error for error in errors)
    assert outs(driver.all("single", "ok")) == ["ok"]
