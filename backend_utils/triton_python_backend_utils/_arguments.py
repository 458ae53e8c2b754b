"""Conversion of arguments, as strict as the original's bindings: the wrong type is a TypeError."""

from typing import Any, List, Sequence, cast

import numpy as np

__all__ = ["boolean", "integer", "number", "sequence", "text"]


def text(value: Any, name: str) -> str:
    """A ``str``, or bytes that hold UTF-8."""
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode()
    raise TypeError(f"{name} must be a string, not {type(value).__name__}")


def integer(value: Any, name: str, low: int, high: int) -> int:
    """An ``int``, ``bool`` or numpy integer within ``low`` and ``high``."""
    if not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
    number = value.__index__()
    if not low <= number <= high:
        raise TypeError(f"{name} must be from {low} to {high}, not {number}")
    return cast(int, number)


def boolean(value: Any, name: str) -> bool:
    """Anything that is true or false, but for None and texts."""
    if value is None or isinstance(value, (str, bytes, bytearray)):
        raise TypeError(f"{name} must be a bool, not {type(value).__name__}")
    return bool(value)


def number(value: Any, name: str) -> float:
    """A ``float``, ``int``, ``bool`` or numpy number."""
    if isinstance(value, (str, bytes, bytearray)) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    return float(value)


def sequence(value: Any, name: str) -> List[Any]:
    """The elements of a list, tuple or one-dimensional array; not of a string, set, dict or generator."""
    if isinstance(value, np.ndarray) and value.ndim == 1:  # numpy registers no sequences
        elements: List[Any] = value.tolist()
        return elements
    if isinstance(value, (str, bytes, bytearray)) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be a list, not {type(value).__name__}")
    return list(value)
