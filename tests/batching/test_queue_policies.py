"""Priorities, limits and timeouts of queues, and requests whose clients give up while they wait."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from calling import statistics, wait_until
from rendezvous import Rendezvous, write
from sending import MEETING, Sender, batching_config, sending
from serving import Served, serve

LONG_US = 600_000_000
BRIEF_US = 20_000

POLICIES = f"""
dynamic_batching {{
  priority_levels: 3
  default_priority_level: 2
  default_queue_policy {{ max_queue_size: 4 }}
  priority_queue_policy {{ key: 1 value: {{ max_queue_size: 1 }} }}
  priority_queue_policy {{
    key: 3
    value: {{ timeout_action: DELAY default_timeout_microseconds: {LONG_US} allow_timeout_override: true }}
  }}
}}
"""


CALLER = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        tensor = pb_utils.Tensor("IN", np.ones((1, 1), np.int32))
        call = pb_utils.InferenceRequest(
            model_name="lowered", requested_output_names=["OUT"], inputs=[tensor], timeout=5
        )
        error = call.exec().error()
        text = f"{error.code()} {error.message()}"
        return [pb_utils.InferenceResponse(error=pb_utils.TritonError(text))]
"""


def policy(text: str, more: str = "") -> str:
    return batching_config(f"dynamic_batching {{ default_queue_policy {{ {text} }} {more} }}", max_batch_size=1)


@pytest.fixture(scope="module")
def served(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    models = {
        "levels": batching_config(POLICIES, max_batch_size=1),
        "timed": policy(f"default_timeout_microseconds: {BRIEF_US}"),
        "lowered": policy(f"default_timeout_microseconds: {LONG_US} allow_timeout_override: true"),
        "fixed": policy(f"default_timeout_microseconds: {LONG_US}"),
        "endless": policy("allow_timeout_override: true"),
        "small": policy("max_queue_size: 2"),
        "ordered": policy(f"default_timeout_microseconds: {BRIEF_US}", "preserve_ordering: true"),
        "tight": policy("max_queue_size: 1", "preserve_ordering: true"),
        "plain": batching_config("", max_batch_size=1),
    }
    for name, text in models.items():
        write(repository, name, MEETING, text)
    write(repository, "caller", CALLER, batching_config("", max_batch_size=1))
    with serve(repository) as served:
        yield served
        assert "Traceback" not in served.log


@pytest.fixture
def sender(request: pytest.FixtureRequest, served: Served, rendezvous: Rendezvous) -> Iterator[Sender]:
    """Sends to the model that a test is parametrised with; nothing waits before it, and nothing after."""
    with sending(served, rendezvous, request.param) as sender:
        yield sender
        assert sender.pending == 0


def to(model: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("sender", [model], indirect=True)


def fails(served: Served, model: str) -> int:
    count: int = statistics(served, model)["inference_stats"]["fail"]["count"]
    return count


OK = [[1]]
EXPIRED = ("StatusCode.UNAVAILABLE", "Request timeout expired")
CANCELLED = ("StatusCode.CANCELLED", "Locally cancelled by application!")

# -- priorities


@pytest.mark.spec("server:206")
@to("levels")
def test_higher_levels_run_first_and_the_default_is_between(sender: Sender) -> None:
    _, first = sender.start("first")
    sender.queue("low", priority=3)
    sender.queue("default")
    sender.queue("beyond", priority=4)
    sender.queue("middle", priority=2)
    sender.queue("high", priority=1)
    first.let_go()
    assert sender.run(5) == ["high", "default", "beyond", "middle", "low"]


# -- limits


@pytest.mark.spec("server:207")
@pytest.mark.spec("server:239")
@pytest.mark.spec("server:240")
@to("small")
def test_a_full_queue_refuses_over_both_protocols_and_counts_it(sender: Sender, served: Served) -> None:
    _, first = sender.start("first")
    sent = sender.queue("a", "b")
    text = "Exceeds maximum queue size"
    assert sender.send("c").answer() == ("StatusCode.UNAVAILABLE", f"[request id: c] {text}")
    document = {"inputs": [{"name": "IN", "datatype": "INT32", "shape": [1, 1], "data": [1]}]}
    refusal = {"error": f"[request id: <id_unknown>] {text}"}
    assert served.post("/v2/models/small/infer", document) == (503, refusal)
    assert (sender.pending, sender.failures(), fails(served, "small")) == (2, {"REJECTED": 2}, 2)
    first.let_go()
    assert sender.run(1) == ["a"]
    b = sender.meet()
    sent += sender.queue("d", "e")  # what an instance has does not count
    b.let_go()
    assert sender.run(2) == ["d", "e"]
    assert [one.answer() for one in sent] == [OK] * 4
    assert statistics(served, "small")["inference_stats"]["success"]["count"] == 5


@pytest.mark.spec("server:207")
@to("levels")
def test_each_level_has_room_of_its_own(sender: Sender) -> None:
    _, first = sender.start("first")
    sender.queue("a", priority=1)
    status, _ = sender.send("b", priority=1).answer()
    assert status == "StatusCode.UNAVAILABLE"
    sender.queue("c", "d", "e", "f")
    status, _ = sender.send("g").answer()
    assert status == "StatusCode.UNAVAILABLE"
    sender.queue("h", priority=3)
    first.let_go()
    assert sender.run(6) == ["a", "c", "d", "e", "f", "h"]


# -- timeouts


@pytest.mark.spec("server:208")
@pytest.mark.spec("server:239")
@pytest.mark.spec("server:240")
@to("timed")
def test_what_waits_too_long_is_refused_while_the_instance_is_busy(sender: Sender, served: Served) -> None:
    document = {"inputs": [{"name": "IN", "datatype": "INT32", "shape": [1, 1], "data": [1]}]}
    started, first = sender.start("first")
    with ThreadPoolExecutor(1) as pool:
        over_http = pool.submit(served.post, "/v2/models/timed/infer", document)
        assert [sender.send(name).answer() for name in "ab"] == [EXPIRED, EXPIRED]
        assert over_http.result() == (503, {"error": "Request timeout expired"})
    assert (sender.pending, sender.failures(), fails(served, "timed")) == (0, {"REJECTED": 3}, 3)
    first.let_go()
    assert started.answer() == OK  # an execution may take any time


@pytest.mark.spec("server:210")
@pytest.mark.parametrize(
    ("sender", "timeout", "expires"),
    [("lowered", 1000, True), ("lowered", 2 * LONG_US, False), ("fixed", 1000, False), ("endless", 1000, False)],
    indirect=["sender"],
)
def test_a_request_can_only_lower_its_timeout_where_it_may(sender: Sender, timeout: int, expires: bool) -> None:
    _, first = sender.start("first")
    if expires:
        assert sender.send("a", timeout=timeout).answer() == EXPIRED
        first.let_go()
    else:
        [waits] = sender.queue("a", timeout=timeout)
        first.let_go()
        assert sender.run(1) == ["a"]
        assert waits.answer() == OK


@pytest.mark.spec("server:209")
@to("levels")
def test_what_is_delayed_runs_when_nothing_else_waits(sender: Sender) -> None:
    _, first = sender.start("first")
    late, *others = [*sender.queue("late", priority=3, timeout=1), *sender.queue("a", "b", priority=3)]
    first.let_go()
    assert sender.run(3) == ["a", "b", "late"]
    assert [sent.answer() for sent in (late, *others)] == [OK, OK, OK]


@pytest.mark.spec("server:211")
@to("ordered")
def test_a_refusal_keeps_its_place_among_ordered_responses(sender: Sender) -> None:
    started, first = sender.start("first")
    expired = [sender.send("a"), sender.send("b")]
    wait_until(lambda: sender.failures().get("REJECTED", 0) == 2, "both have expired")
    assert sender.arrivals == []
    first.let_go()
    assert started.answer() == OK
    assert [sent.answer() for sent in expired] == [EXPIRED, EXPIRED]
    assert sender.arrivals[0] == "first"


@pytest.mark.spec("server:207")
@to("tight")
def test_a_request_that_found_no_room_is_answered_at_once_even_where_responses_are_ordered(sender: Sender) -> None:
    started, first = sender.start("first")
    [queued] = sender.queue("a")
    assert sender.send("b").answer() == ("StatusCode.UNAVAILABLE", "[request id: b] Exceeds maximum queue size")
    first.let_go()
    assert sender.run(1) == ["a"]
    assert [started.answer(), queued.answer()] == [OK, OK]
    assert sender.arrivals == ["b", "first", "a"]


# -- cancellation


@pytest.mark.spec("server:212")
@pytest.mark.spec("server:239")
@pytest.mark.spec("server:240")
@pytest.mark.parametrize("sender", ["plain", "small"], indirect=True)
def test_a_cancelled_request_leaves_the_queue_at_once(sender: Sender, served: Served) -> None:
    before = sender.failures().get("CANCELED", 0), fails(served, sender.model)
    _, first = sender.start("first")
    a, b = sender.queue("a", "b")
    a.call.cancel()
    assert a.answer() == CANCELLED
    wait_until(lambda: sender.pending == 1, "it waits no longer, and the instance is still busy")
    sender.queue("c")  # there is room again
    first.let_go()
    assert sender.run(2) == ["b", "c"]
    assert b.answer() == OK
    assert (sender.failures()["CANCELED"], fails(served, sender.model)) == (before[0] + 1, before[1] + 1)


@pytest.mark.spec("python_backend:C258")
@pytest.mark.spec("python_backend:Q49")
@to("lowered")
def test_a_model_that_calls_another_sees_the_timeout(sender: Sender, served: Served) -> None:
    document = {"inputs": [{"name": "IN", "datatype": "INT32", "shape": [1, 1], "data": [1]}]}
    started, first = sender.start("first")
    assert served.post("/v2/models/caller/infer", document) == (500, {"error": "4 Request timeout expired"})
    first.let_go()
    assert started.answer() == OK
