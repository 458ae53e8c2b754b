"""Checks of inputs and outputs, and of the batch tensors that refer to them."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from atoll_ipc import dtypes
from atoll_protos import messages

from atoll.repository.checks.refusal import invalid

__all__ = ["check_tensors"]

_VARIABLE = -1
_BatchInput = messages.BatchInput
_BATCH_INPUT_TYPES = (dtypes.BY_NAME["INT32"].code, dtypes.BY_NAME["FP32"].code)
_DIMENSION_RULE = "must be integer >= 1, or -1 to indicate a variable-size dimension"


def check_tensors(config: Any) -> None:
    """Inputs and outputs as they are after auto-complete. A configuration without any is legal."""
    for tensor in config.input:
        _check_tensor("model input", tensor, config)
        if tensor.format != messages.ModelInput.FORMAT_NONE and len(tensor.dims) != 3:
            raise invalid(f"model input NHWC/NCHW require 3 dims for {config.name}")
    for tensor in config.output:
        _check_tensor("model output", tensor, config)
    _check_batch_inputs(config)
    _check_batch_outputs(config)


def _check_tensor(role: str, tensor: Any, config: Any) -> None:
    if not tensor.name:
        raise invalid(f"{role} must specify 'name' for {config.name}")
    fault = _tensor_fault(tensor, batching=config.max_batch_size > 0)
    if fault:
        raise invalid(f"{role} '{tensor.name}' {fault} for {config.name}")
    if tensor.is_shape_tensor:
        raise invalid(f"shape tensors are only supported for TensorRT platform for {config.name}")
    if tensor.is_non_linear_format_io:
        raise invalid(f"Non-linear IO format is only supported for the TensorRT platform for {config.name}")


def _tensor_fault(tensor: Any, *, batching: bool) -> str | None:
    """What is wrong with a tensor's type or shape."""
    if tensor.data_type not in dtypes.BY_CODE:
        return "must specify 'data_type'"
    if not tensor.dims:
        return "must specify 'dims'"
    if not _are_dimensions(tensor.dims):
        return f"dimension {_DIMENSION_RULE}"
    if not tensor.HasField("reshape"):
        return None
    if not tensor.reshape.shape and not batching:
        return "cannot have empty reshape for non-batching model as scalar tensors are not supported"
    if not _are_dimensions(tensor.reshape.shape):
        return f"reshape dimensions {_DIMENSION_RULE}"
    return _reshape_fault(tensor.dims, tensor.reshape.shape)


def _are_dimensions(dims: Iterable[int]) -> bool:
    return all(dim >= 1 or dim == _VARIABLE for dim in dims)


def _reshape_fault(dims: Sequence[int], shape: Sequence[int]) -> str | None:
    """Why one shape cannot be seen as the other.

    Variable dimensions stay in order and map one to one, so the parts between them must hold as many elements each:
    [2, 4, -1, 6] may become [8, -1, 1, 6].
    """
    parts, shape_parts = _element_counts(dims), _element_counts(shape)
    if len(parts) != len(shape_parts) and len(parts) > 1 and len(shape_parts) > 1:
        return "has different number of variable-size dimensions for dims and reshape"
    return None if parts == shape_parts else "has different size for dims and reshape"


def _element_counts(dims: Iterable[int]) -> list[int]:
    """Elements of each part of a shape that lies between variable dimensions."""
    parts: list[list[int]] = [[]]
    for dim in dims:
        if dim == _VARIABLE:
            parts.append([])
        else:
            parts[-1].append(dim)
    return [math.prod(part) for part in parts]


def _check_batch_inputs(config: Any) -> None:
    sources = {tensor.name for tensor in config.input}
    targets: set[str] = set()
    for batch_input in config.batch_input:
        if batch_input.kind not in _BatchInput.Kind.values():
            raise invalid(f"unknown batch input kind '{batch_input.kind}'")
        if len(batch_input.source_input) != 1:
            kind, count = _BatchInput.Kind.Name(batch_input.kind), len(batch_input.source_input)
            raise invalid(f"batch input kind '{kind}' expects 1 source input, got {count}")
        if batch_input.data_type not in _BATCH_INPUT_TYPES:
            raise invalid("batch input data type must be TYPE_INT32 or TYPE_FP32")
        _check_sources(batch_input.source_input, sources)
        _check_targets(batch_input.target_name, targets)


def _check_batch_outputs(config: Any) -> None:
    sources = {tensor.name for tensor in config.input}
    outputs = {tensor.name for tensor in config.output}
    targets: set[str] = set()
    for batch_output in config.batch_output:
        for target in batch_output.target_name:
            if target not in outputs:
                raise invalid(f"unknown target output name '{target}'")
        _check_sources(batch_output.source_input, sources)
        _check_targets(batch_output.target_name, targets)


def _check_sources(names: Iterable[str], inputs: set[str]) -> None:
    for name in names:
        if name not in inputs:
            raise invalid(f"unknown source input name '{name}'")


def _check_targets(names: Iterable[str], seen: set[str]) -> None:
    for name in names:
        if name in seen:
            raise invalid(f"target output name '{name}' can only be specified once")
        seen.add(name)
