"""``pb_utils.Tensor``: what it accepts, what it keeps, what is frozen when it is sent."""

from typing import Any

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from atoll_ipc.dtypes import BY_CODE, BY_NAME
from atoll_ipc.wire import INLINE_NBYTES
from stub_twin import SupervisorTwin
from triton_python_backend_utils import Tensor, TritonModelException, deserialize_bytes_tensor, serialize_byte_tensor

NUMERIC = [dtype for dtype in BY_CODE.values() if dtype.numpy_name not in (None, "object")]


@pytest.mark.spec("python_backend:C131")
@pytest.mark.spec("python_backend:Q34")
@pytest.mark.parametrize("array", [None, [1, 2], 1.0, np.float32(1), b"x", memoryview(b"x")])
@pytest.mark.parametrize("name", ["A", ""])
def test_only_an_array_makes_a_tensor(name: str, array: Any) -> None:
    with pytest.raises(TypeError):
        Tensor(name, array)


@pytest.mark.spec("python_backend:Q34")
@pytest.mark.parametrize("name", [None, 7])
def test_a_name_must_be_text(name: Any) -> None:
    with pytest.raises(TypeError):
        Tensor(name, np.zeros(1))


@pytest.mark.spec("python_backend:C128")
@pytest.mark.parametrize("name", ["A", b"A", bytearray(b"A"), np.str_("A"), np.bytes_(b"A")])
def test_a_name_may_be_any_kind_of_string(name: Any) -> None:
    assert Tensor(name, np.zeros(1)).name() == "A"
    assert Tensor(name, np.zeros(1))._transmit(None)[0] == "A"  # type: ignore[arg-type]


@pytest.mark.spec("python_backend:C132")
@pytest.mark.parametrize("name", ["", b""])
def test_a_name_must_not_be_empty(name: Any) -> None:
    with pytest.raises(TritonModelException, match=r"^Tensor name cannot be an empty string\.$"):
        Tensor(name, np.zeros(1))


@pytest.mark.spec("python_backend:C133")
@pytest.mark.parametrize("dtype", ["<U4", "complex64", "datetime64[s]", ">i4", ">f8", "i4,f4", "V8", "longdouble"])
def test_an_array_of_a_type_the_protocol_lacks_is_refused(dtype: str) -> None:
    with pytest.raises(TritonModelException, match=r"^NumPy dtype is not supported\.$"):
        Tensor("A", np.zeros(2, dtype))


@pytest.mark.spec("python_backend:C134")
@pytest.mark.spec("python_backend:C164")
@pytest.mark.parametrize("dtype", NUMERIC, ids=lambda dtype: dtype.name)
def test_numbers_of_each_type_are_sent_as_they_lie_in_memory(dtype: Any) -> None:
    array = np.array([[0, 1], [2, 3]]).astype(dtype.numpy_name)
    tensor = Tensor("A", array)
    assert tensor.triton_dtype() == dtype.code
    assert tensor._transmit(None) == ["A", dtype.code, [2, 2], array.tobytes()]  # type: ignore[arg-type]
    received = Tensor._received("A", dtype.code, [2, 2], array.tobytes()).as_numpy()
    assert received.dtype == array.dtype
    assert (received == array).all()


@pytest.mark.spec("python_backend:C165")
def test_shape_is_a_new_list_of_ints_and_memory_is_the_hosts() -> None:
    tensor = Tensor("A", np.zeros((2, 3)))
    tensor.shape().clear()
    assert tensor.shape() == [2, 3]
    assert [type(size) for size in tensor.shape()] == [int, int]
    assert tensor.is_cpu() is True


@pytest.mark.spec("python_backend:C135")
def test_a_scalar_array_has_no_dimensions() -> None:
    tensor = Tensor("A", np.array(7.0))
    assert tensor._transmit(None) == ["A", 12, [], np.float64(7).tobytes()]  # type: ignore[arg-type]
    assert Tensor._received("A", 12, [], np.float64(7).tobytes()).as_numpy().shape == ()


@pytest.mark.spec("python_backend:C136")
@pytest.mark.parametrize(("dtype", "code"), [("float32", 11), ("object", 13), ("S3", 13)])
def test_empty_arrays_are_tensors(dtype: str, code: int) -> None:
    tensor = Tensor("A", np.zeros((1, 0), dtype))
    assert tensor._transmit(None) == ["A", code, [1, 0], b""]  # type: ignore[arg-type]
    assert Tensor._received("A", code, [1, 0], b"").as_numpy().shape == (1, 0)


@pytest.mark.spec("python_backend:C137")
@pytest.mark.parametrize("view", ["array.T", "array[:, ::2]", "array[::-1]", "np.asfortranarray(array)"])
def test_an_array_that_is_not_in_c_order_is_copied(view: str) -> None:
    array = np.arange(12.0).reshape(3, 4)
    seen = eval(view, {"array": array, "np": np})
    tensor = Tensor("A", seen)
    assert tensor._transmit(None)[2:] == [list(seen.shape), seen.tobytes("C")]  # type: ignore[arg-type]
    assert (tensor.as_numpy() == seen).all()


def test_an_array_in_c_order_is_kept_itself() -> None:
    array = np.zeros(3)
    assert Tensor("A", array).as_numpy() is array


@pytest.mark.parametrize("count", [3, INLINE_NBYTES])
def test_a_subclass_of_array_is_sent_as_its_elements_lie_in_memory(twin: SupervisorTwin, count: int) -> None:
    array = np.arange(count, dtype=np.float32)
    masked = np.ma.masked_array(array, mask=array % 2 == 0)
    column = array[None].view(np.matrix).T
    for given, expected in ((masked, array), (masked[::-1], array[::-1]), (column, array[:, None])):
        tensor = Tensor("A", given)
        assert tensor.shape() == list(expected.shape)
        assert twin.read(tensor._transmit(twin.store)[3]) == expected.tobytes()
    assert Tensor("A", masked).as_numpy() is masked


def test_strings_of_a_subclass_of_array_are_its_elements() -> None:
    words = np.array([[b"a", b"b"], [b"c", b"d"]], object)
    assert sent_strings(words.view(np.matrix).T) == [b"a", b"c", b"b", b"d"]
    assert sent_strings(np.ma.masked_array(words, mask=[[True, False], [False, True]])) == [b"a", b"b", b"c", b"d"]


# -- strings


def strings(*elements: Any) -> np.ndarray[Any, Any]:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


def sent_strings(array: np.ndarray[Any, Any]) -> list[bytes]:
    data = Tensor("A", array)._transmit(None)[3]  # type: ignore[arg-type]
    return list(deserialize_bytes_tensor(data))


@pytest.mark.spec("python_backend:C138")
def test_an_element_is_its_bytes_or_its_text() -> None:
    elements = (b"\x00raw\xff", "é", 1, None, True, 0.5, bytearray(b"x"))
    assert sent_strings(strings(*elements)) == [
        b"\x00raw\xff", "é".encode(), b"1", b"None", b"True", b"0.5", b"bytearray(b'x')",
    ]  # fmt: skip


@pytest.mark.spec("python_backend:C139")
def test_a_subclass_of_bytes_in_an_object_array_is_its_repr() -> None:
    assert sent_strings(strings(np.bytes_(b"xy"))) == [b"b'xy'"]


@pytest.mark.spec("python_backend:C140")
def test_fixed_width_bytes_lose_trailing_nuls_and_objects_keep_them() -> None:
    assert sent_strings(np.array([b"a\x00", b"bc"])) == [b"a", b"bc"]
    assert sent_strings(strings(b"a\x00", b"bc")) == [b"a\x00", b"bc"]


@pytest.mark.spec("python_backend:C141")
def test_strings_go_in_row_major_order_of_the_array_as_seen() -> None:
    array = strings(b"a", b"b", b"c", b"d").reshape(2, 2)
    assert sent_strings(array.T) == [b"a", b"c", b"b", b"d"]


@pytest.mark.spec("python_backend:C142")
def test_strings_are_received_as_objects_of_bytes_in_their_shape() -> None:
    data = serialize_byte_tensor(strings(b"a", b"", b"ccc", b"d"))
    assert isinstance(data, bytes)
    array = Tensor._received("A", 13, [2, 2], data).as_numpy()
    assert array.dtype == object
    assert array.tolist() == [[b"a", b""], [b"ccc", b"d"]]
    assert {type(element) for element in array.ravel()} == {bytes}


@pytest.mark.spec("python_backend:C144")
def test_strings_are_frozen_when_the_tensor_is_made() -> None:
    array = strings(b"before")
    tensor = Tensor("A", array)
    array[0] = b"after"
    assert deserialize_bytes_tensor(tensor._transmit(None)[3]).tolist() == [b"before"]  # type: ignore[arg-type]
    assert tensor.as_numpy().tolist() == [b"after"]


def test_large_strings_travel_in_a_block(twin: SupervisorTwin) -> None:
    tensor = Tensor("A", strings(b"x" * INLINE_NBYTES))
    name, code, shape, data = tensor._transmit(twin.store)
    assert (name, code, shape) == ("A", 13, [1])
    assert twin.read(data) == INLINE_NBYTES.to_bytes(4, "little") + b"x" * INLINE_NBYTES


# -- sending and receiving


@pytest.mark.spec("python_backend:C143")
@pytest.mark.parametrize("count", [4, INLINE_NBYTES])
def test_numbers_follow_the_array_until_they_are_sent_and_are_frozen_then(twin: SupervisorTwin, count: int) -> None:
    array = np.zeros(count, np.float64)
    tensor = Tensor("A", array)
    array[:] = 1
    first = twin.read(tensor._transmit(twin.store)[3])
    array[:] = 2
    second = twin.read(tensor._transmit(twin.store)[3])
    assert first == second == np.ones(count).tobytes()
    assert tensor.as_numpy()[0] == 2


@pytest.mark.parametrize(("nbytes", "inline"), [(INLINE_NBYTES, True), (INLINE_NBYTES + 1, False)])
def test_tensors_up_to_the_limit_travel_in_the_message(twin: SupervisorTwin, nbytes: int, inline: bool) -> None:
    data = Tensor("A", np.zeros(nbytes, np.uint8))._transmit(twin.store)[3]
    assert isinstance(data, bytes) is inline


@pytest.mark.spec("python_backend:C145")
def test_a_received_array_is_writable_private_and_the_same_each_time(twin: SupervisorTwin) -> None:
    block, reference = twin.place(np.ones(5000).tobytes())
    small = Tensor._received("A", 12, [2], np.ones(2).tobytes())
    large = Tensor._received("A", 12, [5000], twin.store.open({}, reference))
    for tensor in (small, large):
        array = tensor.as_numpy()
        array += 1
        assert tensor.as_numpy() is array
        assert array[0] == 2
    assert small._transmit(twin.store)[3] == np.ones(2).tobytes()
    assert block.chunk.map[block.start : block.start + 8] == np.ones(1).tobytes()


@pytest.mark.spec("python_backend:C147")
def test_a_received_array_outlives_its_tensor(twin: SupervisorTwin) -> None:
    for _ in range(20):
        _block, reference = twin.place(np.arange(5000.0).tobytes())
        array = Tensor._received("A", 12, [5000], twin.store.open({}, reference)).as_numpy()
        assert array[-1] == 4999
        del array
    assert len(twin.store.take_released()) == 20


@pytest.mark.spec("python_backend:C149")
def test_bf16_has_no_array() -> None:
    tensor = Tensor._received("A", BY_NAME["BF16"].code, [1], b"\x00\x00")
    with pytest.raises(TritonModelException) as caught:
        tensor.as_numpy()
    assert str(caught.value) == (
        "Tensor dtype is BF16 and cannot be converted to NumPy. Use to_dlpack() and from_dlpack() instead."
    )


def test_the_class_accepts_attributes_and_objects_do_not() -> None:
    with pytest.raises(AttributeError):
        Tensor("A", np.zeros(1)).color = "red"  # type: ignore[attr-defined]
    assert pb_utils.Tensor is Tensor
