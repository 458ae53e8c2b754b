"""Whether an ensemble and the models that it is composed of fit together. Texts are those of the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from atoll_ipc.dtypes import BY_NAME

from atoll.core.ensemble_plan import Step, origins
from atoll.errors import Code, ServerError
from atoll.repository.config import ModelConfig, TensorSpec

__all__ = ["Composing", "check_composition"]


class Composing(Protocol):
    """What counts of a model that is a step."""

    name: str
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    max_batch_size: int
    decoupled: bool


def check_composition(config: ModelConfig, steps: Sequence[Step], models: Sequence[Composing]) -> None:
    """``models`` are those of the steps, in their order. Raises ServerError INVALID_ARG."""
    for step, model in zip(steps, models, strict=True):
        _check_step(config, step, model)
    _check_tensors(config, steps, models)
    _check_decoupled(config, steps, models)


def _check_step(config: ModelConfig, step: Step, model: Composing) -> None:
    ensemble = config.name
    if 0 < model.max_batch_size < config.max_batch_size:
        raise _refused(
            f"ensemble {ensemble} allows maximum batch size {config.max_batch_size}, but it contains model "
            f"{model.name} which only allows maximum batch size to be {model.max_batch_size}"
        )
    for name, tensor in step.inputs.items():
        if name not in model.inputs:
            raise _refused(
                f"in ensemble {ensemble}, ensemble tensor {tensor} is mapping to non-existing input {name} in model "
                f"{model.name}"
            )
    for name, tensor in step.outputs.items():
        if name not in model.outputs:
            raise _refused(
                f"in ensemble {ensemble}, ensemble tensor {tensor} is mapped from non-existing output {name} in model "
                f"{model.name}"
            )
    for name, spec in model.inputs.items():
        if name not in step.inputs and not spec.optional:
            raise _refused(
                f"in ensemble {ensemble}, input {name} in model {model.name} is not mapped to any ensemble tensors"
            )


@dataclass(frozen=True, slots=True)
class _View:
    """A tensor as one model knows it."""

    model_name: str
    spec: TensorSpec
    batching: bool

    @property
    def shape(self) -> list[int]:
        return [-1, *self.spec.dims] if self.batching else list(self.spec.dims)


def _check_tensors(config: ModelConfig, steps: Sequence[Step], models: Sequence[Composing]) -> None:
    """All that see a tensor must see the same; whoever is named first sets the measure."""
    own = {**config.inputs, **config.outputs}
    first = {name: _View(config.name, spec, config.max_batch_size > 0) for name, spec in own.items()}
    for step, model in zip(steps, models, strict=True):
        for names, specs in (step.inputs, model.inputs), (step.outputs, model.outputs):
            for name, tensor in names.items():
                view = _View(model.name, specs[name], model.max_batch_size > 0)
                measure = first.setdefault(tensor, view)
                _check_agreement(f"in ensemble {config.name}, ensemble tensor {tensor}", measure, view)


def _check_agreement(tensor: str, one: _View, other: _View) -> None:
    if one.spec.datatype != other.spec.datatype:
        raise _refused(
            f"{tensor}: inconsistent data type: {_config_name(one.spec)} is inferred from model {one.model_name} while "
            f"{_config_name(other.spec)} is inferred from model {other.model_name}"
        )
    # Where only one of them batches, a batch of one will do.
    if not _alike(one.spec.dims, other.spec.dims) and not _alike(one.shape, other.shape):
        raise _refused(
            f"{tensor}: inconsistent shape: {_text(one.shape)} is inferred from model {one.model_name} while "
            f"{_text(other.shape)} is inferred from model {other.model_name}"
        )


def _alike(dims: Sequence[int], others: Sequence[int]) -> bool:
    return len(dims) == len(others) and all(
        size == other or -1 in (size, other) for size, other in zip(dims, others, strict=True)
    )


def _check_decoupled(config: ModelConfig, steps: Sequence[Step], models: Sequence[Composing]) -> None:
    """What comes together in a step, or in an answer, must come from the responses of one decoupled step."""
    found = origins(steps, [index for index, model in enumerate(models) if model.decoupled])
    for tensors in [*(step.inputs.values() for step in steps), config.outputs]:
        if len(set().union(*(found.get(tensor, set()) for tensor in tensors))) > 1:
            # The ensemble's own name is what the original gives here.
            raise _refused(
                f"in ensemble {config.name}, step of model '{config.name}' receives inputs originated from different "
                "decoupled models"
            )


def _config_name(spec: TensorSpec) -> str:
    return BY_NAME[spec.datatype].config_name


def _text(shape: Sequence[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _refused(message: str) -> ServerError:
    return ServerError(Code.INVALID_ARG, message)
