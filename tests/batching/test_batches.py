"""Who executes together: the default scheduler, and the dynamic batcher with its sizes, delays, shapes and order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc
from calling import statistics
from rendezvous import Rendezvous, write
from sending import MEETING, Sender, batching_config, sending, tensor
from serving import Served, serve

DECOUPLED = """
import numpy as np
import triton_python_backend_utils as pb_utils
from rendezvous import at

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for number in range(2):
                at(f"{request.request_id()}{number}")
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([[number]], np.int32))]))
            at(f"{request.request_id()} final")
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

SETS = """
import numpy as np
import triton_python_backend_utils as pb_utils
from rendezvous import at

class TritonPythonModel:
    def execute(self, requests):
        at(" ".join(request.request_id() for request in requests))
        total = np.array([[len(requests)]], np.int32)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", total)]) for request in requests]
"""

SETS_CONFIG = """
backend: "python"
max_batch_size: 8
input [
  { name: "A" data_type: TYPE_INT32 dims: [ 1 ] },
  { name: "B" data_type: TYPE_INT32 dims: [ -1 ] optional: true allow_ragged_batch: true },
  { name: "C" data_type: TYPE_INT32 dims: [ 1 ] optional: true }
]
output [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU } ]
dynamic_batching {}
"""


@pytest.fixture(scope="module")
def served(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    models = {
        "default": batching_config("", count=2),
        "dynamic": batching_config(max_batch_size=8),
        "preferred": batching_config("dynamic_batching { preferred_batch_size: [ 2, 4 ] }", max_batch_size=8),
        "patient": batching_config("dynamic_batching { max_queue_delay_microseconds: 600000000 }"),
        "brief": batching_config("dynamic_batching { max_queue_delay_microseconds: 1000 }"),
        "shapes": batching_config(dims=-1, max_batch_size=8),
        "ragged": batching_config(dims=-1, max_batch_size=8).replace("input [ {", "input [ { allow_ragged_batch: true"),
        "single": batching_config(max_batch_size=0),
        "ordered": batching_config("dynamic_batching { preserve_ordering: true }", count=2, max_batch_size=1),
    }
    for name, text in models.items():
        write(repository, name, MEETING, text)
    write(repository, "sets", SETS, SETS_CONFIG)
    more = "dynamic_batching { preserve_ordering: true } model_transaction_policy { decoupled: true }"
    write(repository, "streams", DECOUPLED, batching_config(more, count=2, max_batch_size=1))
    with serve(repository) as served:
        yield served
        assert "Traceback" not in served.log


@pytest.fixture
def sender(request: pytest.FixtureRequest, served: Served, rendezvous: Rendezvous) -> Iterator[Sender]:
    """Sends to the model that a test is parametrised with."""
    with sending(served, rendezvous, request.param) as sender:
        yield sender
        assert sender.pending == 0


def to(model: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("sender", [model], indirect=True)


# -- default


@pytest.mark.spec("server:203")
@to("default")
def test_the_default_scheduler_executes_one_request_at_a_time_in_order(sender: Sender) -> None:
    (_, first), (_, second) = sender.start("a"), sender.start("b")
    queued = sender.queue("c", "d", "e")
    second.let_go()
    third = sender.meet()
    first.let_go()
    fourth = sender.meet()
    assert (third.place, fourth.place) == ("c", "d")
    third.let_go()
    fourth.let_go()
    assert sender.run(1) == ["e"]
    assert [sent.answer() for sent in queued] == [[[1]]] * 3


# -- sizes and delays


@pytest.mark.spec("server:204")
@to("dynamic")
def test_requests_that_wait_fill_one_batch(sender: Sender, served: Served) -> None:
    _, first = sender.start("a")
    sent = [*sender.queue("b", "c"), *sender.queue("d", shape=(3, 1)), *sender.queue("e", shape=(4, 1))]
    first.let_go()
    assert sender.run(2) == ["b c d", "e"]  # five of at most eight; the next four do not fit
    assert [len(one.answer()) for one in sent] == [1, 1, 3, 4]
    entry = statistics(served, "dynamic")
    assert (entry["inference_count"], entry["execution_count"]) == (10, 3)
    assert [batch["batch_size"] for batch in entry["batch_stats"]] == [1, 4, 5]
    assert entry["inference_stats"]["queue"]["count"] == 5


@pytest.mark.spec("server:204")
@to("preferred")
def test_preferred_sizes_come_first(sender: Sender) -> None:
    _, first = sender.start("a")
    sent = sender.queue(*"bcdefgh")
    first.let_go()
    assert sender.run(3) == ["b c d e", "f g", "h"]
    assert [one.answer() for one in sent] == [[[1]]] * 7


@pytest.mark.spec("server:204")
@to("patient")
def test_a_batch_goes_as_soon_as_it_is_full_and_grows_until_then(sender: Sender) -> None:
    sender.queue("a", "b", "c")
    full = sender.send("d")
    assert sender.run(1) == ["a b c d"]
    assert full.answer() == [[1]]


@pytest.mark.spec("server:204")
@to("patient")
def test_a_batch_that_cannot_grow_does_not_wait(sender: Sender) -> None:
    sender.queue("a", "b")
    large = sender.send("c", shape=(3, 1))
    assert sender.run(1) == ["a b"]
    last = sender.send("d")
    assert sender.run(1) == ["c d"]
    assert (len(large.answer()), len(last.answer())) == (3, 1)


@pytest.mark.spec("server:204")
@to("brief")
def test_a_batch_that_nobody_joins_goes_when_its_time_is_over(sender: Sender) -> None:
    sent = sender.send("a")
    assert sender.run(1) == ["a"]
    assert sent.answer() == [[1]]


@to("single")
def test_a_model_without_batches_gets_one_request_at_a_time(sender: Sender) -> None:
    _, first = sender.start("a", shape=(1,))
    sender.queue("b", "c", shape=(1,))
    first.let_go()
    assert sender.run(2) == ["b", "c"]


# -- what goes together


@pytest.mark.spec("server:205")
@to("shapes")
def test_a_batch_holds_equal_shapes_and_nothing_overtakes(sender: Sender) -> None:
    _, first = sender.start("a")
    for name, length in zip("bcdef", (2, 2, 3, 3, 2), strict=True):
        sender.queue(name, shape=(1, length))
    first.let_go()
    assert sender.run(3) == ["b c", "d e", "f"]


@pytest.mark.spec("server:205")
@to("ragged")
def test_ragged_inputs_go_together_whatever_their_shapes(sender: Sender) -> None:
    _, first = sender.start("a")
    sent = [*sender.queue("b", shape=(1, 2)), *sender.queue("c", shape=(1, 3))]
    first.let_go()
    assert sender.run(1) == ["b c"]
    assert [one.answer() for one in sent] == [[[1, 1]], [[1, 1, 1]]]


@pytest.mark.spec("server:205")
@to("sets")
def test_a_batch_holds_equal_sets_of_inputs(sender: Sender) -> None:
    _, first = sender.start("a", inputs=[tensor("A")])
    for name, inputs in zip("bcdefgh", ("A", "A", "AB", "BA", "AC", "ABC", "CBA"), strict=True):
        sender.queue(name, inputs=[tensor(letter) for letter in inputs])
    first.let_go()
    assert sender.run(4) == ["b c", "d e", "f", "g h"]


# -- order


@pytest.mark.spec("server:211")
@to("ordered")
def test_responses_leave_in_the_order_of_their_requests(sender: Sender) -> None:
    (one, first), (other, second) = sender.start("a"), sender.start("b")
    second.let_go()
    later, third = sender.start("c")  # the instance that is done with b has taken it
    third.let_go()
    assert sender.arrivals == []
    first.let_go()
    assert [sent.answer() for sent in (one, other, later)] == [[[1]]] * 3
    assert sender.arrivals == ["a", "b", "c"]


@pytest.mark.spec("server:211")
def test_streams_leave_one_after_the_other(served: Served, rendezvous: Rendezvous) -> None:
    """What instances send to a later request is held until the earlier one has had its final response."""
    arrivals: list[str] = []
    done = threading.Event()

    def on_response(result: Any, error: Any) -> None:
        response = result.get_response()
        arrivals.append(response.id)
        if len(arrivals) == 6:
            done.set()

    with tritonclient.grpc.InferenceServerClient(served.grpc_url) as client:
        client.start_stream(on_response)
        for name in "ab":
            client.async_stream_infer("streams", [tensor("IN")], request_id=name, enable_empty_final_response=True)
        visits = {visit.place: visit for visit in (rendezvous.next(), rendezvous.next())}
        for place in ("b0", "b1", "b final", "a0", "a1", "a final"):
            if place not in visits:
                visits[place] = rendezvous.next()
            visits[place].let_go()
        assert done.wait(20)
        client.stop_stream()
    assert arrivals == list("aaabbb")
