"""Requests with names to models that tell whom they execute together, and wait until the test lets them go on."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tritonclient.grpc
from calling import metric, wait_until
from rendezvous import Rendezvous, Visit
from serving import Served

__all__ = ["MEETING", "Sender", "batching_config", "sending", "tensor"]

MEETING = """
import triton_python_backend_utils as pb_utils
from rendezvous import at

class TritonPythonModel:
    def execute(self, requests):
        at(" ".join(request.request_id() for request in requests))
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUT", request.inputs()[0].as_numpy())]) for request in requests
        ]
"""


def batching_config(
    more: str = "dynamic_batching {}", *, max_batch_size: int = 4, count: int = 1, dims: int = 1, group: str = ""
) -> str:
    """A ``config.pbtxt`` with one input and one output of ``dims``; ``group`` joins the group of its instances."""
    return f"""
    backend: "python"
    max_batch_size: {max_batch_size}
    input [ {{ name: "IN" data_type: TYPE_INT32 dims: [ {dims} ] }} ]
    output [ {{ name: "OUT" data_type: TYPE_INT32 dims: [ {dims} ] }} ]
    instance_group [ {{ kind: KIND_CPU count: {count} {group} }} ]
    {more}
    """


def tensor(name: str, shape: Sequence[int] = (1, 1)) -> Any:
    """An input full of ones."""
    made = tritonclient.grpc.InferInput(name, shape, "INT32")
    made.set_data_from_numpy(np.ones(shape, np.int32))
    return made


class Sent:
    """A request on its way."""

    def __init__(self, name: str, arrivals: list[str]) -> None:
        self.name = name
        self.call: Any = None
        self._outcome: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self._arrivals = arrivals

    def on_answer(self, result: Any, error: Any) -> None:
        self._arrivals.append(self.name)
        self._outcome.put((result, error))

    def answer(self) -> Any:
        """The output, or the error as (status, message)."""
        result, error = self._outcome.get(timeout=20)
        return result.as_numpy("OUT").tolist() if error is None else (error.status(), error.message())


class Sender:
    """Sends to one model, over gRPC."""

    def __init__(self, served: Served, rendezvous: Rendezvous, client: Any, model: str) -> None:
        self.served = served
        self.model = model
        self.arrivals: list[str] = []
        """The names of what was answered, in that order."""
        self._rendezvous = rendezvous
        self._client = client

    def send(self, name: str, shape: Sequence[int] = (1, 1), inputs: Sequence[Any] = (), **options: Any) -> Sent:
        sent = Sent(name, self.arrivals)
        inputs = list(inputs) or [tensor("IN", shape)]
        sent.call = self._client.async_infer(self.model, inputs, sent.on_answer, request_id=name, **options)
        return sent

    def start(self, name: str, **options: Any) -> tuple[Sent, Visit]:
        """Send a request that is executed at once."""
        sent = self.send(name, **options)
        visit = self.meet()
        assert visit.place == name
        return sent, visit

    def queue(self, *names: str, **options: Any) -> list[Sent]:
        """Send requests that have to wait, each when the one before it does."""
        sent = []
        for name in names:
            count = self.pending + 1
            sent.append(self.send(name, **options))
            wait_until(lambda count=count: self.pending == count, f"{name} waits")  # type: ignore[misc]
        return sent

    def meet(self) -> Visit:
        """The next execution; its place holds the names of its requests."""
        return self._rendezvous.next()

    def run(self, count: int) -> list[str]:
        """Let so many executions run to their ends, one after the other; the names in each."""
        places = []
        for _ in range(count):
            visit = self.meet()
            places.append(visit.place)
            visit.let_go()
        return places

    @property
    def pending(self) -> float:
        return metric(self.served, "nv_inference_pending_request_count", self.model)

    def failures(self) -> dict[str, int]:
        """What the metrics page counts of the model's failures, by reason; those that there were."""
        counts = {}
        for line in self.served.metrics().splitlines():
            if line.startswith("nv_inference_request_failure{") and f'model="{self.model}"' in line:
                count = int(line.rpartition(" ")[2])
                if count:
                    counts[line.partition('reason="')[2].partition('"')[0]] = count
        return counts


@contextmanager
def sending(served: Served, rendezvous: Rendezvous, model: str) -> Iterator[Sender]:
    client = tritonclient.grpc.InferenceServerClient(served.grpc_url)
    yield Sender(served, rendezvous, client, model)
    client.close()
