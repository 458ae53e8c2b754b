"""Fixtures: frontends on our own HTTP/2 over the gRPC tests' twin, and peers that speak in frames."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "grpc"))  # the harness and the twin

from atoll.frontends.grpc.http2.frontend import Http2Frontend
from frame_peer import Peer
from grpc_harness import Client, Frontends
from grpc_twin import TwinServer

OpenPeer = Callable[..., Peer]


@pytest.fixture(scope="module")
def frontends() -> Iterator[Frontends]:
    """Nothing may go wrong on their event loop, whatever a peer sends; and nothing stays."""
    frontends = Frontends()
    faults: list[str] = []
    frontends.thread.loop.set_exception_handler(lambda _, context: faults.append(str(context)))
    yield frontends
    frontends.close()
    assert not faults


@pytest.fixture(scope="module")
def frontend(frontends: Frontends) -> Http2Frontend:
    frontend = frontends.start()
    assert isinstance(frontend, Http2Frontend)
    return frontend


@pytest.fixture(scope="module")
def client(frontends: Frontends, frontend: Http2Frontend) -> Client:
    """Another connection, which no peer may harm."""
    return frontends.client(frontend)


@pytest.fixture
def twin(frontends: Frontends) -> TwinServer:
    """The server behind the frontends, its queues empty."""
    for events in (frontends.twin.arrived, frontends.twin.cancelled):
        while not events.empty():
            events.get_nowait()
    return frontends.twin


@pytest.fixture
def open_peer(frontend: Http2Frontend) -> Iterator[OpenPeer]:
    """Opens peers, by default of the module's frontend, that have said and heard their SETTINGS."""
    peers: list[Peer] = []

    def open_peer(port: int = frontend.port, hello: bool = True, **settings: int) -> Peer:
        peers.append(Peer(port))
        if hello:
            peers[-1].hello(**settings)
        return peers[-1]

    yield open_peer
    for peer in peers:
        peer.close()


@pytest.fixture
def peer(open_peer: OpenPeer) -> Peer:
    return open_peer()
