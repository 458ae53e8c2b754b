"""What a request must be before it is queued, rule by rule, with the original's texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from atoll.core.validation import Validator
from atoll.errors import Code, ServerError
from atoll.inference import Form, Request, Tensor
from atoll.repository import pbtxt
from atoll.repository.config import Host, ModelConfig
from atoll_ipc.dtypes import BY_NAME
from atoll_ipc.memory import PAGE, Arena, ArenaSettings, Slice
from hypothesis import given, settings
from hypothesis import strategies as st

UNBATCHED = """
backend: "python"
input { name: "A" data_type: TYPE_FP32 dims: [ 2, 2 ] }
output { name: "OUT" data_type: TYPE_FP32 dims: [ 4 ] }
"""
BATCHED = "max_batch_size: 4" + UNBATCHED
TWO = BATCHED + 'input { name: "B" data_type: TYPE_FP32 dims: [ -1 ] }'
OPTIONAL = (
    BATCHED
    + """
input { name: "B" data_type: TYPE_FP32 dims: [ 1 ] optional: true }
input { name: "C" data_type: TYPE_FP32 dims: [ 1 ] optional: true }
"""
)
STRINGS = UNBATCHED.replace("TYPE_FP32 dims: [ 2, 2 ]", "TYPE_STRING dims: [ -1 ]")
RID = "[request id: <id_unknown>] "
NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each "
    "input shape. If you want to specify the full shape including the batch dim in your input dims config, try setting "
    "max_batch_size to zero. See the model configuration docs for more info on max_batch_size."
)


def validator(text: str) -> Validator:
    message: Any = pbtxt.parse(text.encode(), Path("config.pbtxt"))
    return Validator(ModelConfig.resolve(message, name="M", has_model_file=True, strict=True, host=Host()))


def tensor(name: str, *shape: int, datatype: str = "FP32", data: bytes | None = None) -> Tensor:
    if data is None:
        count = 1
        for size in shape:
            count *= size
        data = bytes(max(0, count) * BY_NAME[datatype].itemsize)
    return Tensor(name, datatype, list(shape), data)


def request(*inputs: Tensor, outputs: tuple[str, ...] = (), id: str = "", form: Form | None = None) -> Request:
    return Request("M", list(inputs), lambda response: None, outputs=outputs, id=id, form=form)


def accepted(text: str, *inputs: Tensor) -> Request:
    made = request(*inputs)
    validator(text).check(made)
    return made


def refused(text: str, *inputs: Tensor, **fields: Any) -> str:
    with pytest.raises(ServerError) as caught:
        validator(text).check(request(*inputs, **fields))
    assert caught.value.code is Code.INVALID_ARG
    return caught.value.message


def string(*elements: bytes) -> bytes:
    return b"".join(len(element).to_bytes(4, "little") + element for element in elements)


# -- names and counts


@pytest.mark.spec("server:257")
def test_an_unknown_input() -> None:
    assert refused(BATCHED, tensor("X", 1, 2, 2)) == "unexpected inference input 'X' for model 'M'"


@pytest.mark.spec("server:257")
def test_an_input_twice() -> None:
    inputs = [tensor("A", 1, 2, 2), tensor("B", 1, 3), tensor("A", 1, 2, 2)]
    assert refused(TWO, *inputs) == RID + "input 'A' already exists in request"


@pytest.mark.spec("server:257")
def test_an_unknown_output() -> None:
    assert refused(BATCHED, tensor("A", 1, 2, 2), outputs=("OUT", "X")) == (
        "unexpected inference output 'X' for model 'M'"
    )


def test_outputs_are_looked_at_before_inputs() -> None:
    assert "unexpected inference output 'X'" in refused(BATCHED, outputs=("X",))


@pytest.mark.spec("server:257")
def test_an_input_too_few() -> None:
    assert refused(TWO, tensor("A", 1, 2, 2)) == (
        RID + "expected 2 inputs but got 1 inputs for model 'M'. Got input(s) ['A'], but missing required input(s) "
        "['B']. Please provide all required input(s)."
    )


@pytest.mark.spec("server:257")
def test_all_inputs_too_few() -> None:
    assert refused(TWO) == (
        RID + "expected 2 inputs but got 0 inputs for model 'M'. Got input(s) [], but missing required input(s) "
        "['A','B']. Please provide all required input(s)."
    )


@pytest.mark.spec("server:257")
def test_inputs_too_many_end_with_a_lone_bracket() -> None:
    assert refused(BATCHED, tensor("A", 1, 2, 2), tensor("X", 1)) == (
        RID + "expected 1 inputs but got 2 inputs for model 'M'. Got input(s) ['A','X'], but missing required "
        "input(s) ]. Please provide all required input(s)."
    )


@pytest.mark.spec("server:257")
def test_the_required_input_of_a_model_with_optional_ones() -> None:
    assert refused(OPTIONAL) == (
        RID + "expected number of inputs between 1 and 3 but got 0 inputs for model 'M'. Got input(s) [], but missing "
        "required input(s) ['A']. Please provide all required input(s)."
    )


@pytest.mark.spec("server:264")
def test_a_required_input_is_missed_though_the_count_fits() -> None:
    assert refused(OPTIONAL, tensor("B", 1, 1)) == (
        RID + "expected number of inputs between 1 and 3 but got 1 inputs for model 'M'. Got input(s) ['B'], but "
        "missing required input(s) ['A']. Please provide all required input(s)."
    )


@pytest.mark.parametrize("names", ["A", "AB", "AC", "CBA"])
def test_optional_inputs_may_be_absent(names: str) -> None:
    shapes = {"A": (1, 2, 2), "B": (1, 1), "C": (1, 1)}
    accepted(OPTIONAL, *(tensor(name, *shapes[name]) for name in names))


def test_the_requests_id_stands_before_the_text() -> None:
    assert refused(TWO, id="r-1").startswith("[request id: r-1] expected 2 inputs")


# -- batch


@pytest.mark.spec("server:258")
def test_without_batching_the_shape_is_taken_as_it_is_and_counts_as_one() -> None:
    assert accepted(UNBATCHED, tensor("A", 2, 2)).batch_size == 1


@pytest.mark.parametrize("size", [1, 3, 4])
def test_the_first_dimension_is_the_batch_size(size: int) -> None:
    assert accepted(TWO, tensor("A", size, 2, 2), tensor("B", size, 7)).batch_size == size


@pytest.mark.spec("server:258")
def test_a_batch_dimension_is_needed() -> None:
    assert refused(TWO, tensor("A", data=bytes(4)), tensor("B", 1, 1)) == (
        RID + "input 'A' has no shape but model requires batch dimension for 'M'"
    )


@pytest.mark.spec("server:258")
def test_batch_sizes_must_agree() -> None:
    assert refused(TWO, tensor("A", 2, 2, 2), tensor("B", 3, 1)) == (
        RID + "input 'B' batch size does not match other inputs for 'M'"
    )


@pytest.mark.spec("server:258")
def test_a_batch_must_not_be_too_large() -> None:
    assert refused(BATCHED, tensor("A", 5, 2, 2)) == RID + "inference request batch-size must be <= 4 for 'M'"


@pytest.mark.spec("server:258")
def test_an_empty_batch_ends_in_the_size_check() -> None:
    assert refused(BATCHED, tensor("A", 0, 2, 2)) == (
        RID + "input byte size mismatch for input 'A' for model 'M'. Expected 16, got 0"
    )


def test_an_empty_batch_of_strings_lacks_its_elements() -> None:
    text = BATCHED.replace("TYPE_FP32 dims: [ 2, 2 ]", "TYPE_STRING dims: [ 1 ]")
    assert refused(text, tensor("A", 0, 1, datatype="BYTES")) == (
        RID + "expected 1 string elements for inference input 'A' for model 'M', got 0"
    )


@pytest.mark.parametrize("size", [-1, -5])
def test_a_negative_batch_is_refused(size: int) -> None:
    assert refused(BATCHED, tensor("A", size, 2, 2)) == (
        RID + "input 'A' batch size does not match other inputs for 'M'"
    )


# -- types and shapes


@pytest.mark.spec("server:259")
def test_the_data_type_must_be_the_models() -> None:
    assert refused(BATCHED, tensor("A", 1, 2, 2, datatype="FP64")) == (
        RID + "inference input 'A' data-type is 'FP64', but model 'M' expects 'FP32'"
    )


@pytest.mark.spec("server:259")
def test_a_dimension_must_be_given() -> None:
    assert refused(TWO, tensor("A", 1, 2, 2), tensor("B", 1, -1)) == (
        RID + "All input dimensions should be specified for input 'B' for model 'M', got [1,-1]"
    )
    assert refused(BATCHED, tensor("A", 1, -1, 2)) == (
        RID + "All input dimensions should be specified for input 'A' for model 'M', got [1,-1,2]"
    )


def test_two_wildcards_do_not_make_a_size() -> None:
    text = UNBATCHED.replace("2, 2", "-1, -1")
    assert refused(text, tensor("A", -1, -1, data=bytes(4))) == (
        RID + "All input dimensions should be specified for input 'A' for model 'M', got [-1,-1]"
    )


@pytest.mark.parametrize("shape", [(1, 4), (1, 2, 3), (1, 2, 2, 1), (1, 2, -2)])
def test_dimensions_must_fit_with_batching(shape: tuple[int, ...]) -> None:
    got = ",".join(map(str, shape))
    assert refused(BATCHED, tensor("A", *shape)) == (
        RID + f"unexpected shape for input 'A' for model 'M'. Expected [-1,2,2], got [{got}]. {NOTE}"
    )


def test_dimensions_must_fit_without_batching() -> None:
    assert refused(UNBATCHED, tensor("A", 3)) == (
        RID + "unexpected shape for input 'A' for model 'M'. Expected [2,2], got [3]. "
    )


def test_a_negative_size_is_no_size() -> None:
    text = UNBATCHED.replace("2, 2", "-1")
    assert refused(text, tensor("A", -2)) == (
        RID + "unexpected shape for input 'A' for model 'M'. Expected [-1], got [-2]. "
    )


@pytest.mark.parametrize("size", [1 << 62, (1 << 63) - 1, 1 << 64])
def test_a_size_beyond_counting_is_refused(size: int) -> None:
    assert "unexpected shape" in refused(UNBATCHED.replace("2, 2", "-1"), tensor("A", size, data=b""))


@pytest.mark.parametrize("size", [0, 1, 70])
def test_a_variable_dimension_takes_any_size(size: int) -> None:
    accepted(TWO, tensor("A", 2, 2, 2), tensor("B", 2, size))


# -- bytes


@pytest.mark.parametrize("nbytes", [0, 12, 15, 17, 32])
def test_the_bytes_must_be_as_many_as_the_shape_says(nbytes: int) -> None:
    assert refused(UNBATCHED, tensor("A", 2, 2, data=bytes(nbytes))) == (
        RID + f"input byte size mismatch for input 'A' for model 'M'. Expected 16, got {nbytes}"
    )


@pytest.mark.spec("server:259")
def test_the_batch_counts_in_the_bytes() -> None:
    assert refused(BATCHED, tensor("A", 3, 2, 2, data=bytes(16))) == (
        RID + "input byte size mismatch for input 'A' for model 'M'. Expected 48, got 16"
    )


def test_bytes_in_shared_memory_are_counted_as_well() -> None:
    block = Arena(0, ArenaSettings(default_nbytes=PAGE)).allocate(PAGE)
    accepted(UNBATCHED, Tensor("A", "FP32", [2, 2], Slice(block, block.start, 16)))
    assert "Expected 16, got 20" in refused(UNBATCHED, Tensor("A", "FP32", [2, 2], Slice(block, block.start, 20)))


@pytest.mark.parametrize("data", [b"", string(b""), string(b"a", b"", b"\xff" * 300)])
def test_strings_that_are_as_many_as_the_shape_says(data: bytes) -> None:
    count = {0: 0, 4: 1}.get(len(data), 3)
    accepted(STRINGS, tensor("A", count, datatype="BYTES", data=data))


@pytest.mark.spec("server:262")
def test_strings_too_many() -> None:
    assert refused(STRINGS, tensor("A", 2, datatype="BYTES", data=string(b"a", b"b", b"c"))) == (
        RID + "unexpected number of string elements 3 for inference input 'A' for model 'M', expecting 2"
    )


@pytest.mark.spec("server:262")
def test_strings_too_few() -> None:
    assert refused(STRINGS, tensor("A", 2, datatype="BYTES", data=string(b"a"))) == (
        RID + "expected 2 string elements for inference input 'A' for model 'M', got 1"
    )


@pytest.mark.spec("server:262")
def test_a_cut_length() -> None:
    assert refused(STRINGS, tensor("A", 2, datatype="BYTES", data=string(b"a") + b"\1\0")) == (
        RID + "incomplete string length indicator for inference input 'A' for model 'M', expecting 4 bytes but only 2 "
        "bytes available. Please make sure the string length indicator is in one buffer."
    )


@pytest.mark.spec("server:262")
def test_a_cut_string() -> None:
    assert refused(STRINGS, tensor("A", 1, datatype="BYTES", data=b"\5\0\0\0abc")) == (
        "incomplete string data for inference input 'A', expecting string of length 5 but only 3 bytes available"
    )


@settings(deadline=None)
@given(st.binary(max_size=40), st.integers(0, 4))
def test_any_bytes_are_strings_or_refused(data: bytes, count: int) -> None:
    elements, rest = [], data
    while len(rest) >= 4 and len(rest) - 4 >= int.from_bytes(rest[:4], "little"):
        length = int.from_bytes(rest[:4], "little")
        elements.append(rest[4 : 4 + length])
        rest = rest[4 + length :]
    made = tensor("A", count, datatype="BYTES", data=data)
    if not rest and len(elements) == count:
        accepted(STRINGS, made)
    else:
        refused(STRINGS, made)


# -- reshape


@pytest.mark.parametrize(
    ("dims", "reshape", "shape", "seen"),
    [
        ("4", "2, 2", [1, 4], [1, 2, 2]),
        ("1", "", [3, 1], [3]),
        ("-1, 4", "-1, 2, 2", [2, 7, 4], [2, 7, 2, 2]),
        ("-1, 6, -1", "-1, 2, 3, -1", [1, 5, 6, 7], [1, 5, 2, 3, 7]),
    ],
)
def test_the_model_sees_the_shape_of_its_reshape(dims: str, reshape: str, shape: list[int], seen: list[int]) -> None:
    text = BATCHED.replace("dims: [ 2, 2 ]", f"dims: [ {dims} ] reshape {{ shape: [ {reshape} ] }}")
    assert list(accepted(text, tensor("A", *shape)).inputs[0].shape) == seen


def test_without_batching_a_reshape_applies_to_the_whole_shape() -> None:
    text = UNBATCHED.replace("dims: [ 2, 2 ]", "dims: [ 4 ] reshape { shape: [ 2, 2 ] }")
    assert list(accepted(text, tensor("A", 4)).inputs[0].shape) == [2, 2]


# -- requests of a form that was checked before


def test_a_second_request_of_a_form_has_the_first_ones_batch_size() -> None:
    checks, form = validator(BATCHED), Form()
    first, second = (request(tensor("A", 3, 2, 2), form=form) for _ in range(2))
    checks.check(first)
    checks.check(second)
    assert (first.batch_size, second.batch_size) == (3, 3)


def test_a_form_that_was_refused_is_refused_again() -> None:
    checks, form = validator(BATCHED), Form()
    for _ in range(2):
        with pytest.raises(ServerError, match="batch-size must be <= 4"):
            checks.check(request(tensor("A", 5, 2, 2), form=form))


def test_strings_are_looked_at_in_every_request_of_a_form() -> None:
    checks, form = validator(STRINGS), Form()
    checks.check(request(tensor("A", 1, datatype="BYTES", data=string(b"a")), form=form))
    with pytest.raises(ServerError, match="incomplete string data"):
        checks.check(request(tensor("A", 1, datatype="BYTES", data=b"\2\0\0\0a"), form=form))


def test_every_request_of_a_form_is_reshaped() -> None:
    text = BATCHED.replace("dims: [ 2, 2 ]", "dims: [ 4 ] reshape { shape: [ 2, 2 ] }")
    checks, form = validator(text), Form()
    for _ in range(2):
        made = request(tensor("A", 1, 4), form=form)
        checks.check(made)
        assert list(made.inputs[0].shape) == [1, 2, 2]
