"""Tensors in clients' shared memory: read and written in place, whatever the model does with them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calling import leased_blocks, metric, wait_until
from rendezvous import Rendezvous, config, identity, write
from serving import Served, serve
from shared_regions import Region, infer, region, start_tracker

KIB, MIB = 1 << 10, 1 << 20
SIZES = [1, 16, 8 * KIB, 8 * KIB + 1, 33 * KIB, MIB + 3]

IN_PLACE = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            x = request.inputs()[0].as_numpy()
            x += 1
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x)]))
        return responses
"""

PASSES_ON = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            request.inputs()[0].as_numpy()[:] = 0
        return [pb_utils.InferenceResponse(request.inputs()) for request in requests]
"""

SWAPS = '''
"""OUT0 is IN1 and OUT1 is IN0."""
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            first, second = (tensor.as_numpy() for tensor in request.inputs())
            outputs = [pb_utils.Tensor("OUT0", second), pb_utils.Tensor("OUT1", first)]
            responses.append(pb_utils.InferenceResponse(outputs))
        return responses
'''

STRINGS = """
import numpy
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            texts = request.inputs()[0].as_numpy()
            again = numpy.array([text[::-1] for text in texts], dtype=object)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", again)]))
        return responses
"""

CALLS = '''
"""Passes its input on to another model, from a thread if told so. Answers with what came back and its input."""
import json
import threading
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        (request,) = requests
        (tensor,) = request.inputs()
        do = json.loads(request.parameters())
        if do["how"] == "thread":
            thread = threading.Thread(target=self.call, args=(do["model"], tensor))
            thread.start()
            thread.join()
        else:
            self.call(do["model"], tensor)
        result, self.result = self.result, None
        return [pb_utils.InferenceResponse([result, pb_utils.Tensor("MINE", tensor.as_numpy())])]

    def call(self, model, tensor):
        response = pb_utils.InferenceRequest(model_name=model, inputs=[tensor], requested_output_names=["OUT"]).exec()
        assert not response.has_error(), response.error().message()
        (self.result,) = response.output_tensors()
'''

MEETS = """
import triton_python_backend_utils as pb_utils
from rendezvous import at

class TritonPythonModel:
    def execute(self, requests):
        x = requests[0].inputs()[0].as_numpy()
        at("here")
        x += 1
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x)])]
"""

BATCHING = """
backend: "python"
max_batch_size: 8
input { name: "IN" data_type: TYPE_UINT8 dims: [ -1 ] }
output { name: "OUT" data_type: TYPE_UINT8 dims: [ -1 ] }
instance_group { kind: KIND_CPU }
dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 20000000 }
"""

ENSEMBLE = """
platform: "ensemble"
input { name: "IN" data_type: TYPE_UINT8 dims: [ -1 ] }
output [ { name: "ONE" data_type: TYPE_UINT8 dims: [ -1 ] }, { name: "TWO" data_type: TYPE_UINT8 dims: [ -1 ] } ]
ensemble_scheduling { step [
  { model_name: "in_place" model_version: -1
    input_map { key: "IN" value: "IN" } output_map { key: "OUT" value: "ONE" } },
  { model_name: "in_place" model_version: -1
    input_map { key: "IN" value: "ONE" } output_map { key: "OUT" value: "TWO" } }
] }
"""


@pytest.fixture(scope="module")
def server(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    start_tracker()
    write(repository, "in_place", IN_PLACE)
    write(repository, "batching", IN_PLACE, BATCHING)
    write(repository, "passes_on", PASSES_ON, config("X:UINT8", "X:UINT8"))
    write(repository, "swaps", SWAPS, config("IN0:UINT8 IN1:UINT8", "OUT0:UINT8 OUT1:UINT8"))
    write(repository, "strings", STRINGS, config("IN:STRING", "OUT:STRING"))
    write(repository, "calls", CALLS, config("IN:UINT8", "OUT:UINT8 MINE:UINT8"))
    write(repository, "meets", MEETS)
    identity(repository)
    (repository / "ensemble" / "1").mkdir(parents=True)
    (repository / "ensemble" / "config.pbtxt").write_text(ENSEMBLE)
    with serve(repository) as served:
        yield served


@pytest.fixture(autouse=True)
def nothing_stays(server: Served) -> Iterator[None]:
    """After each test no request holds anything, no stub has died, and what is unregistered is in no process."""
    stubs = server.stubs()
    yield
    for model in ("in_place", "batching", "passes_on", "swaps", "strings", "calls", "meets", "identity"):
        wait_until(lambda model=model: leased_blocks(server, model) == 0, f"no leased blocks of {model}")
        assert metric(server, "atoll_shared_memory_used_bytes", model) == 0
    assert server.stubs() == stubs
    wait_until(lambda: not any(has_regions(process.pid) for process in server.processes()), "no region is known")


def has_regions(pid: int) -> bool:
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        return "/atoll_test_" in maps.read()


@pytest.fixture
def shared(server: Served) -> Iterator[Region]:
    with region(4 * MIB, server) as shared:
        yield shared


def data(size: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


@pytest.mark.spec("server:116")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("model", "name", "added"), [("identity", "IN", 0), ("in_place", "IN", 1), ("passes_on", "X", 0)]
)
def test_inputs_and_outputs_in_a_region(
    server: Served, shared: Region, size: int, model: str, name: str, added: int
) -> None:
    """At any offset, and what the model writes into its input stays its own."""
    output = name.replace("IN", "OUT")
    for turn, offset in enumerate([0, 5, 4096]):
        x = data(size, turn)
        shared[offset] = x
        there = 2 * MIB - 1 - turn
        inputs, outputs = {name: ([size], shared.place(size, offset))}, {output: shared.place(size, there)}
        assert infer(server, model, inputs, outputs) == (
            200,
            {output: {"name": output, "datatype": "UINT8", "shape": [size]}},
        )
        assert np.array_equal(shared.array(np.uint8, size, there), x + added)
        assert np.array_equal(shared.array(np.uint8, size, offset), x)


def test_nothing_is_copied_on_the_way(server: Served, shared: Region) -> None:
    """No model that only saw tensors in regions has an arena, and the supervisor never maps a region."""
    for model in ("identity", "in_place"):
        assert metric(server, "atoll_shared_memory_bytes", model) == 0
    with region(MIB, server) as other:
        inputs, outputs = {"IN": ([MIB], other.place(MIB))}, {"OUT": shared.place(MIB)}
        assert infer(server, "identity", inputs, outputs)[0] == 200
        (pid,) = (pid for name, pid in server.stubs().items() if name.startswith("identity"))
        assert other.is_mapped_by(pid)
        assert shared.is_mapped_by(pid)
        assert not has_regions(server.process.pid)


def test_ordinary_tensors_beside_those_in_a_region(server: Served, shared: Region) -> None:
    shared[0] = np.arange(9000, dtype=np.uint8)
    inputs = {"IN0": ([9000], shared.place(9000)), "IN1": ([3], [7, 8, 9])}
    status, outputs = infer(server, "swaps", inputs, {"OUT0": shared.place(3, 9000), "OUT1": {}})
    assert status == 200
    assert shared.array(np.uint8, 3, 9000).tolist() == [7, 8, 9]
    assert outputs["OUT1"]["data"] == shared.array(np.uint8, 9000).tolist()
    assert "data" not in outputs["OUT0"]


@pytest.mark.parametrize("size", [100, MIB])
def test_outputs_over_the_inputs(server: Served, shared: Region, size: int) -> None:
    """In one place, exchanged, and shifted: each output is what the inputs were before the request."""
    first, second = data(size, 1), data(size, 2)
    shared[0], shared[size] = first, second
    inputs = {"IN0": ([size], shared.place(size)), "IN1": ([size], shared.place(size, size))}
    outputs = {"OUT0": shared.place(size), "OUT1": shared.place(size, size)}
    assert infer(server, "swaps", inputs, outputs)[0] == 200
    assert np.array_equal(shared.array(np.uint8, size), second)
    assert np.array_equal(shared.array(np.uint8, size, size), first)
    for model, added in (("in_place", 1), ("identity", 0)):
        shared[0] = first
        assert infer(server, model, {"IN": ([size], shared.place(size))}, {"OUT": shared.place(size, 1)})[0] == 200
        assert np.array_equal(shared.array(np.uint8, size, 1), first + added)
    shared[0] = first
    assert infer(server, "in_place", {"IN": ([size], shared.place(size))}, {"OUT": shared.place(size)})[0] == 200
    assert np.array_equal(shared.array(np.uint8, size), first + 1)


def test_requests_that_share_bytes_do_not_see_each_others(server: Served, shared: Region) -> None:
    """Of four in one batch, three begin in the same page; what the model writes into one is not in the others."""
    x = data(MIB)
    shared[0] = x
    offsets = [0, 0, 100, 4096]

    def run(index: int) -> tuple[int, Any]:
        inputs = {"IN": ([1, 100 * KIB], shared.place(100 * KIB, offsets[index]))}
        return infer(server, "batching", inputs, {"OUT": shared.place(100 * KIB, MIB + index * 100 * KIB)})

    with ThreadPoolExecutor(4) as pool:
        assert [status for status, _ in pool.map(run, range(4))] == [200] * 4
    for index, offset in enumerate(offsets):
        got = shared.array(np.uint8, 100 * KIB, MIB + index * 100 * KIB)
        assert np.array_equal(got, x[offset : offset + 100 * KIB] + 1)
    assert np.array_equal(shared.array(np.uint8, MIB), x)


def test_a_batch_of_requests_with_and_without_regions(server: Served, shared: Region) -> None:
    shared[0] = np.full(20_000, 5, np.uint8)
    inline = ([1, 20_000], [6] * 20_000)
    placed = ([1, 20_000], shared.place(20_000))
    there = {"OUT": shared.place(20_000, MIB)}
    elsewhere = {"OUT": shared.place(20_000, 2 * MIB)}
    kinds: list[tuple[Any, Any]] = [(inline, None), (placed, None), (placed, there), (inline, elsewhere)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda kind: infer(server, "batching", {"IN": kind[0]}, kind[1]), kinds))
    assert [status for status, _ in answers] == [200] * 4
    assert answers[0][1]["OUT"]["data"] == [7] * 20_000
    assert answers[1][1]["OUT"]["data"] == [6] * 20_000
    assert set(shared.array(np.uint8, 20_000, MIB).tolist()) == {6}
    assert set(shared.array(np.uint8, 20_000, 2 * MIB).tolist()) == {7}


@pytest.mark.parametrize("size", [16, MIB])
def test_an_ensemble(server: Served, shared: Region, size: int) -> None:
    x = data(size)
    shared[0] = x
    outputs = {"ONE": shared.place(size, 2 * MIB), "TWO": shared.place(size)}
    assert infer(server, "ensemble", {"IN": ([size], shared.place(size))}, outputs)[0] == 200
    assert np.array_equal(shared.array(np.uint8, size, 2 * MIB), x + 1)
    assert np.array_equal(shared.array(np.uint8, size), x + 2)
    outputs = {"ONE": {}, "TWO": shared.place(size - 1)}
    status, error = infer(server, "ensemble", {"IN": ([size], shared.place(size))}, outputs)
    assert status == 500
    assert f"should be at least {size} bytes to hold the results" in error


@pytest.mark.spec("server:118")
@pytest.mark.parametrize("size", [16, 8 * KIB + 1, MIB])
def test_an_output_that_is_too_large(server: Served, shared: Region, size: int) -> None:
    shared[0] = data(size)
    status, error = infer(server, "in_place", {"IN": ([size], shared.place(size))}, {"OUT": shared.place(8, 2 * MIB)})
    assert (status, error) == (
        500,
        f"shared memory size specified with the request for output 'OUT' (8 bytes) should be at least {size} bytes to "
        "hold the results",
    )
    assert not shared.array(np.uint8, 8, 2 * MIB).any()


@pytest.mark.parametrize("count", [3, 40_000])
def test_strings_in_a_region(server: Served, shared: Region, count: int) -> None:
    texts = [f"text {index}".encode() for index in range(count)]
    packed = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    shared[7] = np.frombuffer(packed, np.uint8)
    inputs, outputs = {"IN": (str(count), shared.place(len(packed), 7))}, {"OUT": shared.place(MIB, 2 * MIB + 1)}
    assert infer(server, "strings", inputs, outputs) == (
        200,
        {"OUT": {"name": "OUT", "datatype": "BYTES", "shape": [count]}},
    )
    assert shared.array(np.object_, [count], 2 * MIB + 1).tolist() == [text[::-1] for text in texts]


# -- models that call models


@pytest.mark.parametrize(("how", "by_reference"), [("plain", True), ("thread", False)])
def test_an_input_that_goes_on_to_another_model(
    server: Served, shared: Region, rendezvous: Rendezvous, how: str, by_reference: bool
) -> None:
    """By reference while the execution waits for the call, else as a copy; nobody sees what another writes."""
    x = data(MIB)
    shared[0] = x
    outputs = {"OUT": shared.place(MIB, MIB), "MINE": shared.place(MIB, 2 * MIB)}
    answers = []
    caller = threading.Thread(
        target=lambda: answers.append(
            infer(server, "calls", {"IN": ([MIB], shared.place(MIB))}, outputs, model="meets", how=how)
        )
    )
    caller.start()
    visit = rendezvous.next()
    assert shared.is_mapped_by(visit.pid) is by_reference
    visit.let_go()
    caller.join()
    assert answers[0][0] == 200, answers
    assert np.array_equal(shared.array(np.uint8, MIB, MIB), x + 1)
    assert np.array_equal(shared.array(np.uint8, MIB, 2 * MIB), x)
    assert np.array_equal(shared.array(np.uint8, MIB), x)


def test_a_called_model_that_passes_on_what_it_got(server: Served, shared: Region) -> None:
    x = data(MIB)
    shared[0] = x
    outputs = {"OUT": shared.place(MIB, MIB), "MINE": {"binary_data": False}}
    status, answer = infer(server, "calls", {"IN": ([MIB], shared.place(MIB))}, outputs, model="identity", how="plain")
    assert status == 200, answer
    assert np.array_equal(shared.array(np.uint8, MIB, MIB), x)
    assert answer["MINE"]["data"] == x.tolist()
