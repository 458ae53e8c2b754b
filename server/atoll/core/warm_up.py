"""Warm-up: the requests of ``model_warmup`` that each instance executes before its version is ready.

A sample becomes ``batch_size`` equal requests of batch 1 that go to the model in one execution. They pass by the queue
and the checks of requests, as in the original, so that inputs which only the server makes can be given too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll_ipc.dtypes import BY_CONFIG_NAME

from atoll.core.data_files import read_data_file
from atoll.errors import Code, ServerError
from atoll.inference import Request, Response, Tensor
from atoll.repository.config import ModelConfig

__all__ = ["WarmUpSample", "read_samples"]

_FOLDER = "warmup"
_LENGTH_NBYTES = 4  # in front of each element of a BYTES tensor; all there is of an empty one
_NO_ID = "[request id: <id_unknown>] "


@dataclass(frozen=True, slots=True)
class WarmUpSample:
    """One sample; its executions are repeated ``count`` times."""

    name: str
    batch_size: int
    count: int
    inputs: tuple[tuple[str, str, tuple[int, ...], bytes], ...]
    """Of each request: name, data type, shape and bytes."""

    def requests(self, model_name: str, respond: Callable[[Response], None]) -> list[Request]:
        """The requests of one execution."""
        return [
            Request(model_name, [Tensor(*fields) for fields in self.inputs], respond) for _ in range(self.batch_size)
        ]


def read_samples(config: ModelConfig, model_dir: Path) -> list[WarmUpSample]:
    """The samples of a configuration that are to be run. Raises ServerError where one is not right."""
    return [
        WarmUpSample(
            sample["name"],
            sample["batch_size"],
            max(1, sample["count"]),
            tuple(
                _read_input(name, given, name in config.inputs and config.max_batch_size > 0, model_dir)
                for name, given in sample["inputs"].items()
            ),
        )
        for sample in config.json["model_warmup"]
        if sample["batch_size"] > 0
    ]


def _read_input(
    name: str, given: dict[str, Any], batching: bool, model_dir: Path
) -> tuple[str, str, tuple[int, ...], bytes]:
    """An input as the model shall see it; a batching model's own inputs have a batch dimension in front."""
    dims = tuple(given["dims"])
    if any(size < 0 for size in dims):
        raise _refused(f"warmup setting expects all variable-size dimensions are specified for input '{name}'")
    dtype = BY_CONFIG_NAME.get(given["data_type"])
    if dtype is None:
        raise _refused(f"warmup setting expects a data_type for input '{name}'")
    count = math.prod(dims)
    nbytes = count * (dtype.itemsize or _LENGTH_NBYTES)
    if given.get("input_data_file"):
        data = _read_file(model_dir, given["input_data_file"], dtype.itemsize, count)
    elif given.get("random_data") and dtype.itemsize:
        data = os.urandom(nbytes)
        if dtype is BY_CONFIG_NAME["TYPE_BOOL"]:
            data = bytes(byte & 1 for byte in data)
    elif given.get("random_data") or given.get("zero_data"):
        data = bytes(nbytes)
    else:
        raise _refused(f"{_NO_ID}warmup setting expects input '{name}' to have input_data_type set")
    return name, dtype.name, (1, *dims) if batching else dims, data


def _read_file(model_dir: Path, filename: str, itemsize: int, count: int) -> bytes:
    """``count`` elements from a file of the model; what follows them is cut off."""
    file = read_data_file(model_dir / _FOLDER, filename, "warmup")
    nbytes = file.nbytes(itemsize, count)
    if len(file.data) < nbytes:
        raise _refused(
            f"{_NO_ID}warmup setting expects {nbytes} bytes, but the data provided from {file.path}only has "
            f"{len(file.data)} bytes"
        )
    return file.data[:nbytes]


def _refused(message: str) -> ServerError:
    return ServerError(Code.INVALID_ARG, message)
