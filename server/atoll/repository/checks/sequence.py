"""Checks of the sequence batcher's settings: control tensors and the two strategies."""

from collections.abc import Iterator
from typing import Any

from atoll_ipc import dtypes
from atoll_protos import messages

from atoll.repository.checks.refusal import invalid

__all__ = ["check_sequence_batching"]

_Control = messages.ModelSequenceBatching.Control
_TRUTH_VALUES = ("int32_false_true", "fp32_false_true", "bool_false_true")
_CORRELATION_ID_TYPES = ("TYPE_UINT64", "TYPE_INT64", "TYPE_UINT32", "TYPE_INT32", "TYPE_STRING")


def check_sequence_batching(config: Any) -> None:
    name, batching = config.name, config.sequence_batching
    _check_tensor_names(name, batching)
    for kind in ("CONTROL_SEQUENCE_START", "CONTROL_SEQUENCE_END", "CONTROL_SEQUENCE_READY"):
        for control in _only_control(name, batching, kind):
            _check_truth_values(name, kind, control)
    for control in _only_control(name, batching, "CONTROL_SEQUENCE_CORRID"):
        _check_correlation_id(name, control)
    if batching.HasField("oldest"):
        for size in batching.oldest.preferred_batch_size:
            if size <= 0:
                raise invalid(f"sequence batching preferred batch size must be positive for {name}")
            if size > config.max_batch_size:
                raise invalid(f"sequence batching preferred batch size must be <= max batch size for {name}")
    # 0 is what an absent value reads as, and then there is no minimum.
    elif not 0.0 <= batching.direct.minimum_slot_utilization <= 1.0:
        raise invalid(f"sequence batching minimum slot utilization must be in range (0.0, 1.0] for {name}")


def _check_tensor_names(name: str, batching: Any) -> None:
    seen = set()
    for tensor in batching.control_input:
        if not tensor.name:
            raise invalid(f"sequence batching control tensor must have a name for {name}")
        if tensor.name in seen:
            raise invalid(
                f"sequence batching control tensor '{tensor.name}' is specified for multiple control kinds for {name}"
            )
        seen.add(tensor.name)


def _only_control(name: str, batching: Any, kind: str) -> Iterator[Any]:
    """The control of a kind, if there is one; a second one is an error."""
    controls = [
        control
        for tensor in batching.control_input
        for control in tensor.control
        if control.kind == _Control.Kind.Value(kind)
    ]
    if len(controls) > 1:
        raise invalid(f"sequence batching specifies multiple {kind} tensors for {name}")
    yield from controls


def _check_truth_values(name: str, kind: str, control: Any) -> None:
    given = [field for field in _TRUTH_VALUES if len(getattr(control, field))]
    if not given:
        raise invalid(
            "sequence batching must specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' "
            f"for {kind} for {name}"
        )
    if len(given) > 1:
        raise invalid(
            "sequence batching specifies more than one from 'int32_false_true', 'fp32_false_true' and "
            f"'bool_false_true' for {kind} for {name}"
        )
    if len(getattr(control, given[0])) != 2:
        raise invalid(f"sequence batching control '{given[0]}' must have exactly 2 entries for {kind} for {name}")


def _check_correlation_id(name: str, control: Any) -> None:
    if any(len(getattr(control, field)) for field in _TRUTH_VALUES):
        raise invalid(
            "sequence batching must not specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' "
            f"for CONTROL_SEQUENCE_CORRID for {name}"
        )
    if control.data_type not in [dtypes.BY_CONFIG_NAME[allowed].code for allowed in _CORRELATION_ID_TYPES]:
        *others, last = _CORRELATION_ID_TYPES
        raise invalid(
            f"unexpected data type for control CONTROL_SEQUENCE_CORRID for {name}. "
            f"Allowed data types are {', '.join(others)} and {last}"
        )
