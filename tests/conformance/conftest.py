"""One server with every model, shared by all conformance tests, and clients of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from clients import MODULES, Client
from http_wire import Wire
from model_repository import write_repository
from serving import Served, serve
from shared_regions import ClientMemory, client_memory, start_tracker
from waiting import Gate, wait_for_metrics


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


@pytest.fixture(scope="session")
def grpcio_server(repository: Path) -> Iterator[Served]:
    """The same models behind the other gRPC transport."""
    with serve(repository, "--grpc-transport=grpcio") as served:
        yield served
        assert "Traceback" not in served.log


@pytest.fixture
def wire(server: Served) -> Iterator[Wire]:
    with Wire(server.http_port) as wire:
        yield wire


@pytest.fixture(params=MODULES)
def client(request: pytest.FixtureRequest, server: Served) -> Iterator[Client]:
    """A client of each protocol in turn."""
    with Client(request.param, server) as client:
        yield client


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


@pytest.fixture(scope="session")
def tracker() -> None:
    start_tracker()


@pytest.fixture
def memory(server: Served, tracker: None) -> Iterator[ClientMemory]:
    """64 bytes, which are region ``a``: the INPUT0 of ``two_in``, then its INPUT1."""
    with client_memory(64) as memory:
        memory[0] = np.array([1, 2, 3, 4], np.float32)
        memory[16] = np.array([5, 6], np.int32)
        region = {"key": memory.key, "byte_size": 64}
        assert server.post("/v2/systemsharedmemory/region/a/register", region) == (200, b"")
        yield memory
        assert server.post("/v2/systemsharedmemory/unregister", {}) == (200, b"")


@pytest.fixture
def nothing_stays(settled: Callable[[], None]) -> Iterator[None]:
    """For tests after which no request may hold anything."""
    yield
    settled()


@pytest.fixture
def wait_for_pending(server: Served) -> Callable[[str, int], None]:
    """Call it with a model's name and a number to wait until so many of its requests are queued."""
    return lambda model, count: wait_for_metrics(
        server, lambda page: page["nv_inference_pending_request_count", model] == count
    )
