"""What a request must be before it is queued: names, counts, types, shapes and sizes.

Applies to every caller alike (HTTP, gRPC, BLS, in-process). Texts are those of the original's core; ``[request id: …]``
stands before most of them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from atoll_ipc.dtypes import BY_NAME
from atoll_ipc.strings import count_elements

from atoll.core.reshape import fill
from atoll.errors import Code, ServerError
from atoll.inference import Request, Tensor
from atoll.repository.config import ModelConfig, TensorSpec

__all__ = ["Validator"]

_LENGTH = struct.Struct("<I")
_LONGEST_NBYTES = (1 << 63) - 1


class Validator:
    """Checks requests against one model's configuration and fills in their batch size."""

    def __init__(self, config: ModelConfig) -> None:
        self._name = config.name
        self._inputs = config.inputs
        self._outputs = config.outputs
        self._max_batch_size = config.max_batch_size
        self._required = [spec.name for spec in config.inputs.values() if not spec.optional]
        # Ours: a model may say that it takes tensors of any rank, where nothing of a shape is fixed.
        self._any_rank = config.parameters.get("rank_policy") == "any" and not self._max_batch_size
        # What is right for one request of a form is right for all, unless the bytes themselves are looked at.
        self._by_form = all(spec.reshape is None and spec.datatype != "BYTES" for spec in config.inputs.values())

    def check(self, request: Request) -> None:
        """Raises ServerError INVALID_ARG. Sets ``request.batch_size`` and applies the inputs' ``reshape``."""
        form = request.form
        if form is not None and form.batch_size >= 0:
            request.batch_size = form.batch_size
            return
        inputs = request.inputs
        for name in request.outputs:
            if name not in self._outputs:
                raise _refused(f"unexpected inference output '{name}' for model '{self._name}'")
        specs = self._match_names(request)
        batching = self._max_batch_size > 0
        if batching:
            self._check_batch(request)
        for tensor, spec in zip(inputs, specs, strict=True):
            self._check_tensor(request, tensor, spec, batching)
        if form is not None and self._by_form:
            form.batch_size = request.batch_size

    def _match_names(self, request: Request) -> list[TensorSpec]:
        inputs = request.inputs
        names = [tensor.name for tensor in inputs]
        if len(set(names)) != len(names):
            twice = next(name for index, name in enumerate(names) if name in names[:index])
            raise _refused(f"{request.rid}input '{twice}' already exists in request")
        most, least = len(self._inputs), len(self._required)
        missing = [name for name in self._required if name not in names]
        if not least <= len(names) <= most:
            raise self._wrong_count(request, names, missing)
        try:
            specs = [self._inputs[name] for name in names]
        except KeyError as error:
            raise _refused(f"unexpected inference input '{error.args[0]}' for model '{self._name}'") from None
        if missing:
            raise self._wrong_count(request, names, missing)
        return specs

    def _wrong_count(self, request: Request, names: list[str], missing: list[str]) -> ServerError:
        most, least = len(self._inputs), len(self._required)
        expected = (
            f"expected {most} inputs" if most == least else f"expected number of inputs between {least} and {most}"
        )
        got = ",".join(f"'{name}'" for name in names)
        # The original prints no opening bracket when nothing is missing.
        lacking = "[" + ",".join(f"'{name}'" for name in missing) if missing else ""
        return _refused(
            f"{request.rid}{expected} but got {len(names)} inputs for model '{self._name}'. Got input(s) [{got}], "
            f"but missing required input(s) {lacking}]. Please provide all required input(s)."
        )

    def _check_batch(self, request: Request) -> None:
        batch_size = None
        for tensor in request.inputs:
            if not tensor.shape:
                raise _refused(
                    f"{request.rid}input '{tensor.name}' has no shape but model requires batch dimension for "
                    f"'{self._name}'"
                )
            if batch_size is None:
                batch_size = tensor.shape[0]
            elif tensor.shape[0] != batch_size:
                raise self._batches_differ(request, tensor)
        if batch_size is None:
            return
        if batch_size < 0:
            raise self._batches_differ(request, request.inputs[0])
        if batch_size > self._max_batch_size:
            raise _refused(
                f"{request.rid}inference request batch-size must be <= {self._max_batch_size} for '{self._name}'"
            )
        request.batch_size = batch_size

    def _batches_differ(self, request: Request, tensor: Tensor) -> ServerError:
        return _refused(f"{request.rid}input '{tensor.name}' batch size does not match other inputs for '{self._name}'")

    def _check_tensor(self, request: Request, tensor: Tensor, spec: TensorSpec, batching: bool) -> None:
        if tensor.datatype != spec.datatype:
            raise _refused(
                f"{request.rid}inference input '{tensor.name}' data-type is '{tensor.datatype}', but model "
                f"'{self._name}' expects '{spec.datatype}'"
            )
        shape = tensor.shape
        dims = tuple(shape[1:] if batching else shape)
        if dims != spec.dims or -1 in dims:
            self._check_dims(request, tensor, spec, dims)
        # A batch of none counts as no batch, and then one set of elements is missing.
        count = math.prod(dims) * (request.batch_size or 1 if batching else 1)
        itemsize = BY_NAME[spec.datatype].itemsize
        if not itemsize:
            self._check_strings(request, tensor, count)
        else:
            nbytes = count * itemsize
            if tensor.nbytes != nbytes:
                raise _refused(
                    f"{request.rid}input byte size mismatch for input '{tensor.name}' for model '{self._name}'. "
                    f"Expected {nbytes}, got {tensor.nbytes}"
                )
        if spec.reshape is not None:
            tensor.shape = [*shape[: 1 if batching else 0], *fill(spec.reshape, spec.dims, dims)]

    def _check_dims(self, request: Request, tensor: Tensor, spec: TensorSpec, dims: tuple[int, ...]) -> None:
        if -1 in dims:
            raise _refused(
                f"{request.rid}All input dimensions should be specified for input '{tensor.name}' for model "
                f"'{self._name}', got {_text(tensor.shape)}"
            )
        fits = len(dims) == len(spec.dims) and all(
            size >= 0 and wanted in (-1, size) for size, wanted in zip(dims, spec.dims, strict=True)
        )
        if not fits and self._any_rank and set(spec.dims) == {-1}:
            fits = min(dims, default=0) >= 0
        if fits and math.prod(dims) * 8 <= _LONGEST_NBYTES:
            return
        batching = self._max_batch_size > 0
        expected = _text([-1, *spec.dims] if batching else spec.dims)
        note = (
            "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to "
            "each input shape. If you want to specify the full shape including the batch dim in your input dims "
            "config, try setting max_batch_size to zero. See the model configuration docs for more info on "
            "max_batch_size."
        )
        raise _refused(
            f"{request.rid}unexpected shape for input '{tensor.name}' for model '{self._name}'. Expected {expected}, "
            f"got {_text(tensor.shape)}. {note if batching else ''}"
        )

    def _check_strings(self, request: Request, tensor: Tensor, expected: int) -> None:
        """A BYTES tensor holds exactly the elements its shape promises."""
        buffer = tensor.buffer()
        count, end = count_elements(buffer)
        left = len(buffer) - end
        if left and count < expected:
            if left < 4:
                raise _refused(
                    f"{request.rid}incomplete string length indicator for inference input '{tensor.name}' for model "
                    f"'{self._name}', expecting 4 bytes but only {left} bytes available. Please make sure the string "
                    "length indicator is in one buffer."
                )
            (length,) = _LENGTH.unpack_from(buffer, end)
            raise _refused(
                f"incomplete string data for inference input '{tensor.name}', expecting string of length {length} but "
                f"only {left - 4} bytes available"
            )
        if left >= 4 or (left and count == expected):
            count += 1  # the one that is cut
        if count > expected:
            raise _refused(
                f"{request.rid}unexpected number of string elements {count} for inference input '{tensor.name}' for "
                f"model '{self._name}', expecting {expected}"
            )
        if count < expected:
            raise _refused(
                f"{request.rid}expected {expected} string elements for inference input '{tensor.name}' for model "
                f"'{self._name}', got {count}"
            )


def _text(shape: Sequence[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _refused(message: str) -> ServerError:
    return ServerError(Code.INVALID_ARG, message)
