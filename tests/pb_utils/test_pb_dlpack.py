"""A ``Tensor`` exported by DLPack: what is shared, what is copied, who keeps what alive."""

from __future__ import annotations

import gc
import sys
import threading

import numpy as np
import psutil
import pytest
import triton_python_backend_utils as pb_utils
from atoll_ipc.dtypes import BY_NAME
from atoll_ipc.wire import INLINE_NBYTES
from capsules import Producer, delete_in_c, managed_of, parse
from dlpack_types import IMPORTS_BOOL, NUMERIC, TYPES, Shared, SharingStore, exporter
from triton_python_backend_utils import Tensor, TritonModelException, _dlpack
from triton_python_backend_utils._dlpack_abi import UNUSED, USED, capsule_name, capsule_pointer, rename_capsule

__all__ = ["exporter"]


def zeros(name: str, shape: tuple[int, ...] = (2, 3)) -> Tensor:
    dtype = BY_NAME[name]
    return Tensor._received("A", dtype.code, list(shape), bytes(int(np.prod(shape)) * dtype.itemsize))


# -- to_dlpack


@pytest.mark.spec("python_backend:C152")
@pytest.mark.parametrize("name", TYPES)
def test_a_capsule_tells_type_shape_and_host_memory_in_c_order(exporter: str, name: str) -> None:
    capsule = zeros(name).to_dlpack()
    assert capsule_name(capsule) == b"dltensor"
    parsed = parse(capsule)
    assert parsed.type == (*TYPES[name], 1)
    assert (parsed.device, parsed.shape, parsed.strides) == ((1, 0), [2, 3], None)


@pytest.mark.parametrize("shape", [(), (0,), (1, 0), (1,), (2, 1, 3)])
def test_any_shape_is_exported(exporter: str, shape: tuple[int, ...]) -> None:
    tensor = Tensor("A", np.zeros(shape, np.float32))
    assert parse(tensor.to_dlpack()).shape == list(shape)
    assert Tensor.from_dlpack("B", tensor).as_numpy().shape == shape


@pytest.mark.spec("python_backend:C151")
@pytest.mark.spec("python_backend:Q111")
def test_strings_are_not_exported() -> None:
    tensor = Tensor("A", np.array([b"a"], object))
    for export in (tensor.to_dlpack, tensor.__dlpack__, lambda: tensor.__dlpack__(copy=True)):
        with pytest.raises(TritonModelException) as caught:
            export()
        assert str(caught.value) == "DLPack does not have support for string tensors."


@pytest.mark.parametrize("readonly", [False, True])
def test_a_models_own_array_is_exported_in_place(exporter: str, readonly: bool) -> None:
    array = np.arange(6.0)
    array.flags.writeable = not readonly
    assert parse(Tensor("A", array).to_dlpack()).address == array.ctypes.data


@pytest.mark.spec("python_backend:C153")
def test_a_capsule_holds_one_reference_on_its_tensor_until_its_consumer_is_done(exporter: str) -> None:
    tensor = Tensor("A", np.arange(6.0))
    count = sys.getrefcount(tensor)
    capsule = tensor.to_dlpack()
    assert sys.getrefcount(tensor) == count + 1
    another = Tensor.from_dlpack("B", capsule)
    del capsule
    assert sys.getrefcount(tensor) == count + 1
    del another
    assert sys.getrefcount(tensor) == count


@pytest.mark.spec("python_backend:C155")
def test_an_unused_capsule_gives_its_tensor_back(exporter: str) -> None:
    tensor = Tensor("A", np.arange(6.0))
    count = sys.getrefcount(tensor)
    capsules = [tensor.to_dlpack() for _ in range(3)]
    assert sys.getrefcount(tensor) == count + 3
    del capsules
    assert sys.getrefcount(tensor) == count


@pytest.mark.spec("python_backend:C155")
def test_a_hundred_thousand_unused_capsules_leave_nothing_behind() -> None:
    tensor = Tensor("A", np.zeros(6))
    count = sys.getrefcount(tensor)

    def export(times: int) -> int:
        for _ in range(times):
            tensor.to_dlpack()
        gc.collect()
        return int(psutil.Process().memory_info().rss)

    warm = export(10_000)
    assert export(100_000) - warm < 4 << 20  # a leak of one structure each would be 10 MB
    assert sys.getrefcount(tensor) == count


def test_a_capsule_outlives_every_name_of_its_tensor(exporter: str) -> None:
    capsule = pb_utils.InferenceResponse([Tensor("A", np.arange(5000.0))]).output_tensors()[0].to_dlpack()
    gc.collect()
    assert Tensor.from_dlpack("B", capsule).as_numpy()[-1] == 4999


def test_a_deleter_may_be_called_by_any_thread_without_the_lock(exporter: str) -> None:
    tensor = Tensor("A", np.zeros(6))
    count = sys.getrefcount(tensor)
    capsule = tensor.to_dlpack()
    address = capsule_pointer(capsule, UNUSED)
    rename_capsule(capsule, USED)
    thread = threading.Thread(target=delete_in_c, args=(address,))
    thread.start()
    thread.join()
    assert sys.getrefcount(tensor) == count
    del capsule
    assert sys.getrefcount(tensor) == count


def test_an_exception_on_its_way_passes_a_dying_capsule() -> None:
    tensor = Tensor("A", np.zeros(6))
    if not _dlpack._NUMPY_EXPORTS:
        pytest.skip("this numpy exports no DLPack")
    count = sys.getrefcount(tensor)
    with pytest.raises(TypeError, match="int"):
        int(tensor.to_dlpack())
    assert sys.getrefcount(tensor) == count


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_callback_gives_its_tensor_back_even_where_it_loses_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dlpack, "_NUMPY_EXPORTS", False)
    tensor = Tensor("A", np.zeros(6))
    count = sys.getrefcount(tensor)
    with pytest.raises(SystemError):
        int(tensor.to_dlpack())
    assert sys.getrefcount(tensor) == count


# -- __dlpack__


@pytest.mark.spec("python_backend:C163")
@pytest.mark.spec("python_backend:Q110")
@pytest.mark.parametrize("name", NUMERIC)
def test_numpy_imports_a_tensor_in_place(exporter: str, name: str) -> None:
    if name == "BOOL" and not IMPORTS_BOOL:
        pytest.skip("this numpy imports no bool")
    array = np.array([[0, 1], [1, 0]]).astype(BY_NAME[name].numpy_name)
    imported = np.from_dlpack(Tensor("A", array))
    assert imported.dtype == array.dtype
    assert (imported == array).all()
    assert np.shares_memory(imported, array)


@pytest.mark.spec("python_backend:C163")
def test_newer_keywords_of_the_protocol_are_understood() -> None:
    array = np.arange(6.0)
    tensor = Tensor("A", array)
    same = tensor.__dlpack__(stream=None, max_version=(1, 1), dl_device=(1, 0), copy=False)
    assert parse(same).address == array.ctypes.data
    assert parse(tensor.__dlpack__(7)).address == array.ctypes.data
    assert parse(tensor.__dlpack__(copy=True)).address != array.ctypes.data
    with pytest.raises(BufferError, match=r"cannot be exported to device \(2, 0\)"):
        tensor.__dlpack__(dl_device=(2, 0))


@pytest.mark.spec("python_backend:C162")
def test_a_tensors_device_is_the_host() -> None:
    assert Tensor("A", np.zeros(1)).__dlpack_device__() == (1, 0)
    assert zeros("BF16").__dlpack_device__() == (1, 0)


@pytest.mark.spec("python_backend:C162")
def test_a_tensor_in_page_locked_memory_has_its_producers_device_until_it_is_sent() -> None:
    tensor = Tensor.from_dlpack("A", Producer(b"\1\2", (2,), device=(3, 1)))
    assert (tensor.__dlpack_device__(), tensor.is_cpu()) == ((3, 1), True)
    assert parse(tensor.to_dlpack()).device == (3, 1)
    tensor._transmit(SharingStore())
    assert tensor.__dlpack_device__() == (1, 0)


# -- what is live and what is fixed


@pytest.mark.spec("python_backend:C146")
@pytest.mark.parametrize("count", [4, INLINE_NBYTES])
def test_what_a_model_writes_into_a_received_array_is_not_exported(count: int) -> None:
    data = np.arange(float(count)).tobytes()
    tensor = Tensor._received("A", 12, [count], data if count == 4 else Shared(data))
    tensor.as_numpy()[:] = -1
    exported = Tensor.from_dlpack("B", tensor)
    assert exported._transmit(SharingStore())[1:3] == [12, [count]]
    assert (exported.as_numpy() == np.arange(float(count))).all()
    assert (tensor.as_numpy() == -1).all()
    assert (np.frombuffer(tensor._live(), np.float64) == np.arange(float(count))).all()


def test_a_large_received_tensor_is_exported_in_place_when_nobody_has_its_array() -> None:
    shared = Shared(np.arange(5000.0).tobytes())
    tensor = Tensor._received("A", 12, [5000], shared)
    assert parse(tensor.to_dlpack()).address == shared.array().ctypes.data
    array = tensor.as_numpy()
    assert not np.shares_memory(array, shared.array())
    assert array[-1] == 4999


def test_an_odd_address_is_not_exported() -> None:
    shared = Shared(bytes(8 * 5000 + 1))
    shared._mapping = shared._mapping[1:]
    address = parse(Tensor._received("A", 12, [5000], shared).to_dlpack()).address
    assert address % 8 == 0


@pytest.mark.parametrize("name", ["FP64", "BF16"])
def test_consumers_of_a_received_tensor_share_its_memory_and_it_is_sent_as_they_left_it(name: str) -> None:
    tensor = zeros(name, (4,))
    first, second = (managed_of(tensor.to_dlpack()).dl_tensor.data for _ in range(2))
    assert first == second
    tensor._live()[0] = 7
    assert tensor._transmit(SharingStore())[3][0] == 7


def test_a_consumer_keeps_its_memory_when_the_tensor_is_sent() -> None:
    tensor = Tensor._received("A", 12, [5000], Shared(np.arange(5000.0).tobytes()))
    consumer = np.from_dlpack(tensor)
    tensor._transmit(SharingStore())
    gc.collect()
    assert consumer[-1] == 4999


@pytest.mark.spec("python_backend:C158")
def test_an_import_sends_and_exports_live_memory_and_shows_numpy_a_snapshot() -> None:
    array = np.zeros(4)
    tensor = Tensor.from_dlpack("A", array)
    array[:] = 1
    assert tensor.as_numpy().tolist() == [0] * 4
    assert tensor.as_numpy() is tensor.as_numpy()
    assert parse(tensor.to_dlpack()).address == array.ctypes.data
    assert tensor._transmit(SharingStore())[3] == np.ones(4).tobytes()
    array[:] = 2
    assert tensor._transmit(SharingStore())[3] == np.ones(4).tobytes()
