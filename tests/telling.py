"""Stateful models that tell what they see of their requests, and a client that has many of them under way."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
import numpy as np
from atoll_protos import messages
from calling import metric, wait_until
from grpc_wire import RpcClient, infer_request
from rendezvous import write
from serving import Served

__all__ = ["CONTROLS", "END", "START", "Sequences", "only", "write_telling"]

START, END = 1, 2

TELLING = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils
from rendezvous import at

class TritonPythonModel:
    def initialize(self, args):
        self.calls = 0

    def execute(self, requests):
        self.calls += 1
        seen = [describe(request) for request in requests]
        if any("meet" in request.parameters() for request in requests):
            at("execute")
        return [self.told(place, seen) for place in range(len(seen))]

    def told(self, place, seen):
        text = json.dumps({"call": self.calls, "place": place, "seen": seen})
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([text], dtype=object))])

def describe(request):
    told = {"id": request.correlation_id(), "flags": request.flags()}
    for tensor in request.inputs():
        array = tensor.as_numpy()
        value = [text.decode() for text in array.ravel()] if array.dtype == object else array.ravel().tolist()
        told[tensor.name()] = [str(array.dtype), list(array.shape), value]
    return told
"""

CONTROLS = """control_input [
    { name: "BEGINS" control [ { kind: CONTROL_SEQUENCE_START bool_false_true: [ false, true ] } ] },
    { name: "ENDS" control [ { kind: CONTROL_SEQUENCE_END fp32_false_true: [ 0.5, 2 ] } ] },
    { name: "IS_THERE" control [ { kind: CONTROL_SEQUENCE_READY int32_false_true: [ -1, 7 ] } ] },
    { name: "WHICH" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ] }
]"""


def write_telling(repository: Path, name: str, batching: str, max_batch_size: int = 0, code: str = TELLING) -> Path:
    """A model with ``sequence_batching``, INT32 in, STRING out; one instance."""
    config = f"""
backend: "python"
max_batch_size: {max_batch_size}
input [ {{ name: "IN" data_type: TYPE_INT32 dims: [ -1 ] }} ]
output [ {{ name: "OUT" data_type: TYPE_STRING dims: [ 1 ] }} ]
instance_group [ {{ kind: KIND_CPU }} ]
sequence_batching {{ {batching} }}
"""
    return write(repository, name, code, config)


class Told:
    """A request under way."""

    def __init__(self, call: Any) -> None:
        self.call = call

    def document(self) -> dict[str, Any]:
        """What the model told."""
        answer = messages.ModelInferResponse.FromString(self.call.result())
        document: dict[str, Any] = json.loads(answer.raw_output_contents[0][4:])
        return document

    def itself(self) -> dict[str, Any]:
        """What the model saw of this request."""
        document = self.document()
        seen: dict[str, Any] = document["seen"][document["place"]]
        return seen

    def error(self) -> tuple[grpc.StatusCode, str]:
        error = self.call.exception()
        assert error is not None
        return error.code(), error.details()


class Sequences:
    """A client of one model; a context manager."""

    def __init__(self, served: Served, model: str, batching: bool = False) -> None:
        self._served = served
        self._model = model
        self._batching = batching
        self._rpc = RpcClient(served.grpc_url)

    def __enter__(self) -> Sequences:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rpc.__exit__(kind, error, trace)

    def send(self, id: int | str, flags: int = 0, values: tuple[int, ...] = (1,), **parameters: Any) -> Told:
        """Send a request of a sequence."""
        shape = [1, len(values)] if self._batching else [len(values)]
        request = infer_request(
            self._model,
            {"name": "IN", "datatype": "INT32", "shape": shape},
            raw_input_contents=[np.array(values, "<i4").tobytes()],
            parameters={
                "sequence_id": id,
                "sequence_start": bool(flags & START),
                "sequence_end": bool(flags & END),
                **parameters,
            },
        )
        return Told(self._rpc.start(request))

    def queue(self, id: int | str, flags: int = 0, values: tuple[int, ...] = (1,), **parameters: Any) -> Told:
        """Send a request that has to wait, and return when it does."""
        waiting = self.waiting()
        told = self.send(id, flags, values, **parameters)
        wait_until(lambda: self.waiting() > waiting, "one more waits")
        return told

    def waiting(self) -> int:
        return int(metric(self._served, "nv_inference_pending_request_count", self._model))

    def failures(self, reason: str) -> int:
        """How many requests failed for a reason, as the metrics page counts."""
        [value] = only(self._served.metrics(), "nv_inference_request_failure", self._model, f'reason="{reason}"')
        return int(value)


def only(page: str, name: str, model: str, label: str) -> list[float]:
    """The values of the samples with a label."""
    return [
        float(line.rpartition(" ")[2])
        for line in page.splitlines()
        if line.startswith(f"{name}{{") and f'model="{model}"' in line and label in line
    ]
