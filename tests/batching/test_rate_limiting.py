"""The rate limiter of a whole server, and instances that take no requests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from calling import wait_until
from rendezvous import Rendezvous, write
from sending import MEETING, Sender, batching_config, sending
from serving import Served, serve

NAMED = MEETING.replace('" ".join(', 'self.name + " " + " ".join(').replace(
    "    def execute",
    '    def initialize(self, args):\n        self.name = args["model_instance_name"]\n\n    def execute',
)
DOCUMENT = {"inputs": [{"name": "IN", "datatype": "INT32", "shape": [1, 1], "data": [1]}]}


def limited(resources: str, priority: int = 0, more: str = "dynamic_batching {}") -> str:
    return batching_config(more, group=f"rate_limiter {{ resources [ {resources} ] priority: {priority} }}")


@pytest.fixture(scope="module")
def served(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    models = {
        "one": limited('{ name: "R" count: 4 }'),
        "two": limited('{ name: "R" count: 3 }', more=""),
        "other": limited('{ name: "S" count: 1 global: true }'),
        "often": limited('{ name: "T" count: 1 }', priority=1, more=""),
        "seldom": limited('{ name: "T" count: 1 }', priority=3, more=""),
        "sequences": limited('{ name: "W" count: 1 }', priority=1, more="sequence_batching { }"),
        "between": limited('{ name: "W" count: 1 }', priority=1, more=""),
        "too_much": limited('{ name: "R" count: 5 }'),
        "nothing_of": limited('{ name: "U" count: 1 }'),
        "mixed": limited('{ name: "V" count: 1 }, { name: "V" count: 1 global: true }'),
        "half": batching_config("").replace("instance_group [", 'instance_group [ { name: "quiet" passive: true },'),
        "none": batching_config("", group="passive: true"),
    }
    for name, text in models.items():
        write(repository, name, NAMED, text)
    with serve(
        repository,
        "--rate-limit=execution_count",
        *(f"--rate-limit-resource={resource}" for resource in ("R:4", "S:1", "T:1:0", "V:1", "W:1")),
        "--exit-on-error=false",
    ) as served:
        yield served
        assert "Traceback" not in served.log


@pytest.fixture
def senders(served: Served, rendezvous: Rendezvous) -> Iterator[dict[str, Sender]]:
    with ExitStack() as stack:
        names = ("one", "two", "other", "often", "seldom", "half", "sequences", "between")
        yield {name: stack.enter_context(sending(served, rendezvous, name)) for name in names}


@pytest.mark.spec("server:231")
def test_models_take_turns_at_what_they_share(senders: dict[str, Sender]) -> None:
    one, two, other = senders["one"], senders["two"], senders["other"]
    sent = [one.send("a")]
    first = one.meet()
    assert first.place == "one_0_0 a"
    sent += two.queue("b", "c")  # its instance is idle, its resources are not free
    sent.append(other.send("d"))
    elsewhere = other.meet()
    assert elsewhere.place == "other_0_0 d"
    sent += one.queue("e", "f")
    first.let_go()
    assert one.run(2) == ["two_0_0 b", "one_0_0 e f"]  # what has not run yet is first; a batch grows until its turn
    assert one.run(1) == ["two_0_0 c"]
    elsewhere.let_go()
    assert [one.answer() for one in sent] == [[[1]]] * 6


@pytest.mark.spec("server:231")
def test_executions_are_weighed_by_priority(senders: dict[str, Sender]) -> None:
    often, seldom = senders["often"], senders["seldom"]
    often.send("first")
    first = often.meet()
    sent = [*often.queue(*"abcdef"), *seldom.queue(*"stuv")]
    first.let_go()
    turns = [place.partition("_")[0] for place in often.run(10)]
    assert turns[:7].count("often") == 5  # with the first one: six to two
    assert turns[7:] in (["often", "seldom", "seldom"], ["seldom", "seldom", "often"], ["seldom", "often", "seldom"])
    assert [one.answer() for one in sent] == [[[1]]] * 10


@pytest.mark.spec("server:231")
def test_sequences_take_turns_too(senders: dict[str, Sender]) -> None:
    sequences, between = senders["sequences"], senders["between"]
    between.send("first")
    first = between.meet()
    sent = [
        *sequences.queue("a", sequence_id=1, sequence_start=True),
        *sequences.queue("b", sequence_id=1, sequence_end=True),
        *between.queue("x", "y"),
    ]
    assert between.pending == 2
    first.let_go()
    turns = sequences.run(4)
    assert turns[0] == "sequences_0_0 a"  # it has executed least
    assert sorted(turns[1:]) == ["between_0_0 x", "between_0_0 y", "sequences_0_0 b"]
    assert [one.answer() for one in sent] == [[[1]]] * 4


@pytest.mark.spec("server:231")
def test_what_an_instance_held_is_free_after_its_death(senders: dict[str, Sender], served: Served) -> None:
    one, two = senders["one"], senders["two"]
    killed = one.send("a")
    visit = one.meet()
    [waits] = two.queue("b")
    os.kill(visit.pid, signal.SIGKILL)
    assert "not healthy" in killed.answer()[1]
    assert two.run(1) == ["two_0_0 b"]
    assert waits.answer() == [[1]]
    again = one.send("c")
    assert one.run(1) == ["one_0_0 c"]
    assert again.answer() == [[1]]


@pytest.mark.spec("server:231")
def test_a_cancelled_request_takes_no_turn(senders: dict[str, Sender]) -> None:
    one, two = senders["one"], senders["two"]
    one.send("a")
    first = one.meet()
    [cancelled] = two.queue("b")
    cancelled.call.cancel()
    wait_until(lambda: two.pending == 0, "it has left")
    first.let_go()
    last = one.send("c")
    assert one.run(1) == ["one_0_0 c"]
    assert last.answer() == [[1]]


@pytest.mark.spec("server:231")
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            "too_much",
            'Resource count for "R" is limited to 4 which will prevent scheduling of one or more model instances, the '
            "minimum required count is 5",
        ),
        (
            "nothing_of",
            'Resource count for "U" is limited to 0 which will prevent scheduling of one or more model instances, the '
            "minimum required count is 1",
        ),
        (
            "mixed",
            'Resource "V" is present as both global and device-specific resource in the model configuration.',
        ),
    ],
)
def test_a_model_that_could_never_run_does_not_load(served: Served, model: str, reason: str) -> None:
    status, index = served.post("/v2/repository/index", {})
    assert status == 200
    [entry] = [entry for entry in index if entry["name"] == model]
    assert (entry["state"], entry["reason"]) == ("UNAVAILABLE", f"Invalid argument: {reason}")


# -- passive instances


@pytest.mark.spec("server:234")
def test_a_passive_instance_is_there_and_gets_nothing(senders: dict[str, Sender], served: Served) -> None:
    assert {"quiet_0", "half_1_0"} <= set(served.stubs())
    half = senders["half"]
    half.send("a")
    first = half.meet()
    half.queue("b", "c")
    first.let_go()
    assert [first.place, *half.run(2)] == ["half_1_0 a", "half_1_0 b", "half_1_0 c"]


@pytest.mark.spec("server:234")
def test_a_model_of_passive_instances_only_refuses(served: Served) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(served.post, "/v2/models/none/infer", DOCUMENT).result(20)
    assert answer == (503, {"error": "all instances of model 'none' are passive"})
    assert served.get("/v2/models/none/ready")[0] == 400


# -- off


@pytest.mark.spec("server:231")
def test_without_the_limiter_resources_mean_nothing(repository: Path, rendezvous: Rendezvous) -> None:
    with ExitStack() as stack:
        served = stack.enter_context(
            serve(repository, "--model-control-mode=explicit", "--load-model=one", "--load-model=too_much")
        )
        one, two = (stack.enter_context(sending(served, rendezvous, name)) for name in ("one", "too_much"))
        sent = [one.send("a"), two.send("b")]
        visits = [one.meet(), one.meet()]
        assert sorted(visit.place for visit in visits) == ["one_0_0 a", "too_much_0_0 b"]
        for visit in visits:
            visit.let_go()
        assert [one.answer() for one in sent] == [[[1]]] * 2


@pytest.mark.spec("server:231")
def test_changed_limits_concern_instances_while_the_model_serves(tmp_path: Path, rendezvous: Rendezvous) -> None:
    folder = write(tmp_path, "m", NAMED, limited('{ name: "R" count: 1 }'))
    with (
        serve(
            tmp_path,
            "--model-control-mode=explicit",
            "--load-model=m",
            "--rate-limit=execution_count",
            "--rate-limit-resource=R:2",
        ) as served,
        sending(served, rendezvous, "m") as sender,
    ):
        [before] = served.stubs().values()
        (folder / "config.pbtxt").write_text(limited('{ name: "R" count: 3 }'))
        status, answer = served.post("/v2/repository/models/m/load", {})
        assert status == 400
        assert "is limited to 2 which will prevent scheduling" in answer["error"]
        (folder / "config.pbtxt").write_text(limited('{ name: "R" count: 2 }'))
        assert served.post("/v2/repository/models/m/load", {})[0] == 200
        wait_until(lambda: len(served.stubs()) == 1, "the old instance is gone")
        assert before not in served.stubs().values()
        sent = sender.send("a")
        assert sender.run(1) == ["m_0_0 a"]
        assert sent.answer() == [[1]]
