"""The sequence scheduler on an event loop, with instances that are twins: what it hands out, and what it tells."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from atoll.errors import Code, ServerError
from atoll.inference import SEQUENCE_END, SEQUENCE_START, Request, Response, Tensor
from atoll.instances.exchange import Execution
from atoll.instances.instance import State
from atoll.scheduling.dynamic_batcher import DynamicBatcher
from atoll.scheduling.sequences.book import Lane
from atoll.scheduling.sequences.direct import DirectLane
from atoll.scheduling.sequences.inputs import AddedInputs, NullRequest
from atoll.scheduling.sequences.inputs import State as SequenceState
from atoll.scheduling.sequences.oldest import OldestLane
from atoll.scheduling.sequences.scheduler import SequenceScheduler, SequenceSettings

START, END = SEQUENCE_START, SEQUENCE_END
ZERO = Tensor("BEFORE", "INT8", [1], b"\0")


class InstanceTwin:
    """What a scheduler sees of an instance; an execution ends when the test says so."""

    def __init__(self) -> None:
        self.state = State.READY
        self.executions: deque[Execution] = deque()
        self.taken: list[list[Request]] = []
        self.executed = asyncio.Event()

    def execute(self, requests: list[Request], now_ns: int) -> None:
        assert self.state is State.READY
        assert not self.executions
        self.executions.append(Execution(len(self.taken), requests, now_ns))
        self.taken.append(requests)
        self.executed.set()

    @property
    def ids(self) -> list[str]:
        return ["".join("-" if isinstance(one, NullRequest) else one.id for one in batch) for batch in self.taken]


class World:
    """A scheduler, its instances, and who owns it."""

    def __init__(
        self,
        make_lane: Callable[[], Lane],
        instances: int = 1,
        slots: int = 4,
        idle_ns: int = 10**12,
        pads: bool = False,
        iterative: bool = False,
        added: AddedInputs | None = None,
    ) -> None:
        self.instances = [InstanceTwin() for _ in range(instances)]
        settings = SequenceSettings("m", ("OUT",), slots, pads, idle_ns, iterative, added or AddedInputs())
        self.scheduler = SequenceScheduler(settings, make_lane, list(self.instances), self)  # type: ignore[arg-type]
        self.placed = 0
        self.fell: list[tuple[str, Code, str]] = []
        self.fall = asyncio.Event()
        self.answers: list[Response] = []
        for instance in self.instances:
            self.scheduler.freed(instance)  # type: ignore[arg-type]

    def dropped(self, request: Request, error: ServerError) -> None:
        self.fell.append((request.id, error.code, error.message))
        self.fall.set()
        request.respond(Response(request, 1, [], error=error))

    def place(self, tensor: Tensor) -> None:
        self.placed += 1
        raise ServerError(Code.UNAVAILABLE, "no memory")

    def submit(self, id: str, flags: int = 0, nbytes: int = 1, **fields: Any) -> Request:
        """A request of the sequence that the id begins with."""
        inputs = [Tensor("IN", "INT8", [nbytes], bytes([7]) * nbytes)]
        request = Request("m", inputs, self.answers.append, id=id, correlation_id=id[0], flags=flags, **fields)
        self.scheduler.submit(request)
        return request

    def finish(self, *, outputs: tuple[Tensor, ...] = (), instance: int = 0, answered: bool = True) -> None:
        """The execution ends; as in the model, its instance is free before its responses are passed on."""
        twin = self.instances[instance]
        execution = twin.executions.popleft()
        self.scheduler.freed(twin)  # type: ignore[arg-type]
        for request in execution.requests if answered else ():
            if not request.answered:
                request.respond(Response(request, 1, list(outputs)))


Test = Callable[[], Coroutine[Any, Any, None]]


def on_loop(test: Test) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 10))

    run.__name__ = test.__name__
    return run


async def turn() -> None:
    """Let what was called for soon happen."""
    for _ in range(3):
        event = asyncio.Event()
        asyncio.get_running_loop().call_soon(event.set)
        await event.wait()


def oldest(size: int = 4) -> Lane:
    return OldestLane(DynamicBatcher(size, (size,), 0, lambda request: None))


def direct() -> Lane:
    return DirectLane(4, 0.0, 0, lambda request: None)


@on_loop
async def test_what_comes_in_one_turn_of_the_loop_is_one_batch() -> None:
    on = World(oldest)
    for id in ("a1", "b1", "c1"):
        on.submit(id, START)
    assert on.scheduler.pending == 3
    await turn()
    assert on.instances[0].ids == ["a1b1c1"]
    assert on.scheduler.pending == 0


@on_loop
async def test_the_responses_of_one_batch_make_the_next() -> None:
    on = World(oldest)
    for id in ("a", "b"):
        on.submit(id + "1", START)
        on.submit(id + "2", END)
    await turn()
    on.finish()
    await turn()
    assert on.instances[0].ids == ["a1b1", "a2b2"]


@on_loop
async def test_the_next_request_waits_for_the_answer_and_not_only_for_the_instance() -> None:
    on = World(oldest)
    first = on.submit("a1", START)
    on.submit("a2")
    await turn()
    on.finish(answered=False)
    await turn()
    assert on.instances[0].ids == ["a1"]
    first.respond(Response(first, 1, [], final=False))
    await turn()
    assert on.instances[0].ids == ["a1"]
    first.respond(Response(first, 1, [], empty=True))
    await turn()
    assert on.instances[0].ids == ["a1", "a2"]


@on_loop
async def test_null_requests_keep_places_and_need_no_answer() -> None:
    on = World(direct, pads=True)
    on.submit("a1", START)
    on.submit("b1", START)
    await turn()
    on.finish()
    on.submit("b2")
    await turn()
    assert on.instances[0].ids == ["a1b1", "-b2"]
    null = on.instances[0].taken[1][0]
    assert [(tensor.name, tensor.shape, bytes(tensor.buffer())) for tensor in null.inputs] == [("IN", [1], b"\0")]
    assert null.answered


@on_loop
async def test_a_request_that_null_requests_could_not_be_made_for_is_refused() -> None:
    on = World(direct, pads=True)
    with pytest.raises(ServerError, match="no memory"):
        on.submit("a1", START, nbytes=100_000)
    assert on.scheduler.pending == 0
    assert on.scheduler.open_count == 0
    without_places = World(oldest)
    without_places.submit("a1", START, nbytes=100_000)
    assert without_places.placed == 0


@on_loop
async def test_a_state_is_there_before_the_next_request_goes() -> None:
    on = World(oldest, added=AddedInputs(states=(SequenceState("AFTER", ZERO, ZERO),)))
    on.submit("a1", START)
    on.submit("a2", END)
    await turn()
    assert on.instances[0].taken[0][0].outputs == ["OUT", "AFTER"]
    on.finish(outputs=(Tensor("AFTER", "INT8", [1], b"s"), Tensor("OUT", "INT8", [1], b"o")))
    await turn()
    inputs = on.instances[0].taken[1][0].inputs
    assert [(tensor.name, tensor.data) for tensor in inputs] == [("IN", b"\7"), ("BEFORE", b"s")]
    assert [[tensor.name for tensor in response.outputs] for response in on.answers] == [["OUT"]]


@on_loop
async def test_an_idle_sequence_and_an_impatient_one_are_ended_by_the_clock() -> None:
    on = World(oldest, slots=1, idle_ns=5_000_000)
    on.submit("a1", START)
    on.submit("b1", START, timeout_us=1000)
    on.submit("c1", START)
    await turn()
    await on.fall.wait()
    assert on.fell == [("b1", Code.UNAVAILABLE, "timeout of the corresponding sequence has been expired")]
    on.finish()
    on.instances[0].executed.clear()
    await on.instances[0].executed.wait()
    assert on.instances[0].ids == ["a1", "c1"]


@on_loop
async def test_the_death_of_an_instance_leaves_what_it_had_not_begun_to_another() -> None:
    on = World(oldest, instances=2, slots=1)
    on.submit("a1", START)
    lost = on.submit("a2", END)
    on.submit("b1", START | END)
    await turn()
    on.submit("c1", START | END)
    dead = on.instances[0]
    dead.state = State.DEAD
    on.finish()
    assert on.scheduler.died(dead, []) == [lost]  # type: ignore[arg-type]
    on.finish(instance=1)
    await turn()
    assert [instance.ids for instance in on.instances] == [["a1"], ["b1", "c1"]]


@on_loop
async def test_finishing_waits_for_open_sequences_and_takes_no_new_ones() -> None:
    on = World(oldest)
    on.submit("a1", START)
    finishing = asyncio.ensure_future(on.scheduler.finish())
    await turn()
    with pytest.raises(ServerError, match="has stopped accepting new inference requests"):
        on.submit("b1", START)
    assert not finishing.done()
    on.submit("a2", END)
    await finishing


@on_loop
async def test_an_iterative_request_comes_again_with_its_own_inputs_and_without_start() -> None:
    on = World(oldest, iterative=True, added=AddedInputs(states=(SequenceState("AFTER", ZERO, ZERO),)))
    request = on.submit("a1")
    other = on.submit("a2")  # of the same id, and yet another sequence
    await turn()
    assert (request.flags, other.flags) == (START, START)
    on.finish(answered=False)
    on.scheduler.again([request])
    await turn()
    assert on.instances[0].ids == ["a1a2", "a1"]
    assert request.flags == 0
    assert [tensor.name for tensor in request.inputs] == ["IN", "BEFORE"]
    assert on.scheduler.cancel(request) is False  # the model shall hear of it


@on_loop
async def test_stopping_hands_back_what_waits() -> None:
    on = World(oldest, slots=1)
    waiting = [on.submit("a1", START), on.submit("a2"), on.submit("b1", START)]
    assert on.scheduler.stop() == waiting
    await turn()
    assert on.instances[0].ids == []
