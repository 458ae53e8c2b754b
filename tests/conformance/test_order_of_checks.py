"""What is said of an infer request that is wrong in many ways: the first of its faults, in the original's order.

Restricted APIs come before all of these: see ``test_request_headers``.
"""

from __future__ import annotations

import gzip

import pytest
from http_wire import Wire
from infer_rows import SYNTAX, TWO_IN

pytestmark = pytest.mark.usefixtures("nothing_stays")

TOO_LONG = "99999999999999999999"
ENCODED = {"Content-Encoding": "br"}
LENGTH = {"Inference-Header-Content-Length": "abc"}


@pytest.mark.spec("server:10")
@pytest.mark.spec("server:11")
@pytest.mark.parametrize(
    ("method", "target", "headers", "body", "status", "letter", "error"),
    [
        ("PUT", f"/v2/models/nope/versions/{TOO_LONG}/infer", ENCODED, b"{", 405, "T", "Method Not Allowed"),
        (
            "POST",
            f"/v2/models/nope/versions/{TOO_LONG}/infer",
            ENCODED,
            b"{",
            400,
            "T",
            f"failed to get model version from specified version string '{TOO_LONG}' (details: stol), version should "
            "be an integral value > 0",
        ),
        ("POST", "/v2/models/nope/infer", ENCODED, b"{", 404, "T", "Request for unknown model: 'nope' is not found"),
        pytest.param(
            "POST",
            "/v2/models/gend/infer",
            ENCODED,
            b"{",
            501,
            "T",
            "HTTP end point doesn't support models with decoupled transaction policy",
            marks=[pytest.mark.spec("server:56"), pytest.mark.spec("server:A257")],
        ),
        ("POST", TWO_IN, {**ENCODED, **LENGTH}, b"{", 501, "T", "Unsupported compression type"),
        (
            "POST",
            TWO_IN,
            {"Content-Encoding": "gzip", **LENGTH},
            b"garbage",
            400,
            "T",
            "failed to decompress the request body: incorrect header check",
        ),
        (
            "POST",
            TWO_IN,
            {"Content-Encoding": "gzip", **LENGTH},
            gzip.compress(b"{"),
            400,
            "T",
            "Unable to parse Inference-Header-Content-Length, got: abc",
        ),
        ("POST", TWO_IN, LENGTH, b"{", 400, "T", "Unable to parse Inference-Header-Content-Length, got: abc"),
        ("POST", TWO_IN, {}, b"{", 400, "J", f"{SYNTAX}Missing a name for object member. at {{}}"),
    ],
)
@pytest.mark.parametrize("nbytes", [0, 100_000], ids=["small", "large"])
def test_first_fault_is_told(
    wire: Wire,
    method: str,
    target: str,
    headers: dict[str, object],
    body: bytes,
    status: int,
    letter: str,
    error: str,
    nbytes: int,
) -> None:
    if body == b"{":
        body = body.ljust(nbytes)
    reply = wire.request(method, target, body, headers)
    assert (reply.status, reply.letter, reply.error) == (status, letter, error.format(len(body)))
    assert wire.request("GET", "/v2/health/live").status == 200
