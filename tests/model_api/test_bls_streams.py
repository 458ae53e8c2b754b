"""Calls with ``decoupled=True``: iterators over the responses of another model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from bls_scripts import BESIDE, run, stream, texts, write_scripted, write_targets
from calling import in_background, leased_blocks, metric, wait_until
from grpc_wire import RpcClient
from rendezvous import Rendezvous, config, write
from serving import Served, serve

MODELS = ("scripted", "scripted_async", "scripted_stream", "square", "repeat")


@pytest.fixture(scope="module")
def server(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    write_scripted(repository)
    write_scripted(repository, "scripted_async", "async")
    write_scripted(repository, "scripted_stream", "stream")
    write_scripted(repository, "scripted_stream_async", "stream_async")
    write_targets(repository)
    decoupled = "model_transaction_policy { decoupled: true }"
    write(repository, "countdown", COUNTDOWN, config("IN:INT32", "OUT:STRING", more=decoupled), bls_beside=BESIDE)
    with serve(repository) as served:
        yield served


@pytest.fixture(autouse=True)
def nothing_stays(server: Served) -> Iterator[None]:
    """After each test no block is held, though no further request comes to any stub."""
    yield
    for model in MODELS:
        wait_until(lambda model=model: leased_blocks(server, model) == 0, f"no leased blocks of {model}", 5)
        assert metric(server, "atoll_shared_memory_used_bytes", model) == 0


# -- what comes


@pytest.mark.spec("python_backend:C188")
def test_a_final_flag_that_comes_alone_counts_as_an_empty_response(server: Served) -> None:
    assert run(server, "return values(repeat(3).exec(decoupled=True))") == [0, 1, 2, None]
    assert run(server, "return values(repeat(3, attached=True).exec(decoupled=True))") == [0, 1, 2]
    assert run(server, "return values(repeat(0).exec(decoupled=True))") == [None]


@pytest.mark.spec("python_backend:C189")
@pytest.mark.spec("python_backend:Q50")
def test_an_iterator_is_resumed_replayed_and_exhausted(server: Served) -> None:
    script = """
    responses = repeat(4, attached=True).exec(decoupled=True)
    seen = [value(next(responses))]
    for response in responses:
        seen.append(value(response))
        break
    seen += values(responses)
    try:
        next(responses)
    except StopIteration:
        seen.append("stop")
    replayed = [values(responses) for _ in range(3)]
    for response in responses:
        break
    return seen, replayed, values(responses)
    """
    assert run(server, script) == [[0, 1, 2, 3, "stop"], [[0, 1, 2, 3]] * 3, [1, 2, 3]]


@pytest.mark.spec("python_backend:C190")
def test_a_model_that_is_not_decoupled_gives_one_response(server: Served) -> None:
    script = """
    responses = request("square", ints(3)).exec(decoupled=True)
    return values(responses), values(responses)
    """
    assert run(server, script) == [[9], [9]]


@pytest.mark.spec("python_backend:C191")
def test_a_call_that_is_refused_gives_one_error_response(server: Served) -> None:
    script = """
    responses = request("no_such_model", ints(3)).exec(decoupled=True)
    kinds = [(response.has_error(), len(response.output_tensors()), response.parameters()) for response in responses]
    responses.cancel()
    return kinds, values(responses), values(request("repeat").exec(decoupled=True))
    """
    kinds, texts, missing = run(server, script)
    assert kinds == [[True, 0, ""]]
    assert texts == [
        "Model no_such_model - Error when running inference: Request for unknown model: 'no_such_model' is not found"
    ]
    (text,) = missing
    assert "expected 1 inputs but got 0 inputs for model 'repeat'" in text


@pytest.mark.spec("python_backend:C252")
def test_a_decoupled_model_must_be_called_as_one(server: Served) -> None:
    assert run(server, "return value(repeat(1).exec())") == (
        "Model repeat - Error when running inference: Model repeat is using the decoupled. The current BLS request "
        "call doesn't support models using the decoupled transaction policy. Please use 'decoupled=True' argument to "
        "the 'exec' or 'async_exec' calls for decoupled models.'"
    )


def test_an_error_in_midstream_is_one_of_the_responses(server: Served) -> None:
    assert run(server, "return values(repeat(3, error_at=1).exec(decoupled=True))") == [0, "as told", 2, None]


@pytest.mark.spec("python_backend:Q99")
def test_each_response_brings_its_parameters(server: Served) -> None:
    script = """
    def parameters(responses):
        return [response.parameters() for response in responses]
    with_some = parameters(repeat(2, parameters=True).exec(decoupled=True))
    with_none = parameters(repeat(2, attached=True).exec(decoupled=True))
    return with_some, with_none
    """
    with_some, with_none = run(server, script)
    assert [json.loads(text) for text in with_some[:2]] == [{"number": 0, "last": False}, {"number": 1, "last": True}]
    assert with_some[2:] == [""]
    assert with_none == ["{}", "{}"]


def test_a_response_is_there_before_the_next_is_made(server: Served, rendezvous: Rendezvous) -> None:
    script = """
    responses = repeat(2, pause_at=1).exec(decoupled=True)
    first = value(next(responses))
    at("has the first")
    return [first, *values(responses)]
    """
    with in_background(run, server, script) as answer:
        visits = {visit.place.strip(): visit for visit in (rendezvous.next(), rendezvous.next())}
        assert set(visits) == {"has the first", "paused"}
        for visit in visits.values():
            visit.let_go()
    assert answer.result() == [0, 1, None]


def test_large_responses_are_let_go_one_by_one(server: Served) -> None:
    script = """
    total = 0
    for response in repeat(20, size=1_000_000).exec(decoupled=True):
        for tensor in response.output_tensors():
            total += int(tensor.as_numpy().astype(numpy.int64).sum())
    return total
    """
    assert run(server, script) == sum(range(20)) * 1_000_000


def test_several_streams_of_one_model_are_read_side_by_side(server: Served) -> None:
    script = """
    streams = [repeat(number, attached=True).exec(decoupled=True) for number in range(1, 9)]
    seen = [[] for _ in streams]
    threads = [
        threading.Thread(target=lambda kept=kept, stream=stream: kept.extend(values(stream)))
        for kept, stream in zip(seen, streams)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen
    """
    assert run(server, script) == [list(range(number)) for number in range(1, 9)]


# -- coroutines


def test_a_coroutine_awaits_iterators(server: Served) -> None:
    script = """
    streams = await asyncio.gather(*(repeat(number).async_exec(decoupled=True) for number in range(4)))
    return [values(stream) for stream in streams]
    """
    assert run(server, script, "scripted_async") == [[*range(number), None] for number in range(4)]


@pytest.mark.spec("python_backend:C250")
def test_a_coroutine_of_a_decoupled_model_awaits_iterators(server: Served) -> None:
    script = """
    streams = await asyncio.gather(*(repeat(number).async_exec(decoupled=True) for number in range(3)))
    single = await request("square", ints(7)).async_exec()
    return [values(stream) for stream in streams] + [value(single)]
    """
    with RpcClient(server.grpc_url) as client:
        messages = list(stream(client, script, "scripted_stream_async"))
    assert [texts(message) for message in messages] == [["[null]"], ["[0, null]"], ["[0, 1, null]"], ["49"]]


# -- cancelling


CANCELLED = """
responses = {call}
seen = [value(next(responses))]
responses.cancel()
responses.cancel()
seen += values(responses)
responses.cancel()
return seen
"""


@pytest.mark.spec("python_backend:C192")
@pytest.mark.spec("python_backend:Q64")
@pytest.mark.spec("python_backend:Q66")
@pytest.mark.parametrize(
    ("model", "call"),
    [
        ("scripted", "repeat(9, heed=1).exec(decoupled=True)"),
        ("scripted_async", "await repeat(9, heed=1).async_exec(decoupled=True)"),
    ],
)
def test_a_called_model_that_heeds_a_cancellation_stops(
    server: Served, rendezvous: Rendezvous, model: str, call: str
) -> None:
    with in_background(run, server, CANCELLED.format(call=call), model) as answer:
        visit = rendezvous.next()
        assert visit.place == "cancelled"
        visit.let_go()
    assert answer.result() == [0, "given up"]


@pytest.mark.spec("python_backend:Q65")
def test_a_called_model_that_ignores_a_cancellation_goes_on(server: Served, rendezvous: Rendezvous) -> None:
    script = CANCELLED.format(call="repeat(5, pause_at=1).exec(decoupled=True)")
    with in_background(run, server, script) as answer:
        rendezvous.next().let_go()
    assert answer.result() == [0, 1, 2, 3, 4, None]


@pytest.mark.spec("python_backend:C193")
@pytest.mark.parametrize("drop", ["del responses", "responses = None; gc.collect()"])
def test_dropping_an_iterator_cancels_and_does_not_wait(server: Served, rendezvous: Rendezvous, drop: str) -> None:
    script = f"""
    responses = repeat(9, heed=2, size=10_000).exec(decoupled=True)
    next(responses)
    {drop}
    return "answered"
    """
    with in_background(run, server, script) as answer:
        visit = rendezvous.next()
        assert visit.place == "cancelled"
        assert answer.result() == "answered"  # while the called model stands still
        visit.let_go()


@pytest.mark.spec("python_backend:C193")
def test_what_comes_after_an_iterator_was_dropped_is_let_go_at_once(server: Served, rendezvous: Rendezvous) -> None:
    script = """
    responses = repeat(9, pause_at=2, size=10_000, end="repeat").exec(decoupled=True)
    next(responses)
    del responses
    return "answered"
    """
    with in_background(run, server, script) as answer:
        visit = rendezvous.next()
        assert answer.result() == "answered"
        visit.let_go()
        visit = rendezvous.next()
        visit.let_go()
    assert visit.place == "repeat cancelled"
    wait_until(lambda: leased_blocks(server, "scripted") == 0, "the caller gave back all blocks without being called")


def test_an_iterator_dropped_before_its_first_response(server: Served, rendezvous: Rendezvous) -> None:
    script = """
    repeat(3, heed=0).exec(decoupled=True)
    return "answered"
    """
    assert run(server, script) == "answered"
    visit = rendezvous.next()
    assert visit.place == "cancelled"
    visit.let_go()


# -- in decoupled models


COUNTDOWN = """
import threading
from bls_beside import answer, ints, pb_utils, request, values

class TritonPythonModel:
    def execute(self, requests):
        for received in requests:
            number = int(received.inputs()[0].as_numpy()[0])
            responses = request("countdown", ints(number - 1)).exec(decoupled=True) if number else []
            threading.Thread(target=self.relay, args=(received.get_response_sender(), number, responses)).start()

    def relay(self, sender, number, responses):
        sender.send(answer([number, *filter(None, values(responses))]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


def test_a_model_streams_from_itself_when_it_returns_before_it_reads(server: Served) -> None:
    script = "return values(request('countdown', ints(3)).exec(decoupled=True))"
    (text, end) = run(server, script)
    assert (json.loads(text), end) == ([3, '[2, "[1, \\"[0]\\"]"]'], None)


@pytest.mark.spec("python_backend:C250")
@pytest.mark.spec("python_backend:Q60")
@pytest.mark.parametrize("count", [4, 2, 0, 1])
def test_a_decoupled_models_thread_relays_a_stream(server: Served, count: int) -> None:
    identifier = f"request {count}"
    script = f"yield from values(repeat({count}, request_id=received.request_id()).exec(decoupled=True))"
    with RpcClient(server.grpc_url) as client:
        messages = stream(client, script, id=identifier)
        responses = [(message.infer_response.id, texts(message)) for message in messages]
    relayed = [*(str(number) for number in range(count)), "null"]  # the last is the call's own final flag
    assert responses == [(identifier, [text]) for text in relayed]


def test_when_the_client_goes_away_the_call_can_be_cancelled_too(server: Served, rendezvous: Rendezvous) -> None:
    script = """
    responses = repeat(9, heed=1).exec(decoupled=True)
    yield value(next(responses))
    while not received.is_cancelled():
        threading.Event().wait(0.001)  # there is no event for it
    responses.cancel()
    """
    with RpcClient(server.grpc_url) as client:
        messages = stream(client, script)
        next(messages)
        messages.cancel()
    visit = rendezvous.next()
    assert visit.place == "cancelled"
    visit.let_go()
