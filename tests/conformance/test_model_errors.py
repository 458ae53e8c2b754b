"""Models that raise, refuse, or return what they should not: rows A258 to A273, and over gRPC B91 to B102."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from clients import Client, described
from http_wire import Wire
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.usefixtures("nothing_stays")

PREFIX = "Failed to process the request(s) for model 'err_0', message: "

STATUS = {
    "UNKNOWN": (400, "UNKNOWN"),
    "INTERNAL": (500, "INTERNAL"),
    "NOT_FOUND": (404, "NOT_FOUND"),
    "INVALID_ARG": (400, "INVALID_ARGUMENT"),
    "UNAVAILABLE": (503, "UNAVAILABLE"),
    "UNSUPPORTED": (501, "UNIMPLEMENTED"),
    "ALREADY_EXISTS": (400, "ALREADY_EXISTS"),
    "CANCELLED": (400, "CANCELLED"),
}
COUNT_MISMATCH = (
    "Number of InferenceResponse objects do not match the number of InferenceRequest objects. InferenceRequest(s) size "
    "is:1, and InferenceResponse(s) size is:{}\n"
)
WRONG_VALUES = {
    "empty": COUNT_MISMATCH.format(0),
    "surplus": COUNT_MISMATCH.format(2),
    "number": "Expected a list in the execute return, found type '<class 'int'>'.",
    "numbers": "Expected an 'InferenceResponse' object in the execute function return list, found type "
    "'<class 'int'>'.",
}


def asked(what: str) -> dict[str, Any]:
    return {"INPUT0": np.array([[what.encode()]], np.object_)}


def refused(client: Client, what: str) -> tuple[str, str]:
    """Status and message of a request to ``err`` that fails; the model answers another one after it."""
    with pytest.raises(InferenceServerException) as caught:
        client.infer("err", asked(what))
    assert client.infer("err", asked("fine:")).as_numpy("OUTPUT0").item() == b"fine"
    return str(caught.value.status()), str(caught.value.message())


def status_of(client: Client, code: str) -> str:
    number, name = STATUS[code]
    return str(number) if client.protocol == "http" else str(getattr(grpc.StatusCode, name))


@pytest.mark.spec("server:A258")
@pytest.mark.spec("server:B91")
@pytest.mark.spec("server:69")
def test_exception_in_execute_names_its_line(client: Client, repository: Path) -> None:
    code = repository / "err" / "1" / "model.py"
    lines = code.read_text().splitlines()
    execute = next(n for n, line in enumerate(lines, 1) if "getattr(self, what)" in line)
    crash = next(n for n, line in enumerate(lines, 1) if "raise Exception" in line)
    status, message = refused(client, "crash:kaboom")
    assert status == status_of(client, "INTERNAL")
    assert message == (f"{PREFIX}Exception: kaboom\n\nAt:\n  {code}({crash}): crash\n  {code}({execute}): execute\n")


@pytest.mark.spec("python_backend:C121")
@pytest.mark.parametrize(
    ("text", "shown"),
    [("", "<EMPTY MESSAGE>"), *[(text, text) for text in ["żółć\n\"quoted\" \\ and 'more'", "x" * 3000]]],
)
def test_exception_text_arrives_whatever_it_says(client: Client, text: str, shown: str) -> None:
    _, message = refused(client, f"crash:{text}")
    assert message.startswith(f"{PREFIX}Exception: {shown}\n\nAt:\n")


def test_endless_exception_text_is_no_reason_for_another_error(client: Client) -> None:
    """Over gRPC its middle is cut out, since clients refuse headers of more than 8 KiB."""
    status, message = refused(client, "crash:" + "x" * 100_000)
    assert status == status_of(client, "INTERNAL")
    assert message.startswith(f"{PREFIX}Exception: xxxxx")
    assert message.endswith(": execute\n")


@pytest.mark.spec("server:A259")
@pytest.mark.spec("server:B92")
@pytest.mark.spec("server:68")
def test_error_response_arrives_verbatim(client: Client) -> None:
    assert refused(client, "error:myerr") == (status_of(client, "INTERNAL"), "myerr")


@pytest.mark.spec("python_backend:C124")
@pytest.mark.spec("python_backend:Q25")
@pytest.mark.parametrize(
    "code",
    [
        pytest.param(code, marks=[pytest.mark.spec(f"server:A{260 + n}"), pytest.mark.spec(f"server:B{93 + n}")])
        for n, code in enumerate(STATUS)
    ],
)
def test_error_code_decides_the_status(client: Client, code: str) -> None:
    assert refused(client, f"code:{code}") == (status_of(client, code), "coded")


@pytest.mark.spec("server:A271")
@pytest.mark.spec("server:A272")
@pytest.mark.spec("server:A273")
@pytest.mark.spec("server:B102")
@pytest.mark.spec("server:70")
@pytest.mark.parametrize("value", WRONG_VALUES)
def test_wrong_return_value_is_described(client: Client, value: str) -> None:
    assert refused(client, f"value:{value}") == (status_of(client, "INTERNAL"), PREFIX + WRONG_VALUES[value])


def test_returning_none_is_an_error(client: Client) -> None:
    status, message = refused(client, "value:none")
    assert status == status_of(client, "INTERNAL")
    assert message.startswith(PREFIX)


@pytest.mark.spec("server:A268")
@pytest.mark.spec("server:B101")
@pytest.mark.spec("server:66")
def test_output_that_nobody_knows_is_dropped(client: Client) -> None:
    result = client.infer("err", asked("tensor:name"), request_id="q1")
    assert described(result) == {
        "id": "q1", "model_name": "err", "model_version": "1", "outputs": [], "parameters": {},
    }  # fmt: skip


@pytest.mark.spec("server:A269")
@pytest.mark.spec("server:67")
def test_output_of_another_datatype_is_reported_as_it_is(client: Client) -> None:
    got = client.infer("err", asked("tensor:dtype"), outputs=["OUTPUT0"]).as_numpy("OUTPUT0")
    assert (got.dtype, got.tolist()) == (np.int32, [[1]])


@pytest.mark.spec("server:A270")
def test_output_of_another_shape_is_reported_as_it_is(client: Client) -> None:
    got = client.infer("err", asked("tensor:shape"), outputs=["OUTPUT0"]).as_numpy("OUTPUT0")
    assert got.tolist() == [b"1", b"2", b"3"]


@pytest.mark.spec("python_backend:K16")
def test_failed_executions_are_counted_as_failures_and_refusals_by_the_model_as_successes(client: Client) -> None:
    before = client.statistics("err")
    for what in ("crash:x", "value:empty", "error:x", "code:NOT_FOUND", "code:CANCELLED"):
        with pytest.raises(InferenceServerException):
            client.infer("err", asked(what))
    after = client.statistics("err")
    grown = {key: after[key] - before[key] for key in after}
    assert grown == {"fail": 2, "success": 3, "inference_count": 3, "execution_count": 3}


@pytest.mark.spec("server:11")
@pytest.mark.parametrize("what", ["crash:x", "error:x", "code:INVALID_ARG", "value:empty"])
def test_errors_of_models_are_text_and_the_connection_goes_on(wire: Wire, what: str) -> None:
    tensor = {"name": "INPUT0", "datatype": "BYTES", "shape": [1, 1], "data": [what]}
    reply = wire.request("POST", "/v2/models/err/infer", json.dumps({"inputs": [tensor]}).encode())
    assert reply.letter == "T"
    assert reply.status == (400 if what.startswith("code") else 500)
    assert wire.request("GET", "/v2/models/err/ready").status == 200
