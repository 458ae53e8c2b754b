"""Takes a mapping away from its file and leaves its content where it is."""

import ctypes
import mmap
import os

from atoll_ipc.memory import round_up

__all__ = ["make_anonymous"]

_MREMAP_MAYMOVE = 1
_MREMAP_FIXED = 2
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mremap.restype = ctypes.c_void_p
_libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]


def make_anonymous(address: int, nbytes: int) -> None:
    """Put private memory of the same content in the place of the pages from ``address`` on. Raises OSError.

    Copying each page by a write to it would not do: even what a private mapping has copied goes when its file is
    shortened. The pages are exchanged at once, so that whoever reads there sees no difference.
    """
    nbytes = round_up(nbytes, mmap.PAGESIZE)
    copy = _libc.mmap(None, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if copy == _FAILED:
        raise _error()
    ctypes.memmove(copy, address, nbytes)
    if _libc.mremap(copy, nbytes, nbytes, _MREMAP_MAYMOVE | _MREMAP_FIXED, address) == _FAILED:
        error = _error()
        _libc.munmap(copy, nbytes)
        raise error


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
