"""DLPack: tensors to and from other libraries without a copy, for memory of the host.

The protocol is a C structure in a capsule. Who exports fills it in and gives a *deleter*; who imports renames the
capsule, so that nobody else does, and calls the deleter when it needs the memory no more. A capsule that nobody
imported calls the deleter when it dies itself.

See also: ``_dlpack_callbacks``, the export for a numpy that has none.
"""

import ctypes
import math
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from atoll_ipc.dtypes import BF16, BY_CODE, BYTES

from triton_python_backend_utils import _dlpack_callbacks
from triton_python_backend_utils._dlpack_abi import (
    UNUSED,
    USED,
    DLManagedTensor,
    capsule_name,
    capsule_pointer,
    is_capsule,
    rename_capsule,
)
from triton_python_backend_utils._errors import TritonModelException

__all__ = ["HOST", "Borrowed", "borrow", "device_of", "lend"]

Array = Any  # np.ndarray, whose parameters differ between the numpy versions a stub may run on
Capsule = Any

HOST = (1, 0)
_CUDA, _PINNED = 2, 3
_KINDS = {"i": 0, "u": 1, "f": 2, "b": 6}  # numpy's kind of type to DLPack's
_BFLOAT = 4

_TYPES: Dict[int, Tuple[int, int]] = {
    code: (_BFLOAT if code == BF16.code else _KINDS[np.dtype(dtype.numpy_name).kind], 8 * dtype.itemsize)
    for code, dtype in BY_CODE.items()
    if code != BYTES.code
}
_CODES = {type_: code for code, type_ in _TYPES.items()}


# -- export


def lend(kept: Any, memory: Array, shape: Sequence[int], code: int) -> Capsule:
    """A capsule for the bytes of ``memory`` as a tensor of data type ``code``.

    It keeps ``kept`` and ``memory`` alive until its consumer, or whoever drops it unconsumed, is done with it.
    """
    kind, bits = _TYPES[code]
    lent = _Lent(memory.__array_interface__["data"][0], tuple(shape), bits // 8, (kept, memory))
    make = _by_numpy if _NUMPY_EXPORTS else _dlpack_callbacks.make_capsule
    capsule = make(lent)
    tensor = DLManagedTensor.from_address(capsule_pointer(capsule, UNUSED)).dl_tensor
    tensor.strides = None  # in C order
    tensor.dtype.code = kind
    tensor.dtype.bits = bits
    tensor.device.device_type, tensor.device.device_id = device_of(memory)
    return capsule


_NUMPY_EXPORTS = hasattr(np.ndarray, "__dlpack__")  # since numpy 1.22


class _Lent:
    """Memory under numpy's array interface, with the objects that must outlive its consumer.

    The type is that of unsigned integers of the right size: DLPack has types that numpy has not.
    """

    __slots__ = ("__array_interface__", "kept")

    def __init__(self, address: int, shape: Tuple[int, ...], itemsize: int, kept: Any) -> None:
        self.__array_interface__ = {"version": 3, "data": (address, False), "shape": shape, "typestr": f"<u{itemsize}"}
        self.kept = kept


def _by_numpy(lent: _Lent) -> Capsule:
    # numpy's functions are C: they may be called while an exception is on its way, from a thread that Python does not
    # know and when the interpreter is gone. A ctypes callback loses that exception and survives no interpreter.
    return np.asarray(lent).__dlpack__()


# -- import


class Borrowed(NamedTuple):
    """A tensor in a producer's memory, which is given back when the last array on it dies."""

    code: int
    shape: List[int]
    memory: Array
    """The producer's bytes, as a uint8 array."""


class _Loan:
    """What arrays on a producer's memory are based on."""

    __slots__ = ("__array_interface__", "_deleter", "_managed", "device")

    def __init__(self, managed: DLManagedTensor, nbytes: int) -> None:
        tensor = managed.dl_tensor
        address = (tensor.data or 0) + tensor.byte_offset
        self.__array_interface__ = {"version": 3, "data": (address, False), "shape": (nbytes,), "typestr": "|u1"}
        self.device: Tuple[int, int] = (tensor.device.device_type, tensor.device.device_id)
        self._managed: int = ctypes.addressof(managed)
        # With the interpreter's lock, which a deleter that needs it then has, and one that takes it takes again.
        self._deleter = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(managed.deleter) if managed.deleter else None

    def __del__(self) -> None:
        if self._deleter is not None:
            self._deleter(self._managed)


def borrow(producer: Any) -> Borrowed:
    """The tensor of a capsule, or of an object with ``__dlpack__``. Raises :class:`TritonModelException`.

    A refused capsule stays unused.
    """
    capsule = producer
    if not is_capsule(capsule):
        if not (hasattr(producer, "__dlpack__") and hasattr(producer, "__dlpack_device__")):
            raise TritonModelException(
                "Provided tensor is not supported. Tensor must be a DLPack capsule or have the methods `__dlpack__` "
                "and `__dlpack_device__`."
            )
        capsule = producer.__dlpack__(stream=None)
    managed = _managed_tensor(capsule)
    tensor = managed.dl_tensor
    _check_device(tensor.device.device_type)
    shape = [tensor.shape[index] for index in range(tensor.ndim)]
    if tensor.strides:
        _check_layout(shape, [tensor.strides[index] for index in range(tensor.ndim)])
    code = _code(tensor.dtype)
    nbytes = math.prod(shape) * BY_CODE[code].itemsize
    loan = _Loan(managed, nbytes)
    rename_capsule(capsule, USED)
    return Borrowed(code, shape, np.asarray(loan) if nbytes else np.empty(0, np.uint8))


def device_of(memory: Array) -> Tuple[int, int]:
    """``(device type, device id)`` of memory as DLPack counts them: of borrowed memory, what its producer said."""
    base = getattr(memory, "base", None)
    return base.device if isinstance(base, _Loan) else HOST


def _managed_tensor(capsule: Capsule) -> DLManagedTensor:
    name = capsule_name(capsule) if is_capsule(capsule) else None
    if name != UNUSED.value:
        if name == USED.value:
            raise TritonModelException("DLPack capsule has been consumed before. A capsule can be consumed once.")
        raise TritonModelException(
            "Provided tensor is not supported. Tensor must be a DLPack capsule named 'dltensor'."
        )
    managed: DLManagedTensor = DLManagedTensor.from_address(capsule_pointer(capsule, UNUSED))
    return managed


def _check_device(device_type: int) -> None:
    if device_type == _CUDA:
        raise TritonModelException(
            "DLPack capsule passed pointer to memory allocated on GPU device, which is not supported here. Copy the "
            "tensor to the host first."
        )
    if device_type not in (HOST[0], _PINNED):
        raise TritonModelException(f"DLDevice type {device_type} is not support by Python backend.")


def _check_layout(shape: Sequence[int], strides: Sequence[int]) -> None:
    if 0 in shape:
        return
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides)):
        if size != 1 and stride != expected:
            raise TritonModelException(
                "DLPack tensor is not contiguous. Only contiguous DLPack tensors that are stored in C-Order are "
                "supported."
            )
        expected *= size


def _code(dtype: Any) -> int:
    if dtype.lanes == 1 and dtype.code == _BFLOAT and dtype.bits != 16:
        raise TritonModelException(f"Expected BF16 tensor to have 16 bits, but had: {dtype.bits}")
    code: Optional[int] = _CODES.get((dtype.code, dtype.bits)) if dtype.lanes == 1 else None
    if code is None:
        raise TritonModelException("Dtype is invalid.")
    return code
