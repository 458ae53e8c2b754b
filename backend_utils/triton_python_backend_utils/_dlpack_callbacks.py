"""The export of DLPack capsules where numpy has none (before 1.22): the C functions are callbacks into Python.

ctypes takes the interpreter's lock for them, so any thread may call them. They have a weakness that cannot be helped
here: called while an exception is on its way, they print it as ignored, and its place is taken by a SystemError.
"""

import ctypes
from typing import Any, Protocol, Tuple

from triton_python_backend_utils._dlpack_abi import UNUSED, DLManagedTensor, immortal, python_function

__all__ = ["Lent", "make_capsule"]


class Lent(Protocol):
    """Memory to export: numpy's array interface, on an object that keeps alive what must be."""

    __array_interface__: Any


def make_capsule(lent: Lent) -> Any:
    """A capsule of the memory's address and shape; the caller fills in type, strides and device."""
    exported = _Exported(lent)
    _incref(id(exported))  # the consumer's reference, which the deleter takes away
    try:
        return _new(ctypes.addressof(exported.managed), UNUSED, _CAPSULE_DIES)
    except BaseException:
        _decref(id(exported))
        raise


class _Exported:
    """A managed tensor and everything it points at."""

    __slots__ = ("_lent", "_shape", "managed")

    def __init__(self, lent: Lent) -> None:
        shape: Tuple[int, ...] = lent.__array_interface__["shape"]
        self._lent = lent
        self._shape = (ctypes.c_int64 * len(shape))(*shape)
        self.managed = DLManagedTensor()
        tensor = self.managed.dl_tensor
        tensor.data = lent.__array_interface__["data"][0]
        tensor.ndim = len(shape)
        tensor.shape = self._shape
        tensor.dtype.lanes = 1
        self.managed.manager_ctx = id(self)
        self.managed.deleter = ctypes.cast(_DELETER, ctypes.c_void_p)


_Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


# By address, since ctypes would count references to an object that is being freed.
_incref = python_function("Py_IncRef", None, ctypes.c_void_p)
_decref = python_function("Py_DecRef", None, ctypes.c_void_p)
_is_valid = python_function("PyCapsule_IsValid", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
_pointer = python_function("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
_pending = python_function("Py_IsInitialized", ctypes.c_int)  # raises what was on its way, as all of these do
_new = python_function("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _Callback)


# The defaults are bound here, because a module's names may be gone when the last tensors of a process die.
def _delete(
    address: int, pending: Any = _pending, managed_at: Any = DLManagedTensor.from_address, decref: Any = _decref
) -> None:
    try:
        pending()
    finally:
        decref(managed_at(address).manager_ctx)


def _capsule_dies(
    address: int,
    pending: Any = _pending,
    is_valid: Any = _is_valid,
    pointer: Any = _pointer,
    name: Any = UNUSED,
    delete: Any = _delete,
) -> None:
    try:
        pending()
    finally:
        if is_valid(address, name):
            delete(pointer(address, name))


_DELETER = immortal(_Callback(_delete))
_CAPSULE_DIES = immortal(_Callback(_capsule_dies))
