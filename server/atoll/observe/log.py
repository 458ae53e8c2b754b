"""The server's log: the level switches, and where lines go; how they look is in ``log_lines``.

Built on the standard ``logging``: modules log through ``logging.getLogger(__name__)`` below the logger ``atoll``, and
one :class:`LogHandler` writes the lines. A line is written with one ``write`` to the descriptor, unbuffered, so that
lines of several threads never mix and nothing is lost in a crash; a console that went away loses lines, never the
server.

Verbose level *n* is the logging level ``INFO - n``: the standard filtering, cache included, decides what is shown.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from atoll.observe.log_lines import FORMATS, ForeignLine, LineFormatter

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

_STDOUT = 1
_STDERR = 2
_MAX_VERBOSE = logging.INFO - 1

_server_log = logging.getLogger("atoll")


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


class LogHandler(logging.Handler):
    """Writes records as lines. It never raises: a server must outlive its console."""

    def __init__(self, settings: LogSettings, environment: Mapping[str, str] = os.environ) -> None:
        super().__init__()
        self.settings = settings
        self._lines = LineFormatter(escape=environment.get("TRITON_SERVER_ESCAPE_LOG_MESSAGES") != "0")

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline."""
        return self._lines.line(record, self.settings.format)

    def emit(self, record: logging.LogRecord) -> None:
        stream = record.stream if isinstance(record, ForeignLine) else ""
        if not stream and not self.settings.allows(record.levelno):
            return
        console = _STDERR if stream == "stderr" or record.levelno >= logging.WARNING else _STDOUT
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


def log_from(origin: str, instance_name: str, level: int, message: str) -> None:
    """Log ``message`` on behalf of a model: ``origin`` stands where the file and line would."""
    if _server_log.isEnabledFor(level):
        _server_log.handle(ForeignLine(level, message, instance_name, origin=origin))


def model_output(instance_name: str, stream: str, line: str) -> None:
    """Log a line that a model printed to ``stream`` (``stdout`` or ``stderr``).

    Whatever the switches say: no model's output is lost because the server's own messages are not wanted.
    """
    _server_log.handle(ForeignLine(logging.INFO, line, instance_name, stream=stream))
