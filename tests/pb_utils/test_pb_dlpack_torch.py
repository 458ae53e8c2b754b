"""``Tensor`` and torch, where torch is installed: both directions through DLPack."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from triton_python_backend_utils import Tensor, TritonModelException

torch: Any = pytest.importorskip("torch", reason="torch is not installed")

NAMES = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool", "bfloat16"]


@pytest.mark.spec("python_backend:Q110")
@pytest.mark.spec("python_backend:C157")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("export", [lambda tensor: tensor, torch.utils.dlpack.to_dlpack], ids=["object", "capsule"])
def test_a_torch_tensor_makes_a_round_trip(name: str, export: Any) -> None:
    source = torch.arange(6).reshape(2, 3).to(getattr(torch, name))
    tensor = Tensor.from_dlpack("A", export(source))
    assert tensor.__dlpack_device__() == source.__dlpack_device__()
    for imported in (torch.from_dlpack(tensor), torch.utils.dlpack.from_dlpack(tensor.to_dlpack())):
        assert imported.type() == source.type()
        assert torch.equal(imported, source)
        assert imported.data_ptr() == source.data_ptr()


@pytest.mark.spec("python_backend:C146")
def test_torch_sees_what_was_received_and_may_write_to_it() -> None:
    tensor = Tensor._received("A", 12, [4], np.arange(4.0).tobytes())
    tensor.as_numpy()[:] = -1
    imported = torch.from_dlpack(tensor)
    assert imported.tolist() == [0, 1, 2, 3]
    imported += 1
    assert tensor.as_numpy().tolist() == [-1] * 4
    assert torch.from_dlpack(tensor).tolist() == [1, 2, 3, 4]


@pytest.mark.spec("python_backend:C153")
def test_torch_gives_the_tensor_back() -> None:
    tensor = Tensor("A", np.zeros(4))
    count = sys.getrefcount(tensor)
    imported = torch.from_dlpack(tensor)
    assert sys.getrefcount(tensor) == count + 1
    del imported
    assert sys.getrefcount(tensor) == count


def test_an_exception_of_torch_passes_a_dying_import() -> None:
    tensor = Tensor("A", np.zeros(4))
    count = sys.getrefcount(tensor)
    with pytest.raises(RuntimeError, match="must match"):
        torch.add(torch.from_dlpack(tensor), torch.zeros(5))
    assert sys.getrefcount(tensor) == count


@pytest.mark.spec("python_backend:C159")
@pytest.mark.spec("python_backend:C160")
def test_layouts_of_torch() -> None:
    matrix = torch.zeros(4, 3)
    for view in (matrix.T, matrix[::2], matrix[:, 1]):
        with pytest.raises(TritonModelException, match="is not contiguous"):
            Tensor.from_dlpack("A", view)
    assert Tensor.from_dlpack("A", matrix[1:2]).shape() == [1, 3]
    assert Tensor.from_dlpack("A", torch.zeros(3, 0)).shape() == [3, 0]


@pytest.mark.spec("python_backend:C161")
def test_a_complex_torch_tensor_is_refused() -> None:
    with pytest.raises(TritonModelException, match=r"^Dtype is invalid\.$"):
        Tensor.from_dlpack("A", torch.zeros(2, dtype=torch.complex64))
