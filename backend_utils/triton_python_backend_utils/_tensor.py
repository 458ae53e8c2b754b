"""``Tensor``: a name and an array, made by the model or received from the server.

A received tensor's bytes stay where they came in (in the message when small, in shared memory when large) until
``as_numpy()`` asks for them. A tensor that is sent on without having been rebuilt goes by reference, unmodified.

A tensor has up to two things: its *data*, which is sent and which DLPack shows, and the *array* that ``as_numpy()``
gives. What is written into the array of a received tensor stays out of its data. Data is either *live* (an array: the
model's own, a DLPack producer's, or one that DLPack consumers write to) or fixed (bytes, or placed in shared memory).
Sending fixes it.
"""

from typing import Any, List, Optional, Protocol, Sequence, Tuple, Union

import numpy as np
from atoll_ipc.dtypes import BF16, BY_CODE, BYTES
from atoll_ipc.wire import INLINE_NBYTES

from triton_python_backend_utils._arguments import text
from triton_python_backend_utils._dlpack import HOST, borrow, device_of, lend
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
        """The bytes as a uint8 array that is private to this process; each call may give the same memory."""
        ...

    def pristine(self) -> Array:
        """The bytes as they were placed, as a uint8 array that nobody else has."""
        ...

    def reference(self) -> List[int]:
        """The block reference to put into a message."""
        ...


class Store(Protocol):
    """Where a tensor's bytes go when they are too many for a message."""

    def place(self, data: Union[bytes, Array]) -> Placed: ...


class Tensor:
    """A named tensor. ``Tensor(name, array)`` keeps the array, without a copy, until it is sent.

    An array that is not in C order is copied. Strings are taken over when the tensor is made: ``bytes`` as they are,
    other objects as their ``str()`` in UTF-8. Raises :class:`TritonModelException` for an empty name or a dtype the
    protocol has no type for (``<U``, complex, datetime, structured, foreign byte order), TypeError for anything that
    is not a numpy array.
    """

    __slots__ = ("__weakref__", "_array", "_code", "_data", "_name", "_shape")

    _array: "Optional[np.ndarray[Any, Any]]"
    _data: Union[bytes, Placed, Array]

    def __init__(self, name: str, numpy_array: "np.ndarray[Any, Any]") -> None:
        if type(name) is not str:
            name = text(name, "name")
        if not isinstance(numpy_array, np.ndarray):
            raise TypeError(f"numpy_array must be a numpy.ndarray, not {type(numpy_array).__name__}")
        if not name:
            raise TritonModelException("Tensor name cannot be an empty string.")
        code = CODE_BY_DTYPE.get(numpy_array.dtype)
        if code is None:
            if numpy_array.dtype.kind != "S":
                raise TritonModelException("NumPy dtype is not supported.")
            code = BYTES.code
        data = numpy_array
        if type(data) is not np.ndarray:
            data = np.asarray(data)  # a subclass may count and copy its elements otherwise: masked arrays, matrices
        if code == BYTES.code:
            self._data = serialize_byte_tensor(data) or b""
        elif data.flags.c_contiguous:
            self._data = data
        else:
            self._data = numpy_array = np.ascontiguousarray(data)
        self._name = name
        self._code = code
        self._shape: Sequence[int] = numpy_array.shape
        self._array = numpy_array

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
        if isinstance(data, np.ndarray):
            data = self._data = data.tobytes() if data.nbytes <= INLINE_NBYTES else store.place(data)
        elif isinstance(data, bytes) and len(data) > INLINE_NBYTES:
            data = self._data = store.place(data)
        return [self._name, self._code, list(self._shape), data if isinstance(data, bytes) else data.reference()]

    def name(self) -> str:
        """Which input or output of a model it is."""
        return self._name

    def shape(self) -> List[int]:
        """The dimensions, batch dimension included."""
        return list(self._shape)

    def triton_dtype(self) -> int:
        """Number of the data type, as in the original's ``DataType`` enum."""
        return self._code

    def is_cpu(self) -> bool:
        """Whether the data is in host memory, page-locked memory included."""
        return True

    def as_numpy(self) -> "np.ndarray[Any, Any]":
        """The elements as an array of :meth:`shape`; the same object each call.

        The array is private to this process and writable: what is written into it is seen by nobody else. String
        tensors give an object array of ``bytes``. Raises :class:`TritonModelException` for BF16, which numpy lacks.
        """
        array = self._array
        if array is not None:
            return array
        data, code = self._data, self._code
        if code == BF16.code:
            raise TritonModelException(
                "Tensor dtype is BF16 and cannot be converted to NumPy. Use to_dlpack() and from_dlpack() instead."
            )
        if code == BYTES.code:
            array = deserialize_bytes_tensor(data if isinstance(data, bytes) else data.array())
        else:
            array = self._private(data).view(DTYPE_BY_CODE[code])
        array = self._array = array.reshape(self._shape)
        return array

    def _private(self, data: Union[bytes, Placed, Array]) -> Array:
        """The data as a uint8 array, which nobody else has and whose elements can be accessed."""
        if isinstance(data, bytes):
            return np.frombuffer(bytearray(data), np.uint8)
        if isinstance(data, np.ndarray):
            return data.copy()
        array = data.array()
        if array.__array_interface__["data"][0] % BY_CODE[self._code].itemsize:
            return array.copy()  # a later tensor of a request body: its offset is the client's choice
        return array

    # -- DLPack

    @staticmethod
    def from_dlpack(name: str, tensor: Any) -> "Tensor":
        """A tensor in the memory of another library's, without a copy: of a DLPack capsule, or an object that exports.

        What is sent is the memory's content then; ``as_numpy()`` gives the content of now. The memory is kept until
        the tensor has been sent or is gone. Raises :class:`TritonModelException` when the memory is not the host's,
        not in C order, or of a type the protocol lacks. (Original 21.09; BF16 24.08.)
        """
        name = text(name, "name")
        if not name:
            raise TritonModelException("Tensor name cannot be an empty string.")
        code, shape, memory = borrow(tensor)
        made = Tensor._received(name, code, shape, memory)
        if code != BF16.code:
            made.as_numpy()
        return made

    def to_dlpack(self) -> Any:
        """A DLPack capsule of the tensor's data, without a copy; whoever consumes it may write to it.

        Keeps the tensor alive until its consumer is done, or until it is dropped unconsumed. What was written into
        the array that ``as_numpy()`` gives for a received tensor is not in it. Raises :class:`TritonModelException`
        for strings. (Original 21.09.)
        """
        if self._code == BYTES.code:
            raise TritonModelException("DLPack does not have support for string tensors.")
        return lend(self, self._live(), self._shape, self._code)

    def __dlpack__(
        self,
        stream: Any = None,
        *,
        max_version: Optional[Tuple[int, int]] = None,
        dl_device: Optional[Tuple[int, int]] = None,
        copy: Optional[bool] = None,
    ) -> Any:
        """What ``from_dlpack(tensor)`` of other libraries calls; as :meth:`to_dlpack`.

        ``stream`` has no meaning for host memory. The capsule is of DLPack's first version, which a consumer of any
        ``max_version`` reads. Raises BufferError when asked for another device than the host.
        """
        if dl_device is not None and tuple(dl_device) not in (HOST, self.__dlpack_device__()):
            raise BufferError(f"a tensor in host memory cannot be exported to device {tuple(dl_device)}")
        if copy and self._code != BYTES.code:
            return lend(None, self._live().copy(), self._shape, self._code)
        return self.to_dlpack()

    def __dlpack_device__(self) -> Tuple[int, int]:
        """``(device type, device id)`` in DLPack's numbers: ``(1, 0)`` for the host."""
        return device_of(self._data)

    def _live(self) -> Array:
        """The data as an array that DLPack consumers may write to, which makes it live if it was not."""
        data = self._data
        if isinstance(data, np.ndarray):
            return data
        if isinstance(data, bytes) or self._array is None:
            data = self._private(data)
        else:
            data = data.pristine()  # the model has what array() gives
        self._data = data
        return data
