"""What the operator demands of request headers, and which ones models get to see; over HTTP and gRPC."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clients import MODULES, Client, facts
from http_wire import Reply, Wire
from serving import Served, serve
from tritonclient.utils import InferenceServerException

PARAMS = "/v2/models/params"
HTTP_KEYS = {"infer": {"infer-key": "one"}, "admin": {"Admin-Key": "a=b"}}
GRPC_KEYS = {
    "infer": {"triton-grpc-protocol-infer-key": "one"},
    "admin": {"triton-grpc-protocol-admin-key": "a=b"},
}
CONFIG = """
backend: "python"
input [ { name: "INPUT0" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "FACTS" data_type: TYPE_STRING dims: [ 1 ] } ]
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("guarded") / "params"
    (folder / "1").mkdir(parents=True)
    shutil.copy(Path(__file__).parent / "models" / "facts.py", folder / "1" / "model.py")
    (folder / "config.pbtxt").write_text(CONFIG)
    with serve(
        folder.parent,
        "--http-restricted-api=inference:infer-key=one",
        "--http-restricted-api=health,metadata,model-config,model-repository,statistics,shared-memory,trace,logging"
        ":Admin-Key=a=b",
        "--grpc-restricted-protocol=inference:infer-key=one",
        "--grpc-restricted-protocol=health,metadata,model-config,model-repository,statistics,shared-memory,trace,logging"
        ":admin-key=a=b",
        "--http-header-forward-pattern=^(x-|triton_|priority)",
        "--grpc-header-forward-pattern=^(x-|triton_|priority)",
    ) as served:
        yield served


@pytest.fixture
def wire(guarded: Served) -> Iterator[Wire]:
    with Wire(guarded.http_port) as wire:
        yield wire


@pytest.fixture(params=MODULES)
def client(request: pytest.FixtureRequest, guarded: Served) -> Iterator[Client]:
    with Client(request.param, guarded) as client:
        yield client


def key(client: Client, name: str) -> dict[str, str]:
    return (HTTP_KEYS if client.protocol == "http" else GRPC_KEYS)[name]


def infer(client: Client, headers: dict[str, str], **options: Any) -> Any:
    return client.infer("params", {"INPUT0": np.array([1], np.int32)}, headers=headers, **options)


def infer_by_hand(wire: Wire, headers: dict[str, object], **more: Any) -> Reply:
    document = {"inputs": [{"name": "INPUT0", "datatype": "INT32", "shape": [1], "data": [1]}], **more}
    return wire.request("POST", f"{PARAMS}/infer", json.dumps(document).encode(), {"infer-key": "one", **headers})


# -- restricted APIs

ADMIN = [
    ("GET", "/v2"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("GET", PARAMS),
    ("GET", f"{PARAMS}/versions/1"),
    ("GET", f"{PARAMS}/ready"),
    ("GET", f"{PARAMS}/config"),
    ("GET", f"{PARAMS}/stats"),
    ("GET", "/v2/models/stats"),
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/params/load"),
    ("POST", "/v2/repository/models/params/unload"),
    ("GET", "/v2/systemsharedmemory/status"),
    ("POST", "/v2/cudasharedmemory/region/r/register"),
    ("GET", "/v2/trace/setting"),
    ("GET", "/v2/models/params/trace/setting"),
    ("GET", "/v2/logging"),
]
INFERENCE = [("POST", f"{PARAMS}/{what}") for what in ("infer", "generate", "generate_stream")]
FORBIDDEN = "This API is restricted, expecting header '{}'"


@pytest.mark.spec("server:277")
@pytest.mark.parametrize(
    ("method", "target", "name", "value"),
    [(*row, "Admin-Key", "a=b") for row in ADMIN] + [(*row, "infer-key", "one") for row in INFERENCE],
)
def test_restricted_api(wire: Wire, method: str, target: str, name: str, value: str) -> None:
    for headers in ({}, {name: "wrong"}, {name: value + "x"}, {name: value.upper()}, {f"x{name}": value}):
        reply = wire.request(method, target, b"", headers)
        assert (reply.status, reply.reason, reply.letter) == (403, "Forbidden", "T")
        assert reply.error == FORBIDDEN.format(name)
    for spelt in (name, name.upper(), name.lower()):
        assert wire.request(method, target, b"", {spelt: value}).status != 403


@pytest.mark.spec("server:277")
@pytest.mark.spec("server:10")
@pytest.mark.parametrize(
    ("method", "target", "name"),
    [
        ("PUT", "/v2/health/live", "Admin-Key"),
        ("GET", f"{PARAMS}/infer", "infer-key"),
        ("POST", "/v2/models/nope/infer", "infer-key"),
        ("POST", f"{PARAMS}/versions/99999999999999999999/infer", "infer-key"),
    ],
)
def test_restriction_comes_before_everything_else(wire: Wire, method: str, target: str, name: str) -> None:
    assert wire.request(method, target, b"{").error == FORBIDDEN.format(name)


def test_large_body_without_the_key_is_refused(wire: Wire) -> None:
    assert wire.request("POST", f"{PARAMS}/infer", bytes(100_000)).status == 403
    assert wire.request("GET", "/v2", headers={"admin-key": "a=b"}).status == 200


def test_path_without_a_route_is_not_restricted(wire: Wire) -> None:
    assert wire.request("GET", "/v2/nowhere").status == 404


def test_metrics_are_never_restricted(guarded: Served) -> None:
    assert "nv_inference_count" in guarded.metrics()


@pytest.mark.spec("server:277")
@pytest.mark.spec("server:278")
def test_real_client_with_and_without_the_keys(client: Client) -> None:
    assert client.raw.is_server_live(headers=key(client, "admin"))
    assert client.raw.get_server_metadata(headers=key(client, "admin"))
    assert infer(client, key(client, "infer")).as_numpy("FACTS").size == 1
    for headers in ({}, key(client, "admin")):
        with pytest.raises(InferenceServerException, match="is restricted, expecting header"):
            infer(client, headers)
    for headers in ({}, key(client, "infer")):
        with pytest.raises(InferenceServerException, match="is restricted, expecting header"):
            client.raw.get_server_metadata(headers=headers)


# -- forwarded headers


@pytest.mark.spec("python_backend:C172")
@pytest.mark.spec("python_backend:Q100")
@pytest.mark.spec("server:279")
def test_headers_that_match_reach_the_model(client: Client) -> None:
    headers = {**key(client, "infer"), "x-one": "1", "other-x-two": "2", "x-three": "three"}
    result = infer(client, headers, parameters={"own": 5})
    assert facts(result)["parameters"] == {"own": 5, "x-one": "1", "x-three": "three"}
    assert facts(infer(client, key(client, "infer")))["parameters"] == {}


@pytest.mark.spec("server:279")
def test_header_is_named_as_it_was_sent(wire: Wire) -> None:
    reply = infer_by_hand(wire, {"X-One": "a", "Other": "b", "x-two": " spaces within "}, parameters={"x-two": "own"})
    assert reply.json["parameters"] == {"X-One": "a", "x-two": "spaces within"}


@pytest.mark.spec("server:280")
@pytest.mark.parametrize("name", ["triton_x", "priority"])
def test_reserved_header_that_matches_is_refused(client: Client, name: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        infer(client, {**key(client, "infer"), name: "1"})
    text = f"Header '{name}' is reserved for Triton usage and cannot be forwarded."
    assert caught.value.message() == text
    assert caught.value.status() == ("400" if client.protocol == "http" else "StatusCode.INVALID_ARGUMENT")
    assert infer(client, key(client, "infer")).as_numpy("FACTS").size == 1


@pytest.mark.spec("server:280")
def test_refusal_of_a_reserved_header_is_json(wire: Wire) -> None:
    reply = infer_by_hand(wire, {"priority": "u=1"})
    assert (reply.status, reply.letter) == (400, "J")
