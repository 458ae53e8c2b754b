"""Responses in the order of their requests, however they come."""

from __future__ import annotations

import pytest
from atoll.inference import Request, Response
from atoll.scheduling.ordering import ResponseOrder
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.spec("server:211")


class Model:
    """Answers requests; remembers what was passed on, such as ``a0``, ``a1.`` (final)."""

    def __init__(self, names: str) -> None:
        self.order = ResponseOrder()
        self.passed: list[str] = []
        self.requests = {name: Request("m", [], self._take, id=name) for name in names}
        self.count = dict.fromkeys(names, 0)
        for request in self.requests.values():
            self.order.enlist(request)

    def _take(self, response: Response) -> None:
        number = response.parameters["number"] if response.parameters else ""
        self.passed.append(f"{response.request.id}{number}{'.' if response.final else ''}")

    def answer(self, name: str, final: bool = True) -> None:
        request = self.requests[name]
        request.respond(Response(request, 1, [], parameters={"number": self.count[name]}, final=final))
        self.count[name] += 1


def test_later_responses_wait_for_earlier_requests() -> None:
    model = Model("abc")
    model.answer("c")
    model.answer("b")
    assert model.passed == []
    model.answer("a")
    assert model.passed == ["a0.", "b0.", "c0."]


def test_the_first_request_streams_and_the_next_catches_up() -> None:
    model = Model("ab")
    model.answer("a", final=False)
    model.answer("b", final=False)
    assert model.passed == ["a0"]
    model.answer("a")
    assert model.passed == ["a0", "a1.", "b0"]
    model.answer("b", final=False)
    model.answer("b")
    assert model.passed == ["a0", "a1.", "b0", "b1", "b2."]


def test_a_cancelled_request_holds_nobody_up_and_waits_for_nobody() -> None:
    model = Model("abc")
    model.answer("b", final=False)
    model.requests["b"].cancelled = True
    model.answer("b")
    assert model.passed == ["b0", "b1."]
    model.answer("c")
    assert model.passed == ["b0", "b1."]
    model.requests["a"].cancelled = True
    model.answer("a")
    assert model.passed[2:] == ["a0.", "c0."]


def test_a_refused_request_has_no_place() -> None:
    model = Model("ab")
    model.order.forget(model.requests["b"])
    model.requests["c"] = Request("m", [], model._take, id="c")
    model.order.enlist(model.requests["c"])
    model.count["c"] = 0
    for name in "cab":
        model.answer(name)
    assert model.passed == ["a0.", "c0.", "b0."]  # whoever refused it may answer it in their own way


def test_a_response_that_cannot_be_delivered_keeps_no_others_back(caplog: pytest.LogCaptureFixture) -> None:
    model = Model("a")

    def fail(response: Response) -> None:
        raise ConnectionError

    broken = Request("m", [], fail)
    model.order.enlist(broken)
    model.requests["c"] = Request("m", [], model._take, id="c")
    model.count["c"] = 0
    model.order.enlist(model.requests["c"])
    broken.respond(Response(broken, 1, []))
    model.answer("c")
    model.answer("a")
    assert model.passed == ["a0.", "c0."]
    assert "a response of model 'm' could not be delivered" in caplog.text


def test_a_response_that_causes_another_one_comes_first() -> None:
    """The taker of a response may cancel other requests, or make the model answer more of them."""
    model = Model("abc")
    taken = model._take

    def take(response: Response) -> None:
        taken(response)
        if not response.final:
            model.requests["b"].cancelled = True
            model.answer("b")

    first = Request("m", [], take, id="first")
    later = ResponseOrder()
    later.enlist(first)
    for name in "bc":
        request = model.requests[name] = Request("m", [], taken, id=name)
        later.enlist(request)
    model.answer("c")
    first.respond(Response(first, 1, [], final=False))
    first.respond(Response(first, 1, []))
    assert model.passed == ["first", "b0.", "first.", "c0."]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_any_interleaving_leaves_in_order(counts: list[int], random: object) -> None:
    names = "abcdef"[: len(counts)]
    model = Model(names)
    left = dict(zip(names, counts, strict=True))
    while left:
        name = random.choice(sorted(left))  # type: ignore[attr-defined]
        left[name] -= 1
        model.answer(name, final=not left[name])
        if not left[name]:
            del left[name]
    assert model.passed == [
        f"{name}{number}{'.' if number == count - 1 else ''}"
        for name, count in zip(names, counts, strict=True)
        for number in range(count)
    ]
