"""A client that gives up: the model can ask, and answer as it likes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from calling import metric, wait_until
from commands import CONFIG, DECOUPLED, Driver, command, driver, texts_of
from grpc_wire import RpcClient
from rendezvous import Rendezvous, write
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

def wait_for_cancellation(asked, name):
    '''Ask until it is so, while another thread shows that it is not kept from running.'''
    done = threading.Event()
    progress = [0]

    def run():
        while not done.is_set():
            progress[0] += 1

    thread = threading.Thread(target=run)
    thread.start()
    before = asked.is_cancelled()
    at(name)
    while not asked.is_cancelled():
        pass
    done.set()
    thread.join()
    print(name, "was cancelled:", before, asked.is_cancelled(), progress[0] > 0, flush=True)

def cancelled():
    error = pb_utils.TritonError("given up", pb_utils.TritonError.CANCELLED)
    return pb_utils.InferenceResponse(error=error)
"""

MODEL = (
    COMMON
    + """
class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request, text_of(request)) for request in requests]

    def answer(self, request, text):
        if text == "request":
            wait_for_cancellation(request, "request")
            return cancelled()
        if text == "sender":
            wait_for_cancellation(request.get_response_sender(), "sender")
            return cancelled()
        if text == "later":
            threading.Thread(target=self.later, args=(request.get_response_sender(),)).start()
            return None
        if text == "gate":
            at("gate")
        if text == "local":
            local = pb_utils.InferenceRequest(model_name="m", requested_output_names=[], inputs=[])
            return response(json.dumps([local.is_cancelled(), local.get_response_sender().is_cancelled()]))
        if text == "after final":
            sender = request.get_response_sender()
            sender.send(response(""), FINAL)
            print("after the final response:", sender.is_cancelled(), request.is_cancelled(), flush=True)
            return None
        if text == "refuse":
            return cancelled()
        return response(str(request.is_cancelled()))

    def later(self, sender):
        wait_for_cancellation(sender, "later")
        sender.send(cancelled(), FINAL)
        print("still known afterwards:", sender.is_cancelled(), flush=True)
"""
)

STREAM = (
    COMMON
    + """
class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            if text_of(request) == "ok":
                sender.send(response("ok"), FINAL)
            else:
                threading.Thread(target=self.run, args=(sender, text_of(request))).start()

    def run(self, sender, text):
        sender.send(response(text))
        wait_for_cancellation(sender, text)
        for _ in range(3):
            sender.send(response("to nobody"))
        sender.send(cancelled(), FINAL)
        print(text, "has ended", flush=True)
"""
)


@pytest.fixture(scope="module")
def served(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    write(repository, "cancellable", MODEL, CONFIG)
    write(repository, "stream", STREAM, DECOUPLED.replace("dynamic_batching { }", ""))
    with serve(repository) as served:
        yield served


def pending(served: Served, model: str) -> float:
    return metric(served, "nv_inference_pending_request_count", model)


@pytest.mark.spec("python_backend:C92")
@pytest.mark.spec("python_backend:C94")
@pytest.mark.spec("python_backend:Q26")
@pytest.mark.parametrize("text", ["request", "sender"])
def test_a_model_sees_while_it_executes_that_its_client_gave_up(
    served: Served, driver: Driver, rendezvous: Rendezvous, text: str
) -> None:
    with RpcClient(served.grpc_url) as client:
        future = client.start(command("cancellable", text))
        visit = rendezvous.next()
        future.cancel()
        visit.let_go()
        served.wait_for_log(f"{text} was cancelled: False True True")
        with pytest.raises(grpc.FutureCancelledError):
            future.result()
    assert driver.one("cancellable", "ok") == {"OUT": "False"}


@pytest.mark.spec("python_backend:Q63")
@pytest.mark.spec("python_backend:C92")
def test_a_sender_sees_it_after_execute_has_returned(served: Served, driver: Driver, rendezvous: Rendezvous) -> None:
    with RpcClient(served.grpc_url) as client:
        future = client.start(command("cancellable", "later"))
        visit = rendezvous.next()
        assert driver.one("cancellable", "ok") == {"OUT": "False"}  # an execution after its own
        future.cancel()
        visit.let_go()
        served.wait_for_log("later was cancelled: False True True")
        served.wait_for_log("still known afterwards: True")


@pytest.mark.spec("python_backend:Q63")
@pytest.mark.parametrize("end", ["cancel", "break the connection"])
def test_the_end_of_a_stream_cancels_what_is_under_way(
    served: Served, driver: Driver, rendezvous: Rendezvous, end: str
) -> None:
    with RpcClient(served.grpc_url) as client:
        names = [f"{end} {number}" for number in range(2)]
        call = client.stream(command("stream", name) for name in names)
        assert {texts_of(next(call))["OUT"] for _ in names} == set(names)
        visits = [rendezvous.next() for _ in names]
        if end == "cancel":
            call.cancel()
        else:
            client.channel.close()
        for visit in visits:
            visit.let_go()
        for name in names:
            served.wait_for_log(f"{name} was cancelled: False True True")
            served.wait_for_log(f"{name} has ended")
        if end == "cancel":
            assert call.code() == grpc.StatusCode.CANCELLED
    assert driver.one("stream", "ok") == {"OUT": "ok"}


@pytest.mark.spec("python_backend:C93")
@pytest.mark.spec("python_backend:K19")
def test_asking_after_the_final_response_is_harmless(driver: Driver) -> None:
    assert driver.one("cancellable", "after final") == {"OUT": ""}
    driver.served.wait_for_log("after the final response: False False")


@pytest.mark.spec("python_backend:K9")
def test_requests_that_a_model_made_are_not_cancelled(driver: Driver) -> None:
    assert driver.one("cancellable", "local") == {"OUT": "[false, false]"}


@pytest.mark.spec("python_backend:C95")
def test_the_code_for_a_cancelled_request_reaches_a_client_that_waits(served: Served) -> None:
    with RpcClient(served.grpc_url) as client, pytest.raises(grpc.RpcError) as caught:
        client.infer(command("cancellable", "refuse"))
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.CANCELLED, "given up")


def test_a_queued_request_of_a_client_that_gave_up_is_never_executed(
    served: Served, driver: Driver, rendezvous: Rendezvous
) -> None:
    with RpcClient(served.grpc_url) as client:
        first = client.start(command("cancellable", "gate"))
        visit = rendezvous.next()
        queued = client.start(command("cancellable", "request"))
        wait_until(lambda: pending(served, "cancellable") == 1, "it is queued")
        queued.cancel()
        wait_until(lambda: pending(served, "cancellable") == 0, "it is taken out")
        visit.let_go()
        assert b"False" in first.result()
    assert driver.one("cancellable", "ok") == {"OUT": "False"}


def test_a_stub_that_dies_with_cancelled_requests_serves_on(
    served: Served, driver: Driver, rendezvous: Rendezvous
) -> None:
    with RpcClient(served.grpc_url) as client:
        call: Any = client.stream([command("stream", "dying")])
        assert texts_of(next(call)) == {"OUT": "dying"}
        visit = rendezvous.next()
        call.cancel()
        os.kill(visit.pid, 9)
    served.wait_for_log("instance 'stream_0_0' serves again")
    assert driver.one("stream", "ok") == {"OUT": "ok"}
