"""``Tensor``: a name and an array, made by the model or received from the server.

A received tensor's bytes stay where they came in (in the message when small, in shared memory when large) until
``as_numpy()`` asks for them. A tensor that is sent on without having been rebuilt goes by reference, unmodified.
"""

from typing import Any, List, Optional, Protocol, Sequence, Union

import numpy as np
from atoll_ipc.dtypes import BF16, BYTES
from atoll_ipc.wire import INLINE_NBYTES

from triton_python_backend_utils._arguments import text
from triton_python_backend_utils._dtypes import (
    CODE_BY_DTYPE,
    DTYPE_BY_CODE,
    deserialize_bytes_tensor,
    serialize_byte_tensor,
)
from triton_python_backend_utils._errors import TritonModelException

__all__ = ["Placed", "Store", "Tensor"]

Array = Any  # np.ndarray, whose parameters differ between the numpy versions a stub may run on


class Placed(Protocol):
    """Tensor bytes in shared memory."""

    def array(self) -> Array:
        """The bytes as a uint8 array that is private to this process."""
        ...

    def reference(self) -> List[int]:
        """The block reference to put into a message."""
        ...


class Store(Protocol):
    """Where a tensor's bytes go when they are too many for a message."""

    def place(self, data: Union[bytes, Array]) -> Placed: ...


class Tensor:
    """A named tensor. ``Tensor(name, array)`` keeps the array, without a copy, until it is sent.

    Raises :class:`TritonModelException` for an empty name or a dtype the protocol has no type for, TypeError for
    anything that is not a numpy array.
    """

    __slots__ = ("__weakref__", "_array", "_code", "_data", "_name", "_shape")

    _array: Optional[Array]
    _data: Union[bytes, Placed, None]

    def __init__(self, name: str, numpy_array: Array) -> None:
        if type(name) is not str:
            name = text(name, "name")
        if not isinstance(numpy_array, np.ndarray):
            raise TypeError(f"numpy_array must be a numpy.ndarray, not {type(numpy_array).__name__}")
        if not name:
            raise TritonModelException("Tensor name cannot be an empty string.")
        code = CODE_BY_DTYPE.get(numpy_array.dtype)
        data = None
        if code is None:
            if numpy_array.dtype.kind != "S":
                raise TritonModelException("NumPy dtype is not supported.")
            code = BYTES.code
        if code == BYTES.code:
            data = serialize_byte_tensor(numpy_array) or b""
        elif not numpy_array.flags.c_contiguous:
            numpy_array = np.ascontiguousarray(numpy_array)
        self._name = name
        self._code = code
        self._shape: Sequence[int] = numpy_array.shape
        self._array = numpy_array
        self._data = data

    @classmethod
    def _received(cls, name: str, code: int, shape: List[int], data: Union[bytes, Placed]) -> "Tensor":
        """A tensor that came in a message."""
        tensor = cls.__new__(cls)
        tensor._name = name
        tensor._code = code
        tensor._shape = shape
        tensor._array = None
        tensor._data = data
        return tensor

    def _transmit(self, store: Store) -> List[Any]:
        """The tensor as it goes into a message. From here on its content is fixed, whatever happens to the array."""
        data = self._data
        if data is None:
            array = self._array
            assert array is not None
            data = array.tobytes() if array.nbytes <= INLINE_NBYTES else store.place(array)
            self._data = data
        elif isinstance(data, bytes) and len(data) > INLINE_NBYTES:
            data = self._data = store.place(data)
        return [self._name, self._code, list(self._shape), data if isinstance(data, bytes) else data.reference()]

    def name(self) -> str:
        return self._name

    def shape(self) -> List[int]:
        """The dimensions, batch dimension included."""
        return list(self._shape)

    def triton_dtype(self) -> int:
        """Number of the data type, as in the original's ``DataType`` enum."""
        return self._code

    def is_cpu(self) -> bool:
        return True

    def as_numpy(self) -> Array:
        """The elements as an array of :meth:`shape`; the same object each call.

        The array is private to this process and writable: what is written into it is seen by nobody else. String
        tensors give an object array of ``bytes``. Raises :class:`TritonModelException` for BF16, which numpy lacks.
        """
        array = self._array
        if array is not None:
            return array
        data, code = self._data, self._code
        assert data is not None
        if code == BF16.code:
            raise TritonModelException(
                "Tensor dtype is BF16 and cannot be converted to NumPy. Use to_dlpack() and from_dlpack() instead."
            )
        if code == BYTES.code:
            array = deserialize_bytes_tensor(data if isinstance(data, bytes) else data.array())
        elif isinstance(data, bytes):
            array = np.frombuffer(bytearray(data), DTYPE_BY_CODE[code])
        else:
            array = data.array()
            dtype = DTYPE_BY_CODE[code]
            if array.__array_interface__["data"][0] % dtype.itemsize:
                array = array.copy()  # a later tensor of a request body: its offset is the client's choice
            array = array.view(dtype)
        array = self._array = array.reshape(self._shape)
        return array
