"""Asks the kernel which pages of a private mapping were written (proc(5), /proc/PID/pagemap).

A page of a ``MAP_PRIVATE`` mapping belongs to the file until the first write, which replaces it by an anonymous page.
Each entry of the page map is 64 bits: bit 63 says that the page is present, bit 62 that it is swapped out, bit 61
that it belongs to a file. So a page was written when it is present or swapped, and not the file's.
"""

import os

import numpy as np
from atoll_ipc.memory import PAGE

__all__ = ["PageMap"]

_ENTRY_NBYTES = 8


class PageMap:
    """The page map of this process. Without /proc every page counts as written."""

    def __init__(self) -> None:
        try:
            self._fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1

    def written(self, address: int, nbytes: int) -> bool:
        """Whether any page of a privately mapped range was written since it was mapped or last dropped."""
        first = address // PAGE
        count = (address + nbytes - 1) // PAGE - first + 1
        if self._fd < 0:
            return True
        entries = os.pread(self._fd, count * _ENTRY_NBYTES, first * _ENTRY_NBYTES)
        if len(entries) != count * _ENTRY_NBYTES:
            return True
        state = np.frombuffer(entries, np.uint64) >> np.uint64(61)
        return bool(((state > 1) & (state & np.uint64(1) == 0)).any())

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
