"""A private mapping of part of a file, which can be taken away from its file and keeps its content where it is."""

import ctypes
import mmap
import os

from atoll_ipc.memory import PAGE, round_up

__all__ = ["PrivateMap"]

_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
_MREMAP_MAYMOVE = 1
_MREMAP_FIXED = 2
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mremap.restype = ctypes.c_void_p
_libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]


class PrivateMap:
    """``nbytes`` bytes at ``offset`` of a file are at ``address``, for reading and for writing that nobody sees.

    Not Python's ``mmap``, which would hold a descriptor of its own as long as it lives.
    """

    __slots__ = ("_first", "_length", "address")

    def __init__(self, fd: int, offset: int, nbytes: int) -> None:
        """Raises OSError. Whether the file is that long is not looked at."""
        before = offset % PAGE
        self._length = round_up(before + nbytes, PAGE)
        self._first = 0
        self._first = _map(self._length, mmap.MAP_PRIVATE, fd, offset - before)
        self.address = self._first + before

    def make_anonymous(self) -> None:
        """Put memory of the same content in the place of the file's. Raises OSError.

        Copying each page by a write to it would not do: even what a private mapping has copied goes when its file is
        shortened. The pages are exchanged at once, so that whoever reads there sees no difference.
        """
        copy = _map(self._length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        ctypes.memmove(copy, self._first, self._length)
        flags = _MREMAP_MAYMOVE | _MREMAP_FIXED
        if _libc.mremap(copy, self._length, self._length, flags, self._first) == _FAILED:
            error = _error()
            _libc.munmap(copy, self._length)
            raise error

    def __del__(self) -> None:
        if self._first:
            _libc.munmap(self._first, self._length)


def _map(length: int, flags: int, fd: int, offset: int) -> int:
    address = _libc.mmap(None, length, _READ_WRITE, flags, fd, offset)
    if address == _FAILED:
        raise _error()
    return int(address)


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
