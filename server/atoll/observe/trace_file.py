"""Traces as JSON in files, in the original's form.

The file holds one JSON list and is whole after every write: new entries and the closing bracket go in one over the
closing bracket before. So nothing is lost, and nothing broken, whatever ends the server. Traces that are to be logged
every so many go together into files of their own, ``<file>.0``, ``<file>.1`` and so on, each written at once.

All of this runs in the thread of ``trace_thread``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
from atoll_ipc.dtypes import BY_NAME

from atoll.errors import Code, ServerError
from atoll.observe.trace_settings import Sampler
from atoll.trace import TensorCopy, Trace

__all__ = ["FileWriter", "Source", "entries"]


class Source(NamedTuple):
    """Why there is a trace: the sampler that chose its request, and what was set then."""

    sampler: Sampler
    level: tuple[str, ...]
    log_frequency: int
    is_last: bool
    """Whether the sampler's count ended with it."""


class FileWriter:
    """Writes traces to ``path``, and to the files beside it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: _JsonList | None = None
        self._groups: dict[Sampler, list[bytes]] = {}
        self._counts: dict[Sampler, int] = {}
        self._next_index = 0

    def open(self) -> None:
        """Begin the file anew. Raises ServerError. Without a path there is none, and nothing to write either."""
        try:
            self._file = _JsonList(self._path) if self._path else None
        except OSError as error:
            text = f"failed to open trace file '{self._path}': {error.strerror}"
            raise ServerError(Code.INVALID_ARG, text) from None

    def write(self, traces: Sequence[Trace]) -> None:
        """Raises OSError; what could not be written is lost, the file stays whole."""
        at_once: list[bytes] = []
        for trace in traces:
            source = trace.source
            assert isinstance(source, Source)
            rendered = entries(trace, source.level)
            if not source.log_frequency:
                at_once += rendered
                continue
            sampler = source.sampler
            self._groups.setdefault(sampler, []).extend(rendered)
            if trace.parent is None:
                count = self._counts[sampler] = self._counts.get(sampler, 0) + 1
                if count >= source.log_frequency or source.is_last:
                    self._write_group(sampler)
        if at_once and self._file is not None:
            self._file.append(at_once)

    def close(self) -> None:
        """Write what was still collected. Raises OSError."""
        try:
            for sampler in list(self._groups):
                self._write_group(sampler)
        finally:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _write_group(self, sampler: Sampler) -> None:
        group = self._groups.pop(sampler)
        self._counts.pop(sampler, None)
        path = f"{self._path}.{self._next_index}"
        self._next_index += 1
        # Who sees the file sees all of it.
        with open(f"{path}.part", "wb") as file:
            file.write(b"[" + b",\n".join(group) + b"]")
        os.replace(f"{path}.part", path)


class _JsonList:
    """A file that is a JSON list, and grows."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        os.write(self._fd, b"[]")
        self._nbytes = 2

    def append(self, items: Iterable[bytes]) -> None:
        """Raises OSError, and then the file is as it was."""
        text = b",\n".join(items) + b"]"
        if self._nbytes > 2:
            text = b",\n" + text
        try:
            if os.pwrite(self._fd, text, self._nbytes - 1) < len(text):
                raise OSError("the disk is full")
        except OSError:
            with contextlib.suppress(OSError):
                os.pwrite(self._fd, b"]", self._nbytes - 1)
                os.ftruncate(self._fd, self._nbytes)
            raise
        self._nbytes += len(text) - 1

    def close(self) -> None:
        os.close(self._fd)


def entries(trace: Trace, level: Sequence[str]) -> list[bytes]:
    """The objects that tell of one trace: whose it is, its timestamps in their order, its tensors."""
    about: dict[str, Any] = {"id": trace.id, "model_name": trace.model_name, "model_version": trace.model_version}
    if trace.request_id:
        about["request_id"] = trace.request_id
    if trace.parent is not None:
        about["parent_id"] = trace.parent.id
    objects = [about]
    if "TIMESTAMPS" in level:
        stamps = sorted(trace.stamps, key=lambda stamp: stamp[1])
        objects += [{"id": trace.id, "timestamps": [{"name": name, "ns": ns}]} for name, ns in stamps]
    objects += [
        {
            "id": trace.id,
            "activity": tensor.activity,
            "tensor": {
                "name": tensor.name,
                "data": _data_text(tensor),
                "shape": ",".join(map(str, tensor.shape)),
                "dtype": tensor.datatype,
            },
        }
        for tensor in trace.tensors
    ]
    return [_dump(document) for document in objects]


def _data_text(tensor: TensorCopy) -> str:
    """The elements, with commas between; truth as 1 and 0, whole numbers without a point."""
    data = tensor.data
    if tensor.datatype == "BYTES":
        return b",".join(_strings(data)).decode("utf-8", "backslashreplace")
    if tensor.datatype == "BF16":  # the upper half of an FP32
        elements = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    elif tensor.datatype == "BOOL":
        elements = np.frombuffer(data, np.uint8)
    else:
        elements = np.frombuffer(data, BY_NAME[tensor.datatype].numpy_name)
    if elements.dtype.kind == "f":
        return ",".join([str(element).removesuffix(".0") for element in elements])
    return ",".join(map(str, elements.tolist()))


def _strings(data: bytes) -> Iterable[bytes]:
    start = 0
    while start < len(data):
        stop = start + 4 + int.from_bytes(data[start : start + 4], "little")
        yield data[start + 4 : stop]
        start = stop


def _dump(document: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(document)
    except TypeError:  # a name or an id with half a surrogate pair
        return orjson.dumps(_readable(document))


def _readable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _readable(item) for key, item in value.items()}
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
