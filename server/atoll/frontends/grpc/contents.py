"""Typed tensor contents (``InferTensorContents``) to packed bytes, and which field serves which datatype."""

from __future__ import annotations

from typing import Any

import numpy as np
from atoll_ipc.dtypes import BY_NAME

from atoll.errors import Code, ServerError
from atoll.frontends.classification import pack_bytes

__all__ = ["pack_contents"]

# In the order of their numbers: the field, the numpy type of its elements, and the datatypes it may carry, of which
# the last is the one named to a client who used the field for something else.
_FIELDS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("bool_contents", "?", ("BOOL",)),
    ("int_contents", "<i4", ("INT8", "INT16", "INT32")),
    ("int64_contents", "<i8", ("INT64",)),
    ("uint_contents", "<u4", ("UINT8", "UINT16", "UINT32")),
    ("uint64_contents", "<u8", ("UINT64",)),
    ("fp32_contents", "<f4", ("FP32",)),
    ("fp64_contents", "<f8", ("FP64",)),
    ("bytes_contents", "", ("BYTES",)),
)


def pack_contents(contents: Any, datatype: str, input_name: str, model_name: str) -> bytes:
    """The elements of ``contents``, of which one field may be set, as an input of ``datatype`` holds them."""
    packed: bytes | None = None
    for field, source, datatypes in _FIELDS:
        elements = getattr(contents, field)
        if not elements:
            continue
        problem = f"unexpected explicit tensor data for input tensor '{input_name}' for model '{model_name}'"
        if packed is not None:
            raise ServerError(Code.INVALID_ARG, f"{problem}, binary data was already supplied.")
        if datatype not in datatypes:
            raise ServerError(Code.INVALID_ARG, f"{problem} of type '{datatypes[-1]}', expected datatype '{datatype}'")
        if datatype == "BYTES":
            packed = pack_bytes(iter(elements))
        else:
            target = np.dtype(BY_NAME[datatype].numpy_name).newbyteorder("<")
            # INT8 travels as int32 and so on: what does not fit is truncated.
            packed = np.fromiter(elements, source, len(elements)).astype(target, copy=False).tobytes()
    return packed or b""
