"""One server with every model, shared by all conformance tests, and what tells that nothing of a request is left."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from clients import MODULES, Client
from http_wire import Wire
from model_repository import write_repository
from serving import Served, serve

_SETTLING_S = 5


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conformance")
    write_repository(folder)
    return folder


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[Served]:
    with serve(repository) as served:
        yield served
        assert "Traceback" not in served.log


@pytest.fixture(autouse=True)
def leak_guard() -> Iterator[None]:
    """As for all tests, but that the shared server is there before and after."""
    shm_before = set(os.listdir("/dev/shm"))
    children_before = set(psutil.Process().children())
    yield
    assert set(os.listdir("/dev/shm")) <= shm_before
    assert set(psutil.Process().children()) <= children_before


@pytest.fixture
def wire(server: Served) -> Iterator[Wire]:
    with Wire(server.http_port) as wire:
        yield wire


@pytest.fixture(params=MODULES)
def client(request: pytest.FixtureRequest, server: Served) -> Iterator[Client]:
    """A client of each protocol in turn."""
    with Client(request.param, server) as client:
        yield client


class Gate:
    """A pipe that a request to a model made of ``models/gate.py`` waits at, until the test opens it."""

    def __init__(self, path: Path, server: Served) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._server = server

    def wait_for_arrival(self) -> None:
        self._server.wait_for_log(rf"waiting at {re.escape(self.path)}\b")

    def open(self) -> None:
        with open(self.path, "wb"):
            pass


@pytest.fixture
def make_gate(server: Served, tmp_path: Path) -> Iterator[Callable[[], Gate]]:
    """Makes gates. One that a failed test left shut is opened, or the shared server could never stop."""
    gates: list[Gate] = []

    def make() -> Gate:
        gates.append(Gate(tmp_path / f"gate{len(gates)}", server))
        return gates[-1]

    yield make
    for gate in gates:
        with contextlib.suppress(OSError):  # nobody waits there
            os.close(os.open(gate.path, os.O_WRONLY | os.O_NONBLOCK))


@pytest.fixture
def settled(server: Served) -> Callable[[], None]:
    """Call it to see, at once or soon, that no request holds shared memory and none is pending."""
    return lambda: wait_for_metrics(server, lambda page: not any(page.values()))


@pytest.fixture
def wait_for_pending(server: Served) -> Callable[[str, int], None]:
    """Call it with a model's name and a number to wait until so many of its requests are queued."""
    return lambda model, count: wait_for_metrics(
        server, lambda page: page["nv_inference_pending_request_count", model] == count
    )


def wait_for_metrics(server: Served, fits: Callable[[dict[tuple[str, str], float]], bool]) -> None:
    """Read the metrics page until the gauges of what requests hold fit; each reading takes turns with the requests."""
    pattern = re.compile(
        r'^(atoll_shared_memory_used_bytes|nv_inference_pending_request_count)\{model="([^"]+)".*\} (\S+)$', re.M
    )
    deadline = time.monotonic() + _SETTLING_S
    while True:
        page: dict[tuple[str, str], float] = {}
        for name, model, value in pattern.findall(server.metrics()):
            page[name, model] = page.get((name, model), 0.0) + float(value)
        assert page
        if fits(page):
            return
        assert time.monotonic() < deadline, {key: value for key, value in page.items() if value}
