"""The command as a process, with a repository that holds no model: what a person or a script sees of it."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

DEADLINE_S = 60


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "atoll.cli.tritonserver", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=environment(), capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


class Running:
    """A started server; ``started`` holds the lines up to the last endpoint's."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            command(*arguments),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.started: list[str] = []
        for line in self.process.stdout:
            self.started.append(line)
            if "Started Metrics Service" in line:
                break

    def port(self, service: str) -> int:
        found = re.search(rf'"Started {service} at 127\.0\.0\.1:(\d+)"', "".join(self.started))
        assert found is not None
        return int(found[1])

    def end(self, number: int) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, out, err


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    running = Running(
        f"--model-repository={tmp_path}",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--http-port=0",
        "--grpc-port=0",
        "--metrics-port=0",
        "--http-thread-count=4",
        "--metrics-config=unknown=x",
    )
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.process.communicate()


@pytest.mark.spec("server:266", "server:267", "server:270", "server:276")
def test_a_server_starts_in_order_and_stops_cleanly(server: Running) -> None:
    text = "".join(server.started)
    story = ["| Backend |", "| Model ", "| server_id", "GRPCInferenceService", "HTTPService", "Metrics Service"]
    places = [text.find(event) for event in story]
    assert places == sorted(places)
    assert -1 not in places
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port('Metrics Service')}/metrics") as answer:
        assert b"nv_cpu_utilization" in answer.read()
    status, out, err = server.end(signal.SIGTERM)
    assert status == 0
    assert out.startswith("Signal (15) received.\n")
    assert "Traceback" not in err
    assert [line.partition("] ")[2] for line in err.splitlines()] == [
        f'"{ignored} has no meaning here and is ignored"'
        for ignored in ("--http-thread-count", "--metrics-config=unknown")
    ]


@pytest.mark.spec("server:160")
def test_no_repository() -> None:
    ended = run()
    assert ended.returncode == 1
    assert ended.stderr == "error: creating server: Invalid argument - --model-repository must be specified\n"


@pytest.mark.spec("server:160", "server:276")
def test_an_absent_repository(tmp_path: Path) -> None:
    ended = run(f"--model-repository={tmp_path}/no")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == f"error: creating server: Internal - failed to stat file {tmp_path}/no"
    assert "Traceback" not in ended.stderr


@pytest.mark.spec("server:160")
def test_a_wrong_setting_of_the_python_backend(tmp_path: Path) -> None:
    ended = run(f"--model-repository={tmp_path}", "--backend-config=python,shm-default-byte-size=1")
    assert ended.returncode == 1
    assert ended.stderr == (
        "error: creating server: Invalid argument - shm-default-byte-size can't be smaller than 4 MiBs\n"
    )


@pytest.mark.spec("server:161", "server:276")
@pytest.mark.parametrize("protocol", ["HTTP", "GRPC", "Metrics"])
def test_a_taken_port(protocol: str, tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        ports = {name: taken if name == protocol else 0 for name in ("HTTP", "GRPC", "Metrics")}
        ended = run(
            f"--model-repository={tmp_path}",
            "--http-address=127.0.0.1",
            "--grpc-address=127.0.0.1",
            *(f"--{name.lower()}-port={port}" for name, port in ports.items()),
        )
    assert ended.returncode == 1
    assert (
        f"\"failed to start {protocol} service: Unavailable - Socket '127.0.0.1:{taken}' already in use \""
        in ended.stderr
    )
    assert "Traceback" not in ended.stderr


@pytest.mark.spec("server:269")
def test_a_log_file_that_cannot_be_opened(tmp_path: Path) -> None:
    ended = run(f"--model-repository={tmp_path}", f"--log-file={tmp_path}/no/log")
    assert ended.returncode == 1
    assert ended.stderr == (
        f"error: creating server: Invalid argument - failed to open log file '{tmp_path}/no/log': "
        "No such file or directory\n"
    )
