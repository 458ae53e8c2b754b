"""Stateful models: which requests come together, what is added to them, and how sequences begin and end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from calling import statistics
from controlling import control, load, state, unload, wait_until_unloaded
from rendezvous import Rendezvous
from serving import Served, serve
from telling import CONTROLS, END, START, Sequences, write_telling

LONG_IDLE = "max_sequence_idle_microseconds: 60000000"
CORRELATION_IDS = {
    "UINT64": (0xFFFF_FFFF_FFFF_FFFE, "uint64", 0xFFFF_FFFF_FFFF_FFFE),
    "INT64": (0xFFFF_FFFF_FFFF_FFFE, "int64", -2),
    "UINT32": (0x1_0000_0007, "uint32", 7),
    "INT32": (0xFFFF_FFFE, "int32", -2),
    "STRING": ("löwe", "object", "löwe"),
}


def which(data_type: str) -> str:
    return (
        f'control_input [ {{ name: "WHICH" control [ {{ kind: CONTROL_SEQUENCE_CORRID data_type: {data_type} }} ] }} ]'
    )


@pytest.fixture(scope="module")
def served(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    write_telling(repository, "direct", f"{CONTROLS} direct {{ }} {LONG_IDLE}", max_batch_size=4)
    write_telling(repository, "oldest", f"{CONTROLS} oldest {{ }} {LONG_IDLE}", max_batch_size=4)
    write_telling(repository, "one_slot", LONG_IDLE)
    write_telling(repository, "soon_idle", "max_sequence_idle_microseconds: 30000")
    for name in CORRELATION_IDS:
        write_telling(repository, f"ids_{name}", which(f"TYPE_{name}"))
    with serve(repository) as served:
        yield served


# -- what is added to a request


@pytest.mark.spec("server:217")
@pytest.mark.spec("python_backend:C63")
@pytest.mark.parametrize("model", ["direct", "oldest"])
def test_control_tensors_tell_where_in_its_sequence_a_request_is(served: Served, model: str) -> None:
    def controls(told: dict[str, Any]) -> list[Any]:
        return [told["flags"], *(told[name] for name in ("BEGINS", "ENDS", "IS_THERE", "WHICH"))]

    there, id = ["int32", [1, 1], [7]], ["uint64", [1, 1], [77]]
    yes, no = ["bool", [1, 1], [True]], ["bool", [1, 1], [False]]
    last, not_last = ["float32", [1, 1], [2.0]], ["float32", [1, 1], [0.5]]
    with Sequences(served, model, batching=True) as client:
        told = [client.send(77, flags).itself() for flags in (START, 0, END, START | END)]
    assert controls(told[0]) == [1, yes, not_last, there, id]
    assert controls(told[1]) == [0, no, not_last, there, id]
    assert controls(told[2]) == [2, no, last, there, id]
    assert controls(told[3]) == [3, yes, last, there, id]
    assert told[0]["IN"] == ["int32", [1, 1], [1]]


@pytest.mark.spec("server:217")
@pytest.mark.spec("server:218")
@pytest.mark.parametrize("kind", CORRELATION_IDS)
def test_the_id_of_a_sequence_comes_in_the_type_that_is_asked_for(served: Served, kind: str) -> None:
    id, dtype, value = CORRELATION_IDS[kind]
    with Sequences(served, f"ids_{kind}") as client:
        sent = id - (1 << 64) if isinstance(id, int) and id >> 63 else id  # as gRPC has it
        told = client.send(sent, START | END).itself()
    assert (told["id"], told["WHICH"]) == (id, [dtype, [1], [value]])


def test_controls_are_not_in_the_metadata(served: Served) -> None:
    _, metadata = served.get("/v2/models/direct")
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["IN"]


# -- which requests come together


@pytest.mark.spec("server:214")
def test_direct_sequences_keep_their_place_and_null_requests_keep_empty_ones(
    served: Served, rendezvous: Rendezvous
) -> None:
    before = statistics(served, "direct")
    many = tuple(range(1, 5000))  # too many to travel in a message
    with Sequences(served, "direct", batching=True) as client:
        for id in (1, 2, 3):
            assert client.send(id, START).document()["place"] == id - 1
        meeting = client.send(2, meet=True)
        visit = rendezvous.next()
        third = client.queue(3, END, many)
        second = client.queue(2, END)
        visit.let_go()
        assert [len(meeting.document()["seen"]), meeting.document()["place"]] == [2, 1]
        # The third is the oldest; the second has another shape, and its place stays empty.
        document = third.document()
        assert document["place"] == 2
        assert document["seen"][2]["IN"] == ["int32", [1, 4999], list(many)]
        for null in document["seen"][:2]:
            assert null["IN"] == ["int32", [1, 4999], [0] * 4999]
            assert (null["id"], null["flags"]) == (0, 0)
            assert [null[name][2] for name in ("BEGINS", "ENDS", "IS_THERE", "WHICH")] == [[False], [0.5], [-1], [0]]
        assert second.document()["call"] == document["call"] + 1
        assert second.document()["place"] == 1
        client.send(1, END).document()
    after = statistics(served, "direct")
    assert after["inference_count"] == before["inference_count"] + 7
    assert after["inference_stats"]["success"]["count"] == before["inference_stats"]["success"]["count"] + 7
    assert after["inference_stats"]["fail"]["count"] == before["inference_stats"]["fail"]["count"]


@pytest.mark.spec("server:214")
def test_direct_batches_run_one_after_another(served: Served, rendezvous: Rendezvous) -> None:
    with Sequences(served, "direct", batching=True) as client:
        first = client.send(11, START, meet=True)
        visit = rendezvous.next()
        others = [client.queue(11), client.queue(12, START | END), client.queue(11, END)]
        visit.let_go()
        calls = [told.document()["call"] for told in (first, *others)]
    assert [call - calls[0] for call in calls] == [0, 1, 1, 2]


@pytest.mark.spec("server:216")
def test_oldest_sequences_have_one_request_each_in_a_batch(served: Served, rendezvous: Rendezvous) -> None:
    with Sequences(served, "oldest", batching=True) as client:
        first = client.send(21, START, meet=True)
        visit = rendezvous.next()
        others = [client.queue(id, flags) for id, flags in ((21, 0), (22, START), (21, END), (22, END), (23, 3))]
        visit.let_go()
        documents = [told.document() for told in (first, *others)]
    assert [document["call"] - documents[0]["call"] for document in documents] == [0, 1, 1, 2, 2, 1]
    assert [[one["id"] for one in document["seen"]] for document in documents[1:3]] == [[22, 23, 21], [22, 23, 21]]


# -- how sequences begin and end


@pytest.mark.spec("server:213")
@pytest.mark.spec("server:218")
@pytest.mark.parametrize(
    ("model", "parameters", "shape", "text"),
    [
        (
            "oldest",
            {},
            [1, 1],
            "inference request to model 'oldest' must specify a non-zero or non-empty correlation ID",
        ),
        (
            "oldest",
            {"sequence_id": "", "sequence_start": True},
            [1, 1],
            "inference request to model 'oldest' must specify a non-zero or non-empty correlation ID",
        ),
        (
            "oldest",
            {"sequence_id": 5},
            [1, 1],
            "inference request for sequence 5 to model 'oldest' must specify the START flag on the first request of "
            "the sequence",
        ),
        (
            "ids_STRING",
            {"sequence_id": "zzz", "sequence_end": True},
            [1],
            "inference request for sequence zzz to model 'ids_STRING' must specify the START flag on the first request "
            "of the sequence",
        ),
        (
            "oldest",
            {"sequence_id": 5, "sequence_start": True},
            [2, 1],
            "inference request to model 'oldest' must specify batch-size 1 due to requirements of sequence batcher",
        ),
        (
            "direct",
            {"sequence_id": "text", "sequence_start": True},
            [1, 1],
            "[request id: <id_unknown>] sequence batching control 'WHICH' data-type is 'BYTES', but model 'direct' "
            "expects 'UINT64'",
        ),
        (
            "ids_STRING",
            {"sequence_id": 5, "sequence_start": True},
            [1],
            "[request id: <id_unknown>] sequence batching control 'WHICH' data-type is 'UINT64', but model "
            "'ids_STRING' expects 'BYTES'",
        ),
    ],
)
def test_a_request_that_belongs_to_no_sequence_is_refused(
    served: Served, model: str, parameters: dict[str, Any], shape: list[int], text: str
) -> None:
    tensor = {"name": "IN", "datatype": "INT32", "shape": shape, "data": [1] * shape[0]}
    document = {"inputs": [tensor], "parameters": parameters}
    assert served.post(f"/v2/models/{model}/infer", document) == (400, {"error": text})


@pytest.mark.spec("server:213")
def test_a_client_cannot_give_the_control_tensors(served: Served) -> None:
    tensors = [{"name": name, "datatype": "INT32", "shape": [1, 1], "data": [1]} for name in ("BEGINS", "IN")]
    document = {"inputs": tensors, "parameters": {"sequence_id": 5, "sequence_start": True}}
    status, answer = served.post("/v2/models/direct/infer", document)
    assert (status, answer["error"]) == (
        400,
        "[request id: <id_unknown>] expected 1 inputs but got 2 inputs for model 'direct'. Got input(s) "
        "['BEGINS','IN'], but missing required input(s) ]. Please provide all required input(s).",
    )


@pytest.mark.spec("server:213")
def test_after_its_end_a_sequence_has_to_start_again(served: Served) -> None:
    with Sequences(served, "oldest", batching=True) as client:
        client.send(31, START | END).document()
        assert client.send(31).error()[0] is grpc.StatusCode.INVALID_ARGUMENT
        assert client.send(31, START | END).itself()["flags"] == 3


@pytest.mark.spec("server:213")
def test_a_sequence_without_a_slot_waits_for_one(served: Served, rendezvous: Rendezvous) -> None:
    with Sequences(served, "one_slot") as client:
        first = client.send(41, START, meet=True)
        visit = rendezvous.next()
        others = [client.queue(id, flags) for id, flags in ((42, START), (43, 3), (42, END), (41, END))]
        visit.let_go()
        calls = [told.document()["call"] for told in (first, *others)]
    assert [call - calls[0] for call in calls] == [0, 2, 4, 3, 1]


@pytest.mark.spec("server:221")
def test_the_backlog_keeps_requests_as_long_as_they_want_to_wait(served: Served, rendezvous: Rendezvous) -> None:
    with Sequences(served, "one_slot") as client:
        rejected = client.failures("REJECTED")
        first = client.send(45, START, meet=True)
        visit = rendezvous.next()
        patient = client.queue(46, START)
        hasty = client.send(46, timeout=20_000)
        expired = (grpc.StatusCode.UNAVAILABLE, "timeout of the corresponding sequence has been expired")
        assert [patient.error(), hasty.error()] == [expired, expired]
        assert client.failures("REJECTED") == rejected + 2
        assert "START flag" in client.send(46).error()[1]
        in_slot = client.queue(45, END, timeout=1)
        visit.let_go()
        assert [first.itself()["flags"], in_slot.itself()["flags"]] == [START, END]


@pytest.mark.spec("server:219")
def test_an_idle_sequence_makes_room(served: Served) -> None:
    with Sequences(served, "soon_idle") as client:
        client.send(51, START).document()
        other = client.send(52, START)  # without a slot, until the first is given up
        assert other.itself()["id"] == 52
        assert client.send(51, END).error() == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "inference request for sequence 51 to model 'soon_idle' must specify the START flag on the first request "
            "of the sequence",
        )


@pytest.mark.spec("server:220")
def test_a_sequence_that_starts_twice_goes_on_in_its_slot(served: Served, rendezvous: Rendezvous) -> None:
    with Sequences(served, "direct", batching=True) as client:
        first = client.send(61, START, meet=True)
        visit = rendezvous.next()
        others = [client.queue(61), client.queue(61, START), client.queue(61, END)]
        served.wait_for_log(
            "sequence 61 for model 'direct' has a conflict. The previous sequence did not end before this sequence "
            "start. Previous sequence will be terminated early."
        )
        visit.let_go()
        documents = [told.document() for told in (first, *others)]
    assert {document["place"] for document in documents} == {0}
    assert [document["seen"][0]["BEGINS"][2][0] for document in documents] == [True, False, True, False]


@pytest.mark.spec("server:222")
def test_cancelling_a_queued_request_cancels_its_sequence(served: Served, rendezvous: Rendezvous) -> None:
    with Sequences(served, "one_slot") as client:
        cancelled = client.failures("CANCELED")
        first = client.send(71, START, meet=True)
        visit = rendezvous.next()
        second, third, other = client.queue(71), client.queue(71, END), client.queue(72, START | END)
        second.call.cancel()
        assert third.error()[0] is grpc.StatusCode.CANCELLED
        assert client.failures("CANCELED") == cancelled + 2
        visit.let_go()
        assert [first.itself()["id"], other.itself()["id"]] == [71, 72]


@pytest.mark.spec("server:222")
def test_a_sequence_of_the_backlog_is_cancelled_as_a_whole(served: Served, rendezvous: Rendezvous) -> None:
    with Sequences(served, "one_slot") as client:
        first = client.send(75, START | END, meet=True)
        visit = rendezvous.next()
        second, third = client.queue(76, START), client.queue(76)
        third.call.cancel()
        assert second.error()[0] is grpc.StatusCode.CANCELLED
        assert client.waiting() == 0
        visit.let_go()
        assert first.itself()["id"] == 75


# -- the end of an instance, and of a model


def test_sequences_end_with_their_instance(tmp_path: Path, rendezvous: Rendezvous) -> None:
    write_telling(tmp_path, "m", f"oldest {{ max_candidate_sequences: 2 }} {LONG_IDLE}")
    with serve(tmp_path) as served, Sequences(served, "m") as client:
        begun = client.send(1, START, meet=True)
        visit = rendezvous.next()
        lost, kept, waits = client.queue(1, END), client.queue(2, START | END), client.queue(3, START | END)
        os.kill(visit.pid, signal.SIGKILL)
        for told in (begun, lost):
            code, text = told.error()
            assert code is grpc.StatusCode.INTERNAL
            assert "Stub process 'm_0_0' is not healthy." in text
        assert [kept.document()["call"], waits.document()["call"]] == [1, 2]
        assert "START flag" in client.send(1, END).error()[1]


@pytest.mark.spec("server:213")
def test_a_model_that_is_unloaded_goes_on_with_what_it_has_begun(tmp_path: Path, rendezvous: Rendezvous) -> None:
    write_telling(tmp_path, "m", f"oldest {{ max_candidate_sequences: 2 }} {LONG_IDLE}")
    with serve(tmp_path, "--model-control-mode=explicit") as served, Sequences(served, "m") as client:
        load(served, "m")
        client.send(1, START).document()
        unload(served, "m")
        assert state(served, "m") == "UNLOADING"
        assert served.get("/v2/models/m/ready")[0] == 400
        assert client.send(2, START).error() == (
            grpc.StatusCode.UNAVAILABLE,
            "Server is stopping, scheduler for model has stopped accepting new inference requests",
        )
        assert client.send(1).itself()["id"] == 1
        assert client.send(1, END).document()["call"] == 3
        wait_until_unloaded(served, "m")
        assert client.send(1).error()[0] is grpc.StatusCode.NOT_FOUND


def test_a_model_that_is_replaced_does_not_wait_for_its_sequences(tmp_path: Path, rendezvous: Rendezvous) -> None:
    folder = write_telling(tmp_path, "m", LONG_IDLE)
    with serve(tmp_path, "--model-control-mode=explicit", "--load-model=m") as served, Sequences(served, "m") as client:
        client.send(1, START).document()
        path = folder / "1" / "model.py"
        path.write_text(path.read_text() + "\n# another\n")
        assert control(served, "m", "load")[0] == 200
        served.wait_for_log("successfully unloaded 'm' version 1")
        assert "START flag" in client.send(1).error()[1]
