"""Small objects that pass through the binding: parameters, messages, metrics, and what describes a buffer."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from typing import Any

from tritonserver._c.enums import TRITONSERVER_MemoryType, TRITONSERVER_MetricFormat, TRITONSERVER_ParameterType
from tritonserver._c.errors import InvalidArgumentError, UnsupportedError

__all__ = ["TRITONSERVER_BufferAttributes", "TRITONSERVER_Message", "TRITONSERVER_Metrics", "TRITONSERVER_Parameter"]

_KINDS = {
    str: TRITONSERVER_ParameterType.STRING,
    bool: TRITONSERVER_ParameterType.BOOL,
    int: TRITONSERVER_ParameterType.INT,
    bytes: TRITONSERVER_ParameterType.BYTES,
}
_HANDLE_NBYTES = 64


class TRITONSERVER_Parameter:
    """A name with a value: str, int, bool or bytes."""

    def __init__(self, name: str, value: str | int | bool | bytes) -> None:
        if type(value) not in _KINDS:
            raise TypeError(f"incompatible constructor arguments: {value!r}")
        self.name = name
        self.value = value
        self.type = _KINDS[type(value)]


class TRITONSERVER_Message:
    """A document of the server's, or one for it."""

    def __init__(self, text: str) -> None:
        try:
            self._document = json.loads(text)
        except ValueError as error:
            raise InvalidArgumentError(f"failed to parse the request JSON buffer: {error}") from None

    @classmethod
    def of(cls, document: Any) -> TRITONSERVER_Message:
        message = cls.__new__(cls)
        message._document = document
        return message

    def serialize_to_json(self) -> str:
        return json.dumps(self._document, separators=(",", ":"))


class TRITONSERVER_Metrics:
    """The metrics page, as it was when it was asked for."""

    def __init__(self, page: Callable[[], str]) -> None:
        self._text = page()

    def formatted(self, metric_format: TRITONSERVER_MetricFormat) -> str:
        if metric_format is not TRITONSERVER_MetricFormat.PROMETHEUS:
            raise UnsupportedError("unknown metrics format")
        return self._text


class TRITONSERVER_BufferAttributes:
    """Where a buffer lies, and how large it is."""

    def __init__(self) -> None:
        self.memory_type = TRITONSERVER_MemoryType.CPU
        self.memory_type_id = 0
        self.byte_size = 0
        self._handle: ctypes.Array[ctypes.c_char] | None = None

    @property
    def cuda_ipc_handle(self) -> int:
        """The address of the 64 bytes; 0 where there are none."""
        return 0 if self._handle is None else ctypes.addressof(self._handle)

    @cuda_ipc_handle.setter
    def cuda_ipc_handle(self, address: int) -> None:
        self._handle = ctypes.create_string_buffer(ctypes.string_at(address, _HANDLE_NBYTES), _HANDLE_NBYTES)
