"""One tensor, two shapes: as its sender knows it and as its receiver wants it.

``reshape`` of the configuration: a client sees a tensor's ``dims``, the model sees the other shape. Shapes come without
the batch dimension there, and wildcards of one shape stand, in order, for those of the other. Between the steps of an
ensemble: one model batches, the other does not.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["between_steps", "fill", "fits"]


def fill(wanted: Sequence[int], pattern: Sequence[int], dims: Sequence[int]) -> list[int]:
    """``wanted``, each of its wildcards replaced by what ``dims`` has where ``pattern`` has one."""
    sizes = iter([size for size, expected in zip(dims, pattern, strict=True) if expected == -1])
    return [next(sizes) if size == -1 else size for size in wanted]


def fits(dims: Sequence[int], pattern: Sequence[int]) -> bool:
    """Whether ``dims`` are of the shape that ``pattern`` describes."""
    return len(dims) == len(pattern) and all(
        expected in (-1, size) for size, expected in zip(dims, pattern, strict=True)
    )


def between_steps(shape: Sequence[int], batch_size: int, dims: Sequence[int], batching: bool) -> Sequence[int]:
    """The whole shape of a tensor for whoever takes it next, and batches or not; ``dims`` as configured there.

    ``batch_size`` is 0 where the tensor comes from somebody who does not batch. What fits a batching model's dims
    without a batch dimension is a batch of one; a batch of one that fits the other's dims without it loses it. Any
    other shape stays as it is, for the next one's checks.
    """
    if batching and not batch_size and fits(shape, dims):
        return [1, *shape]
    if not batching and batch_size == 1 and fits(shape, [-1, *dims]):
        return shape[1:]
    return shape
