"""Models that call others as a text tells them: each request to ``scripted`` brings the body of a Python function.

What the function returns comes back as JSON. ``scripted`` runs it in ``execute``, ``scripted_async`` in a coroutine,
``scripted_stream`` in a thread of a decoupled model after ``execute`` has returned, ``scripted_stream_async`` in a
coroutine of one. In the latter two, each element of the result is one response.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from calling import call
from grpc_wire import RpcClient, infer_request
from rendezvous import config, write
from serving import Served

__all__ = ["BESIDE", "ECHO", "run", "stream", "texts", "write_scripted", "write_targets"]

BESIDE = """
import asyncio
import gc
import json
import os
import sys
import tempfile
import textwrap
import threading
import numpy
import triton_python_backend_utils as pb_utils
from rendezvous import at

def text(value):
    return numpy.array([value], dtype=object)

def ints(*values):
    return numpy.array(values, dtype=numpy.int32)

def request(model, *inputs, **options):
    # Arrays become the tensors IN, IN1, IN2 ...
    tensors = [
        array if isinstance(array, pb_utils.Tensor) else pb_utils.Tensor("IN" + (str(index) if index else ""), array)
        for index, array in enumerate(inputs)
    ]
    names = options.pop("outputs", [])
    return pb_utils.InferenceRequest(model_name=model, inputs=tensors, requested_output_names=names, **options)

def repeat(count, **options):
    fields = {"request_id": options.pop("request_id", "")}
    return request("repeat", text(json.dumps({"count": count, **options})), **fields)

def value(response):
    # Of a response: its error's text, its only number or text, or None when it is empty.
    if response.has_error():
        return response.error().message()
    if not response.output_tensors():
        return None
    item = response.output_tensors()[0].as_numpy().reshape(-1)[0]
    return item.decode() if isinstance(item, bytes) else int(item)

def values(responses):
    return [value(response) for response in responses]

def function(received, keyword):
    source = keyword + " script(received):\\n" + received.inputs()[0].as_numpy()[0].decode()
    names = dict(globals())
    exec(source, names)
    return names["script"]

def answer(result):
    return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", text(json.dumps(result)))])
"""

_SCRIPTED = """
from bls_beside import answer, function

class TritonPythonModel:
    def execute(self, requests):
        return [answer(function(received, "def")(received)) for received in requests]
"""

_SCRIPTED_ASYNC = """
from bls_beside import answer, function

class TritonPythonModel:
    async def execute(self, requests):
        return [answer(await function(received, "async def")(received)) for received in requests]
"""

_SCRIPTED_STREAM = """
import threading
from bls_beside import answer, function, pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for received in requests:
            threading.Thread(target=self.work, args=(received,)).start()

    def work(self, received):
        sender = received.get_response_sender()
        for result in function(received, "def")(received):
            sender.send(answer(result))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

_SCRIPTED_STREAM_ASYNC = """
from bls_beside import answer, asyncio, function, pb_utils

class TritonPythonModel:
    async def execute(self, requests):
        await asyncio.gather(*map(self.work, requests))

    async def work(self, received):
        sender = received.get_response_sender()
        for result in await function(received, "async def")(received):
            sender.send(answer(result))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

_REPEAT = """
import threading
from bls_beside import at, json, numpy, pb_utils, text

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL

class TritonPythonModel:
    def execute(self, requests):
        for received in requests:
            threading.Thread(target=self.work, args=(received,)).start()

    def work(self, received):
        sender = received.get_response_sender()
        order = json.loads(received.inputs()[0].as_numpy()[0])
        for number in range(order["count"]):
            if order.get("pause_at") == number:
                at("paused " + received.request_id())
            while order.get("heed") == number and not sender.is_cancelled():
                threading.Event().wait(0.001)  # there is no event for it
            if order.get("heed") == number:
                at("cancelled")
                error = pb_utils.TritonError("given up", pb_utils.TritonError.CANCELLED)
                sender.send(pb_utils.InferenceResponse(error=error), FINAL)
                return
            error = pb_utils.TritonError("as told") if order.get("error_at") == number else None
            parameters = {"number": number, "last": number == order["count"] - 1} if order.get("parameters") else None
            size = order.get("size", 1)
            output = pb_utils.Tensor("OUT", numpy.full([size], number, numpy.int32))
            response = pb_utils.InferenceResponse([output], error, parameters)
            attached = order.get("attached") and number == order["count"] - 1
            sender.send(response, FINAL if attached else 0)
        if not (order.get("attached") and order["count"]):
            sender.send(flags=FINAL)
        if "end" in order:
            at(order["end"] + (" cancelled" if sender.is_cancelled() else " complete"))
"""

_SQUARE = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUT", request.inputs()[0].as_numpy() ** 2)])
            for request in requests
        ]
"""

_MIRROR = """
from bls_beside import answer, json

class TritonPythonModel:
    def execute(self, requests):
        return [
            answer({
                "id": request.request_id(), "correlation_id": request.correlation_id(), "flags": request.flags(),
                "timeout": request.timeout(), "parameters": json.loads(request.parameters()),
            })
            for request in requests
        ]
"""

ECHO = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUT", request.inputs()[0].as_numpy())]) for request in requests
        ]
"""


def write_scripted(repository: Path, name: str = "scripted", kind: str = "", count: int = 1) -> None:
    """A model that runs scripts; ``kind`` is empty, ``async``, ``stream`` or ``stream_async``."""
    code = {
        "": _SCRIPTED,
        "async": _SCRIPTED_ASYNC,
        "stream": _SCRIPTED_STREAM,
        "stream_async": _SCRIPTED_STREAM_ASYNC,
    }[kind]
    more = "model_transaction_policy { decoupled: true }" if kind.startswith("stream") else ""
    text = config("IN:STRING", "OUT:STRING", count, more)
    write(repository, name, code, text, bls_beside=BESIDE)


def write_targets(repository: Path) -> None:
    """Models to call: ``square``, ``echo``, ``mirror`` (tells what it got), and ``repeat``, which is decoupled."""
    write(repository, "square", _SQUARE, config("IN:INT32", "OUT:INT32"))
    write(repository, "echo", ECHO, config("IN:INT32", "OUT:INT32"))
    write(repository, "mirror", _MIRROR, config("IN:INT32", "OUT:STRING"), bls_beside=BESIDE)
    decoupled = "model_transaction_policy { decoupled: true }"
    write(repository, "repeat", _REPEAT, config("IN:STRING", "OUT:INT32", more=decoupled), bls_beside=BESIDE)


def body(script: str) -> str:
    """A script as the models want it."""
    return textwrap.indent(textwrap.dedent(script), "    ")


def run(served: Served, script: str, model: str = "scripted", **options: Any) -> Any:
    """What a script returns; ``options`` as for :func:`calling.call`."""
    return json.loads(call(served, model, {"IN": [body(script)]}, **options)["OUT"][0])


def stream(client: RpcClient, script: str, model: str = "scripted_stream", **fields: Any) -> Any:
    """Send a script over a gRPC stream; the call object, to iterate over."""
    data = body(script).encode()
    raw = len(data).to_bytes(4, "little") + data
    tensor = {"name": "IN", "datatype": "BYTES", "shape": [1]}
    return client.stream([infer_request(model, tensor, raw_input_contents=[raw], **fields)])


def texts(message: Any) -> list[str]:
    """The outputs of a message from a stream: JSON texts."""
    assert not message.error_message
    return [data[4:].decode() for data in message.infer_response.raw_output_contents]
