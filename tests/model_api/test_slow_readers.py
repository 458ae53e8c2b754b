"""A model that streams faster than it is read waits: for clients over gRPC, and for models that call it."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bls_scripts import run, write_scripted
from calling import call, in_background, statistics, wait_until
from grpc_wire import RpcClient, infer_request
from rendezvous import Rendezvous, config, identity, write
from serving import Served, serve

MIB = 1 << 20
COUNT = 300
MOST = (
    64 + 4 + 1 + 16
)  # MiB: the limit, a step that is not told yet, the response over the limit, and what gRPC buffers

# Its input is how many responses of a MiB it sends, one after the other, in execute itself.
FLOOD = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for number in range(request.inputs()[0].as_numpy()[0]):
                output = pb_utils.Tensor("OUT", np.full(1 << 18, number, np.int32))
                sender.send(pb_utils.InferenceResponse([output]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


@pytest.fixture(scope="module", params=["http2", "grpcio"])
def server(request: pytest.FixtureRequest, repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    decoupled = "model_transaction_policy { decoupled: true }"
    for name in ("flood", "events", "called", "dropped"):
        write(repository, name, FLOOD, config("IN:INT32", "OUT:INT32", more=decoupled))
    identity(repository)
    write_scripted(repository)
    with serve(repository, f"--grpc-transport={request.param}") as served:
        yield served


def sent(served: Served, model: str) -> int:
    """How many responses of a model have reached the server."""
    return len(statistics(served, model)["response_stats"])


def goes_on_beside(served: Served) -> None:
    """The server has had all the time that another model's requests take."""
    x = {"IN": np.arange(4, dtype=np.uint8)}
    for _ in range(100):
        assert np.array_equal(call(served, "identity", x)["OUT"], x["IN"])


def test_a_client_that_does_not_read_holds_up_the_model_and_loses_nothing(server: Served) -> None:
    tensor = {"name": "IN", "datatype": "INT32", "shape": [1]}
    request = infer_request("flood", tensor, raw_input_contents=[COUNT.to_bytes(4, "little")])
    with RpcClient(server.grpc_url) as client:
        messages = client.stream([request])
        wait_until(lambda: sent(server, "flood") >= 60, "the stream has begun")
        goes_on_beside(server)
        assert sent(server, "flood") <= MOST
        numbers = [int(np.frombuffer(m.infer_response.raw_output_contents[0], "<i4")[-1]) for m in messages]
    assert numbers == list(range(COUNT))


def test_a_client_of_generate_stream_holds_up_the_model_and_loses_nothing(server: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=30)
    with contextlib.closing(connection):
        connection.request("POST", "/v2/models/events/generate_stream", json.dumps({"IN": [120]}))
        response = connection.getresponse()
        wait_until(lambda: sent(server, "events") >= 60, "the stream has begun")
        goes_on_beside(server)
        assert sent(server, "events") <= MOST
        events = [json.loads(line[6:]) for line in response if line != b"\n"]
    assert [event["OUT"][-1] for event in events] == list(range(120))


def test_a_client_that_gives_up_sets_the_model_free(server: Served) -> None:
    tensor = {"name": "IN", "datatype": "INT32", "shape": [1]}
    before = statistics(server, "flood")["execution_count"]
    for _ in range(2):
        request = infer_request("flood", tensor, raw_input_contents=[COUNT.to_bytes(4, "little")])
        with RpcClient(server.grpc_url) as client:
            messages = client.stream([request])
            next(messages)
            messages.cancel()
    wait_until(lambda: statistics(server, "flood")["execution_count"] == before + 2, "both executions have ended")


@pytest.mark.parametrize("end", ["read", "drop"])
def test_an_iterator_that_is_not_read_holds_up_the_called_model(
    server: Served, rendezvous: Rendezvous, end: str
) -> None:
    model = "called" if end == "read" else "dropped"
    script = f"""
    responses = request("{model}", ints(150)).exec(decoupled=True)
    at("not reading")
    if "{end}" == "drop":
        return None
    return [int(response.output_tensors()[0].as_numpy()[0]) for response in responses if response.output_tensors()]
    """
    with in_background(run, server, script) as answered:
        visit = rendezvous.next()
        wait_until(lambda: sent(server, model) >= 60, "the stream has begun")
        goes_on_beside(server)
        assert sent(server, model) <= MOST
        visit.let_go()
        assert answered.result() == (list(range(150)) if end == "read" else None)
    wait_until(lambda: statistics(server, model)["execution_count"] == 1, "the execution has ended")
