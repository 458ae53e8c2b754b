"""``async def execute``: awaited in default mode, in the background in decoupled mode, on one loop that lasts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import CONFIG, DECOUPLED, Driver, command, driver, final_of, texts_of
from rendezvous import Rendezvous, write
from serving import Served, serve

__all__ = ["driver"]

COMMON = """
import asyncio
import numpy as np
import triton_python_backend_utils as pb_utils
from rendezvous import at

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL

def response(text):
    return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([[text]], object))])

def text_of(request):
    return request.inputs()[0].as_numpy().item().decode()

async def meet(place):
    return await asyncio.get_running_loop().run_in_executor(None, at, place)
"""

AWAITED = (
    COMMON
    + """
class TritonPythonModel:
    ticks = 0
    ticker = None

    async def execute(self, requests):
        self.size = len(requests)
        return await asyncio.gather(*(self.answer(request, text_of(request)) for request in requests))

    async def answer(self, request, text):
        if text.startswith("visit"):
            text = await meet(text)
        elif text == "gate":
            await meet("gate")
        elif text == "size":
            text = str(self.size)
        elif text == "crash":
            await asyncio.sleep(0)
            raise ValueError("no coroutine is safe")
        elif text == "exit":
            raise SystemExit(3)
        elif text == "exit in a task":
            asyncio.ensure_future(self.exit())
        elif text == "later":
            self.task = asyncio.ensure_future(self.later(request.get_response_sender()))
            return None
        elif text == "loop":
            loop = getattr(self, "loop", None)
            self.loop = asyncio.get_running_loop()
            text = str(loop is self.loop)
        return response(text)

    async def exit(self):
        raise SystemExit(4)

    async def later(self, sender):
        word = await meet("later")
        sender.send(response(word), FINAL)
"""
)

WRONG = (
    COMMON
    + """
class TritonPythonModel:
    async def execute(self, requests):
        if text_of(requests[0]) == "tuple":
            return (response("x"),)
        return [response("ok") for _ in requests]
"""
)

BACKGROUND = (
    COMMON
    + """
class TritonPythonModel:
    async def execute(self, requests):
        await asyncio.gather(*(self.answer(r.get_response_sender(), *text_of(r).partition(":")[::2]) for r in requests))
        return "nobody looks at this"

    async def answer(self, sender, verb, argument):
        if verb == "visit":
            sender.send(response(f"{argument} came"))
            word = await meet(argument)
            sender.send(response(f"{argument} {word}"), FINAL)
        elif verb == "negative":
            raise ValueError("wait_secs cannot be negative")
        elif verb == "count":
            for number in range(int(argument)):
                await asyncio.sleep(0)
                sender.send(response(str(number)))
            sender.send(flags=FINAL)
        elif verb == "negative, kept":
            try:
                raise ValueError("in a cycle with its frames")
            except ValueError as error:
                kept = error
                raise
        elif verb == "negative after the end":
            sender.send(response("done"), FINAL)
            raise ValueError("too late to matter")
"""
)


@pytest.fixture(scope="module")
def served(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    write(repository, "awaited", AWAITED, CONFIG)
    write(repository, "wrong", WRONG, CONFIG)
    write(repository, "background", BACKGROUND, DECOUPLED)
    with serve(repository) as served:
        yield served


@pytest.mark.spec("python_backend:C66")
def test_a_coroutine_of_a_default_model_is_awaited(driver: Driver, rendezvous: Rendezvous) -> None:
    call = driver.open(command("awaited", "visit"), command("awaited", "ok"))
    rendezvous.next().let_go("seen")
    messages = list(call)
    assert [texts_of(message)["OUT"] for message in messages] == ["seen", "ok"]
    assert all(final_of(message) is True for message in messages)


@pytest.mark.spec("python_backend:C66")
def test_an_exception_in_a_coroutine_is_rendered_with_the_models_frames_only(driver: Driver, repository: Path) -> None:
    text = driver.one("awaited", "crash")[""]
    path = repository / "awaited" / "1" / "model.py"
    prefix = "Failed to process the request(s) for model 'awaited_0_0', message: "
    assert text.startswith(f"{prefix}ValueError: no coroutine is safe\n\nAt:\n")
    frames = text.partition("At:\n")[2].splitlines()
    assert [frame.rpartition(": ")[2] for frame in frames] == ["answer", "execute"]
    assert all(frame.startswith(f"  {path}(") for frame in frames)


def test_what_a_coroutine_returns_is_checked_as_any_other_return(driver: Driver) -> None:
    expected = "Expected a list in the execute return, found type '<class 'tuple'>'."
    assert driver.one("wrong", "tuple")[""].endswith(expected)
    assert driver.one("wrong", "ok") == {"OUT": "ok"}


@pytest.mark.spec("python_backend:C120")
@pytest.mark.parametrize("text", ["exit", "exit in a task"])
def test_sys_exit_in_a_coroutine_ends_neither_process_nor_loop(driver: Driver, text: str) -> None:
    pids = driver.served.stubs()
    answer = driver.one("awaited", text)
    assert "SystemExit: 3" in answer[""] if text == "exit" else answer == {"OUT": text}
    assert driver.one("awaited", "ok") == {"OUT": "ok"}
    assert driver.served.stubs() == pids


@pytest.mark.spec("python_backend:Q105")
def test_requests_of_a_batch_wait_at_the_same_time(driver: Driver, rendezvous: Rendezvous) -> None:
    def let_go() -> None:
        for visit in [rendezvous.next() for _ in range(4)]:
            visit.let_go(visit.place)

    places = [f"visit {number}" for number in range(4)]
    assert driver.batch("awaited", *places, meanwhile=let_go) == [{"OUT": place} for place in places]
    assert driver.batch("awaited", "size", "ok") == [{"OUT": "2"}, {"OUT": "ok"}]


@pytest.mark.spec("python_backend:C67")
def test_the_loop_goes_on_after_execute_has_returned(driver: Driver, rendezvous: Rendezvous) -> None:
    call = driver.open(command("awaited", "later"))
    visit = rendezvous.next()
    driver.one("awaited", "loop")
    assert driver.one("awaited", "loop") == {"OUT": "True"}
    visit.let_go("much later")
    assert [texts_of(message) for message in call] == [{"OUT": "much later"}]


@pytest.mark.spec("python_backend:C68")
@pytest.mark.spec("python_backend:Q105")
def test_coroutines_of_a_decoupled_model_interleave(driver: Driver, rendezvous: Rendezvous) -> None:
    names = ("a", "b", "c")
    call = driver.open(*(command("background", f"visit:{name}") for name in names))
    assert {texts_of(next(call))["OUT"] for _ in names} == {"a came", "b came", "c came"}
    visits = {visit.place: visit for visit in (rendezvous.next() for _ in names)}
    for name in ("c", "a", "b"):  # whichever is ready first is answered first
        visits[name].let_go("went")
        assert texts_of(next(call))["OUT"] == f"{name} went"
    assert list(call) == []


@pytest.mark.spec("python_backend:Q71")
def test_coroutines_send_any_number_of_responses(driver: Driver) -> None:
    assert [answer["OUT"] for answer in driver.all("background", "count:5")] == list("01234")
    assert driver.all("background", "count:0") == []
    answers = driver.all("background", "count:0", "count:1", "count:2")
    assert Counter(answer["OUT"] for answer in answers) == {"0": 2, "1": 1}


@pytest.mark.spec("python_backend:C69")
@pytest.mark.spec("python_backend:C70")
@pytest.mark.spec("python_backend:Q106")
@pytest.mark.spec("python_backend:K2")
def test_an_exception_in_a_background_coroutine_is_logged_and_its_client_answered(driver: Driver) -> None:
    [answer] = driver.all("background", "negative")
    assert "neither returned a response nor sent its final one" in answer[""]
    logged = driver.served.wait_for_log(
        r"(?s)\nE[^\n]*background_0_0[^\n]*Traceback \(most recent call last\):.*"
        r"ValueError: wait_secs cannot be negative"
    )
    assert "raise ValueError" in logged.group().replace("\\n", "\n")
    assert driver.all("background", "count:1") == [{"OUT": "0"}]


def test_an_exception_that_holds_its_frames_holds_no_client(driver: Driver) -> None:
    [answer] = driver.all("background", "negative, kept")
    assert "The model neither returned a response nor sent its final one" in answer[""]


def test_an_exception_after_the_final_response_is_only_logged(driver: Driver) -> None:
    assert driver.all("background", "negative after the end") == [{"OUT": "done"}]
    driver.served.wait_for_log("ValueError: too late to matter")
