"""What makes a forked process a stub: its name, its signals, its output, its tie to the parent's life."""

import ctypes
import os
import signal
import sys
from io import TextIOWrapper
from typing import Any

__all__ = ["become_stub", "resume_signals", "set_title", "tie_to_parent"]

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_libc = ctypes.CDLL(None, use_errno=True)


def tie_to_parent(parent_pid: int) -> None:
    """Die with the parent. The kernel sends the signal when the parent ends, however it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)  # it was gone before we asked


def set_title(title: str) -> None:
    """Write ``title`` over the argument area, which is what ``ps`` and /proc/PID/cmdline show."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end: fields 48 and 49 of proc(5)
    if start and end > start:
        text = title.encode()[: end - start - 1]
        ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)
    _libc.prctl(_PR_SET_NAME, ctypes.c_char_p(title.rpartition(" ")[2].encode()[:15]), 0, 0, 0)


def become_stub(title: str, parent_pid: int, stdout: int, stderr: int) -> None:
    """Called in a forked child, before any of the model's code."""
    tie_to_parent(parent_pid)
    set_title(title)
    # A Ctrl-C on the terminal reaches the whole process group; only the supervisor acts on it. Handlers and not
    # SIG_IGN, which programs that the model starts would inherit.
    signal.signal(signal.SIGINT, _ignore)
    signal.signal(signal.SIGTERM, _ignore)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    # Line by line, so that the log has what a model printed before it died.
    sys.stdout = sys.__stdout__ = _line_writer(1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _line_writer(2)  # type: ignore[misc]
    # Forked twins must not draw the same random numbers. Python sees to its own generator; numpy seeds its one when
    # numpy.random is imported, which takes memory and time that many models never need.
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    sys.argv = [""]
    sys.path[:0] = [""]


def resume_signals() -> None:
    """Called in a process that the model forked: SIGTERM ends it, as ``multiprocessing`` expects of its pools."""
    if signal.getsignal(signal.SIGTERM) is _ignore:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _line_writer(descriptor: int) -> TextIOWrapper:
    return open(descriptor, "w", buffering=1, errors="backslashreplace", closefd=False)


def _ignore(signum: int, frame: Any) -> None:
    pass
