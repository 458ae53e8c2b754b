"""The byte form of BYTES tensors: each element a 4-byte little-endian length and its bytes, in row-major order.

Reading it is sequential by nature: where an element begins is known only from the one before. With many short elements
a loop over them costs more than all else, so these are found the other way round, by numpy: guess every place that
looks like the length of a short element (its upper three bytes are zero), then check that each guess follows from the
one before. A chain of guesses that begins at the first byte, ends at the last and has no gap *is* the sequential
reading. What does not check out (strings that hold NULs, long elements among short ones) is read by the loop.
"""

import struct
import sys
from typing import Any, List, Optional, Tuple, TypeVar, Union

import numpy as np

__all__ = ["Buffer", "count_elements", "decode", "encode"]

Buffer = Union[bytes, bytearray, memoryview, "np.ndarray[Any, Any]"]
Array = Any  # np.ndarray, whose parameters differ between numpy versions
_Source = TypeVar("_Source", bytes, memoryview)

_LENGTH = struct.Struct("<I")
_FEW = 64  # elements that the loop reads before numpy is asked; setting that up costs as much as reading these
_SHORT_NBYTES = 96  # mean length up to which guessing, which looks at every byte, is faster than the loop
_PROGRESS = 0.999  # guesses that a round must leave at most, or the loop is sooner done
_LONG_NBYTES = 1024  # mean length from which one more copy of the bytes costs more than work per element


def count_elements(buffer: Buffer) -> Tuple[int, int]:
    """``(count, end)``: how many whole elements the buffer begins with, and the offset where the last of them ends.

    ``end`` is the buffer's size when nothing is cut. Otherwise the cut element begins there: less than 4 bytes are
    left, or less than the length that these 4 bytes promise.
    """
    view = _flat(buffer)
    count, end = _count(view, 0, _FEW)
    if count < _FEW or end == len(view):
        return count, end
    if end <= _FEW * (4 + _SHORT_NBYTES):
        begins = _locate(np.frombuffer(view, np.uint8))
        if begins is not None:
            return len(begins), len(view)
    more, end = _count(view, end, sys.maxsize)
    return count + more, end


def decode(buffer: Buffer) -> List[bytes]:
    """The elements. Raises ``struct.error`` when the last one is cut."""
    # Slices of bytes are cheaper than those of a view; worth a copy unless they are long.
    source = buffer if isinstance(buffer, bytes) else _flat(buffer)
    size = len(source)
    if size <= _FEW * _LONG_NBYTES:
        source = bytes(source)
    elements, end = _slices(source, 0, _FEW)
    if end < size and len(elements) == _FEW:
        if end <= _FEW * (4 + _SHORT_NBYTES):
            array = np.frombuffer(source, np.uint8)
            begins = _locate(array)
            if begins is not None:
                return _split(array, begins)
        if end <= _FEW * _LONG_NBYTES:
            source = bytes(source)
        rest, end = _slices(source, end, sys.maxsize)
        elements += rest
    if end < size:
        raise struct.error(f"the element at offset {end} extends beyond the buffer's {size} bytes")
    return list(map(bytes, elements))


def encode(elements: List[bytes]) -> bytes:
    """The byte form of these elements. Raises ``struct.error`` for one of 4 GiB or more."""
    count = len(elements)
    if count > _FEW:
        lengths = np.fromiter(map(len, elements), np.int64, count)
        if int(lengths.sum()) < count * _LONG_NBYTES:
            # Four zero bytes before each element, then the lengths over them: no object is made per element.
            data = bytearray(4).join([b"", *elements])
            begins = np.cumsum(lengths + 4) - lengths - 4
            _words(np.frombuffer(data, np.uint8))[begins] = lengths
            return bytes(data)
    parts: List[bytes] = []
    for element in elements:
        parts.append(_LENGTH.pack(len(element)))
        parts.append(element)
    return b"".join(parts)


def _flat(buffer: Buffer) -> memoryview:
    view = memoryview(buffer)
    if view.ndim == 1 and view.format == "B":
        return view
    return view.cast("B") if view.nbytes else memoryview(b"")  # what has a zero in its shape cannot be cast


def _words(array: Array) -> Array:
    """The four bytes from each offset on, as a number; the element at ``i`` overlaps those at ``i - 3 .. i + 3``."""
    return np.ndarray((max(0, array.size - 3),), "<u4", array, 0, (1,))


# -- the loop


def _count(view: memoryview, offset: int, most: int) -> Tuple[int, int]:
    unpack, size, count = _LENGTH.unpack_from, len(view), 0
    while count < most and size - offset >= 4:
        stop = offset + 4 + unpack(view, offset)[0]
        if stop > size:
            break
        offset = stop
        count += 1
    return count, offset


def _slices(source: _Source, offset: int, most: int) -> Tuple[List[_Source], int]:
    unpack, size = _LENGTH.unpack_from, len(source)
    slices: List[_Source] = []
    append = slices.append
    while len(slices) < most and size - offset >= 4:
        begin = offset + 4
        stop = begin + unpack(source, offset)[0]
        if stop > size:
            break
        append(source[begin:stop])
        offset = stop
    return slices, offset


# -- many short elements


def _locate(array: Array) -> Optional[Array]:
    """The offsets of all elements, when the array is nothing but whole short elements that can be told by guessing."""
    stride = 4 + int(_words(array)[0])
    if array.size % stride == 0 and (_words(array)[::stride] == stride - 4).all():
        return np.arange(0, array.size, stride)
    zero = array == 0
    guesses = np.flatnonzero(zero[1:-2] & zero[2:-1] & zero[3:])
    while guesses.size and guesses[0] == 0:
        follows = guesses + 4 + array[guesses]
        if follows[-1] == array.size and (follows[:-1] == guesses[1:]).all():
            return guesses
        # Keep what some guess leads to: the byte before an empty element looks like a length, but hardly any leads there.
        reached = np.zeros(array.size + 256 + 4, np.bool_)
        reached[follows] = True
        reached[0] = True
        kept = guesses[reached[guesses]]
        if kept.size > guesses.size * _PROGRESS:
            break
        guesses = kept
    return None


def _split(array: Array, begins: Array) -> List[bytes]:
    """The elements at these offsets, which :func:`_locate` found."""
    count = begins.size
    lengths = _words(array)[begins]
    length = int(lengths[0])
    elements: List[bytes]
    if (lengths == length).all():
        if length == 0:
            return [b""] * count
        elements = np.ascontiguousarray(array.reshape(count, 4 + length)[:, 4:]).view(f"V{length}").ravel().tolist()
    elif np.count_nonzero(array == 0) == 3 * count + np.count_nonzero(lengths == 0):
        # No element holds a NUL: with the lengths blanked, four of them separate the elements.
        blanked = array.copy()
        blanked[begins] = 0
        elements = blanked[4:].tobytes().split(bytes(4))
    else:
        data = array.tobytes()
        starts = begins + 4
        elements = [data[start:stop] for start, stop in zip(starts.tolist(), (starts + lengths).tolist())]
    return elements
