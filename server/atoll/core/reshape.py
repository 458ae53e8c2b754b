"""``reshape`` of the configuration: a client sees a tensor's ``dims``, the model sees the other shape.

Shapes here come without the batch dimension. Wildcards of one shape stand, in order, for those of the other.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["fits", "fill"]


def fill(wanted: Sequence[int], pattern: Sequence[int], dims: Sequence[int]) -> list[int]:
    """``wanted``, each of its wildcards replaced by what ``dims`` has where ``pattern`` has one."""
    sizes = iter([size for size, expected in zip(dims, pattern, strict=True) if expected == -1])
    return [next(sizes) if size == -1 else size for size in wanted]


def fits(dims: Sequence[int], pattern: Sequence[int]) -> bool:
    """Whether ``dims`` are of the shape that ``pattern`` describes."""
    return len(dims) == len(pattern) and all(
        expected in (-1, size) for size, expected in zip(dims, pattern, strict=True)
    )
