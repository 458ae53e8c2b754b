"""A server under a tool's care: started on free ports, waited for until it is ready, stopped by its pid.

Shared by the demonstration and the benchmarks; it works for any program that takes the original's flags.
"""

from __future__ import annotations

import http.client
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 40.0
POLL_S = 0.005


class ServerFailed(Exception):
    """The server ended or stayed silent; the text holds the end of its log."""


@dataclass(frozen=True)
class RunningServer:
    process: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int
    ready_s: float
    """From the spawn to the first 200 of the readiness probe."""

    @property
    def http_url(self) -> str:
        return f"127.0.0.1:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def stop(self) -> float:
        """Asks the server to end; returns how many seconds that took."""
        begin = time.monotonic()
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return time.monotonic() - begin


@contextmanager
def serving(
    command: Sequence[str], repository: Path, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[RunningServer]:
    """Runs ``command`` over the repository for the length of the block."""
    http_port, grpc_port, metrics_port = _free_ports(3)
    arguments = [f"--model-repository={repository}"]
    for frontend, port in ("http", http_port), ("grpc", grpc_port), ("metrics", metrics_port):
        arguments += [f"--{frontend}-address=127.0.0.1", f"--{frontend}-port={port}"]

    begin = time.monotonic()
    with log.open("wb") as sink:
        process = subprocess.Popen([*command, *arguments], stdout=sink, stderr=subprocess.STDOUT, env=environment)
    try:
        while not _is_ready(http_port):
            if process.poll() is not None:
                raise ServerFailed(f"{command[0]} ended with exit code {process.returncode}:\n{_tail(log)}")
            if time.monotonic() - begin > READY_TIMEOUT_S:
                raise ServerFailed(f"{command[0]} was not ready after {READY_TIMEOUT_S:.0f} s:\n{_tail(log)}")
            time.sleep(POLL_S)
        server = RunningServer(process, http_port, grpc_port, ready_s=time.monotonic() - begin)
        try:
            yield server
        finally:
            if process.poll() is None:
                server.stop()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _free_ports(count: int) -> list[int]:
    """Ports that are free now. All are held until the last is drawn, so that they differ."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for held in sockets:
            held.bind(("127.0.0.1", 0))
        return [held.getsockname()[1] for held in sockets]


def _tail(log: Path, lines: int = 30) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
