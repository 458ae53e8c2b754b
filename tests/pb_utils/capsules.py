"""Raw DLPack capsules: taken apart, and made with any content by a producer that counts what it lent."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

from triton_python_backend_utils._dlpack_abi import UNUSED, DLManagedTensor, capsule_pointer, python_function

__all__ = ["Parsed", "Producer", "delete_in_c", "parse"]

_new = python_function("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Parsed(NamedTuple):
    type: tuple[int, int, int]
    device: tuple[int, int]
    shape: list[int]
    strides: Any
    address: int


def managed_of(capsule: Any) -> DLManagedTensor:
    managed: DLManagedTensor = DLManagedTensor.from_address(capsule_pointer(capsule, UNUSED))
    return managed


def parse(capsule: Any) -> Parsed:
    tensor = managed_of(capsule).dl_tensor
    return Parsed(
        (tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes),
        (tensor.device.device_type, tensor.device.device_id),
        [tensor.shape[index] for index in range(tensor.ndim)],
        tensor.strides[: tensor.ndim] if tensor.strides else None,
        (tensor.data or 0) + tensor.byte_offset,
    )


def delete_in_c(managed_address: int) -> None:
    """Call a managed tensor's deleter as C code does: without the interpreter's lock."""
    managed = DLManagedTensor.from_address(managed_address)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(managed.deleter)(managed_address)


class Producer:
    """A library with one tensor, for which it makes capsules; ``lent`` of them are not given back."""

    def __init__(
        self,
        data: bytes,
        shape: tuple[int, ...],
        type: tuple[int, int, int] = (0, 8, 1),
        device: tuple[int, int] = (1, 0),
        strides: tuple[int, ...] | None = None,
        byte_offset: int = 0,
    ) -> None:
        self.memory = ctypes.create_string_buffer(data, len(data))
        self.lent = 0
        self.streams: list[Any] = []
        self._shape = (ctypes.c_int64 * len(shape))(*shape)
        self._strides = None if strides is None else (ctypes.c_int64 * len(strides))(*strides)
        self._deleter = _Deleter(self._delete)
        self._managed = managed = DLManagedTensor()
        tensor = managed.dl_tensor
        tensor.data = ctypes.addressof(self.memory)
        tensor.byte_offset = byte_offset
        tensor.ndim = len(shape)
        tensor.shape = self._shape
        tensor.strides = self._strides
        tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes = type
        tensor.device.device_type, tensor.device.device_id = device
        managed.deleter = ctypes.cast(self._deleter, ctypes.c_void_p)

    def capsule(self, name: Any = UNUSED) -> Any:
        self.lent += 1
        return _new(ctypes.addressof(self._managed), name, None)

    def __dlpack__(self, stream: Any = None) -> Any:
        self.streams.append(stream)
        return self.capsule()

    def __dlpack_device__(self) -> tuple[int, int]:
        return parse(self.capsule()).device

    def _delete(self, address: int) -> None:
        assert address == ctypes.addressof(self._managed)
        self.lent -= 1
