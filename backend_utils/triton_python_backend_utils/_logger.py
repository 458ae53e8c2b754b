"""``Logger``: a model's own lines in the server's log."""

import enum
import os
import sys
from typing import Any

from triton_python_backend_utils._arguments import text
from triton_python_backend_utils._host import log_through_host

__all__ = ["LogLevel", "Logger"]


class LogLevel(enum.IntEnum):
    """How much a line matters; the server's settings decide what is shown."""

    INFO = 0
    WARNING = 1
    ERROR = 2
    VERBOSE = 3


_Level = LogLevel


class Logger:
    """Writes to the server's log with file and line of the caller (original 22.09). All methods are static."""

    LogLevel = LogLevel
    INFO = LogLevel.INFO
    WARNING = LogLevel.WARNING
    ERROR = LogLevel.ERROR
    VERBOSE = LogLevel.VERBOSE

    @staticmethod
    def log(message: str, level: _Level = _Level.INFO) -> None:
        """Log a line. Raises TypeError for a level that is none of this class's."""
        _log(message, level)

    @staticmethod
    def log_info(message: str) -> None:
        """Something worth knowing."""
        _log(message, _Level.INFO)

    @staticmethod
    def log_warn(message: str) -> None:
        """Something that may become a problem."""
        _log(message, _Level.WARNING)

    @staticmethod
    def log_error(message: str) -> None:
        """Something that went wrong."""
        _log(message, _Level.ERROR)

    @staticmethod
    def log_verbose(message: str) -> None:
        """Shown only where the server was told to be verbose."""
        _log(message, _Level.VERBOSE)


def _log(message: Any, level: Any) -> None:
    if not isinstance(level, LogLevel):
        raise TypeError(f"level must be one of Logger's levels, not {type(level).__name__}")
    line = text(message, "message")
    caller = sys._getframe(2)
    log_through_host(int(level), f"{os.path.basename(caller.f_code.co_filename)}:{caller.f_lineno}", line)
