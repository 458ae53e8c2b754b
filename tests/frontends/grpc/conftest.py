"""Fixtures: one set of frontends over one twin for each test module, over each transport in turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from grpc_harness import TRANSPORTS, Client, Frontend, Frontends
from grpc_twin import TwinServer


@pytest.fixture(scope="module", params=TRANSPORTS)
def frontends(request: pytest.FixtureRequest) -> Iterator[Frontends]:
    frontends = Frontends(request.param)
    yield frontends
    frontends.close()


@pytest.fixture(scope="module")
def frontend(frontends: Frontends) -> Frontend:
    return frontends.start()


@pytest.fixture(scope="module")
def client(frontends: Frontends, frontend: Frontend) -> Client:
    return frontends.client(frontend)


@pytest.fixture
def twin(frontends: Frontends) -> TwinServer:
    """The server behind the frontends, its queues empty."""
    for events in (frontends.twin.arrived, frontends.twin.cancelled):
        while not events.empty():
            events.get_nowait()
    return frontends.twin
