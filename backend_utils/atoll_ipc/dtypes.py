"""The one table of tensor data types: protocol name, config name, code on the wire, size, numpy name.

The codes are those of the original's ``DataType`` enum (``model_config.proto``).
"""

from typing import Dict, NamedTuple, Optional

__all__ = ["BYTES", "BF16", "BY_CODE", "BY_CONFIG_NAME", "BY_NAME", "DType"]


class DType(NamedTuple):
    """One tensor data type."""

    name: str
    """Name in the v2 protocol, such as ``FP32``."""
    config_name: str
    """Name in ``config.pbtxt``, such as ``TYPE_FP32``."""
    code: int
    """Value of the ``DataType`` enum; what a message between processes carries."""
    itemsize: int
    """Bytes per element; 0 for BYTES, whose elements carry their own length."""
    numpy_name: Optional[str]
    """Name of the numpy dtype; None for BF16, which numpy lacks."""


_TABLE = (
    DType("BOOL", "TYPE_BOOL", 1, 1, "bool"),
    DType("UINT8", "TYPE_UINT8", 2, 1, "uint8"),
    DType("UINT16", "TYPE_UINT16", 3, 2, "uint16"),
    DType("UINT32", "TYPE_UINT32", 4, 4, "uint32"),
    DType("UINT64", "TYPE_UINT64", 5, 8, "uint64"),
    DType("INT8", "TYPE_INT8", 6, 1, "int8"),
    DType("INT16", "TYPE_INT16", 7, 2, "int16"),
    DType("INT32", "TYPE_INT32", 8, 4, "int32"),
    DType("INT64", "TYPE_INT64", 9, 8, "int64"),
    DType("FP16", "TYPE_FP16", 10, 2, "float16"),
    DType("FP32", "TYPE_FP32", 11, 4, "float32"),
    DType("FP64", "TYPE_FP64", 12, 8, "float64"),
    DType("BYTES", "TYPE_STRING", 13, 0, "object"),
    DType("BF16", "TYPE_BF16", 14, 2, None),
)

BY_NAME: Dict[str, DType] = {dtype.name: dtype for dtype in _TABLE}
BY_CONFIG_NAME: Dict[str, DType] = {dtype.config_name: dtype for dtype in _TABLE}
BY_CODE: Dict[int, DType] = {dtype.code: dtype for dtype in _TABLE}

BYTES = BY_NAME["BYTES"]
BF16 = BY_NAME["BF16"]
