"""The server's log: the two line formats, the level switches, and where lines go.

Built on the standard ``logging``: modules log through ``logging.getLogger(__name__)`` below the logger ``atoll``, and
one :class:`LogHandler` writes the lines. A line is written with one ``write`` to the descriptor, unbuffered, so that
lines of several threads never mix and nothing is lost in a crash; a console that went away loses lines, never the
server.

Verbose level *n* is the logging level ``INFO - n``: the standard filtering, cache included, decides what is shown.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping

__all__ = [
    "FORMATS",
    "LogHandler",
    "LogSettings",
    "install",
    "is_verbose",
    "log_from",
    "log_table",
    "log_verbose",
    "model_output",
    "remove",
]

FORMATS = ("default", "ISO8601")

_STDOUT = 1
_STDERR = 2
_MAX_VERBOSE = logging.INFO - 1

_server_log = logging.getLogger("atoll")
# json.dumps makes a new encoder for every call that does not want ASCII.
_quote = json.JSONEncoder(ensure_ascii=False).encode
_SECOND_FORMATS = {"default": "%m%d %H:%M:%S", "ISO8601": "%Y-%m-%dT%H:%M:%SZ"}


class LogSettings:
    """The switches of the log; each may be set while the server runs, and takes effect once installed."""

    def __init__(
        self,
        *,
        verbose_level: int = 0,
        info: bool = True,
        warning: bool = True,
        error: bool = True,
        format: str = "default",
        file: str = "",
    ) -> None:
        self.info = info
        self.warning = warning
        self.error = error
        self._installed = False
        self._descriptor: int | None = None
        self._file = ""
        self.format = format
        self.verbose_level = verbose_level
        self.file = file

    @property
    def verbose_level(self) -> int:
        return self._verbose_level

    @verbose_level.setter
    def verbose_level(self, level: int) -> None:
        self._verbose_level = level
        self._set_threshold()

    @property
    def format(self) -> str:
        return self._format

    @format.setter
    def format(self, name: str) -> None:
        if name not in FORMATS:
            raise ValueError(f"unknown log format {name!r}")
        self._format = name

    @property
    def file(self) -> str:
        """Path that lines are appended to; empty for the console. Setting it may raise OSError."""
        return self._file

    @file.setter
    def file(self, path: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644) if path else None
        previous, self._descriptor, self._file = self._descriptor, descriptor, path
        if previous is not None:
            os.close(previous)

    @property
    def installed(self) -> bool:
        return self._installed

    @installed.setter
    def installed(self, installed: bool) -> None:
        self._installed = installed
        self._set_threshold()

    def _set_threshold(self) -> None:
        if self._installed:
            _server_log.setLevel(logging.INFO - max(0, min(self._verbose_level, _MAX_VERBOSE)))

    def descriptor(self, console: int) -> int:
        """Where a line meant for ``console`` is written."""
        return console if self._descriptor is None else self._descriptor

    def allows(self, levelno: int) -> bool:
        """Whether lines of that level are wanted. Verbose lines do not depend on the switch of INFO."""
        if levelno >= logging.ERROR:
            return self.error
        if levelno >= logging.WARNING:
            return self.warning
        return self.info or levelno < logging.INFO

    def as_dict(self) -> dict[str, str | bool | int]:
        """The settings as the logging extension of the protocol shows them."""
        return {
            "log_file": self._file,
            "log_info": self.info,
            "log_warning": self.warning,
            "log_error": self.error,
            "log_verbose_level": self._verbose_level,
            "log_format": self._format,
        }


class _Line(logging.LogRecord):
    """A record that says where it comes from, and may insist on a console or on being written at all.

    Made by hand: finding the caller, as Logger.log does, costs more than all the rest, and is not wanted here.
    """

    def __init__(self, origin: str, level: int, message: str, console: int | None = None, always: bool = False) -> None:
        super().__init__("atoll", level, "", 0, "%s", (message,), None)
        self.origin = origin
        self.console = console
        self.always = always


class LogHandler(logging.Handler):
    """Writes records as lines. It never raises: a server must outlive its console."""

    def __init__(self, settings: LogSettings, environment: Mapping[str, str] = os.environ) -> None:
        super().__init__()
        self.settings = settings
        self._escape = environment.get("TRITON_SERVER_ESCAPE_LOG_MESSAGES") != "0"
        self._second: tuple[int, str, str] = (0, "", "")

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline."""
        level = "I" if record.levelno < logging.WARNING else "W" if record.levelno < logging.ERROR else "E"
        origin = record.origin if isinstance(record, _Line) else f"{record.filename}:{record.lineno}"
        second = self._second_text(int(record.created))
        if self.settings.format == "default":
            head = f"{level}{second}.{int(record.created % 1 * 1_000_000):06d} {record.process} {origin}]"
        else:
            head = f"{second} {level} {record.process} {origin}]"
        table = getattr(record, "table", None)
        if table is not None:
            return f"{head} \n{table}"
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + logging.Formatter().formatException(record.exc_info)
        return f"{head} {_quote(message) if self._escape else message}"

    def _second_text(self, second: int) -> str:
        """The date and time of a second, in UTC; many lines share one."""
        known, format, text = self._second
        if known != second or format != self.settings.format:
            format = self.settings.format
            text = time.strftime(_SECOND_FORMATS[format], time.gmtime(second))
            self._second = (second, format, text)
        return text

    def emit(self, record: logging.LogRecord) -> None:
        foreign = record if isinstance(record, _Line) else None
        if not (foreign and foreign.always) and not self.settings.allows(record.levelno):
            return
        console = foreign.console if foreign else None
        if console is None:
            console = _STDERR if record.levelno >= logging.WARNING else _STDOUT
        try:
            line = memoryview((self.format(record) + "\n").encode("utf-8", "backslashreplace"))
            while line:
                line = line[os.write(self.settings.descriptor(console), line) :]
        except OSError:
            pass  # the console's reader is gone, or the disk is full: there is nobody to tell
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Say that a record could not be formatted (arguments that do not fit), without a traceback."""
        try:
            os.write(_STDERR, f"unprintable log message {record.msg!r} from {record.pathname}\n".encode())
        except Exception:
            pass


def install(settings: LogSettings, *, whole_process: bool = False) -> LogHandler:
    """Send the server's log through a handler of ours; with ``whole_process`` the warnings of libraries too."""
    handler = LogHandler(settings)
    settings.installed = True
    _server_log.propagate = False
    _server_log.addHandler(handler)
    if whole_process:
        logging.getLogger().addHandler(handler)
    return handler


def remove(handler: LogHandler) -> None:
    """Undo :func:`install` and close the log's file."""
    _server_log.removeHandler(handler)
    _server_log.propagate = True
    handler.settings.installed = False
    _server_log.setLevel(logging.NOTSET)
    logging.getLogger().removeHandler(handler)
    handler.close()
    handler.settings.file = ""


def is_verbose(level: int) -> bool:
    """Whether verbose messages of ``level`` are shown; ask before composing an expensive one."""
    return _server_log.isEnabledFor(logging.INFO - level)


def log_verbose(level: int, message: str) -> None:
    """Log ``message`` where verbose messages of ``level`` are shown."""
    if is_verbose(level):
        _server_log.log(logging.INFO - level, "%s", message, stacklevel=2)


def log_table(table: str) -> None:
    """Log text that stands on lines of its own, unescaped: a table."""
    _server_log.info("", extra={"table": table}, stacklevel=2)


def log_from(origin: str, level: int, message: str) -> None:
    """Log ``message`` on behalf of somebody else: ``origin`` stands where the file and line would."""
    if _server_log.isEnabledFor(level):
        _server_log.handle(_Line(origin, level, message))


def model_output(instance_name: str, stream: str, line: str) -> None:
    """Log a line that a model printed to ``stream`` (``stdout`` or ``stderr``).

    Whatever the switches say: no model's output is lost because the server's own messages are not wanted.
    """
    console = _STDERR if stream == "stderr" else _STDOUT
    _server_log.handle(_Line(f"{instance_name} {stream}", logging.INFO, line, console, always=True))
