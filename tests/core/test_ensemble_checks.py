"""What is said of ensembles that do not fit their steps' models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from atoll.core.ensemble_checks import check_composition
from atoll.core.ensemble_plan import Step
from atoll.errors import Code, ServerError
from atoll.repository.config import Host, ModelConfig, TensorSpec
from atoll.repository.config_json import from_json


def spec(name: str, datatype: str = "FP32", dims: tuple[int, ...] = (4,), optional: bool = False) -> TensorSpec:
    return TensorSpec(name, datatype, dims, optional=optional)


@dataclass
class Composed:
    name: str
    inputs: dict[str, TensorSpec] = field(default_factory=lambda: {"I": spec("I")})
    outputs: dict[str, TensorSpec] = field(default_factory=lambda: {"O": spec("O")})
    max_batch_size: int = 0
    decoupled: bool = False


def model(name: str, datatype: str = "FP32", dims: tuple[int, ...] = (4,), mbs: int = 0, **more: Any) -> Composed:
    tensors = {"inputs": {"I": spec("I", datatype, dims)}, "outputs": {"O": spec("O", datatype, dims)}}
    return Composed(name, **{**tensors, "max_batch_size": mbs, **more})


def config(mbs: int = 0, dims: tuple[int, ...] = (4,), inputs: str = "I", outputs: str = "O") -> ModelConfig:
    fields = {
        "max_batch_size": mbs,
        "input": [{"name": name, "data_type": "TYPE_FP32", "dims": list(dims)} for name in inputs.split()],
        "output": [{"name": name, "data_type": "TYPE_FP32", "dims": list(dims)} for name in outputs.split()],
    }
    return ModelConfig.resolve(from_json(fields), name="e", has_model_file=True, strict=False, host=Host())


CHAIN = [Step("a", -1, {"I": "I"}, {"O": "T"}), Step("b", -1, {"I": "T"}, {"O": "O"})]


def refusal(ensemble: ModelConfig, steps: list[Step], *models: Composed) -> str:
    with pytest.raises(ServerError) as refused:
        check_composition(ensemble, steps, models)
    assert refused.value.code is Code.INVALID_ARG
    return refused.value.message


@pytest.mark.parametrize(
    ("ensemble", "a", "b"),
    [
        (config(), model("a"), model("b")),
        (config(), model("a", dims=(-1,)), model("b", dims=(4,))),
        (config(mbs=4), model("a", mbs=4), model("b", mbs=8)),
        (config(mbs=4), model("a", mbs=8), model("b")),  # a batch of one
        (config(), model("a", mbs=8), model("b")),
        (config(), model("a"), model("b", mbs=8)),
        (config(mbs=4), model("a", mbs=8), model("b", dims=(-1, 4))),  # the whole batch
        (config(), model("a", decoupled=True), model("b", decoupled=True)),
    ],
)
def test_what_fits(ensemble: ModelConfig, a: Composed, b: Composed) -> None:
    check_composition(ensemble, CHAIN, [a, b])


@pytest.mark.spec("server:188")
def test_tensors_that_the_models_do_not_have() -> None:
    steps = [Step("a", -1, {"X": "I"}, {"O": "O"})]
    text = "in ensemble e, ensemble tensor I is mapping to non-existing input X in model a"
    assert refusal(config(), steps, model("a")) == text
    steps = [Step("a", -1, {"I": "I"}, {"X": "O"})]
    text = "in ensemble e, ensemble tensor O is mapped from non-existing output X in model a"
    assert refusal(config(), steps, model("a")) == text


@pytest.mark.spec("server:188")
def test_inputs_that_nothing_is_mapped_to() -> None:
    steps = [Step("a", -1, {"I": "I"}, {"O": "O"})]
    inputs = {"I": spec("I"), "J": spec("J")}
    text = "in ensemble e, input J in model a is not mapped to any ensemble tensors"
    assert refusal(config(), steps, model("a", inputs=inputs)) == text
    inputs["J"] = spec("J", optional=True)
    check_composition(config(), steps, [model("a", inputs=inputs)])


@pytest.mark.spec("server:188")
def test_types_that_differ() -> None:
    start = "in ensemble e, ensemble tensor"
    end = "is inferred from model"
    text = f"{start} I: inconsistent data type: TYPE_FP32 {end} e while TYPE_STRING {end} a"
    assert refusal(config(), CHAIN, model("a", "BYTES"), model("b")) == text
    text = f"{start} T: inconsistent data type: TYPE_FP32 {end} a while TYPE_INT32 {end} b"
    assert refusal(config(), CHAIN, model("a"), model("b", "INT32")) == text


@pytest.mark.spec("server:188")
def test_shapes_that_differ() -> None:
    start = "in ensemble e, ensemble tensor"
    end = "is inferred from model"
    text = f"{start} T: inconsistent shape: [4] {end} a while [8] {end} b"
    assert refusal(config(), CHAIN, model("a"), model("b", dims=(8,))) == text
    text = f"{start} T: inconsistent shape: [-1,4] {end} a while [2,8] {end} b"
    assert refusal(config(), CHAIN, model("a", mbs=8), model("b", dims=(2, 8))) == text
    text = f"{start} I: inconsistent shape: [1,4] {end} e while [4] {end} a"
    assert refusal(config(dims=(1, 4)), CHAIN, model("a"), model("b")) == text


@pytest.mark.spec("server:188")
def test_batches_that_are_too_large_for_a_step() -> None:
    assert refusal(config(mbs=4), CHAIN, model("a", mbs=8), model("b", mbs=2)) == (
        "ensemble e allows maximum batch size 4, but it contains model b which only allows maximum batch size to be 2"
    )


@pytest.mark.spec("server:188")
def test_streams_that_come_together() -> None:
    text = "in ensemble e, step of model 'e' receives inputs originated from different decoupled models"
    streams = [Step("a", -1, {"I": "I"}, {"O": "T"}), Step("b", -1, {"I": "I"}, {"O": "U"})]
    both = Composed("c", {"I": spec("I"), "J": spec("J")}, {"O": spec("O")})
    steps = [*streams, Step("c", -1, {"I": "T", "J": "U"}, {"O": "O"})]
    models = model("a", decoupled=True), model("b", decoupled=True)
    assert refusal(config(), steps, *models, both) == text
    assert refusal(config(outputs="T U"), streams, *models) == text
    check_composition(config(), steps, [models[0], model("b"), both])
