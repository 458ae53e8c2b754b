"""The log of all servers that are embedded in this process: one, as their settings are the process's.

It is put in place when the first server (or option of one) asks for it, below the logger ``atoll``; the host's own
logging is left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from atoll.observe.log import LogHandler, LogSettings, is_verbose

__all__ = ["ERROR", "INFO", "VERBOSE", "WARNING", "LogCallback", "ProcessLog", "process_log"]

LogCallback = Callable[[int, str, int, int, str], object]
"""Gets a level, a file's name, a line, microseconds since the epoch and a message."""

INFO, WARNING, ERROR, VERBOSE = range(4)
_LEVELS = {INFO: logging.INFO, WARNING: logging.WARNING, ERROR: logging.ERROR, VERBOSE: logging.INFO - 1}


class ProcessLog(LogHandler):
    """Where lines go: a callback of the host's, or a file or the console as the settings say."""

    def __init__(self) -> None:
        super().__init__(LogSettings())
        self.callback: LogCallback | None = None
        self._in_place = False

    def put_in_place(self) -> None:
        """From now on the servers' messages come here. Idempotent."""
        if not self._in_place:
            self._in_place = True
            log = logging.getLogger("atoll")
            log.propagate = False
            log.addHandler(self)
            self.settings.installed = True

    def remove(self) -> None:
        """Leave logging as it was, and start anew the next time."""
        if self._in_place:
            self._in_place = False
            log = logging.getLogger("atoll")
            log.removeHandler(self)
            log.propagate = True
            self.settings.installed = False
            log.setLevel(logging.NOTSET)
        self.settings.file = ""
        self.settings = LogSettings()
        self.callback = None

    def is_enabled(self, level: int) -> bool:
        """Whether messages of a level are wanted, in this module's numbers."""
        if level == VERBOSE:
            return self._in_place and is_verbose(1)
        return self.settings.allows(_LEVELS[level])

    def write(self, level: int, file: str, line: int, message: str) -> None:
        """A message of the host's, as if a server had logged it."""
        self.put_in_place()
        if self.is_enabled(level):
            self.handle(logging.LogRecord("atoll", _LEVELS[level], file, line, "%s", (message,), None))

    def emit(self, record: logging.LogRecord) -> None:
        callback = self.callback
        if callback is None:
            super().emit(record)
            return
        if not self.settings.allows(record.levelno):
            return
        try:
            table = getattr(record, "table", None)
            message = record.getMessage() if table is None else f"{record.getMessage()}\n{table}"
            callback(_number(record.levelno), record.filename, record.lineno, int(record.created * 1e6), message)
        except Exception:
            pass  # a server must outlive whoever listens to it


def _number(levelno: int) -> int:
    if levelno >= logging.ERROR:
        return ERROR
    if levelno >= logging.WARNING:
        return WARNING
    return INFO if levelno >= logging.INFO else VERBOSE


process_log = ProcessLog()
