"""Calls from processes that a model forked, over channels of their own."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from calling import call, in_background, leased_blocks, metric, wait_until
from rendezvous import Rendezvous, config, write
from serving import Served, serve

FORKING = """
import json
import multiprocessing
import os
import socket
import threading
import numpy
import triton_python_backend_utils as pb_utils
from rendezvous import at

FORK = multiprocessing.get_context("fork")
LARGE = 3_000_000

def call(model, *inputs):
    response = pb_utils.InferenceRequest(model_name=model, inputs=list(inputs), requested_output_names=[]).exec()
    if response.has_error():
        raise RuntimeError(response.error().message())
    return response.output_tensors()[0].as_numpy()

def square(number):
    return int(call("square", pb_utils.Tensor("IN", numpy.array([number], numpy.int32)))[0])

def squares_in_threads(number):
    results = [None] * 4
    def work(index):
        results[index] = square(number + index)
    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results

def large(number):
    sent = numpy.full(LARGE, number, numpy.int32)
    got = call("square", pb_utils.Tensor("IN", sent))
    return bool((got == number * number).all())

def outcome(action, *arguments):
    # In a forked child: what it returns or raises.
    def run(sending):
        try:
            sending.send(action(*arguments))
        except Exception as error:
            sending.send(f"{type(error).__name__}: {error}")
    receiving, sending = FORK.Pipe(duplex=False)
    child = FORK.Process(target=run, args=(sending,))
    child.start()
    result = receiving.recv()
    child.join()
    assert child.exitcode == 0
    return result

def send_with(sender):
    sender.send(pb_utils.InferenceResponse([]))

def meet_in_call(place):
    return call("meeting", pb_utils.Tensor("IN", numpy.array([place], dtype=object)))[0].decode()

def relayed(number):
    relay = pb_utils.InferenceRequest(
        model_name="square", inputs=[pb_utils.Tensor("IN", numpy.array([number], numpy.int32))],
        requested_output_names=[],
    )
    return [int(response.output_tensors()[0].as_numpy()[0]) for response in relay.exec(decoupled=True)]

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            by_name = {tensor.name(): tensor for tensor in request.inputs()}
            result = self.perform(request, by_name["ORDER"].as_numpy()[0].decode(), by_name.get("IN"))
            output = pb_utils.Tensor("OUT", numpy.array([json.dumps(result)], dtype=object))
            responses.append(pb_utils.InferenceResponse([output]))
        return responses

    def perform(self, request, order, data):
        if order == "pool":
            with FORK.Pool(10) as pool:
                return pool.map(square, range(40))
        if order == "threads":
            with FORK.Pool(2) as pool:
                return pool.map(squares_in_threads, [10, 20])
        if order == "large":
            with FORK.Pool(3) as pool:
                return pool.map(large, range(2, 11))
        if order == "received tensor":
            renamed = pb_utils.Tensor("IN", data.as_numpy())
            return [
                outcome(lambda tensor: int(call("square", tensor).sum()), tensor) for tensor in (renamed, data)
            ] + [int(call("square", data).sum())]
        if order == "written tensor":
            data.as_numpy()[:] = 3
            renamed = pb_utils.Tensor("IN", data.as_numpy())
            return outcome(lambda: int(call("square", renamed).sum()))
        if order == "sent tensor":
            tensor = pb_utils.Tensor("IN", numpy.full(LARGE, 2, numpy.int32))
            call("square", tensor)
            return [outcome(lambda: int(call("square", tensor).sum())), int(call("square", tensor).sum())]
        if order == "grandchild":
            def both():
                return [square(5), outcome(square, 6), square(7)]
            return outcome(both)
        if order == "while another thread calls":
            # The thread waits in a call, which it began before the fork.
            met = []
            thread = threading.Thread(target=lambda: met.append(meet_in_call("before the fork")))
            thread.start()
            at("may fork")
            result = outcome(square, 9)
            at("forked")
            thread.join()
            return [result, met]
        if order == "default timeout":
            def impatient():
                socket.setdefaulttimeout(0.0001)
                return meet_in_call("longer than that")
            return outcome(impatient)
        if order == "unknown model":
            return outcome(call, "no_such_model")
        if order == "stream":
            return outcome(relayed, 8)
        if order == "sender":
            return outcome(send_with, request.get_response_sender())
        if order == "log":
            return outcome(pb_utils.Logger.log_info, "a line of a forked child")
        if order == "metric":
            family = pb_utils.MetricFamily("bls_forked", "Of the parent", pb_utils.MetricFamily.COUNTER)
            series = family.Metric(labels={"a": "b"})
            def count():
                series.increment(3)
                nonlocal family
                family = None  # its finalizer must not take the parent's series away
            outcome(count)
            return series.value()
        if order == "killed in a call":
            child = FORK.Process(target=meet_in_call, args=("child calls",))
            child.start()
            child.join()
            return child.exitcode
        if order == "lingering child":
            self.child = FORK.Process(target=meet_in_call, args=("child lingers",))
            self.child.start()
            return self.child.pid
        if order == "terminated":
            child = FORK.Process(target=meet_in_call, args=("child to be terminated",))
            child.start()
            at("started")
            child.terminate()
            child.join()
            return child.exitcode
        return square(int(order))
"""

SQUARE = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUT", request.inputs()[0].as_numpy() ** 2)])
            for request in requests
        ]
"""

MEETING = """
import numpy
import triton_python_backend_utils as pb_utils
from rendezvous import at

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            word = at(request.inputs()[0].as_numpy()[0].decode())
            output = pb_utils.Tensor("OUT", numpy.array([word], dtype=object))
            responses.append(pb_utils.InferenceResponse([output]))
        return responses
"""

OPTIONAL = """
backend: "python"
input [
  { name: "ORDER" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "IN" data_type: TYPE_INT32 dims: [ -1 ] optional: true }
]
output [ { name: "OUT" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""


@pytest.fixture(scope="module")
def server(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    write(repository, "forking", FORKING, OPTIONAL)
    write(repository, "square", SQUARE, config("IN:INT32", "OUT:INT32"))
    write(repository, "meeting", MEETING, config("IN:STRING", "OUT:STRING"))
    with serve(repository) as served:
        yield served


@pytest.fixture(autouse=True)
def nothing_stays(server: Served) -> Iterator[None]:
    """After each test no block is held, by the stubs or by the children that there were."""
    yield
    for model in ("forking", "square"):
        wait_until(lambda model=model: leased_blocks(server, model) == 0, f"no leased blocks of {model}")
        assert metric(server, "atoll_shared_memory_used_bytes", model) == 0


def perform(served: Served, order: str, data: Any = None) -> Any:
    """What the forking model tells of an order."""
    inputs = {"ORDER": [order]} if data is None else {"ORDER": [order], "IN": data}
    return json.loads(call(served, "forking", inputs)["OUT"][0])


def stub_and_child(served: Served) -> tuple[psutil.Process, psutil.Process]:
    """The forking model's stub, and the process that it forked."""
    processes = {process.pid: process for process in served.processes()}
    ours = [process for process in processes.values() if process.cmdline()[0].endswith("forking_0_0")]
    (child,) = [process for process in ours if process.parent() in ours]
    return processes[child.ppid()], child


def has_ended(process: psutil.Process) -> bool:
    """Whether it exited, though whoever became its parent may not have noticed yet."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.spec("python_backend:C18")
@pytest.mark.spec("python_backend:Q45")
def test_the_workers_of_a_pool_call(server: Served) -> None:
    assert perform(server, "pool") == [number**2 for number in range(40)]
    assert perform(server, "7") == 49  # and the model itself goes on


def test_threads_of_forked_children_call_at_the_same_time(server: Served) -> None:
    assert perform(server, "threads") == [[100, 121, 144, 169], [400, 441, 484, 529]]


def test_large_tensors_of_children_travel_in_arenas_of_their_own(server: Served) -> None:
    assert perform(server, "large") == [True] * 9


def test_a_child_passes_on_what_its_parent_received(server: Served) -> None:
    data = np.arange(20_000, dtype=np.int32) % 7
    expected = int((data**2).sum())
    assert perform(server, "received tensor", data) == [expected] * 3


def test_a_child_sends_what_its_parent_wrote_into_an_input(server: Served) -> None:
    assert perform(server, "written tensor", np.zeros(20_000, np.int32)) == 9 * 20_000


def test_a_child_sends_again_what_its_parent_has_sent(server: Served) -> None:
    assert perform(server, "sent tensor") == [12_000_000, 12_000_000]


def test_children_of_children_call(server: Served) -> None:
    assert perform(server, "grandchild") == [25, 36, 49]


def test_a_child_calls_while_a_thread_of_the_parent_waits_in_a_call(server: Served, rendezvous: Rendezvous) -> None:
    with in_background(perform, server, "while another thread calls") as answer:
        visits = {visit.place: visit for visit in (rendezvous.next(), rendezvous.next())}
        visits["may fork"].let_go()
        visit = rendezvous.next()
        assert visit.place == "forked"
        visit.let_go()
        visits["before the fork"].let_go("met")
    assert answer.result() == [81, ["met"]]


def test_errors_reach_the_child(server: Served) -> None:
    assert perform(server, "unknown model") == (
        "RuntimeError: Model no_such_model - Error when running inference: "
        "Request for unknown model: 'no_such_model' is not found"
    )


def test_a_child_iterates_over_a_stream(server: Served) -> None:
    assert perform(server, "stream") == [64]


def test_a_child_may_not_answer_the_parents_requests(server: Served) -> None:
    assert perform(server, "sender") == (
        "TritonModelException: A request is answered by the process that received it, not by one that it forked."
    )


def test_a_child_logs_and_counts(server: Served) -> None:
    perform(server, "log")
    server.wait_for_log("a line of a forked child")
    assert perform(server, "metric") == 3


def test_a_childs_call_takes_no_default_timeout_of_the_models(server: Served, rendezvous: Rendezvous) -> None:
    with in_background(perform, server, "default timeout") as answer:
        rendezvous.next().let_go("in time")
        assert answer.result() == "in time"


def test_the_call_of_a_child_that_is_killed_ends_with_it(server: Served, rendezvous: Rendezvous) -> None:
    with in_background(perform, server, "killed in a call") as answer:
        visit = rendezvous.next()
        _, child = stub_and_child(server)
        child.kill()
        assert answer.result() == -signal.SIGKILL
        visit.let_go()
    assert perform(server, "7") == 49


def test_a_child_can_be_terminated(server: Served, rendezvous: Rendezvous) -> None:
    with in_background(perform, server, "terminated") as answer:
        visits = {visit.place: visit for visit in (rendezvous.next(), rendezvous.next())}
        visits["started"].let_go()
        assert answer.result() == -signal.SIGTERM
        visits["child to be terminated"].let_go()


def test_a_child_that_outlives_its_stub_keeps_nothing_back(server: Served, rendezvous: Rendezvous) -> None:
    assert isinstance(perform(server, "lingering child"), int)
    visit = rendezvous.next()
    stub, child = stub_and_child(server)
    restarts = metric(server, "atoll_instance_restarts", "forking")
    stub.kill()
    wait_until(lambda: metric(server, "atoll_instance_restarts", "forking") == restarts + 1, "the stub is replaced")
    wait_until(lambda: has_ended(child), "the call of the child ended, and with it the child")
    visit.let_go()
    wait_until(lambda: server.get("/v2/models/forking/ready")[0] == 200, "the model is ready again")
    assert perform(server, "pool") == [number**2 for number in range(40)]
