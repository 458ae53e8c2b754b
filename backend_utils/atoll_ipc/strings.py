"""The byte form of BYTES tensors: each element a 4-byte little-endian length and its bytes, in row-major order.

Reading it is sequential by nature: where an element begins is known only from the one before. With many short elements
a loop over them costs more than all else, so these are found the other way round, by numpy: guess every place that
looks like the length of a short element (its upper three bytes are zero), then check that each guess follows from the
one before. A chain of guesses that begins at the first byte, ends at the last and has no gap *is* the sequential
reading. What does not check out (strings that look like lengths, long elements among short ones) is read by the loop.
"""

import struct
import sys
from typing import Any, List, Optional, Tuple, Union

import numpy as np

__all__ = ["Buffer", "count_elements", "decode", "encode"]

Buffer = Any  # whatever has a contiguous buffer: bytes, a memoryview, a numpy array
Array = Any  # np.ndarray, whose parameters differ between numpy versions
_LENGTH = struct.Struct("<I")
_FEW = 64  # elements that the loop reads before numpy is asked; setting that up costs as much as reading these
_SHORT_NBYTES = 96  # mean length up to which guessing, which looks at every byte, is faster than the loop
_WINDOW_NBYTES = 1 << 20  # bytes that are looked at together; what does not check out in one spoils no other
_PROGRESS = 0.999  # guesses that a round must leave at most, or the loop is sooner done
_LONG_NBYTES = 1024  # mean length from which one more copy of the bytes costs more than work per element


def count_elements(buffer: Buffer) -> Tuple[int, int]:
    """``(count, end)``: how many whole elements the buffer begins with, and the offset where the last of them ends.

    ``end`` is the buffer's size when nothing is cut. Otherwise the cut element begins there: less than 4 bytes are
    left, or less than the length that these 4 bytes promise.
    """
    view = _flat(buffer)
    count, end = _count(view, 0, _FEW)
    if count < _FEW:
        return count, end
    array, run = np.frombuffer(view, np.uint8), _first_run(end)
    more = count
    while more and end < len(view):
        begins, nbytes = _locate(array[end : end + _WINDOW_NBYTES]) if run else (None, 0)
        if begins is not None:
            more, end = len(begins), end + nbytes
        else:
            more, end = _count(view, end, run or sys.maxsize)
            run *= 2
        count += more
    return count, end


def decode(buffer: Buffer) -> List[bytes]:
    """The elements. Raises ``struct.error`` when the last one is cut."""
    source = buffer if isinstance(buffer, bytes) else _flat(buffer)
    if len(source) <= _FEW * _LONG_NBYTES:
        source = bytes(source)
    elements, end = _slices(source, 0, _FEW)
    if end < len(source) and len(elements) == _FEW:
        run = _first_run(end)
        if end <= _FEW * _LONG_NBYTES:
            source = bytes(source)  # slices of bytes are cheaper than those of a view; worth a copy when short
            elements = list(map(bytes, elements))
        array = np.frombuffer(source, np.uint8)
        more: List[Any] = elements
        while more and end < len(source):
            begins, nbytes = _locate(array[end : end + _WINDOW_NBYTES]) if run else (None, 0)
            if begins is not None:
                more, end = _split(array[end : end + nbytes], begins), end + nbytes
            else:
                more, end = _slices(source, end, run or sys.maxsize)
                run *= 2
            elements += more
    if end < len(source):
        raise struct.error(f"the element at offset {end} extends beyond the buffer's {len(source)} bytes")
    return elements if isinstance(source, bytes) else list(map(bytes, elements))


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
    unpack, size = _LENGTH.unpack_from, len(view)
    for count in range(most):
        begin = offset + 4
        if begin > size:
            return count, offset
        (length,) = unpack(view, offset)
        stop = begin + length
        if stop > size:
            return count, offset
        offset = stop
    return most, offset


def _slices(source: Union[bytes, memoryview], offset: int, most: int) -> Tuple[List[Any], int]:
    unpack, size = _LENGTH.unpack_from, len(source)
    slices: List[Any] = []
    append = slices.append
    for _ in range(most):
        begin = offset + 4
        if begin > size:
            break
        (length,) = unpack(source, offset)
        stop = begin + length
        if stop > size:
            break
        append(source[begin:stop])
        offset = stop
    return slices, offset


# -- many short elements


def _first_run(nbytes: int) -> int:
    """How many elements the loop reads where guessing failed first, twice as many the next time; 0 never to guess.

    ``nbytes`` is the size of the first elements. Guessing looks at every byte, so it is for short ones.
    """
    return _WINDOW_NBYTES // 64 if nbytes <= _FEW * (4 + _SHORT_NBYTES) else 0


def _locate(array: Array) -> Tuple[Optional[Array], int]:
    """The offsets of the elements that the array begins with, and where the last of them ends.

    None when they cannot be told by guessing. The last element may be cut; it is left out then.
    """
    size = array.size
    if size < 4:
        return None, 0
    stride = 4 + int(_words(array)[0])
    whole = size // stride * stride
    if whole and (_words(array)[:whole:stride] == stride - 4).all():
        return np.arange(0, whole, stride), whole
    zero = array == 0
    guesses = np.flatnonzero(zero[1:-2] & zero[2:-1] & zero[3:])
    while guesses.size and guesses[0] == 0:
        follows = guesses + 4 + array[guesses]
        gaps = np.flatnonzero(follows[:-1] != guesses[1:])
        stop = follows[gaps[0] if gaps.size else -1]
        if not gaps.size and stop > size - 4:
            cut = int(stop > size)
            count = guesses.size - cut
            return (guesses[:count], int(follows[count - 1])) if count else (None, 0)
        if stop <= size - 4 and not (zero[stop + 1] and zero[stop + 2] and zero[stop + 3]):
            break  # a long element is next
        # Keep what some guess leads to: the byte before an empty element looks like a length too, but few lead there.
        reached = np.zeros(size + 256 + 4, np.bool_)
        reached[follows] = True
        reached[0] = True
        kept = guesses[reached[guesses]]
        if kept.size > guesses.size * _PROGRESS:
            break
        guesses = kept
    return None, 0


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
