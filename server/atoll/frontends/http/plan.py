"""What an infer request asks for, read from its JSON part alone: everything but the bytes of binary tensors.

Owns the rules of the request's JSON (types, required members, exclusive options, sizes) and the texts of their
refusals; the core checks what remains against the model's configuration. A plan is immutable and knows no request
id, so that requests with the same JSON can share one (see ``codec``). See also ``raw_input``, for a body without JSON.

Members are read in the original's order, id, parameters, inputs, outputs, since the first fault found is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from atoll_ipc.dtypes import BY_NAME

from atoll.core.regions import RegionSpan
from atoll.errors import ServerError
from atoll.frontends.http.members import (
    ARRAY,
    BOOLEAN,
    MAX_INT64,
    UNSIGNED,
    as_object,
    custom_parameter,
    invalid,
    member,
    string_member,
    wrong_type,
)
from atoll.frontends.http.tensor_json import data_to_bytes
from atoll.inference import SEQUENCE_END, SEQUENCE_START, Form, Parameter, well_formed

__all__ = ["InferPlan", "OutputForm", "PlannedInput", "element_count", "plan_document", "too_large"]

_CONTENT_FIELDS = (
    "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
    "'shared_memory_region' in 'parameters'. But "
)


class PlannedInput(NamedTuple):
    """One input tensor: its packed bytes if the JSON held them, or its region, else where it lies behind the JSON."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | RegionSpan | None
    offset: int = 0
    """From the first byte behind the JSON."""
    nbytes: int = 0


class OutputForm(NamedTuple):
    """How one output goes back to the client."""

    binary: bool = False
    classes: int = 0
    """Classification: how many of the largest values of each row; 0 for the tensor itself."""
    in_region: bool = False
    """It is left in shared memory of the client's."""


class InferPlan(NamedTuple):
    """All that one JSON part says, but for the id."""

    inputs: tuple[PlannedInput, ...]
    outputs: tuple[str, ...] = ()
    forms: Mapping[str, OutputForm] = {}
    default_form: OutputForm = OutputForm()
    parameters: Mapping[str, Parameter] | None = None
    correlation_id: int | str = 0
    flags: int = 0
    priority: int = 0
    timeout_us: int = 0
    form: Form | None = None
    """Shared by the requests of this plan, when they differ in nothing but bytes behind the JSON."""
    regions: Mapping[str, RegionSpan] | None = None
    """Where the client wants outputs, if anywhere, by their names."""

    @property
    def holds_data(self) -> bool:
        """Whether tensor data came with the JSON, so that no other request will have the same."""
        return any(isinstance(tensor.data, bytes) for tensor in self.inputs)


def plan_document(model_name: str, document: object, tail_nbytes: int, max_input_nbytes: int) -> tuple[InferPlan, str]:
    """The plan, and the request id, of a JSON document with ``tail_nbytes`` of binary data behind it."""
    root = as_object(document)
    request_id = string_member(root, "id") if "id" in root else ""
    settings = _Settings()
    if "parameters" in root:
        _read_parameters(root["parameters"], settings)
    inputs = _read_inputs(member(root, "inputs", ARRAY), model_name, tail_nbytes, max_input_nbytes)
    forms: dict[str, OutputForm] = {}
    regions: dict[str, RegionSpan] = {}
    for item in member(root, "outputs", ARRAY) if "outputs" in root else ():
        name, form, span = _read_output(item)
        forms[name] = form
        if span is not None:
            regions[name] = span
    plan = InferPlan(
        inputs,
        tuple(forms),
        forms,
        OutputForm(settings.binary_data_output),
        settings.custom or None,
        settings.correlation_id,
        settings.flags,
        settings.priority,
        settings.timeout_us,
        Form(),
        regions or None,
    )
    return plan, request_id


class _Settings:
    """What the request's ``parameters`` set, while they are being read."""

    __slots__ = ("binary_data_output", "correlation_id", "custom", "flags", "priority", "timeout_us")

    def __init__(self) -> None:
        self.custom: dict[str, Parameter] = {}
        self.binary_data_output = False
        self.correlation_id: int | str = 0
        self.flags = 0
        self.priority = 0
        self.timeout_us = 0


def _read_parameters(members: object, settings: _Settings) -> None:
    if type(members) is not dict:
        raise invalid("failed to get request params.: attempt to get members for non-object")
    for key, value in members.items():
        if key == "binary_data_output":
            settings.binary_data_output = member(members, key, BOOLEAN)
        elif key == "sequence_id":
            settings.correlation_id = value if UNSIGNED.accepts(value) else string_member(members, key)
        elif key == "sequence_start":
            settings.flags |= SEQUENCE_START if member(members, key, BOOLEAN) else 0
        elif key == "sequence_end":
            settings.flags |= SEQUENCE_END if member(members, key, BOOLEAN) else 0
        elif key == "priority":
            settings.priority = member(members, key, UNSIGNED)
        elif key == "timeout":
            settings.timeout_us = member(members, key, UNSIGNED)
        elif key.startswith("triton_"):
            raise invalid(
                "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified."
            )
        else:
            key = well_formed(key)
            settings.custom[key] = custom_parameter(key, value)


def _read_inputs(
    members: list[object], model_name: str, tail_nbytes: int, max_input_nbytes: int
) -> tuple[PlannedInput, ...]:
    inputs = []
    offset = 0
    for item in members:
        tensor = _read_input(item, offset, max_input_nbytes)
        offset += tensor.nbytes
        if offset > tail_nbytes:
            raise invalid(
                f"unexpected size for input '{tensor.name}', expecting {offset - tail_nbytes} additional bytes "
                f"for model '{model_name}'"
            )
        inputs.append(tensor)
    if offset < tail_nbytes:
        raise invalid(f"unexpected additional input data for model '{model_name}'")
    return tuple(inputs)


def _read_input(item: object, offset: int, max_input_nbytes: int) -> PlannedInput:
    tensor = as_object(item)
    options = as_object(tensor.get("parameters"))
    present = ("data" in tensor, "binary_data_size" in options, "shared_memory_region" in options)
    if sum(present) != 1:
        raise _content_error(present)
    name = string_member(tensor, "name")
    datatype = string_member(tensor, "datatype")
    dtype = BY_NAME.get(datatype)
    if dtype is None:
        raise invalid(f"invalid datatype for input {name}")
    shape = _read_shape(name, member(tensor, "shape", ARRAY))
    count = _checked_element_count(name, shape, dtype.itemsize)
    in_json, binary, _shared = present
    if binary:
        return PlannedInput(name, datatype, shape, None, offset, member(options, "binary_data_size", UNSIGNED))
    if not in_json:
        return PlannedInput(name, datatype, shape, _read_span(options))
    if datatype in ("FP16", "BF16"):
        raise invalid(
            f"receiving {datatype} data via JSON is not supported. Please use the binary data format for input {name}"
        )
    _check_json_size(name, count * dtype.itemsize, max_input_nbytes)
    data = data_to_bytes(datatype, tensor["data"], count)
    _check_json_size(name, len(data), max_input_nbytes)
    return PlannedInput(name, datatype, shape, data)


def _content_error(present: tuple[bool, bool, bool]) -> ServerError:
    names = ("'data'", "'binary_data_size'", "'shared_memory_region'")
    fields = " ".join(name for name, is_set in zip(names, present, strict=True) if is_set)
    return invalid(f"{_CONTENT_FIELDS}{'set ' + fields if fields else 'no field is set'}")


def _read_shape(name: str, dims: list[Any]) -> tuple[int, ...]:
    for dim in dims:
        if not UNSIGNED.accepts(dim):
            raise wrong_type("shape", UNSIGNED)
        if dim > MAX_INT64:
            raise invalid(
                f"invalid shape for input '{name}': shape {_text(dims)} contains one or more invalid dimensions"
            )
    return tuple(dims)


def element_count(shape: Sequence[int]) -> int:
    """The product of ``shape``, or something above MAX_INT64; short work of a long list of large dimensions."""
    if 0 in shape:
        return 0
    count = 1
    for dim in shape:
        count *= dim
        if count > MAX_INT64:
            break
    return count


def _checked_element_count(name: str, shape: tuple[int, ...], itemsize: int) -> int:
    count = element_count(shape)
    if count > MAX_INT64:
        raise invalid(
            f"invalid shape for input '{name}': shape {_text(shape)} causes total element count to exceed maximum size "
            f"of {MAX_INT64}"
        )
    if count * itemsize > MAX_INT64:
        raise invalid(
            f"byte size overflow for input '{name}': element count ({count}) * data type size ({itemsize}) exceeds "
            f"maximum allowed size ({MAX_INT64})"
        )
    return count


def _check_json_size(name: str, nbytes: int, limit: int) -> None:
    if nbytes > limit:
        raise too_large(
            f"JSON input '{name}' has a byte_size ({nbytes} bytes) that exceeds the maximum allowed value", limit
        )


def _read_output(item: object) -> tuple[str, OutputForm, RegionSpan | None]:
    output = as_object(item)
    name = string_member(output, "name")
    options = as_object(output.get("parameters"))
    binary = member(options, "binary_data", BOOLEAN) if "binary_data" in options else False
    classes = options.get("classification", 0)
    if not UNSIGNED.accepts(classes):
        raise wrong_type("classification", UNSIGNED, "set")
    if "shared_memory_region" in options:
        if classes:
            raise invalid("Output can't set both 'shared_memory_region' and 'classification'")
        if binary:
            raise invalid("Output can't set both 'shared_memory_region' and 'binary_data'")
        return name, OutputForm(in_region=True), _read_span(options)
    return name, OutputForm(binary, classes), None


def _read_span(options: Mapping[str, Any]) -> RegionSpan:
    name = string_member(options, "shared_memory_region")
    offset, nbytes = (
        member(options, key, UNSIGNED) if key in options else None
        for key in ("shared_memory_offset", "shared_memory_byte_size")
    )
    return RegionSpan(name, offset or 0, nbytes)


def _text(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def too_large(what: str, limit: int) -> ServerError:
    return invalid(f"{what} of {limit} bytes. Use --http-max-input-size to increase the limit.")
