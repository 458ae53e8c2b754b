"""The supervisor's end of a warm parent: one per execution environment, forks stubs on request.

See ``atoll_stub.warm_parent`` for the other end and the datagrams. A warm parent that died is replaced at the next
request; its stubs died with it, which their channels tell.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import atoll_ipc
import atoll_stub

import atoll
from atoll.environments.interpreter import OWN, Interpreter

__all__ = ["Fork", "WarmParent"]

_log = logging.getLogger(__name__)
_TITLE_ROOM = 512

_BOOTSTRAP = """
import os, sys
roots, server, libraries = sys.argv[4].split("\\n"), sys.argv[5], sys.argv[6]
sys.path[:] = [path for path in sys.path if path and (path != server or path in roots)]
sys.path += [root for root in roots if root not in sys.path]
if libraries:
    os.environ["LD_LIBRARY_PATH"] = libraries
else:
    os.environ.pop("LD_LIBRARY_PATH", None)
from atoll_stub.warm_parent import main
main()
"""


def _root(package: str | None) -> str:
    assert package is not None
    return str(Path(package).resolve().parent.parent)


@dataclass(slots=True)
class Fork:
    """A forked stub: its pid, and a future of its wait status."""

    pid: int
    exited: asyncio.Future[int]


class WarmParent:
    """Forks stubs that run under one interpreter.

    ``roots`` are the folders where that finds the stub's packages; by default, where the server has them.
    """

    def __init__(self, interpreter: Interpreter = OWN, roots: Sequence[str] = ()) -> None:
        self.interpreter = interpreter
        self._roots = roots or (_root(atoll_stub.__file__), _root(atoll_ipc.__file__))
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._spawning: dict[int, asyncio.Future[Fork]] = {}
        self._forks: dict[int, Fork] = {}
        self._next_id = 0

    def start(self) -> None:
        """Start the process now, so that it warms up while the server does other things. Idempotent."""
        if self._process is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        arguments = [
            str(theirs.fileno()),
            str(os.getpid()),
            "x" * _TITLE_ROOM,
            "\n".join(self._roots),
            _root(atoll.__file__),
            os.environ.get("LD_LIBRARY_PATH", ""),
        ]
        with theirs:
            self._process = subprocess.Popen(
                [self.interpreter.python, "-c", _BOOTSTRAP, *arguments],
                env=self.interpreter.variables(),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        ours.setblocking(False)
        self._control = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._on_report)

    async def fork(self, title: str, first_chunk_id: int, arena: Sequence[object], descriptors: Sequence[int]) -> Fork:
        """Fork a stub with ``descriptors``: channel, lane, stdout, stderr. Raises OSError when it cannot be."""
        self.start()
        assert self._control is not None
        spawn_id = self._next_id = self._next_id + 1
        spawned: asyncio.Future[Fork] = asyncio.get_running_loop().create_future()
        self._spawning[spawn_id] = spawned
        request = {"spawn": spawn_id, "title": title, "first_chunk_id": first_chunk_id, "arena": list(arena)}
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        try:
            while True:
                try:
                    self._control.sendmsg([json.dumps(request).encode()], ancillary)
                    break
                except BlockingIOError:
                    await asyncio.sleep(0.001)
            return await spawned
        finally:
            self._spawning.pop(spawn_id, None)

    def _on_report(self) -> None:
        assert self._control is not None
        while True:
            try:
                data = self._control.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._lost()
                return
            report = json.loads(data)
            if "spawned" in report:
                fork = Fork(report["pid"], asyncio.get_running_loop().create_future())
                self._forks[fork.pid] = fork
                waiting = self._spawning.get(report["spawned"])
                if waiting is not None and not waiting.done():
                    waiting.set_result(fork)
            else:
                ended = self._forks.pop(report["exited"], None)
                if ended is not None and not ended.exited.done():
                    ended.exited.set_result(report["status"])

    def _lost(self) -> None:
        """The process is gone; what it was asked for fails, what it forked was killed with it."""
        process = self._process
        self._close()
        status = process.wait() if process is not None else 0
        python = self.interpreter.python
        _log.error(f"the warm parent of {python} ended with status {status}; its stubs are started again")
        for waiting in self._spawning.values():
            if not waiting.done():
                waiting.set_exception(ConnectionError(f"the warm parent of {python} ended with status {status}"))
        for fork in self._forks.values():
            if not fork.exited.done():
                fork.exited.set_result(9)
        self._forks.clear()

    def _close(self) -> None:
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._control.close()
        self._control = None
        self._process = None

    async def stop(self) -> None:
        """End the process; every stub must have ended before."""
        process = self._process
        self._close()
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.get_running_loop().run_in_executor(None, process.wait, 5.0)
            if process.poll() is None:
                process.kill()
                process.wait()
