"""An infer request without JSON: the whole body is the model's only input, and its shape follows from the size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from atoll_ipc.dtypes import BY_NAME

from atoll.errors import ServerError
from atoll.frontends.classification import pack_bytes
from atoll.frontends.http.members import invalid
from atoll.frontends.http.plan import InferPlan, OutputForm, PlannedInput, element_count, too_large

__all__ = ["InputSpec", "ServedModel", "plan_raw"]


class InputSpec(Protocol):
    """What deduction needs of a configured input (``atoll.repository.config.TensorSpec``)."""

    @property
    def datatype(self) -> str: ...
    @property
    def dims(self) -> Sequence[int]: ...


class ServedModel(Protocol):
    """What the codec needs of a model version (``atoll.core.model.Model``)."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def max_batch_size(self) -> int: ...
    @property
    def inputs(self) -> Mapping[str, InputSpec]: ...


def plan_raw(model: ServedModel, body: bytes | bytearray | memoryview, max_input_nbytes: int) -> InferPlan:
    """The plan of a raw ``body``; its outputs go back as binary data."""
    nbytes = len(body)
    if nbytes > max_input_nbytes:
        raise too_large(
            f"Raw input has a byte_size ({nbytes} bytes) that exceeds the maximum allowed value", max_input_nbytes
        )
    if len(model.inputs) != 1:
        raise _refused(
            f"Raw request must only have 1 input (found 1) to be deduced but got {len(model.inputs)} inputs in "
            f"'{model.name}' model configuration"
        )
    [(name, spec)] = model.inputs.items()
    batch = (1,) if model.max_batch_size > 0 else ()
    if spec.datatype == "BYTES":
        if list(spec.dims) != [1]:
            raise _refused(f"For BYTE datatype raw input '{name}', the model must have input shape [1]")
        tensor = PlannedInput(name, "BYTES", (*batch, 1), pack_bytes(iter([bytes(body)])))
    else:
        shape = (*batch, *_deduce_dims(name, spec, nbytes))
        expected_nbytes = element_count(shape) * BY_NAME[spec.datatype].itemsize
        if nbytes != expected_nbytes:
            # Not the input's own name: clients know the text with the name that the original makes up.
            raise _refused(
                f"input byte size mismatch for input 'raw_input' for model '{model.name}'. "
                f"Expected {expected_nbytes}, got {nbytes}"
            )
        tensor = PlannedInput(name, spec.datatype, shape, None, 0, nbytes)
    return InferPlan((tensor,), default_form=OutputForm(binary=True))


def _deduce_dims(name: str, spec: InputSpec, nbytes: int) -> list[int]:
    """The configured dims, the one wildcard filled with as many elements as fit."""
    fixed = [dim for dim in spec.dims if dim != -1]
    if len(spec.dims) - len(fixed) > 1:
        raise _refused(
            f"The shape of the raw input '{name}' can not be deduced because there are more than one variable-sized "
            "dimension"
        )
    step_nbytes = element_count(fixed) * BY_NAME[spec.datatype].itemsize
    steps = nbytes // step_nbytes if step_nbytes else 0
    return [steps if dim == -1 else dim for dim in spec.dims]


def _refused(message: str) -> ServerError:
    # A raw request can carry no id.
    return invalid(f"[request id: <id_unknown>] {message}")
