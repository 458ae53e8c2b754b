"""Requests that say what the model shall do with them: one text each, over one gRPC stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from calling import metric, wait_until
from grpc_wire import RpcClient, infer_request
from rendezvous import Rendezvous
from serving import Served

__all__ = ["CONFIG", "DECOUPLED", "Driver", "command", "final_of", "texts_of"]

CONFIG = """
backend: "python"
max_batch_size: 8
input [ { name: "IN" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "OUT" data_type: TYPE_STRING dims: [ 1 ] }, { name: "MORE" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
dynamic_batching { }
"""
DECOUPLED = CONFIG + "model_transaction_policy { decoupled: true }\n"


def command(model: str, text: str, **fields: Any) -> Any:
    """A request whose only input is this text."""
    raw = len(text.encode()).to_bytes(4, "little") + text.encode()
    tensor = {"name": "IN", "datatype": "BYTES", "shape": [1, 1]}
    return infer_request(model, tensor, raw_input_contents=[raw], **fields)


def texts_of(message: Any) -> dict[str, str]:
    """The outputs of a streamed message, by name; the error's text under ``""``."""
    if message.error_message:
        return {"": message.error_message}
    response = message.infer_response
    return {
        output.name: raw[4:].decode()
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def final_of(message: Any) -> bool | None:
    """What a message says of being the last; None when it says nothing."""
    parameters = message.infer_response.parameters
    return parameters["triton_final_response"].bool_param if "triton_final_response" in parameters else None


class Driver:
    """Has models do things, alone or in batches."""

    def __init__(self, served: Served, rendezvous: Rendezvous) -> None:
        self.served = served
        self._rendezvous = rendezvous
        self._client = RpcClient(served.grpc_url)

    def close(self) -> None:
        self._client.channel.close()

    def stream(self, *requests: Any, **options: Any) -> list[Any]:
        """Every message of a stream of these requests, which must end well."""
        call = self._client.stream(requests, **options)
        messages = list(call)
        assert call.code() == grpc.StatusCode.OK
        return messages

    def open(self, *requests: Any, **options: Any) -> Any:
        """The call object of such a stream."""
        return self._client.stream(requests, **options)

    def all(self, model: str, *commands: str, **fields: Any) -> list[dict[str, str]]:
        """The outputs of everything that these commands are answered with."""
        return [texts_of(message) for message in self.stream(*(command(model, text, **fields) for text in commands))]

    def one(self, model: str, text: str, **fields: Any) -> dict[str, str]:
        """The outputs of the one response to a command."""
        [outputs] = self.all(model, text, **fields)
        return outputs

    def fails(self, model: str, text: str) -> str:
        """The text of the one error that a command is answered with; the model then answers to ``ok``."""
        error = self.one(model, text)
        assert self.all(model, "ok") == [{"OUT": "ok"}]
        return error[""]

    def batch(self, model: str, *commands: str, meanwhile: Callable[[], None] = lambda: None) -> list[dict[str, str]]:
        """What commands are answered with that the model gets in one batch; in a decoupled model in no order.

        It must wait at a rendezvous when told ``gate``. ``meanwhile`` is called when it has been let go.
        """
        call = self._client.stream(command(model, text, id=text) for text in ("gate", *commands))
        visit = self._rendezvous.next()
        waiting = "nv_inference_pending_request_count"
        wait_until(lambda: metric(self.served, waiting, model) == len(commands), "all commands are queued")
        visit.let_go()
        meanwhile()
        messages = list(call)
        assert call.code() == grpc.StatusCode.OK
        answers = [message for message in messages if message.infer_response.id != "gate"]
        return [texts_of(message) for message in answers]


@pytest.fixture(scope="module")
def driver(served: Served, rendezvous: Rendezvous) -> Iterator[Driver]:
    driver = Driver(served, rendezvous)
    yield driver
    driver.close()
