"""Checks of an ensemble that need no other model: what it may not configure, and how its tensors connect."""

from typing import Any

from atoll.repository.checks.refusal import invalid
from atoll.repository.normalize import ENSEMBLE

__all__ = ["check_ensemble"]


def check_ensemble(config: Any) -> None:
    name = config.name
    if config.platform != ENSEMBLE:
        raise invalid(f"ensemble scheduling cannot be set for model '{name}' whose platform is not ensemble")
    if config.backend:
        raise invalid(f"Ensemble model '{name}' must have platform type 'ensemble' and empty backend type")
    if not config.HasField("ensemble_scheduling"):
        raise invalid(f"ensemble scheduling must be set for ensemble {name} whose platform is ensemble")
    if config.instance_group:
        raise invalid(f"instance group should not be specified for ensemble '{name}'")
    if config.HasField("optimization"):
        raise invalid(f"optimization should not be specified for ensemble '{name}'")
    if config.model_warmup:
        raise invalid(f"model_warmup can not be specified for ensemble '{name}'")
    _check_steps(name, config.ensemble_scheduling.step)
    _check_graph(config)


def _check_steps(name: str, steps: Any) -> None:
    if not steps:
        raise invalid(f"must specify 'step' for ensemble '{name}'")
    for index, step in enumerate(steps):
        for field in ("model_name", "input_map", "output_map"):
            if not getattr(step, field):
                raise invalid(f"must specify '{field}' in step {index} of ensemble '{name}'")


def _check_graph(config: Any) -> None:
    """Each tensor must come from somewhere, once, and go somewhere."""
    name = config.name
    producers: dict[str, int] = {}
    consumers: dict[str, list[int]] = {}
    for index, step in enumerate(config.ensemble_scheduling.step):
        for tensor in step.output_map.values():
            if tensor in producers:
                raise invalid(
                    f"ensemble tensor '{tensor}' can appear in an output map only once "
                    f"for ensemble '{name}' step {index}"
                )
            producers[tensor] = index
        for tensor in step.input_map.values():
            consumers.setdefault(tensor, []).append(index)
    inputs = [tensor.name for tensor in config.input]
    outputs = [tensor.name for tensor in config.output]
    for tensor in inputs:
        if tensor not in consumers:
            raise invalid(f"ensemble input '{tensor}' for ensemble {name}' is not used")
    for tensor in outputs:
        if tensor not in producers:
            raise invalid(f"ensemble output '{tensor}' for ensemble {name}' is not used")
    for tensor in sorted(producers.keys() - consumers.keys() - set(outputs)):
        raise invalid(f"ensemble tensor '{tensor}' is unused in ensemble '{name}'")
    for tensor in sorted(consumers.keys() - producers.keys() - set(inputs)):
        steps = ", ".join(map(str, consumers[tensor]))
        raise invalid(
            f"ensemble tensor '{tensor}' is used in step {steps} of ensemble '{name}', but nothing produces it"
        )
    _check_order(config)


def _check_order(config: Any) -> None:
    """No steps may wait for each other."""
    made = {tensor.name for tensor in config.input}
    left = list(config.ensemble_scheduling.step)
    while ready := [step for step in left if made.issuperset(step.input_map.values())]:
        made.update(tensor for step in ready for tensor in step.output_map.values())
        left = [step for step in left if step not in ready]
    outputs = [tensor.name for tensor in config.output if tensor.name not in made]
    if outputs:
        waiting = next(iter(sorted({tensor for step in left for tensor in step.input_map.values()} - made)))
        raise invalid(
            f"output '{outputs[0]}' for ensemble '{config.name}' is not written: at least one of its depending "
            f"tensors, '{waiting}', is not connected"
        )
