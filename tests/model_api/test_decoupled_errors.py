"""Decoupled models that fail: errors among responses, wrong returns, exceptions, senders and stubs that are gone."""

from __future__ import annotations

import os
from collections import Counter

import grpc
import pytest
from commands import Driver, command, driver, texts_of
from rendezvous import Rendezvous
from streaming import PREFIX, outs, served

__all__ = ["driver", "served"]

WRONG = f"{PREFIX}Python model 'streams_0_0' is using the decoupled mode and the execute function must return None."
GONE = "neither returned a response nor sent its final one"


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
def test_a_stub_that_dies_ends_its_open_requests_with_an_error(driver: Driver, rendezvous: Rendezvous) -> None:
    stream = driver.open(*(command("single", f"visiting:{name}") for name in "ab"))
    assert {texts_of(next(stream))["OUT"] for _ in range(2)} == {"a", "b"}
    visits = [rendezvous.next(), rendezvous.next()]
    os.kill(visits[0].pid, 9)
    errors = [texts_of(message)[""] for message in stream]
    assert len(errors) == 2
    assert all("Stub process 'single_0_0' is not healthy." in error for error in errors)
    assert outs(driver.all("single", "ok")) == ["ok"]
