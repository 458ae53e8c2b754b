"""DLPack's C structures, and the functions of Python's C interface that deal with capsules."""

import ctypes
from typing import Any

__all__ = [
    "DLManagedTensor",
    "UNUSED",
    "USED",
    "capsule_name",
    "capsule_pointer",
    "immortal",
    "is_capsule",
    "python_function",
    "rename_capsule",
]


class DLDevice(ctypes.Structure):
    _fields_ = [("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32)]


class DLDataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", DLDevice),
        ("ndim", ctypes.c_int32),
        ("dtype", DLDataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),  # in elements; null for C order
        ("byte_offset", ctypes.c_uint64),
    ]


class DLManagedTensor(ctypes.Structure):
    _fields_ = [
        ("dl_tensor", DLTensor),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    ]


def python_function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of Python's C interface, called with the interpreter's lock; an exception it sets is raised."""
    # Prototypes of our own: those of the attributes of ``ctypes.pythonapi`` are shared with everybody in the process.
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_incref = python_function("Py_IncRef", None, ctypes.py_object)
_name = python_function("PyCapsule_GetName", ctypes.c_char_p, ctypes.py_object)
_pointer = python_function("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
_rename = python_function("PyCapsule_SetName", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)


def immortal(thing: Any) -> Any:
    """The same object, which is never freed: C code keeps its address, and may use it when Python is gone."""
    _incref(thing)
    return thing


# A capsule keeps the address of its name.
UNUSED = immortal(ctypes.create_string_buffer(b"dltensor"))
USED = immortal(ctypes.create_string_buffer(b"used_dltensor"))


def is_capsule(thing: Any) -> bool:
    return type(thing).__name__ == "PyCapsule"


def capsule_name(capsule: Any) -> Any:
    """``bytes``, or None for a capsule without a name."""
    return _name(capsule)


def capsule_pointer(capsule: Any, name: Any) -> int:
    """The address a capsule called ``name`` holds. Raises ValueError when it is called differently."""
    address: int = _pointer(capsule, name)
    return address


def rename_capsule(capsule: Any, name: Any) -> None:
    _rename(capsule, name)
