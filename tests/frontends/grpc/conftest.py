"""Fixtures: one set of frontends over one twin for each test module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from atoll.frontends.grpc import GrpcFrontend
from grpc_harness import Client, Frontends
from grpc_twin import TwinServer


@pytest.fixture(scope="module")
def frontends() -> Iterator[Frontends]:
    frontends = Frontends()
    yield frontends
    frontends.close()


@pytest.fixture(scope="module")
def frontend(frontends: Frontends) -> GrpcFrontend:
    return frontends.start()


@pytest.fixture(scope="module")
def client(frontends: Frontends, frontend: GrpcFrontend) -> Client:
    return frontends.client(frontend)


@pytest.fixture
def twin(frontends: Frontends) -> TwinServer:
    """The server behind the frontends, its queues empty."""
    for events in (frontends.twin.arrived, frontends.twin.cancelled):
        while not events.empty():
            events.get_nowait()
    return frontends.twin
