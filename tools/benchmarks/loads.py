"""Load clients: programs that keep a server busy (wrk, perf_analyzer), and one bare connection for large bodies."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import peer

ADD_SUB_SCRIPT = Path(__file__).with_name("add_sub.lua")


class Skipped(Exception):
    """A case cannot be measured here; the text says what is missing."""


@dataclass(frozen=True)
class Load:
    requests_per_s: float
    p50_us: float


def wrk(http_url: str, body: str, connections: int, seconds: float) -> Load:
    """Runs wrk with one thread, for whole seconds only: it takes no others."""
    if not shutil.which("wrk"):
        raise Skipped("wrk is missing (Debian and Ubuntu: apt install wrk)")
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(ADD_SUB_SCRIPT)]
    output = _output_of([*command, f"http://{http_url}", "--", body])
    result = json.loads(output.splitlines()[-1])
    if result["failed"]:
        raise RuntimeError(f"{result['failed']} of {result['requests']} requests failed:\n{output}")
    return Load(result["requests"] / result["duration_us"] * 1e6, result["p50_us"])


def perf_analyzer(grpc_url: str, concurrency: int, seconds: float) -> Load:
    """Runs perf_analyzer over gRPC: three windows, all of which count."""
    program, libraries = peer.perf_analyzer()
    if not program.exists():
        raise Skipped("perf_analyzer is missing (tools/bench --setup-peer installs it)")
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries))}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.csv")
        command = [str(program), "-m", "add_sub", "-u", grpc_url, "-i", "grpc", "--sync", "-f", str(report)]
        window_ms = str(round(seconds * 1000 / 3))
        _output_of([*command, "--concurrency-range", str(concurrency), "-p", window_ms, "-s", "999"], environment)
        with report.open() as lines:
            row = next(csv.DictReader(lines))
    return Load(float(row["Inferences/Second"]), float(row["p50 latency"]))


def median_ms(call: Callable[[], object], seconds: float, at_least: int = 3) -> float:
    """The median duration of a call, repeated for so many seconds after one call that does not count."""
    call()
    durations: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(durations) < at_least or time.perf_counter() < deadline:
        begin = time.perf_counter()
        call()
        durations.append(time.perf_counter() - begin)
    return statistics.median(durations) * 1e3


class BareIdentity:
    """One connection that calls a model of identity and does little more than the socket calls.

    One buffer is sent at once and one is received into, so the server is what is measured.
    """

    def __init__(self, port: int, model: str, datatype: str, count: int, payload: bytes) -> None:
        self._payload = payload
        header = json.dumps(
            {
                "inputs": [
                    {
                        "name": "INPUT0",
                        "shape": [count],
                        "datatype": datatype,
                        "parameters": {"binary_data_size": len(payload)},
                    }
                ],
                "parameters": {"binary_data_output": True},
            }
        )
        lines = [
            f"POST /v2/models/{model}/infer HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Content-Type: application/octet-stream",
            f"Inference-Header-Content-Length: {len(header)}",
            f"Content-Length: {len(header) + len(payload)}",
        ]
        self._request = "\r\n".join([*lines, "", header]).encode() + payload
        self._response = memoryview(bytearray(len(payload) + 64 * 1024))
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> BareIdentity:
        if self.exchange() != self._payload:
            raise RuntimeError("identity returned something else")
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def exchange(self) -> memoryview:
        """Sends the request; returns the tensor's bytes of the response."""
        self._socket.sendall(self._request)
        received = self._receive(0)
        while (split := bytes(self._response[: min(received, 4096)]).find(b"\r\n\r\n")) < 0:
            received += self._receive(received)
        body = split + 4
        status, *fields = bytes(self._response[:split]).decode().split("\r\n")
        if " 200 " not in status:
            raise RuntimeError(f"identity answered {status}: {bytes(self._response[body:received])!r}")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in fields)}
        end = body + int(headers["content-length"])
        while received < end:
            received += self._receive(received)
        return self._response[body + int(headers["inference-header-content-length"]) : end]

    def _receive(self, received: int) -> int:
        count = self._socket.recv_into(self._response[received:])
        if not count:
            raise ConnectionError("the server closed the connection")
        return count


def _output_of(command: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}")
    return done.stdout
