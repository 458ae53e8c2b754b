"""Calls of a served model over HTTP, with numpy arrays in and out as binary tensors."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from serving import Served

__all__ = [
    "Answer",
    "Caller",
    "call",
    "in_background",
    "leased_blocks",
    "metric",
    "refuses_connections",
    "statistics",
    "wait_until",
]

Array = np.ndarray[Any, Any]

_NAMES = {np.dtype(np.uint8): "UINT8", np.dtype(np.int32): "INT32", np.dtype(np.float32): "FP32"}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


@dataclass(frozen=True)
class Answer:
    """A response: outputs by name, or the text of an error. Strings come as lists of bytes."""

    status: int
    error: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        assert self.status == 200, self.error
        return self.outputs[name]


class Caller:
    """One connection; a context manager."""

    def __init__(self, served: Served, timeout_s: float = 30) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", served.http_port, timeout=timeout_s)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()

    def __call__(
        self,
        model: str,
        inputs: Mapping[str, Array | Sequence[str]],
        *,
        outputs: Sequence[str] = (),
        parameters: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Infer. An array goes as it is, a list of texts as a BYTES tensor."""
        tensors, datas = [], []
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                datatype, shape, data = _NAMES[value.dtype], list(value.shape), value.tobytes()
            else:
                texts = [text.encode() for text in value]
                datatype, shape = "BYTES", [len(texts)]
                data = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
            size = {"binary_data_size": len(data)}
            tensors.append({"name": name, "datatype": datatype, "shape": shape, "parameters": size})
            datas.append(data)
        document: dict[str, Any] = {
            "inputs": tensors,
            "parameters": {"binary_data_output": True, **(parameters or {})},
        }
        if outputs:
            document["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
        head = json.dumps(document).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        self._connection.request("POST", f"/v2/models/{model}/infer", b"".join((head, *datas)), headers)
        return _answer(self._connection.getresponse())


def _answer(response: http.client.HTTPResponse) -> Answer:
    body = response.read()
    if response.status != 200:
        return Answer(response.status, json.loads(body)["error"])
    length = int(response.headers.get("Inference-Header-Content-Length", len(body)))
    document = json.loads(body[:length])
    outputs: dict[str, Any] = {}
    for tensor in document["outputs"]:
        nbytes = tensor["parameters"]["binary_data_size"]
        data, length = body[length : length + nbytes], length + nbytes
        if tensor["datatype"] == "BYTES":
            outputs[tensor["name"]] = _strings(data)
        else:
            outputs[tensor["name"]] = np.frombuffer(data, _DTYPES[tensor["datatype"]]).reshape(tensor["shape"])
    assert length == len(body)
    return Answer(200, outputs=outputs, parameters=document.get("parameters", {}))


def _strings(data: bytes) -> list[bytes]:
    strings = []
    while data:
        length = int.from_bytes(data[:4], "little")
        strings.append(data[4 : 4 + length])
        data = data[4 + length :]
    return strings


def call(served: Served, model: str, inputs: Mapping[str, Array | Sequence[str]], **options: Any) -> Answer:
    """One call over a connection of its own."""
    with Caller(served) as caller:
        return caller(model, inputs, **options)


@contextlib.contextmanager
def in_background(work: Callable[..., Any], *arguments: Any) -> Iterator[Future[Any]]:
    """Run ``work`` in a thread; its future. The block ends after it did."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(work, *arguments)


def wait_until(holds: Callable[[], object], what: str, timeout_s: float = 20) -> None:
    """Ask, again and again, what has no event to wait for: each question is a round trip to the server."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"still not so after {timeout_s:g} s: {what}"


def metric(served: Served, name: str, model: str) -> float:
    """A value on the metrics page, summed over the versions of a model."""
    values = [
        float(line.rpartition(" ")[2])
        for line in served.metrics().splitlines()
        if line.startswith(f"{name}{{") and f'model="{model}"' in line
    ]
    assert values, f"no {name} of model {model} on the metrics page"
    return sum(values)


def leased_blocks(served: Served, model: str) -> float:
    return metric(served, "atoll_shared_memory_leased_blocks", model)


def statistics(served: Served, model: str) -> dict[str, Any]:
    """The entry of the statistics extension."""
    status, document = served.get(f"/v2/models/{model}/stats")
    assert status == 200
    entry: dict[str, Any] = document["model_stats"][0]
    return entry


def refuses_connections(served: Served) -> bool:
    """Whether the HTTP port is closed: the first thing that the end of a server shows."""
    try:
        socket.create_connection(("127.0.0.1", served.http_port), timeout=5).close()
    except ConnectionError:
        return True
    return False
