"""What a stub prints: read line by line from its stdout and stderr, logged, the last lines kept."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable

__all__ = ["OutputReader", "TAIL_LINES"]

TAIL_LINES = 20
_LONGEST_LINE = 1 << 16


class OutputReader(asyncio.Protocol):
    """Splits one stream into lines; a line longer than 64 KiB is split, an unfinished one is passed on at the end."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_line = on_line
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._emit(self._cut(line))
        self._rest = self._cut(self._rest)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._rest:
            self._emit(self._rest)
            self._rest = b""
        if not self.closed.done():
            self.closed.set_result(None)

    def _cut(self, line: bytes) -> bytes:
        """Pass on the head of a line that is too long; the rest of it."""
        while len(line) > _LONGEST_LINE:
            self._emit(line[:_LONGEST_LINE])
            line = line[_LONGEST_LINE:]
        return line

    def _emit(self, line: bytes) -> None:
        text = line.decode(errors="backslashreplace")
        self.tail.append(text)
        self._on_line(text)
