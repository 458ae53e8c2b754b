"""The enumerations of the API, with the numbers and the names that the original's C API gives them."""

from __future__ import annotations

import enum
from typing import TypeVar

__all__ = [
    "TRITONSERVER_DataType",
    "TRITONSERVER_DataTypeByteSize",
    "TRITONSERVER_DataTypeString",
    "TRITONSERVER_InferenceTraceActivity",
    "TRITONSERVER_InferenceTraceActivityString",
    "TRITONSERVER_InferenceTraceLevel",
    "TRITONSERVER_InferenceTraceLevelString",
    "TRITONSERVER_InstanceGroupKind",
    "TRITONSERVER_InstanceGroupKindString",
    "TRITONSERVER_LogFormat",
    "TRITONSERVER_LogLevel",
    "TRITONSERVER_MemoryType",
    "TRITONSERVER_MemoryTypeString",
    "TRITONSERVER_MetricFormat",
    "TRITONSERVER_MetricKind",
    "TRITONSERVER_ModelBatchFlag",
    "TRITONSERVER_ModelControlMode",
    "TRITONSERVER_ModelIndexFlag",
    "TRITONSERVER_ModelTxnPropertyFlag",
    "TRITONSERVER_ParameterType",
    "TRITONSERVER_ParameterTypeString",
    "TRITONSERVER_RateLimitMode",
    "TRITONSERVER_RequestFlag",
    "TRITONSERVER_RequestReleaseFlag",
    "TRITONSERVER_ResponseCompleteFlag",
    "TRITONSERVER_StringToDataType",
]

E = TypeVar("E", bound="_Enum")

_ITEMSIZES = (0, 1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 0, 2)
_INVALID = "<invalid>"


class _Enum(enum.IntEnum):
    """Prints as the original's: ``<TRITONSERVER_DataType.BOOL: 1>``, and ``TRITONSERVER_DataType.BOOL`` as a string."""

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


class TRITONSERVER_DataType(_Enum):
    INVALID, BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, FP32, FP64, BYTES, BF16 = range(15)


class TRITONSERVER_MemoryType(_Enum):
    CPU, CPU_PINNED, GPU = range(3)


class TRITONSERVER_InstanceGroupKind(_Enum):
    AUTO, CPU, GPU, MODEL = range(4)


class TRITONSERVER_LogFormat(_Enum):
    DEFAULT, ISO8601 = range(2)


class TRITONSERVER_LogLevel(_Enum):
    INFO, WARN, ERROR, VERBOSE = range(4)


class TRITONSERVER_MetricFormat(_Enum):
    PROMETHEUS = 0


class TRITONSERVER_MetricKind(_Enum):
    COUNTER, GAUGE = range(2)


class TRITONSERVER_ModelControlMode(_Enum):
    NONE, POLL, EXPLICIT = range(3)


class TRITONSERVER_RateLimitMode(_Enum):
    OFF, EXEC_COUNT = range(2)


class TRITONSERVER_ModelBatchFlag(_Enum):
    UNKNOWN, FIRST_DIM = 1, 2


class TRITONSERVER_ModelTxnPropertyFlag(_Enum):
    ONE_TO_ONE, DECOUPLED = 1, 2


class TRITONSERVER_ModelIndexFlag(_Enum):
    READY = 1


class TRITONSERVER_RequestFlag(_Enum):
    SEQUENCE_START, SEQUENCE_END = 1, 2


class TRITONSERVER_RequestReleaseFlag(_Enum):
    ALL = 1


class TRITONSERVER_ResponseCompleteFlag(_Enum):
    FINAL = 1


class TRITONSERVER_ParameterType(_Enum):
    STRING, INT, BOOL, DOUBLE, BYTES = range(5)


class TRITONSERVER_InferenceTraceLevel(_Enum):
    DISABLED, MIN, MAX, TIMESTAMPS, TENSORS = 0, 1, 2, 4, 8


class TRITONSERVER_InferenceTraceActivity(_Enum):
    REQUEST_START = 0
    QUEUE_START = 1
    COMPUTE_START = 2
    COMPUTE_INPUT_END = 3
    COMPUTE_OUTPUT_START = 4
    COMPUTE_END = 5
    REQUEST_END = 6
    TENSOR_QUEUE_INPUT = 7
    TENSOR_BACKEND_INPUT = 8
    TENSOR_BACKEND_OUTPUT = 9


def TRITONSERVER_DataTypeString(datatype: TRITONSERVER_DataType) -> str:
    return _name(TRITONSERVER_DataType, datatype) if datatype else _INVALID


def TRITONSERVER_StringToDataType(name: str) -> TRITONSERVER_DataType:
    return TRITONSERVER_DataType.__members__.get(name, TRITONSERVER_DataType.INVALID)


def TRITONSERVER_DataTypeByteSize(datatype: TRITONSERVER_DataType) -> int:
    return _ITEMSIZES[TRITONSERVER_DataType(datatype)]


def TRITONSERVER_MemoryTypeString(memory_type: TRITONSERVER_MemoryType) -> str:
    return _name(TRITONSERVER_MemoryType, memory_type)


def TRITONSERVER_ParameterTypeString(kind: TRITONSERVER_ParameterType) -> str:
    return _name(TRITONSERVER_ParameterType, kind)


def TRITONSERVER_InstanceGroupKindString(kind: TRITONSERVER_InstanceGroupKind) -> str:
    return _name(TRITONSERVER_InstanceGroupKind, kind)


def TRITONSERVER_InferenceTraceLevelString(level: TRITONSERVER_InferenceTraceLevel) -> str:
    return _name(TRITONSERVER_InferenceTraceLevel, level)


def TRITONSERVER_InferenceTraceActivityString(activity: TRITONSERVER_InferenceTraceActivity) -> str:
    return _name(TRITONSERVER_InferenceTraceActivity, activity)


def _name(kind: type[E], value: int) -> str:
    return kind(value).name
