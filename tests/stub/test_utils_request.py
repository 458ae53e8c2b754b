"""Requests, responses and errors as a model makes and reads them."""

import asyncio
import json
import re
from typing import Any

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from triton_python_backend_utils import InferenceRequest, InferenceResponse, Tensor, TritonError, TritonModelException


def build(**changes: Any) -> InferenceRequest:
    return InferenceRequest(**{"model_name": "m", "requested_output_names": [], "inputs": [], **changes})


TENSOR = Tensor("A", np.zeros(1))


# -- InferenceRequest


@pytest.mark.spec("python_backend:C166")
@pytest.mark.spec("python_backend:Q32")
def test_defaults_of_a_request() -> None:
    request = build()
    assert request.request_id() == ""
    assert (request.correlation_id(), type(request.correlation_id())) == (0, int)
    assert (request.flags(), request.timeout(), request.parameters()) == (0, 0, "{}")
    assert request.inputs() == []
    assert request.requested_output_names() == set()


@pytest.mark.spec("python_backend:C166")
def test_a_request_shows_what_it_was_made_of() -> None:
    request = build(
        request_id="r",
        correlation_id=5,
        inputs=[TENSOR],
        requested_output_names=["X", "Y", "X"],
        model_version=2,
        flags=3,
        timeout=11_000_000_000,
        parameters={"a": 1, "b": "", "c": False},
    )
    assert (request.request_id(), request.correlation_id(), request.flags()) == ("r", 5, 3)
    assert request.timeout() == 11_000_000_000
    assert request.inputs() == [TENSOR]
    assert request.requested_output_names() == {"X", "Y"}
    assert json.loads(request.parameters()) == {"a": 1, "b": "", "c": False}
    request.inputs().clear()
    assert len(request.inputs()) == 1


def test_arguments_may_be_given_by_position() -> None:
    request = InferenceRequest("r", 5, [TENSOR], ["X"], "m", 2, 1, 7)
    assert (request.request_id(), request.correlation_id(), request.flags(), request.timeout()) == ("r", 5, 1, 7)


def test_flags_can_be_set() -> None:
    request = build()
    request.set_flags(3)
    assert request.flags() == 3
    with pytest.raises(TypeError):
        request.set_flags(-1)


@pytest.mark.spec("python_backend:C128")
@pytest.mark.parametrize("name", [b"m", np.str_("m"), np.bytes_(b"m"), bytearray(b"m")])
def test_strings_may_be_bytes(name: Any) -> None:
    request = build(model_name=name, request_id=name, requested_output_names=[name])
    assert (request.request_id(), request.requested_output_names()) == ("m", {"m"})


@pytest.mark.spec("python_backend:C129")
@pytest.mark.parametrize("names", [("X", "Y"), np.array(["X", "Y"]), ["X", "Y"]])
def test_names_may_be_any_sequence(names: Any) -> None:
    assert build(requested_output_names=names).requested_output_names() == {"X", "Y"}


@pytest.mark.spec("python_backend:C129")
@pytest.mark.parametrize(
    "names", ["XY", b"XY", {"X"}, {"X": 1}, (name for name in "XY"), None, [None], [7], np.array([["X"]]), {}.keys()]
)
def test_names_may_be_nothing_else(names: Any) -> None:
    with pytest.raises(TypeError):
        build(requested_output_names=names)


@pytest.mark.spec("python_backend:C167")
@pytest.mark.spec("python_backend:Q31")
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("inputs", None),
        ("inputs", "A"),
        ("inputs", [np.zeros(1)]),
        ("inputs", {TENSOR}),
        ("model_name", None),
        ("model_name", 7),
        ("request_id", None),
        ("correlation_id", None),
        ("model_version", None),
        ("model_version", 1.0),
        ("model_version", "1"),
        ("model_version", 1 << 63),
        ("flags", None),
        ("flags", -1),
        ("flags", 1 << 32),
        ("timeout", None),
        ("timeout", -1),
        ("timeout", 1 << 64),
        ("unknown", 1),
    ],
)
def test_arguments_of_the_wrong_kind_are_type_errors(argument: str, value: Any) -> None:
    with pytest.raises(TypeError):
        build(**{argument: value})


@pytest.mark.spec("python_backend:Q36")
@pytest.mark.spec("python_backend:C167")
@pytest.mark.parametrize("missing", ["model_name", "requested_output_names", "inputs"])
def test_required_arguments_are_required(missing: str) -> None:
    arguments: dict[str, Any] = {"model_name": "m", "requested_output_names": [], "inputs": []}
    del arguments[missing]
    with pytest.raises(TypeError):
        InferenceRequest(**arguments)


@pytest.mark.parametrize("value", [True, np.int8(1), 1])
def test_integers_may_be_bools_and_numpy_integers(value: Any) -> None:
    request = build(flags=value, timeout=value, model_version=value)
    assert (request.flags(), request.timeout()) == (1, 1)
    assert type(request.flags()) is int


@pytest.mark.spec("python_backend:C168")
@pytest.mark.spec("python_backend:Q31")
def test_elements_must_not_be_empty() -> None:
    about = "for request with id 'r' and model name 'm' should not be empty."
    with pytest.raises(TritonModelException, match=re.escape(f"Input tensor {about}")):
        build(request_id="r", inputs=[None])
    with pytest.raises(TritonModelException, match=re.escape(f"Requested output name {about}")):
        build(request_id="r", requested_output_names=[""])


@pytest.mark.spec("python_backend:C169")
@pytest.mark.spec("python_backend:Q32")
@pytest.mark.parametrize("value", [5, 0, (1 << 64) - 1, "test_str_id-5", ""])
def test_a_correlation_id_is_an_integer_or_a_string(value: Any) -> None:
    correlation_id = build(correlation_id=value).correlation_id()
    assert correlation_id == value
    assert type(correlation_id) is type(value)


@pytest.mark.spec("python_backend:C169")
def test_a_correlation_id_that_is_a_bool_is_a_number() -> None:
    correlation_id = build(correlation_id=True).correlation_id()
    assert (correlation_id, type(correlation_id)) == (1, int)


@pytest.mark.spec("python_backend:C169")
@pytest.mark.parametrize("value", [b"five", 5.0, np.int64(5), [5]])
def test_a_correlation_id_of_another_kind_is_refused(value: Any) -> None:
    with pytest.raises(TritonModelException, match=r"^Correlation ID must be integer or string$"):
        build(correlation_id=value)


@pytest.mark.spec("python_backend:C169")
@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_a_correlation_id_must_fit_64_bits(value: int) -> None:
    with pytest.raises(RuntimeError):
        build(correlation_id=value)


@pytest.mark.spec("python_backend:C170")
@pytest.mark.parametrize("build_with", [build, InferenceResponse])
@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ([], ", got <class 'list'>"),
        ("{}", ", got <class 'str'>"),
        ({1: 1}, "Expect parameters keys to have type str, found type <class 'int'>"),
        ({"a": 1.5}, "Expect parameters values to have type bool/int/str, found type <class 'float'>"),
        ({"a": None}, "Expect parameters values to have type bool/int/str, found type <class 'NoneType'>"),
        ({"a": []}, "Expect parameters values to have type bool/int/str, found type <class 'list'>"),
    ],
)
def test_parameters_are_a_dict_of_plain_values(build_with: Any, parameters: Any, text: str) -> None:
    with pytest.raises(TritonModelException) as caught:
        build_with(parameters=parameters)
    assert str(caught.value).endswith(text)


def test_a_numpy_scalar_is_no_parameter() -> None:
    with pytest.raises(TritonModelException, match="Expect parameters values to have type bool/int/str, found type"):
        build(parameters={"a": np.int32(1)})


@pytest.mark.spec("python_backend:C173")
@pytest.mark.parametrize("value", [1 << 63, -(1 << 63) - 1])
def test_a_parameter_must_fit_a_signed_64_bit_integer(value: int) -> None:
    with pytest.raises(TritonModelException, match=f"Parameter 'a' does not fit a signed 64-bit integer: {value}"):
        build(parameters={"a": value})
    assert build(parameters={"a": (1 << 63) - 1, "b": -(1 << 63)}).parameters()


def test_parameters_are_those_at_the_time_of_the_call() -> None:
    parameters = {"a": 1}
    request = build(parameters=parameters)
    parameters["a"] = 2
    assert request.parameters() == '{"a": 1}'


@pytest.mark.parametrize("decoupled", [None, "yes", b"", bytearray(b"x")])
def test_whether_a_call_is_decoupled_is_no_text(decoupled: Any) -> None:
    async def call() -> None:
        await build().async_exec(decoupled=decoupled)

    with pytest.raises(TypeError, match="decoupled must be a bool"):
        build().exec(decoupled=decoupled)
    with pytest.raises(TypeError, match="decoupled must be a bool"):
        asyncio.run(call())
    with pytest.raises(TypeError, match="unload_dependents must be a bool"):
        pb_utils.unload_model("m", decoupled)


def test_a_request_cannot_be_executed_without_a_server() -> None:
    with pytest.raises(TritonModelException, match="needs a running server"):
        build().exec()
    with pytest.raises(TritonModelException, match="needs a running server"):
        pb_utils.get_model_dir()


# -- InferenceResponse


@pytest.mark.spec("python_backend:C181")
def test_defaults_of_a_response() -> None:
    response = InferenceResponse()
    assert (response.output_tensors(), response.has_error(), response.error()) == ([], False, None)
    assert response.parameters() == "{}"


@pytest.mark.spec("python_backend:Q33")
@pytest.mark.spec("python_backend:C181")
def test_outputs_of_a_response_are_tensors() -> None:
    assert InferenceResponse([]).output_tensors() == []
    assert InferenceResponse((TENSOR,)).output_tensors() == [TENSOR]
    with pytest.raises(TritonModelException, match=r"^Output tensor for inference response should not be empty\.$"):
        InferenceResponse([None])  # type: ignore[list-item]
    for wrong in (None, "A", [1], {TENSOR}, TENSOR):
        with pytest.raises(TypeError):
            InferenceResponse(wrong)  # type: ignore[arg-type]


@pytest.mark.spec("python_backend:C181")
@pytest.mark.parametrize("error", ["text", TritonModelException("text"), 1])
def test_an_error_of_a_response_is_a_triton_error(error: Any) -> None:
    with pytest.raises(TypeError):
        InferenceResponse(error=error)


def test_a_response_may_hold_outputs_error_and_parameters() -> None:
    error = TritonError("no")
    response = InferenceResponse([TENSOR], error, {"a": 1})
    assert (response.output_tensors(), response.error(), response.has_error()) == ([TENSOR], error, True)
    assert response.parameters() == '{"a": 1}'
    response.output_tensors().clear()
    assert response.output_tensors() == [TENSOR]


# -- errors


@pytest.mark.spec("python_backend:C185")
def test_codes_of_an_error() -> None:
    names = [
        "UNKNOWN",
        "INTERNAL",
        "NOT_FOUND",
        "INVALID_ARG",
        "UNAVAILABLE",
        "UNSUPPORTED",
        "ALREADY_EXISTS",
        "CANCELLED",
    ]
    for number, name in enumerate(names):
        code = getattr(TritonError, name)
        assert code == number
        assert hash(code) == hash(number)
        assert (int(code), code.name, code.value) == (number, name, number)
        assert TritonError("text", code).code() is code
    error = TritonError("text")
    assert (error.message(), error.code()) == ("text", TritonError.INTERNAL)
    assert TritonError(b"text").message() == "text"  # type: ignore[arg-type]


@pytest.mark.spec("python_backend:C185")
@pytest.mark.spec("python_backend:C130")
def test_an_error_is_no_exception_and_takes_its_own_codes_only() -> None:
    assert not issubclass(TritonError, BaseException)
    for code in (1, None, "INTERNAL"):
        with pytest.raises(TypeError):
            TritonError("text", code)  # type: ignore[arg-type]
    for message in (None, 5):
        with pytest.raises(TypeError):
            TritonError(message)  # type: ignore[arg-type]


@pytest.mark.spec("python_backend:C186")
def test_the_models_exception_is_an_ordinary_one_with_the_originals_module() -> None:
    assert issubclass(TritonModelException, Exception)
    assert TritonModelException.__module__ == "c_python_backend_utils"
    assert str(TritonModelException("text")) == "text"
