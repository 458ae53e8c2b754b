"""Decoupled models: any number of responses to a request, whenever, from wherever."""

from __future__ import annotations

import os
import queue
from collections import Counter
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from calling import call
from commands import Driver, command, driver, final_of, texts_of
from grpc_wire import RpcClient, infer_request
from rendezvous import Rendezvous
from serving import Served
from streaming import outs, served

__all__ = ["driver", "served"]


@pytest.mark.spec("server:237")
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


@pytest.mark.spec("server:237")
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
