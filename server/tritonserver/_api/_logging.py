"""Messages of the host's in the servers' log."""

from __future__ import annotations

import sys

from tritonserver._c.enums import TRITONSERVER_LogLevel as LogLevel
from tritonserver._c.server import TRITONSERVER_LogMessage

__all__ = ["LogLevel", "LogMessage"]


def LogMessage(level: LogLevel, message: str) -> None:
    """Log ``message`` as the outermost frame's: the program's file and line."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
    TRITONSERVER_LogMessage(level, frame.f_code.co_filename, frame.f_lineno, message)
