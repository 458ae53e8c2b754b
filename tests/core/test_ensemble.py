"""An ensemble whose steps' models are no processes: what they are asked, and what is made of their answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from atoll.core.ensemble import EnsembleModel
from atoll.core.ensemble_plan import Plan, Step
from atoll.core.model import Model, ModelHost
from atoll.core.reshape import between_steps
from atoll.errors import Code, ServerError
from atoll.inference import SEQUENCE_END, SEQUENCE_START, Request, Response, Tensor
from atoll.repository.config import Host, ModelConfig
from atoll.repository.config_json import from_json
from atoll_ipc.memory import ArenaSettings, Slice

LARGE = bytes(range(256)) * 64


def configured(name: str, inputs: str = "I", outputs: str = "O", mbs: int = 0, **more: Any) -> ModelConfig:
    """An upper-case name is of an input that must be there, a lower-case one may be missing."""
    fields = {
        "max_batch_size": mbs,
        "input": [
            {"name": tensor.upper(), "data_type": "TYPE_UINT8", "dims": [-1], "optional": tensor.islower()}
            for tensor in inputs.split()
        ],
        "output": [{"name": tensor, "data_type": "TYPE_UINT8", "dims": [-1]} for tensor in outputs.split()],
        **more,
    }
    return ModelConfig.resolve(from_json(fields), name=name, has_model_file=True, strict=False, host=Host())


class Twin(Model):
    """A step's model; the test answers its requests."""

    def __init__(self, config: ModelConfig, host: ModelHost) -> None:
        super().__init__(config, 1, Path(), host)
        self.taken: list[Request] = []
        self.cancelled: list[Request] = []
        self._accepting = True

    async def start(self) -> None: ...

    async def stop(self, timeout_s: float) -> bool:
        return True

    def cancel(self, request: Request) -> None:
        self.cancelled.append(request)

    def _accept(self, request: Request) -> None:
        self.taken.append(request)

    def answer(self, *, final: bool = True, **outputs: bytes | Slice) -> None:
        request = self.taken[0]
        tensors = []
        for name, data in outputs.items():
            nbytes = data.nbytes if isinstance(data, Slice) else len(data)
            rows = request.batch_size
            tensors.append(Tensor(name, "UINT8", [rows, nbytes // rows] if self.max_batch_size else [nbytes], data))
        self._say(Response(request, 1, tensors, parameters={"of": self.name}, final=final))

    def end(self) -> None:
        self._say(Response(self.taken[0], 1, [], empty=True))

    def fail(self, text: str, code: Code = Code.INTERNAL, final: bool = True) -> None:
        self._say(Response(self.taken[0], 1, [], error=ServerError(code, text), final=final))

    def _say(self, response: Response) -> None:
        if response.final:
            self.taken.remove(response.request)
        self._answer(response)


class World:
    """The steps' models, and an ensemble of them."""

    def __init__(self) -> None:
        self.models: dict[str, Twin] = {}
        self.arena_settings = ArenaSettings()
        self._chunk_ids = 0
        self.responses: list[Response] = []

    # atoll.core.model.ModelHost, as far as it is asked here

    def take_chunk_ids(self) -> int:
        self._chunk_ids += 1000
        return self._chunk_ids

    def find(self, name: str, version: int, namespace: str) -> Model:
        if name not in self.models:
            raise ServerError(Code.NOT_FOUND, f"Request for unknown model: '{name}' is not found")
        return self.models[name]

    def ended(self, model: Model) -> None: ...

    # what tests do

    def add(self, name: str, **config: Any) -> Twin:
        twin = self.models[name] = Twin(configured(name, **config), cast(ModelHost, self))
        return twin

    async def ensemble(self, *steps: str, max_inflight: int = 0, **config: Any) -> EnsembleModel:
        """Steps such as ``"a: I=X J=Y -> O=Z"``, each the name of a model with names of tensors."""
        parsed = []
        for text in steps:
            name, _, maps = text.partition(": ")
            inputs, _, outputs = maps.partition(" -> ")
            pairs = [dict(pair.split("=") for pair in part.split()) for part in (inputs, outputs)]
            parsed.append(Step(name, -1, pairs[0], pairs[1]))
        decoupled = [index for index, step in enumerate(parsed) if self.models[step.model_name].decoupled]
        made = configured("e", **config).with_decoupled(bool(decoupled))
        model = EnsembleModel(made, 1, Path(), cast(ModelHost, self), Plan(parsed, decoupled, max_inflight))
        await model.start()
        return model

    def request(self, *, shape: list[int] | None = None, **fields: Any) -> Request:
        data = fields.pop("data", b"data")
        return Request("e", [Tensor("I", "UINT8", shape or [len(data)], data)], self.responses.append, **fields)

    @property
    def errors(self) -> list[str]:
        return [response.error.message for response in self.responses if response.error is not None]

    @property
    def outputs(self) -> list[dict[str, bytes]]:
        return [{t.name: bytes(t.buffer()) for t in response.outputs} for response in self.responses]


def in_world(story: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        world = World()
        await story(world)
        for model in world.models.values():
            assert model.in_flight == 0
            assert model.taken == []

    asyncio.run(asyncio.wait_for(run(), 10))


async def settled() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


CHAIN = ("a: I=I -> O=T", "b: I=T -> O=O")


def test_no_byte_is_copied_between_steps() -> None:
    async def story(world: World) -> None:
        a, b = world.add("a"), world.add("b")
        ensemble = await world.ensemble(*CHAIN)
        ensemble.infer(world.request(data=LARGE))
        given = a.taken[0].inputs[0].data
        assert isinstance(given, Slice)
        made = Slice(a.arena.allocate(len(LARGE)), 0, len(LARGE))  # as if in the stub's arena
        a.answer(O=made)
        assert b.taken[0].inputs[0].data is made
        b.answer(O=given)  # handed on from the client
        assert world.responses[0].outputs[0].data is given
        assert (ensemble.arena.stats().blocks, b.arena.stats().blocks) == (1, 0)

    in_world(story)


def test_a_block_is_free_again_when_no_step_wants_it() -> None:
    async def story(world: World) -> None:
        a, b = world.add("a"), world.add("b")
        ensemble = await world.ensemble(*CHAIN)
        ensemble.infer(world.request(data=LARGE))
        assert ensemble.arena.stats().blocks == 1
        a.taken[0].inputs = []  # as when it was executed
        a.answer(O=b"x")
        assert ensemble.arena.stats().blocks == 0
        b.answer(O=b"y")

    in_world(story)


def test_steps_get_what_the_client_said() -> None:
    async def story(world: World) -> None:
        a, b = world.add("a", outputs="O P"), world.add("b")
        ensemble = await world.ensemble("a: I=I -> O=T P=P", "b: I=T -> O=O", outputs="O P")
        said: dict[str, Any] = {
            "id": "me",
            "parameters": {"x": 1},
            "correlation_id": "seq",
            "flags": SEQUENCE_START | SEQUENCE_END,
            "priority": 2,
            "timeout_us": 7,
        }
        request = world.request(**said)
        request.callers = ("someone",)
        ensemble.infer(request)
        assert a.taken[0].outputs == ["O", "P"]
        first = a.taken[0]
        a.answer(O=b"t", P=b"p")
        for asked in first, b.taken[0]:
            assert {name: getattr(asked, name) for name in said} == said
            assert asked.callers == ("someone",)
        b.answer(O=b"o")
        (response,) = world.responses
        assert world.outputs == [{"O": b"o", "P": b"p"}]
        assert response.parameters == {"sequence_id": "seq", "sequence_start": True, "sequence_end": True}
        assert (response.final, response.model_version) == (True, 1)

    in_world(story)


@pytest.mark.spec("server:229")
def test_parameters_of_every_answer() -> None:
    async def story(world: World) -> None:
        a = world.add("a")
        ensemble = await world.ensemble("a: I=I -> O=O")
        ensemble.infer(world.request())
        a.answer(O=b"o")
        wanted = [("sequence_id", 0), ("sequence_start", False), ("sequence_end", False)]
        assert list((world.responses[0].parameters or {}).items()) == wanted

    in_world(story)


@pytest.mark.spec("server:228")
def test_only_the_outputs_that_are_needed_are_asked_for() -> None:
    async def story(world: World) -> None:
        a, b = world.add("a", outputs="O P"), world.add("b")
        ensemble = await world.ensemble("a: I=I -> O=T P=P", "b: I=T -> O=O", outputs="O P")
        ensemble.infer(world.request(outputs=["P"]))
        assert a.taken[0].outputs == ["P"]
        assert b.in_flight == 0
        a.answer(P=b"p")
        assert (world.outputs, b.taken) == ([{"P": b"p"}], [])

    in_world(story)


@pytest.mark.spec("server:227")
def test_the_first_error_wins_and_running_steps_are_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    async def story(world: World) -> None:
        a, b, c = world.add("a"), world.add("b"), world.add("c", inputs="I J")
        ensemble = await world.ensemble("a: I=I -> O=T", "b: I=I -> O=U", "c: I=T J=U -> O=O")
        ensemble.infer(world.request())
        a.fail("oh", Code.UNSUPPORTED)
        await settled()
        assert (world.responses, c.in_flight) == ([], 1)
        b.fail("later")
        await settled()
        assert world.errors == ["in ensemble 'e', oh"]
        assert world.responses[0].error is not None
        assert world.responses[0].error.code is Code.UNSUPPORTED
        assert (ensemble.statistics.fail.count, ensemble.statistics.success.count) == (1, 0)

    in_world(story)


@pytest.mark.spec("server:227")
def test_a_step_that_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async def story(world: World) -> None:
        a, b = world.add("a"), world.add("b")
        ensemble = await world.ensemble(*CHAIN)
        ensemble.infer(world.request(id="r"))
        a.answer()
        await settled()
        text = (
            "[request id: r] expected 1 inputs but got 0 inputs for model 'b'. Got input(s) [], but missing required "
            "input(s) ['I']. Please provide all required input(s)."
        )
        assert world.errors == [f"in ensemble 'e', {text}"]
        warning = next(record for record in caplog.records if record.levelno == logging.WARNING)
        assert warning.getMessage() == f"Ensemble 'e' failed to schedule step : {text}"
        assert b.in_flight == 0

    in_world(story)


def test_a_step_that_is_refused_at_once_is_answered_later() -> None:
    async def story(world: World) -> None:
        world.add("a", inputs="I J")
        ensemble = await world.ensemble("a: I=I -> O=O")
        ensemble.infer(world.request())
        assert world.responses == []
        await settled()
        assert len(world.errors) == 1
        assert ensemble.in_flight == 0

    in_world(story)


def test_a_model_that_is_gone() -> None:
    async def story(world: World) -> None:
        world.add("a")
        world.add("b")
        ensemble = await world.ensemble(*CHAIN)
        assert ensemble.is_ready
        del world.models["b"]
        assert not ensemble.is_ready
        assert not ensemble.has_check
        assert await ensemble.not_ready_reason() == "Request for unknown model: 'b' is not found"
        ensemble.infer(world.request())
        await settled()
        assert world.errors == ["in ensemble 'e', Request for unknown model: 'b' is not found"]

    in_world(story)


def test_models_stay_until_the_request_is_answered() -> None:
    async def story(world: World) -> None:
        a, b = world.add("a"), world.add("b")
        ensemble = await world.ensemble(*CHAIN)
        ensemble.infer(world.request())
        assert (a.in_flight, b.in_flight) == (2, 1)
        drained = asyncio.ensure_future(b.drained())
        del world.models["b"]
        a.answer(O=b"t")
        await settled()
        assert not drained.done()
        b.answer(O=b"o")
        await drained
        assert world.outputs == [{"O": b"o"}]

    in_world(story)


@pytest.mark.spec("server:227")
def test_a_deadlock_is_told() -> None:
    async def story(world: World) -> None:
        world.add("a", inputs="I J")
        world.add("b")
        ensemble = await world.ensemble("a: I=I J=U -> O=O", "b: I=O -> O=U")  # no configuration is read like that
        ensemble.infer(world.request())
        await settled()
        text = "unexpected deadlock, at least one output is not set while no more ensemble steps can be made"
        assert world.errors == [f"in ensemble 'e', [request id: <id_unknown>] {text}"]
        assert world.responses[0].error is not None
        assert world.responses[0].error.code is Code.INVALID_ARG

    in_world(story)


def test_an_output_that_the_step_left_out() -> None:
    async def story(world: World) -> None:
        a = world.add("a", outputs="O P")
        ensemble = await world.ensemble("a: I=I -> O=O P=P", outputs="O P")
        ensemble.infer(world.request())
        a.answer(O=b"o", Q=b"nobody asked")
        assert world.outputs == [{"O": b"o"}]

    in_world(story)


def test_optional_inputs_may_be_missing() -> None:
    async def story(world: World) -> None:
        a, b = world.add("a", inputs="I j"), world.add("b", inputs="I j")
        ensemble = await world.ensemble("a: I=I J=J -> O=T", "b: I=I J=T -> O=O", inputs="I j")
        ensemble.infer(world.request())
        assert [tensor.name for tensor in a.taken[0].inputs] == ["I"]
        a.answer()
        assert [tensor.name for tensor in b.taken[0].inputs] == ["I"]
        b.answer(O=b"o")
        assert world.outputs == [{"O": b"o"}]

    in_world(story)


# -- batches


@pytest.mark.spec("server:225")
@pytest.mark.parametrize(
    ("shape", "batch_size", "dims", "batching", "wanted"),
    [
        ([4], 0, [4], False, [4]),
        ([2, 4], 2, [4], True, [2, 4]),
        ([4], 0, [4], True, [1, 4]),
        ([5], 0, [-1], True, [1, 5]),
        ([3, 4], 0, [4], True, [3, 4]),
        ([1, 4], 1, [4], False, [4]),
        ([2, 4], 2, [4], False, [2, 4]),
        ([1, 4], 1, [1, 4], False, [1, 4]),
        ([1, 5], 1, [4], False, [1, 5]),
    ],
)
def test_the_batch_dimension_between_two_models(
    shape: list[int], batch_size: int, dims: list[int], batching: bool, wanted: list[int]
) -> None:
    assert list(between_steps(shape, batch_size, dims, batching)) == wanted


@pytest.mark.spec("server:225")
def test_models_that_batch_and_models_that_do_not() -> None:
    async def story(world: World) -> None:
        a, b = world.add("a", mbs=8), world.add("b")
        ensemble = await world.ensemble(*CHAIN, mbs=4)
        ensemble.infer(world.request(shape=[1, 4]))
        assert list(a.taken[0].inputs[0].shape) == [1, 4]
        a.answer(O=b"four")
        assert list(b.taken[0].inputs[0].shape) == [4]
        b.answer(O=b"four")
        assert list(world.responses[0].outputs[0].shape) == [1, 4]
        ensemble.infer(world.request(shape=[2, 2]))
        a.answer(O=b"four")
        await settled()
        assert "unexpected shape for input 'I' for model 'b'. Expected [-1], got [2,2]. " in world.errors[0]

    in_world(story)


# -- decoupled steps


@pytest.mark.spec("server:226")
def test_each_response_goes_its_way() -> None:
    async def story(world: World) -> None:
        a, b = world.add("a", model_transaction_policy={"decoupled": True}), world.add("b")
        ensemble = await world.ensemble(*CHAIN)
        assert ensemble.decoupled
        assert ensemble.config["model_transaction_policy"] == {"decoupled": True}
        ensemble.infer(world.request())
        a.answer(O=b"0", final=False)
        a.answer(O=b"1", final=False)
        assert [bytes(request.inputs[0].buffer()) for request in b.taken] == [b"0", b"1"]
        b.answer(O=b"b0")
        assert world.outputs == [{"O": b"b0"}]
        a.end()
        assert not world.responses[-1].final
        b.answer(O=b"b1")
        assert world.outputs == [{"O": b"b0"}, {"O": b"b1"}]
        assert world.responses[-1].final
        assert list(ensemble.statistics.as_dict("e", 1)["response_stats"]) == ["0", "1"]

    in_world(story)


@pytest.mark.spec("server:226")
def test_a_stream_may_be_empty_and_may_end_late() -> None:
    async def story(world: World) -> None:
        a, b = world.add("a", model_transaction_policy={"decoupled": True}), world.add("b")
        ensemble = await world.ensemble(*CHAIN)
        ensemble.infer(world.request())
        a.end()
        await settled()
        assert [(response.empty, response.final) for response in world.responses] == [(True, True)]
        world.responses.clear()
        ensemble.infer(world.request())
        a.answer(O=b"0", final=False)
        b.answer(O=b"b0")
        a.end()
        await settled()
        assert [(response.empty, response.final) for response in world.responses] == [(False, False), (True, True)]
        assert ensemble.statistics.success.count == 2

    in_world(story)


@pytest.mark.spec("server:226")
def test_an_error_within_a_stream() -> None:
    async def story(world: World) -> None:
        a, b = world.add("a", model_transaction_policy={"decoupled": True}), world.add("b")
        ensemble = await world.ensemble(*CHAIN)
        ensemble.infer(world.request())
        a.answer(O=b"0", final=False)
        a.fail("oh", final=False)
        a.answer(O=b"1", final=False)
        a.end()
        b.answer(O=b"b0")
        await settled()
        assert world.outputs == [{"O": b"b0"}, {}]
        assert world.errors == ["in ensemble 'e', oh"]
        assert [response.final for response in world.responses] == [False, True]

    in_world(story)


@pytest.mark.spec("server:230")
def test_passes_take_turns_at_a_step() -> None:
    async def story(world: World) -> None:
        a, b = world.add("a", model_transaction_policy={"decoupled": True}), world.add("b")
        ensemble = await world.ensemble(*CHAIN, max_inflight=1)
        ensemble.infer(world.request())
        for index in range(3):
            a.answer(O=b"%d" % index, final=False)
        a.end()
        for index in range(3):
            assert [bytes(request.inputs[0].buffer()) for request in b.taken] == [b"%d" % index]
            b.answer(O=b"b%d" % index)
        assert [response.final for response in world.responses] == [False, False, True]

    in_world(story)


# -- cancelled, unloaded


def test_running_steps_hear_that_the_client_is_gone() -> None:
    async def story(world: World) -> None:
        a, b = world.add("a"), world.add("b")
        ensemble = await world.ensemble(*CHAIN)
        request = world.request()
        ensemble.infer(request)
        ensemble.cancel(request)
        ensemble.cancel(request)
        assert a.cancelled == a.taken
        a.answer(O=b"t")
        await settled()
        assert world.errors == ["Request cancelled"]
        assert b.taken == []
        assert ensemble.statistics.failures[1] == 1  # CANCELED
        ensemble.cancel(request)

    in_world(story)


def test_a_cancelled_stream_answers_nothing_more() -> None:
    async def story(world: World) -> None:
        a = world.add("a", model_transaction_policy={"decoupled": True})
        ensemble = await world.ensemble("a: I=I -> O=O")
        request = world.request()
        ensemble.infer(request)
        ensemble.cancel(request)
        a.answer(O=b"0", final=False)
        a.end()
        await settled()
        assert [response.final for response in world.responses] == [True]
        assert world.errors == ["Request cancelled"]

    in_world(story)


def test_an_ensemble_that_must_end() -> None:
    async def story(world: World) -> None:
        a = world.add("a")
        ensemble = await world.ensemble("a: I=I -> O=O")
        ensemble.infer(world.request())
        assert await ensemble.stop(1)
        assert world.errors == ["Model 'e' is being unloaded"]
        assert not ensemble.is_ready
        a.answer(O=b"late")
        await settled()
        assert len(world.responses) == 1
        with pytest.raises(ServerError, match="Server is stopping"):
            ensemble.infer(world.request())

    in_world(story)


# -- statistics


def test_times_are_those_of_the_steps() -> None:
    async def story(world: World) -> None:
        a, b = world.add("a", mbs=8), world.add("b", mbs=8)
        ensemble = await world.ensemble(*CHAIN, mbs=4)
        ensemble.infer(world.request(shape=[2, 2]))
        late = a.taken[0].on_executed
        assert late is not None
        late(1, (10, 100, 1000))
        a.answer(O=b"four")
        assert b.taken[0].on_executed is not None
        b.taken[0].on_executed(2, (20, 200, 2000))
        b.answer(O=b"four")
        late(4, (40, 400, 4000))  # the execution ended after the last response of a stream
        entry = ensemble.statistics.as_dict("e", 1)
        times = {name: entry["inference_stats"][name] for name in ("queue", "compute_input", "compute_infer")}
        assert times == {
            "queue": {"count": 1, "ns": 7},
            "compute_input": {"count": 1, "ns": 70},
            "compute_infer": {"count": 1, "ns": 700},
        }
        assert entry["inference_stats"]["compute_output"] == {"count": 1, "ns": 7000}
        assert (entry["inference_count"], entry["execution_count"]) == (2, 1)
        assert entry["inference_stats"]["success"]["count"] == 1

    in_world(story)


# -- what the client's own memory and the reading of streams ask for


def test_the_last_step_writes_where_the_client_wants() -> None:
    async def story(world: World) -> None:
        a, b = world.add("a", outputs="O P"), world.add("b")
        ensemble = await world.ensemble("a: I=I -> O=T P=P", "b: I=T -> O=O", outputs="O P T")
        place = Slice(ensemble.allocate(100), 0, 100)
        request = world.request()
        request.placements = {"O": place, "T": place, "Q": place}
        ensemble.infer(request)
        assert a.taken[0].placements is None  # the next step reads T
        a.answer(O=b"t", P=b"p")
        assert b.taken[0].placements == {"O": place}
        b.answer(O=b"o")

    in_world(story)


def test_an_answer_keeps_the_receipt_of_what_it_was_made_from() -> None:
    async def story(world: World) -> None:
        a, b = world.add("a", model_transaction_policy={"decoupled": True}), world.add("b")
        ensemble = await world.ensemble(*CHAIN)
        ensemble.infer(world.request())
        response = Response(a.taken[0], 1, [Tensor("O", "UINT8", [1], b"0")], final=False)
        response.receipt = receipt = object()
        a._answer(response)
        a.end()
        b.answer(O=b"b0")
        assert [answer.receipt for answer in world.responses] == [receipt]

    in_world(story)
