"""The layouts of a log line: ``default`` and ``ISO8601``, as the original's, and ``json``, one object per line.

``default``  ``I1120 20:08:53.053055 4242 catalog.py:47] "loading: m:1"``
``ISO8601``  ``2026-11-20T20:08:53Z I 4242 catalog.py:47] "loading: m:1"``
``json``     ``{"time":"2026-11-20T20:08:53.053055Z","level":"INFO","pid":4242,"file":"catalog.py","line":47,…}``

No IO here; ``log`` writes the lines.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any

__all__ = ["FORMATS", "ForeignLine", "LineFormatter"]

FORMATS = ("default", "ISO8601", "json")

# json.dumps makes a new encoder for every call that does not want ASCII.
_quote = json.JSONEncoder(ensure_ascii=False).encode
_object = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_SECOND_FORMATS = {"default": "%m%d %H:%M:%S", "ISO8601": "%Y-%m-%dT%H:%M:%SZ", "json": "%Y-%m-%dT%H:%M:%S"}


class ForeignLine(logging.LogRecord):
    """A record on behalf of a model: its own ``file:line``, or a ``stream`` it printed to.

    Made by hand: finding the caller, as Logger.log does, costs more than all the rest, and is not wanted here.
    """

    def __init__(self, level: int, message: str, instance: str, *, origin: str = "", stream: str = "") -> None:
        super().__init__("atoll", level, "", 0, "%s", (message,), None)
        self.instance = instance
        self.origin = origin
        self.stream = stream


class LineFormatter:
    """Turns records into lines, without their newline."""

    def __init__(self, *, escape: bool) -> None:
        """``escape``: whether messages are quoted; those of ``json`` always are."""
        self._escape = escape
        self._second: tuple[int, str, str] = (0, "", "")

    def line(self, record: logging.LogRecord, format: str) -> str:
        second = self._second_text(int(record.created), format)
        micros = int(record.created % 1 * 1_000_000)
        if format == "json":
            return _object(_members(record, f"{second}.{micros:06d}Z"))
        level = _level(record.levelno)[0]
        if format == "default":
            head = f"{level}{second}.{micros:06d} {record.process} {_origin(record)}]"
        else:
            head = f"{second} {level} {record.process} {_origin(record)}]"
        table = getattr(record, "table", None)
        if table is not None:
            return f"{head} \n{table}"
        message = _message(record)
        return f"{head} {_quote(message) if self._escape else message}"

    def _second_text(self, second: int, format: str) -> str:
        """The date and time of a second, in UTC; many lines share one."""
        known, known_format, text = self._second
        if known != second or known_format != format:
            text = time.strftime(_SECOND_FORMATS[format], time.gmtime(second))
            self._second = (second, format, text)
        return text


def _level(levelno: int) -> str:
    """Verbose messages are information, as in the original."""
    return "INFO" if levelno < logging.WARNING else "WARNING" if levelno < logging.ERROR else "ERROR"


def _origin(record: logging.LogRecord) -> str:
    if not isinstance(record, ForeignLine):
        return f"{record.filename}:{record.lineno}"
    if record.stream:
        return f"{record.instance} {record.stream}"
    return f"{record.origin} {record.instance}"


def _message(record: logging.LogRecord) -> str:
    message = record.getMessage()
    if record.exc_info:
        message += "\n" + logging.Formatter().formatException(record.exc_info)
    return message


def _members(record: logging.LogRecord, moment: str) -> dict[str, Any]:
    """What a line of ``json`` says. What a model printed has an instance and a stream in place of file and line."""
    members: dict[str, Any] = {"time": moment, "level": _level(record.levelno), "pid": record.process}
    if not isinstance(record, ForeignLine):
        members.update(file=record.filename, line=record.lineno)
    elif record.stream:
        members.update(instance=record.instance, stream=record.stream)
    else:
        file, _, line = record.origin.rpartition(":")
        members.update(file=file, line=int(line)) if file and line.isdigit() else members.update(file=record.origin)
        members["instance"] = record.instance
    members["message"] = getattr(record, "table", None) or _message(record)
    return members
