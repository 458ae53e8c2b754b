"""The sequence batcher that a model's configuration asks for: its strategy, control tensors and states."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import numpy as np
from atoll_ipc.dtypes import BY_CONFIG_NAME, DType
from atoll_ipc.wire import INLINE_NBYTES

from atoll.core.data_files import read_data_file
from atoll.errors import Code, ServerError
from atoll.inference import Request, Tensor
from atoll.repository.config import ModelConfig
from atoll.scheduling.dynamic_batcher import DynamicBatcher
from atoll.scheduling.sequences.book import Lane
from atoll.scheduling.sequences.direct import DirectLane
from atoll.scheduling.sequences.inputs import AddedInputs, CorrelationControl, FlagControl, State, zero_nbytes
from atoll.scheduling.sequences.oldest import OldestLane
from atoll.scheduling.sequences.scheduler import SequenceSettings

__all__ = ["Place", "lane_maker", "sequence_settings"]

Place = Callable[[Tensor], None]
"""Puts a large tensor where stubs can read it."""

_FOLDER = "initial_state"
_TRUTH_VALUES = {"int32_false_true": "TYPE_INT32", "fp32_false_true": "TYPE_FP32", "bool_false_true": "TYPE_BOOL"}


def sequence_settings(config: ModelConfig, model_dir: Path, place: Place) -> SequenceSettings:
    """What ``sequence_batching`` says. Raises ServerError where an initial state is not right."""
    batching = config.json["sequence_batching"]
    oldest = batching.get("oldest")
    candidates = oldest["max_candidate_sequences"] if oldest else 0
    controls = _controls(config, batching["control_input"])
    iterative = batching["iterative_sequence"]
    return SequenceSettings(
        model_name=config.name,
        outputs=tuple(config.outputs),
        slots=candidates if candidates > 0 else max(1, config.max_batch_size),
        # A model whose requests are sequences of their own need not know of places, if it does not ask.
        pads=oldest is None and ("ready" in controls or not iterative),
        idle_ns=1000 * batching["max_sequence_idle_microseconds"],
        iterative=iterative,
        added=AddedInputs(**controls, states=tuple(_states(config, batching["state"], model_dir, place))),
    )


def lane_maker(config: ModelConfig, signature: Callable[[Request], Hashable]) -> Callable[[], Lane]:
    """What makes batches, for one instance. Requests of one batch have equal signatures."""
    batching = config.json["sequence_batching"]
    slots = max(1, config.max_batch_size)
    if oldest := batching.get("oldest"):
        delay_ns = 1000 * oldest["max_queue_delay_microseconds"]
        return lambda: OldestLane(DynamicBatcher(slots, oldest["preferred_batch_size"], delay_ns, signature))
    direct = batching.get("direct") or {"minimum_slot_utilization": 0.0, "max_queue_delay_microseconds": 0}
    delay_ns = 1000 * direct["max_queue_delay_microseconds"]
    return lambda: DirectLane(slots, direct["minimum_slot_utilization"], delay_ns, signature)


def _controls(config: ModelConfig, tensors: list[dict[str, Any]]) -> dict[str, Any]:
    """The control tensors, by the names of :class:`AddedInputs`."""
    shape = _shape(config, [1])
    found: dict[str, Any] = {}
    for name, control in [(tensor["name"], control) for tensor in tensors for control in tensor["control"]]:
        kind = control["kind"].removeprefix("CONTROL_SEQUENCE_").lower()
        if kind == "corrid":
            found["correlation"] = CorrelationControl(name, BY_CONFIG_NAME[control["data_type"]].name, shape)
            continue
        key = next(key for key in _TRUTH_VALUES if control[key])
        dtype = BY_CONFIG_NAME[_TRUTH_VALUES[key]]
        data = [np.array([value], dtype.numpy_name).tobytes() for value in control[key]]
        found[kind] = FlagControl(*(Tensor(name, dtype.name, shape, value) for value in data))
    return found


def _states(config: ModelConfig, states: list[dict[str, Any]], model_dir: Path, place: Place) -> list[State]:
    found: dict[str, State] = {}
    for state in states:
        name, dtype = state["input_name"], BY_CONFIG_NAME.get(state["data_type"])
        if name in found:
            raise _refused(f"State input name '{name}' specified more than once.")
        if dtype is None:
            raise _refused(f"state input '{name}' must specify 'data_type' for {config.name}")
        initial = _initial(name, state, dtype)
        dims = [max(1, size) for size in state["dims"]] if initial is None else initial["dims"]
        shape = _shape(config, dims)
        start = zero = Tensor(name, dtype.name, shape, bytes(zero_nbytes(dtype.name, shape)))
        if initial is not None and "data_file" in initial:
            start = Tensor(name, dtype.name, shape, _read_initial(model_dir, initial["data_file"], dtype, dims))
        for tensor in {start, zero}:
            if tensor.nbytes > INLINE_NBYTES:
                place(tensor)
        found[name] = State(state["output_name"], start, zero)
    return list(found.values())


def _initial(name: str, state: dict[str, Any], dtype: DType) -> dict[str, Any] | None:
    """The one element of ``initial_state``, checked against the state; None where there is none."""
    if not state["initial_state"]:
        return None
    initial, *others = state["initial_state"]
    if others:
        raise _refused(
            f"initial_state field for state input '{name}' must contain exactly one or zero element. Found "
            f"'{1 + len(others)}' elements."
        )
    if initial["data_type"] != dtype.config_name:
        raise _refused(
            f"The data type used for 'initial_state' field of state '{name}' does not match the state data type."
        )
    if not initial["name"]:
        raise _refused(f"Field 'name' must be set when using initial_state for state input '{name}'.")
    dims, state_dims = initial["dims"], state["dims"]
    if len(dims) != len(state_dims):
        raise _refused(
            "Number of dimensions in 'initial_state' doesn't match the size of 'state' dimensions for state input "
            f"'{name}'. {len(dims)} != {len(state_dims)}"
        )
    for size, expected in zip(dims, state_dims, strict=True):
        if size < 0:
            raise _refused(f"'initial_state' field for state input name '{name}' contains variable dimensions.")
        if expected not in (-1, size):
            raise _refused(
                f"'initial_state' dim for input name '{name}' doesn't match 'state' dim description. "
                f"{size} != {expected}"
            )
    if not initial.get("zero_data") and "data_file" not in initial:
        raise _refused(f"initial_state setting expects state'{name}' to have state_data set")
    return dict(initial)


def _read_initial(model_dir: Path, filename: str, dtype: DType, dims: list[int]) -> bytes:
    file = read_data_file(model_dir / _FOLDER, filename, "initial_state")
    nbytes = file.nbytes(dtype.itemsize, math.prod(dims))
    if len(file.data) < nbytes:
        raise _refused(
            f"initial_state setting expects {nbytes} bytes, but the data provided from {file.path}only has "
            f"{len(file.data)} bytes."
        )
    return file.data[:nbytes]


def _shape(config: ModelConfig, dims: list[int]) -> list[int]:
    """With a batch dimension, where the model has one."""
    return [1, *dims] if config.max_batch_size > 0 else dims


def _refused(message: str) -> ServerError:
    return ServerError(Code.INVALID_ARG, message)
