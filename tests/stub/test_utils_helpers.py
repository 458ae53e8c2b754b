"""The module's functions and constants, which need no server."""

import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from hypothesis import given, settings
from hypothesis import strategies as st

A, B = pb_utils.Tensor("A", np.zeros(1)), pb_utils.Tensor("B", np.zeros(1))


@pytest.mark.spec("python_backend:C125")
def test_importing_the_module_needs_no_stub() -> None:
    code = (
        "import sys, triton_python_backend_utils as u; "
        "print(sorted(name for name in sys.modules if name.split('.')[0] in ('atoll', 'atoll_stub', 'uvloop')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.spec("python_backend:C212")
def test_tensors_are_found_by_name() -> None:
    request = pb_utils.InferenceRequest(model_name="m", requested_output_names=[], inputs=[A, B])
    response = pb_utils.InferenceResponse([A, B])
    assert pb_utils.get_input_tensor_by_name(request, "B") is B
    assert pb_utils.get_input_tensor_by_name(request, "C") is None
    assert pb_utils.get_output_tensor_by_name(response, "A") is A
    assert pb_utils.get_output_tensor_by_name(response, "C") is None


def test_the_first_of_two_tensors_of_a_name_is_found() -> None:
    response = pb_utils.InferenceResponse([A, pb_utils.Tensor("A", np.ones(1))])
    assert pb_utils.get_output_tensor_by_name(response, "A") is A


def requests(*arrays: "np.ndarray[Any, Any]") -> "list[pb_utils.InferenceRequest]":
    return [
        pb_utils.InferenceRequest(
            model_name="m", requested_output_names=[], inputs=[A, pb_utils.Tensor("X", array)], request_id=str(number)
        )
        for number, array in enumerate(arrays)
    ]


def test_a_batch_is_joined_along_the_first_axis_in_order() -> None:
    batch = requests(np.array([[1, 2]]), np.array([[3, 4], [5, 6]]), np.empty((0, 2), np.int64))
    joined = pb_utils.batch_as_numpy(batch, "X")
    assert joined.tolist() == [[1, 2], [3, 4], [5, 6]]
    joined[:] = 0
    assert pb_utils.batch_as_numpy(batch[:1], "X").tolist() == [[1, 2]]


def test_a_batch_of_one_is_not_copied() -> None:
    batch = requests(np.array([[b"a"], [b"bc"]], object))
    tensor = pb_utils.get_input_tensor_by_name(batch[0], "X")
    assert tensor is not None
    assert np.shares_memory(pb_utils.batch_as_numpy(batch, "X"), tensor.as_numpy())


def test_texts_are_joined_too() -> None:
    joined = pb_utils.batch_as_numpy(requests(np.array([[b"a"]], object), np.array([[b"bc"]], object)), "X")
    assert joined.tolist() == [[b"a"], [b"bc"]]


def test_a_batch_in_which_a_request_lacks_the_input_is_refused() -> None:
    batch = requests(np.zeros((1, 1)))
    with pytest.raises(pb_utils.TritonModelException, match="request '0' has no input 'Y'"):
        pb_utils.batch_as_numpy(batch, "Y")
    with pytest.raises(pb_utils.TritonModelException, match="there is no request to take input 'Y' from"):
        pb_utils.batch_as_numpy([], "Y")


@pytest.mark.spec("python_backend:C212")
def test_configurations_are_found_by_name() -> None:
    config = {"input": [{"name": "A"}, {"name": "B", "dims": [4]}], "output": [{"name": "C"}]}
    assert pb_utils.get_input_config_by_name(config, "B") is config["input"][1]
    assert pb_utils.get_input_config_by_name(config, "C") is None
    assert pb_utils.get_output_config_by_name(config, "C") is config["output"][0]
    assert pb_utils.get_output_config_by_name(config, "A") is None
    assert pb_utils.get_input_config_by_name({}, "A") is None
    assert pb_utils.get_output_config_by_name({}, "A") is None


@pytest.mark.spec("python_backend:C212")
def test_whether_a_configuration_is_decoupled() -> None:
    decoupled = pb_utils.using_decoupled_model_transaction_policy
    assert decoupled({"model_transaction_policy": {"decoupled": True}}) is True
    assert decoupled({"model_transaction_policy": {"decoupled": False}}) is False
    assert decoupled({}) is False
    with pytest.raises(KeyError):
        decoupled({"model_transaction_policy": {}})


TYPES = [
    ("TYPE_BOOL", 1, np.bool_),
    ("TYPE_UINT8", 2, np.uint8),
    ("TYPE_UINT16", 3, np.uint16),
    ("TYPE_UINT32", 4, np.uint32),
    ("TYPE_UINT64", 5, np.uint64),
    ("TYPE_INT8", 6, np.int8),
    ("TYPE_INT16", 7, np.int16),
    ("TYPE_INT32", 8, np.int32),
    ("TYPE_INT64", 9, np.int64),
    ("TYPE_FP16", 10, np.float16),
    ("TYPE_FP32", 11, np.float32),
    ("TYPE_FP64", 12, np.float64),
    ("TYPE_STRING", 13, np.object_),
]


@pytest.mark.spec("python_backend:C213")
@pytest.mark.parametrize(("name", "code", "kind"), TYPES)
def test_data_types_and_numpy_types(name: str, code: int, kind: Any) -> None:
    assert pb_utils.triton_string_to_numpy(name) is (bool if kind is np.bool_ else kind)
    assert pb_utils.TRITON_STRING_TO_NUMPY[name] is (bool if kind is np.bool_ else kind)
    assert pb_utils.triton_to_numpy_type(code) is kind
    assert pb_utils.numpy_to_triton_type(kind) == code


@pytest.mark.spec("python_backend:C213")
def test_data_types_without_a_counterpart() -> None:
    assert len(pb_utils.TRITON_STRING_TO_NUMPY) == 13
    for name in ("TYPE_BF16", "TYPE_INVALID", "FP32", ""):
        with pytest.raises(KeyError):
            pb_utils.triton_string_to_numpy(name)
    assert [pb_utils.triton_to_numpy_type(code) for code in (0, 14, 15, -1)] == [None] * 4
    assert pb_utils.numpy_to_triton_type(np.bytes_) == 13
    for kind in (np.dtype("S5"), float, "float32", np.complex64, None):
        assert pb_utils.numpy_to_triton_type(kind) is None


@pytest.mark.spec("python_backend:C214")
@pytest.mark.parametrize("array", [np.array([], object), np.zeros((2, 0)), np.zeros(0, "S3")])
def test_an_empty_array_serializes_to_an_empty_tuple(array: Any) -> None:
    assert pb_utils.serialize_byte_tensor(array) == ()


@pytest.mark.spec("python_backend:C214")
@pytest.mark.parametrize("array", [np.zeros(1), np.array(["text"])])
def test_an_array_of_no_strings_serializes_to_nothing(array: Any) -> None:
    assert pb_utils.serialize_byte_tensor(array) is None


@pytest.mark.spec("python_backend:C214")
def test_strings_serialize_to_lengths_and_bytes() -> None:
    expected = b"\x01\x00\x00\x00a" + b"\x02\x00\x00\x00bc"
    assert pb_utils.serialize_byte_tensor(np.array([b"a", "bc"], object)) == expected
    assert pb_utils.serialize_byte_tensor(np.array([[b"a"], [b"bc"]])) == expected
    assert pb_utils.serialize_byte_tensor(np.array(b"a", object)) == b"\x01\x00\x00\x00a"


@settings(deadline=None)
@given(st.lists(st.binary(), min_size=1))
def test_what_was_serialized_deserializes_to_the_same(elements: list[bytes]) -> None:
    array = np.empty(len(elements), object)
    array[:] = elements
    data = pb_utils.serialize_byte_tensor(array)
    for form in (data, memoryview(data), np.frombuffer(data, np.uint8)):  # type: ignore[arg-type]
        again = pb_utils.deserialize_bytes_tensor(form)
        assert again.dtype == object
        assert again.shape == (len(elements),)
        assert again.tolist() == elements


@pytest.mark.spec("python_backend:C214")
@pytest.mark.parametrize("data", [b"\x01", b"\x05\x00\x00\x00abc", b"\x00\x00\x00\x00\x01\x00"])
def test_a_cut_tensor_is_a_struct_error(data: bytes) -> None:
    with pytest.raises(struct.error):
        pb_utils.deserialize_bytes_tensor(data)


def test_no_bytes_are_no_elements() -> None:
    assert pb_utils.deserialize_bytes_tensor(b"").tolist() == []


@pytest.mark.spec("python_backend:C218")
def test_constants() -> None:
    assert pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START == 1
    assert pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END == 2
    assert pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL == 1


def test_everything_public_is_there() -> None:
    for name in pb_utils.__all__:
        assert hasattr(pb_utils, name)
