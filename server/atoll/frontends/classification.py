"""The classification extension: the largest values of an output as ``value:index[:label]`` texts.

Owns the ranking and the text form; how a client asks for it is the business of each frontend.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from atoll_ipc.dtypes import BY_NAME

from atoll.errors import Code, ServerError
from atoll.inference import Tensor

__all__ = ["MAX_ELEMENTS", "classify", "pack_bytes"]

MAX_ELEMENTS = 1_000_000

_UNSUPPORTED = ("BYTES", "BOOL", "FP16", "BF16")


def classify(tensor: Tensor, count: int, batched: bool, labels: Sequence[str] = ()) -> Tensor:
    """The ``count`` largest values of each row of ``tensor``, as a BYTES tensor of the same name.

    A row is what follows the first dimension when ``batched``, else the whole tensor.
    """
    dtype = BY_NAME.get(tensor.datatype)
    if dtype is None or dtype.name in _UNSUPPORTED:
        raise ServerError(
            Code.INVALID_ARG, f"class result not available for output due to unsupported type '{tensor.datatype}'"
        )
    if math.prod(tensor.shape) > MAX_ELEMENTS:
        raise ServerError(Code.INVALID_ARG, "classification output tensor too large")

    leading = [tensor.shape[0]] if batched and tensor.shape else []
    values = np.frombuffer(tensor.buffer(), f"<{np.dtype(dtype.numpy_name).str[1:]}")
    row_size = math.prod(tensor.shape[len(leading) :])
    rows = values.reshape(*leading or [1], row_size)
    taken = min(count, row_size)
    texts = (text.encode() for row in rows for text in _top(row, taken, labels))
    return Tensor(tensor.name, "BYTES", [*leading, taken], pack_bytes(texts))


def pack_bytes(items: Iterator[bytes]) -> bytes:
    """Elements of a BYTES tensor as they travel: each behind its 4-byte little-endian length."""
    return b"".join([part for item in items for part in (len(item).to_bytes(4, "little"), item)])


def _top(row: npt.NDArray[np.generic], count: int, labels: Sequence[str]) -> Iterator[str]:
    if count == 0:
        return
    form = "%f" if row.dtype.kind == "f" else "%d"
    for index in _largest(row, count):
        text = f"{form % row[index]}:{index}"
        label = labels[index] if index < len(labels) else ""
        yield f"{text}:{label}" if label else text


def _largest(row: npt.NDArray[np.generic], count: int) -> list[int]:
    """Indices of the ``count`` largest values, descending; of equal values the first comes first, NaN is last."""
    if row.dtype.kind == "f":
        row = np.where(np.isnan(row), -np.inf, row)
    # Only what reaches the count-th largest value is sorted: a long row must not hold up the event loop.
    threshold = np.partition(row, row.size - count)[row.size - count]
    candidates = np.flatnonzero(row >= threshold)[::-1]
    ascending = np.argsort(row[candidates], kind="stable")
    indices: list[int] = candidates[ascending][::-1][:count].tolist()
    return indices
