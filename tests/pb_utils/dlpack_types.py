"""What the tests of DLPack in either direction share: its numbers for types, and a store that shares what it holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from triton_python_backend_utils import _dlpack

__all__ = ["IMPORTS_BOOL", "NUMERIC", "Shared", "SharingStore", "TYPES", "exporter"]

TYPES = {
    "BOOL": (6, 8), "UINT8": (1, 8), "UINT16": (1, 16), "UINT32": (1, 32), "UINT64": (1, 64),
    "INT8": (0, 8), "INT16": (0, 16), "INT32": (0, 32), "INT64": (0, 64),
    "FP16": (2, 16), "FP32": (2, 32), "FP64": (2, 64), "BF16": (4, 16),
}  # fmt: skip
NUMERIC = [name for name in TYPES if name != "BF16"]
IMPORTS_BOOL = np.lib.NumpyVersion(np.__version__) >= "1.25.0"


@pytest.fixture(params=["numpy", "callbacks"])
def exporter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Export by numpy's own functions, and as for a numpy that has none."""
    if request.param == "callbacks":
        monkeypatch.setattr(_dlpack, "_NUMPY_EXPORTS", False)
    elif not _dlpack._NUMPY_EXPORTS:
        pytest.skip("this numpy exports no DLPack")
    return str(request.param)


class Shared:
    """A large received tensor's bytes: one private mapping for all who ask, as in a stub."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._mapping = np.frombuffer(bytearray(data), np.uint8)

    def array(self) -> Any:
        return self._mapping

    def pristine(self) -> Any:
        return np.frombuffer(bytearray(self._data), np.uint8)

    def reference(self) -> list[int]:
        return [1, 2, 3, 4, 5]


class SharingStore:
    def place(self, data: Any) -> Shared:
        return Shared(data if isinstance(data, bytes) else data.tobytes())
