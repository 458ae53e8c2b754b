"""What the server adds to the inputs of a request before a model sees it: control tensors and states.

Control tensors tell of a request what its client said of it; a state is what the model made of the one before. Where a
batch has a place that nothing is there for, a :class:`NullRequest` stands in.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from atoll_ipc.dtypes import BY_NAME
from atoll_ipc.memory import Slice
from atoll_ipc.strings import encode
from atoll_ipc.wire import INLINE_NBYTES

from atoll.inference import SEQUENCE_END, SEQUENCE_START, Request, Tensor, TensorData

__all__ = ["AddedInputs", "CorrelationControl", "FlagControl", "NullRequest", "State", "Zeros", "zero_nbytes"]

Place = Callable[[Tensor], None]
_LENGTH_NBYTES = 4  # in front of each element of a BYTES tensor; all there is of an empty one


def zero_nbytes(datatype: str, shape: Sequence[int]) -> int:
    """The size of a tensor of zeros, or of empty strings."""
    return math.prod(shape) * (BY_NAME[datatype].itemsize or _LENGTH_NBYTES)


class FlagControl(NamedTuple):
    """A control tensor with two values."""

    false: Tensor
    true: Tensor

    def of(self, value: int) -> Tensor:
        return self.true if value else self.false


class CorrelationControl(NamedTuple):
    """The control tensor that holds the sequence's id."""

    name: str
    datatype: str
    shape: list[int]

    def of(self, correlation_id: int | str) -> Tensor:
        if isinstance(correlation_id, str):
            data = encode([correlation_id.encode("utf-8", "surrogateescape")])
        else:
            nbytes = BY_NAME[self.datatype].itemsize or _LENGTH_NBYTES  # no id, where it is a string
            data = struct.pack("<Q", correlation_id)[:nbytes]
        return Tensor(self.name, self.datatype, self.shape, data)


class State(NamedTuple):
    """What a sequence has come to, kept by the server from one request to the next."""

    output_name: str
    initial: Tensor
    """Named as the input that the model gets it by."""
    zero: Tensor


@dataclass(frozen=True)
class AddedInputs:
    """All that is added to the requests of one model."""

    start: FlagControl | None = None
    end: FlagControl | None = None
    ready: FlagControl | None = None
    correlation: CorrelationControl | None = None
    states: tuple[State, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        controls = [control.false.name for control in (self.start, self.end, self.ready) if control is not None]
        correlations = [] if self.correlation is None else [self.correlation.name]
        return frozenset([*controls, *correlations, *self.initial_states])

    @property
    def initial_states(self) -> dict[str, Tensor]:
        return {state.initial.name: state.initial for state in self.states}

    def of(self, request: Request, states: Mapping[str, Tensor]) -> list[Tensor]:
        return [*self._controls(request.flags, 1, request.correlation_id), *states.values()]

    @property
    def of_null(self) -> list[Tensor]:
        return [*self._controls(0, 0, 0), *(state.zero for state in self.states)]

    def _controls(self, flags: int, ready: int, correlation_id: int | str) -> list[Tensor]:
        added = []
        if self.start is not None:
            added.append(self.start.of(flags & SEQUENCE_START))
        if self.end is not None:
            added.append(self.end.of(flags & SEQUENCE_END))
        if self.ready is not None:
            added.append(self.ready.of(ready))
        if self.correlation is not None:
            added.append(self.correlation.of(correlation_id))
        return added


class NullRequest(Request):
    """Keeps a place in a batch; nobody asked, and nobody hears what the model answers."""

    __slots__ = ()

    def __init__(self, model_name: str, inputs: list[Tensor]) -> None:
        super().__init__(model_name, inputs, lambda response: None)
        self.answered = True


class Zeros:
    """The content of null requests. Whoever reads a block does so privately, so one block of zeros does for all."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._all: Slice | None = None

    def reserve(self, nbytes: int) -> None:
        """Tensors of this size may be asked for. Raises ServerError where there is no memory."""
        if nbytes > INLINE_NBYTES and (self._all is None or self._all.nbytes < nbytes):
            zeros = Tensor("", "UINT8", [nbytes], bytes(nbytes))
            self._place(zeros)
            assert isinstance(zeros.data, Slice)
            self._all = zeros.data

    def like(self, tensor: Tensor) -> Tensor:
        """A tensor of the same shape, whose size was reserved."""
        nbytes = zero_nbytes(tensor.datatype, tensor.shape)
        data: TensorData = b""
        if nbytes <= INLINE_NBYTES:
            data = bytes(nbytes)
        else:
            assert self._all is not None
            data = Slice(self._all.block, self._all.offset, nbytes)
        return Tensor(tensor.name, tensor.datatype, tensor.shape, data)
