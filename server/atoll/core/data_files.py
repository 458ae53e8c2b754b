"""Tensor data in files of a model's folder: what warm-up samples and initial states may be read from."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

from atoll.errors import Code, ServerError

__all__ = ["DataFile", "read_data_file"]

_LENGTH = struct.Struct("<I")  # in front of each element of a BYTES tensor; all there is of an empty one


class DataFile(NamedTuple):
    """The content of a file."""

    path: Path
    data: bytes

    def nbytes(self, itemsize: int, count: int) -> int:
        """What so many elements take; of BYTES elements (``itemsize`` 0), as far as the lengths in the file tell."""
        return count * itemsize if itemsize else _strings_nbytes(self.data, count)


def read_data_file(folder: Path, filename: str, purpose: str) -> DataFile:
    """A file within ``folder``. Raises ServerError."""
    path = folder / filename
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ServerError(Code.INVALID_ARG, f"{purpose} data file '{filename}' is outside the directory {folder}")
    try:
        return DataFile(path, path.read_bytes())
    except OSError as error:
        raise ServerError(Code.INTERNAL, f"failed to open text file for read {path}: {error.strerror}") from error


def _strings_nbytes(data: bytes, count: int) -> int:
    nbytes = 0
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(data, nbytes) if nbytes + _LENGTH.size <= len(data) else (0,)
        nbytes += _LENGTH.size + length
    return nbytes
