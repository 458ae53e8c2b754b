"""numpy types and the protocol's data types, both ways, and the byte form of string tensors."""

from typing import Any, Dict, Optional, Tuple, Union

import numpy as np
from atoll_ipc.dtypes import BY_CODE, BY_CONFIG_NAME
from atoll_ipc.strings import decode, encode

__all__ = [
    "CODE_BY_DTYPE",
    "DTYPE_BY_CODE",
    "TRITON_STRING_TO_NUMPY",
    "deserialize_bytes_tensor",
    "numpy_to_triton_type",
    "serialize_byte_tensor",
    "triton_string_to_numpy",
    "triton_to_numpy_type",
]

_STRING = 13

DTYPE_BY_CODE: Dict[int, "np.dtype[Any]"] = {
    code: np.dtype(dtype.numpy_name) for code, dtype in BY_CODE.items() if dtype.numpy_name is not None
}
CODE_BY_DTYPE: Dict["np.dtype[Any]", int] = {dtype: code for code, dtype in DTYPE_BY_CODE.items()}

TRITON_STRING_TO_NUMPY: Dict[str, Any] = {
    name: bool if name == "TYPE_BOOL" else np.dtype(dtype.numpy_name).type
    for name, dtype in BY_CONFIG_NAME.items()
    if dtype.numpy_name is not None
}


def triton_string_to_numpy(triton_type_string: str) -> Any:
    """numpy type of a config's data type, such as ``TYPE_FP32``. KeyError for a name numpy has no type for."""
    return TRITON_STRING_TO_NUMPY[triton_type_string]


def triton_to_numpy_type(data_type: int) -> Any:
    """numpy type of a data type's number (1 to 13), else None."""
    dtype = DTYPE_BY_CODE.get(data_type)
    return None if dtype is None else dtype.type


def numpy_to_triton_type(data_type: Any) -> Optional[int]:
    """Number of the data type of a numpy scalar type; None for one that has none."""
    if data_type is np.bytes_:
        return _STRING
    for code, dtype in DTYPE_BY_CODE.items():
        if data_type is dtype.type or (isinstance(data_type, np.dtype) and data_type == dtype):
            return code
    return None


def serialize_byte_tensor(input_tensor: "np.ndarray[Any, Any]") -> Union[bytes, Tuple[()], None]:
    """Row-major elements, each a 4-byte little-endian length and its bytes; ``()`` when empty, None when numeric.

    ``bytes`` go as they are; any other object as its ``str()`` in UTF-8, a subclass of ``bytes`` included. An array
    of dtype ``S`` loses the trailing NULs of its elements, as numpy gives them.
    """
    if input_tensor.size == 0:
        return ()
    if input_tensor.dtype != np.object_ and input_tensor.dtype.type != np.bytes_:
        return None
    elements = input_tensor.ravel().tolist()
    kinds = set(map(type, elements))
    if kinds == {str}:
        elements = list(map(str.encode, elements))
    elif kinds != {bytes}:
        elements = [element if type(element) is bytes else str(element).encode() for element in elements]
    return encode(elements)


def deserialize_bytes_tensor(encoded_tensor: Any) -> "np.ndarray[Any, Any]":
    """The elements of a serialized string tensor: object array of ``bytes``, shape ``[elements]``.

    ``encoded_tensor`` is anything with a contiguous buffer. Raises ``struct.error`` when the last element is cut.
    """
    elements = decode(encoded_tensor)
    result = np.empty(len(elements), dtype=np.object_)
    result[:] = elements
    return result
