"""A real server process for tests: started on free ports, waited for, stopped by its pid."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import textwrap
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

__all__ = ["Served", "serve", "write_model"]

_STARTED = re.compile(r"Started (GRPCInferenceService|HTTPService|Metrics Service) at \S+:(\d+)")
_START_TIMEOUT_S = 60


class Served:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.ports: dict[str, int] = {}
        self._lines: list[str] = []
        self._ended = False
        self._arrived = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._arrived:
                self._lines.append(line)
                self._arrived.notify_all()
        with self._arrived:
            self._ended = True
            self._arrived.notify_all()

    @property
    def http_port(self) -> int:
        return self.ports["HTTPService"]

    @property
    def grpc_port(self) -> int:
        return self.ports["GRPCInferenceService"]

    @property
    def metrics_port(self) -> int:
        return self.ports["Metrics Service"]

    @property
    def http_url(self) -> str:
        return f"127.0.0.1:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def log(self) -> str:
        """Everything the server wrote so far, stdout and stderr together."""
        with self._arrived:
            return "".join(self._lines)

    def wait_for_log(self, pattern: str, timeout_s: float = 20, times: int = 1) -> re.Match[str]:
        """Wait until the log holds ``pattern`` (a regular expression) so many times; the last match.

        Does not wait any longer when the server is gone.
        """
        compiled = re.compile(pattern)
        with self._arrived:
            self._arrived.wait_for(lambda: self._ended or len(self._matches(compiled)) >= times, timeout_s)
            matches = self._matches(compiled)
        assert len(matches) >= times, f"{pattern!r} is {len(matches)} times in the log, not {times}:\n{self.log}"
        return matches[-1]

    def _matches(self, pattern: re.Pattern[str]) -> list[re.Match[str]]:
        return list(pattern.finditer("".join(self._lines)))

    def get(self, path: str) -> tuple[int, Any]:
        """Status and body (parsed when it is JSON) of ``GET path``."""
        return _fetch(urllib.request.Request(f"http://{self.http_url}{path}"))

    def post(self, path: str, document: Any) -> tuple[int, Any]:
        """Status and body (parsed when it is JSON) of ``POST path`` with a JSON body."""
        return _fetch(urllib.request.Request(f"http://{self.http_url}{path}", json.dumps(document).encode()))

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as response:
            return str(response.read().decode())

    def stubs(self) -> dict[str, int]:
        """The pid of each running instance, by instance name."""
        found = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                command = " ".join(child.cmdline()).split()
                if command[:1] == ["triton_python_backend_stub"]:
                    found[command[2]] = child.pid
        return found

    def processes(self) -> list[psutil.Process]:
        """The server's process and all it started."""
        try:
            server = psutil.Process(self.process.pid)
            return [server, *server.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 30) -> int:
        """Send a signal and wait for the end of every process; the exit status."""
        processes = self.processes()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            status = self.process.wait(timeout_s)
            _, left = psutil.wait_procs(processes, 10)
            assert not left, f"{left} outlive the server"
            return status
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._reader.join(10)
            assert self.process.stdout is not None
            self.process.stdout.close()


@contextlib.contextmanager
def serve(
    repository: Path | str,
    *flags: str,
    expect_start: bool = True,
    cwd: Path | None = None,
    within: Sequence[str] = (),
) -> Iterator[Served]:
    """Serve ``repository`` until the block ends. With ``expect_start`` false, do not wait for the ports.

    ``within`` is a command that runs the one behind it, such as ``env`` or ``unshare``. The server leads a process
    group of its own.
    """
    command = [
        *within,
        sys.executable,
        "-c",
        "import sys; from atoll.cli.tritonserver import main; sys.exit(main())",
        f"--model-repository={repository}",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        *(f"--{name}-port=0" for name in ("http", "grpc", "metrics")),
        *flags,
    ]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=cwd,
        start_new_session=True,
    )
    served = Served(process)
    try:
        if expect_start:
            match = served.wait_for_log(r"Started Metrics Service at|error: creating server", _START_TIMEOUT_S)
            assert "Started" in match.group(), served.log
            served.ports = {service: int(port) for service, port in _STARTED.findall(served.log)}
        yield served
    finally:
        served.stop()


def write_model(repository: Path, name: str, code: str, config: str, version: int = 1) -> Path:
    """Write a model into a repository folder; the folder of the model."""
    folder = repository / name
    (folder / str(version)).mkdir(parents=True, exist_ok=True)
    (folder / str(version) / "model.py").write_text(textwrap.dedent(code))
    (folder / "config.pbtxt").write_text(textwrap.dedent(config))
    return folder


def _fetch(request: urllib.request.Request) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            status, body = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read()
    try:
        return status, json.loads(body)
    except ValueError:
        return status, body
