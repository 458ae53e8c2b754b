"""Sequences over a stream of a decoupled model, and sequences that models make themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calling import call
from grpc_wire import RpcClient, infer_request
from rendezvous import Rendezvous, config, write
from serving import Served, serve
from telling import END, START

ACCUMULATING = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}
        self.decoupled = '"decoupled": true' in args["model_config"]

    def execute(self, requests):
        responses = [self.responses(request) for request in requests]
        if not self.decoupled:
            return [first for first, *_ in responses]
        for request, sent in zip(requests, responses):
            sender = request.get_response_sender()
            for response in sent:
                sender.send(response)
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def responses(self, request):
        key, flags = request.correlation_id(), request.flags()
        before = 0 if flags & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START else self.sums[key]
        self.sums[key] = before + int(request.inputs()[0].as_numpy()[0])
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([self.sums[key], flags, n], np.int32))])
            for n in range(3)
        ]
"""
"""Answers each request three times where it is decoupled: the sum of the sequence, flags, number of the response."""

CALLING = """
import json
import threading
import numpy as np
import triton_python_backend_utils as pb_utils

START = pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START
END = pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END

def run_sequence(id, model, values, sums):
    for position, value in enumerate(values):
        flags = (START if position == 0 else 0) | (END if position == len(values) - 1 else 0)
        three = pb_utils.Tensor("IN", np.array([value], np.int32))
        request = pb_utils.InferenceRequest(
            model_name=model, requested_output_names=["OUT"], inputs=[three], correlation_id=id
        )
        request.set_flags(flags)
        response = request.exec()
        if response.has_error():
            sums.append(response.error().message())
        else:
            sums.append(int(pb_utils.get_output_tensor_by_name(response, "OUT").as_numpy()[0]))

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer() for request in requests]

    def answer(self):
        told = {}
        threads = []
        for id, model in ((7, "sums"), ("seven", "sums"), ("eight", "sums_of_numbers")):
            sums = told[str(id)] = []
            values = [10, 20, 30] if id == 7 else [1, 2, 3, 4]
            threads.append(threading.Thread(target=run_sequence, args=(id, model, values, sums)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([json.dumps(told)], dtype=object))])
"""


@pytest.fixture(scope="module")
def served(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    numbers = ("IN:INT32", "OUT:INT32")
    oldest = "oldest { max_candidate_sequences: 4 }"
    which = 'control_input [ { name: "ID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_INT32 } ] } ]'
    stream = "model_transaction_policy { decoupled: true }"
    write(repository, "sums", ACCUMULATING, config(*numbers, more=f"sequence_batching {{ {oldest} }}"))
    write(repository, "sums_of_numbers", ACCUMULATING, config(*numbers, more=f"sequence_batching {{ {which} }}"))
    write(repository, "stream", ACCUMULATING, config(*numbers, more=f"sequence_batching {{ {oldest} }} {stream}"))
    write(repository, "stream_direct", ACCUMULATING, config(*numbers, more=f"sequence_batching {{ }} {stream}"))
    write(repository, "calling", CALLING, config("IN:INT32", "OUT:STRING"))
    with serve(repository) as served:
        yield served


def step(model: str, id: int, value: int, flags: int) -> Any:
    return infer_request(
        model,
        {"name": "IN", "datatype": "INT32", "shape": [1]},
        raw_input_contents=[np.array([value], "<i4").tobytes()],
        parameters={"sequence_id": id, "sequence_start": bool(flags & START), "sequence_end": bool(flags & END)},
    )


@pytest.mark.spec("python_backend:Q123")
@pytest.mark.spec("server:216")
@pytest.mark.parametrize("model", ["stream", "stream_direct"])
def test_a_stream_of_a_decoupled_model_answers_a_sequence_in_its_order(served: Served, model: str) -> None:
    requests = [step(model, 5, value, flags) for value, flags in ((1, START), (2, 0), (3, 0), (4, END))]
    with RpcClient(served.grpc_url) as client:
        messages = list(client.stream(requests))
    answers = [np.frombuffer(one.infer_response.raw_output_contents[0], "<i4").tolist() for one in messages]
    steps = [(1, START), (3, 0), (6, 0), (10, END)]
    assert answers == [[total, flags, number] for total, flags in steps for number in range(3)]


@pytest.mark.spec("python_backend:Q40")
@pytest.mark.spec("python_backend:C259")
def test_models_make_sequences_from_several_threads(served: Served) -> None:
    text = call(served, "calling", {"IN": np.array([1], np.int32)})["OUT"][0].decode()
    refused = (
        "[request id: <id_unknown>] sequence batching control 'ID' data-type is 'BYTES', but model 'sums_of_numbers' "
        "expects 'INT32'"
    )
    told = json.loads(text)
    assert told["7"] == [10, 30, 60]
    assert told["seven"] == [1, 3, 6, 10]
    assert all(refused in error for error in told["eight"])
