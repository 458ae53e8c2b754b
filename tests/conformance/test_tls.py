"""TLS on both ports, one-sided and mutual, as the flags ask for it; what HTTP does must not depend on it."""

from __future__ import annotations

import functools
import json
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent.ssl
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from certificates import make_certificates
from clients import inputs_of
from http_wire import Wire, frame
from rendezvous import identity
from serving import Served, serve

TARGET = "/v2/models/identity/infer"
RAW = {"Inference-Header-Content-Length": 0}
LIVE = "/v2/health/live"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secured")
    identity(folder)
    return folder


def flags(authority: Path, *, mutual: bool) -> list[str]:
    return [
        flag
        for protocol in ("http", "grpc")
        for flag in (
            f"--{protocol}-use-ssl-mutual=true" if mutual else f"--{protocol}-use-ssl=true",
            f"--{protocol}-server-cert={authority / 'server.pem'}",
            f"--{protocol}-server-key={authority / 'server.key'}",
            f"--{protocol}-root-cert={authority / 'ca.pem'}",
        )
    ]


@pytest.fixture(scope="module")
def secured(repository: Path, authority: Path) -> Iterator[Served]:
    with serve(repository, *flags(authority, mutual=False)) as served:
        yield served


@pytest.fixture(scope="module")
def mutual(repository: Path, authority: Path) -> Iterator[Served]:
    with serve(repository, *flags(authority, mutual=True)) as served:
        yield served


def context(authority: Path, *, known: bool = False) -> ssl.SSLContext:
    """A client's side; ``known``: with a certificate of its own."""
    made = ssl.create_default_context(cafile=str(authority / "ca.pem"))
    if known:
        made.load_cert_chain(authority / "client.pem", authority / "client.key")
    return made


@pytest.fixture
def wire(secured: Served, authority: Path) -> Iterator[Wire]:
    with Wire(secured.http_port, context(authority)) as wire:
        yield wire


def blob(nbytes: int) -> bytes:
    return np.resize(np.arange(251, dtype=np.uint8), nbytes).tobytes()


def payload(reply: Any) -> bytes:
    assert reply.status == 200, reply.body
    return bytes(reply.body[int(reply.headers["Inference-Header-Content-Length"]) :])


def infer_over_http(served: Served, authority: Path, values: Any, *, known: bool) -> Any:
    """With the real client."""
    made = functools.partial(gevent.ssl.create_default_context, cafile=str(authority / "ca.pem"))

    def factory() -> Any:
        client_context = made()
        if known:
            client_context.load_cert_chain(authority / "client.pem", authority / "client.key")
        return client_context

    url = f"localhost:{served.http_port}"
    with tritonclient.http.InferenceServerClient(url, ssl=True, ssl_context_factory=factory) as client:
        return client.infer("identity", inputs_of(tritonclient.http, {"IN": values})).as_numpy("OUT")


def infer_over_grpc(served: Served, authority: Path, values: Any, *, known: bool) -> Any:
    options = {"root_certificates": str(authority / "ca.pem")}
    if known:
        options |= {"private_key": str(authority / "client.key"), "certificate_chain": str(authority / "client.pem")}
    with tritonclient.grpc.InferenceServerClient(f"localhost:{served.grpc_port}", ssl=True, **options) as client:
        return client.infer("identity", inputs_of(tritonclient.grpc, {"IN": values})).as_numpy("OUT")


INFER = pytest.mark.parametrize("infer", [infer_over_http, infer_over_grpc])


@pytest.mark.spec("server:281")
@pytest.mark.spec("server:282")
@INFER
@pytest.mark.parametrize("nbytes", [10, 5_000_000])
def test_real_client(secured: Served, authority: Path, infer: Any, nbytes: int) -> None:
    values = np.frombuffer(blob(nbytes), np.uint8)
    assert np.array_equal(infer(secured, authority, values, known=False), values)


@pytest.mark.spec("server:281")
@pytest.mark.spec("server:282")
@INFER
def test_client_certificate_is_required_and_verified(
    mutual: Served, authority: Path, infer: Any, tmp_path: Path
) -> None:
    values = np.arange(10, dtype=np.uint8)
    assert np.array_equal(infer(mutual, authority, values, known=True), values)
    with pytest.raises(Exception, match=r"(?i)certificate required|handshake|connect|closed"):
        infer(mutual, authority, values, known=False)
    other = make_certificates(tmp_path)  # of somebody else
    (other / "ca.pem").write_bytes((authority / "ca.pem").read_bytes())
    with pytest.raises(Exception, match=r"(?i)unknown ca|handshake|connect|closed"):
        infer(mutual, other, values, known=True)
    assert np.array_equal(infer(mutual, authority, values, known=True), values)


def test_client_that_speaks_plainly_is_not_answered(secured: Served, authority: Path) -> None:
    with Wire(secured.http_port) as plain:
        plain.send(frame("GET", LIVE))
        assert b"HTTP" not in plain.read_to_the_end()
    with Wire(secured.http_port, context(authority)) as wire:
        assert wire.request("GET", LIVE).status == 200
    assert "Traceback" not in secured.log


@pytest.mark.parametrize("nbytes", [0, 1000, 32 << 10, 100_000, 20_000_000])
def test_bodies_of_every_size(wire: Wire, nbytes: int) -> None:
    for _ in range(2):
        if nbytes:
            assert payload(wire.request("POST", TARGET, blob(nbytes), RAW)) == blob(nbytes)
        assert wire.request("GET", LIVE).status == 200


@pytest.mark.parametrize("piece", [997, 65536])
def test_bodies_in_pieces(wire: Wire, piece: int) -> None:
    request = frame("POST", TARGET, blob(200_000), RAW) + frame("GET", LIVE)
    for start in range(0, len(request), piece):
        wire.send(request[start : start + piece])
    assert payload(wire.receive()) == blob(200_000)
    assert wire.receive().status == 200


def test_pipelined_requests_are_answered_in_order(wire: Wire) -> None:
    wire.send(frame("POST", TARGET, blob(100_000), RAW).join([frame("GET", LIVE)] * 5))
    for _ in range(4):
        assert wire.receive().status == 200
        assert payload(wire.receive()) == blob(100_000)
    assert wire.receive().status == 200


def test_stream(wire: Wire) -> None:
    reply = wire.request("POST", "/v2/models/identity/generate_stream", json.dumps({"IN": [1, 2]}).encode())
    assert reply.chunks == (b'data: {"OUT":[1,2],"model_name":"identity","model_version":"1"}\n\n',)


def test_last_response_of_a_connection_is_complete(wire: Wire) -> None:
    request = frame("POST", TARGET, blob(20_000_000), {**RAW, "Connection": "close"})
    wire.send(request)
    assert payload(wire.receive()) == blob(20_000_000)
    assert wire.is_closed()


@pytest.mark.spec("server:282")
def test_server_stops_though_a_client_keeps_its_connection(repository: Path, authority: Path) -> None:
    with (
        serve(repository, *flags(authority, mutual=False)) as served,
        Wire(served.http_port, context(authority)) as wire,
    ):
        assert wire.request("GET", LIVE).status == 200
        assert served.stop() == 0


@pytest.mark.spec("server:282")
@pytest.mark.parametrize(
    ("certificate", "root", "reason"),
    [
        ("nowhere.pem", "", "certificate '{}' and key '{}' for HTTP: No such file or directory"),
        ("server.csr", "", "certificate '{}' and key '{}' for HTTP: [SSL] PEM lib"),
        ("server.pem", "", "root certificate '' for HTTP: No such file or directory"),
    ],
)
def test_files_that_cannot_be_used(repository: Path, authority: Path, certificate: str, root: str, reason: str) -> None:
    paths = [str(authority / certificate), str(authority / "server.key")]
    given = [f"--http-server-cert={paths[0]}", f"--http-server-key={paths[1]}", f"--http-root-cert={root}"]
    with serve(repository, "--http-use-ssl-mutual=true", *given, expect_start=False) as served:
        assert served.process.wait(60) == 1
        text = f"failed to start HTTP service: Invalid argument - failed to use {reason.format(*paths)}"
        served.wait_for_log(re.escape(text))
