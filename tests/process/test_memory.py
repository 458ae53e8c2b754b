"""Tensors in shared memory: what a model writes stays its own, what it keeps stays valid, nothing stays allocated."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atoll.core.server import Server, ServerOptions
from atoll.inference import Request, Response, Tensor
from calling import Caller, call, leased_blocks, metric, wait_until
from rendezvous import Rendezvous, config, identity, write
from serving import Served, serve

KIB, MIB = 1 << 10, 1 << 20
SIZES = [16, 4 * KIB, 8 * KIB, 9 * KIB, 33 * KIB, MIB, 5 * MIB]

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

KEEPS = '''
"""Keeps its inputs, with a copy of each to compare them with. The request's parameters say what to do."""
import json
import threading
import numpy
import triton_python_backend_utils as pb_utils
from rendezvous import at

class TritonPythonModel:
    def initialize(self, args):
        self.kept = []

    def drop_later(self):
        at("drop")
        self.kept.clear()

    def execute(self, requests):
        (request,) = requests
        do = json.loads(request.parameters())["do"]
        x = request.inputs()[0].as_numpy()
        if do == "keep":
            self.kept.append((x, x.copy()))
        elif do == "write":
            x += 1
        elif do == "write and keep":
            x += 1
            self.kept.append((x, x.copy()))
        elif do == "drop":
            self.kept.clear()
        elif do == "drop later":
            threading.Thread(target=self.drop_later).start()
        same = all(numpy.array_equal(array, copy) for array, copy in self.kept)
        numbers = numpy.array([len(self.kept), same, int(x[0]), int(x[-1])], dtype=numpy.int32)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", numbers)])]
'''

CALLS = '''
"""Calls other models with large tensors; answers whether all was as it should be, in JSON."""
import json
import threading
import numpy
import triton_python_backend_utils as pb_utils

def call(model, tensor, do=""):
    request = pb_utils.InferenceRequest(
        model_name=model, inputs=[tensor], requested_output_names=["OUT"], parameters={"do": do}
    )
    response = request.exec()
    assert not response.has_error(), response.error().message()
    return response.output_tensors()[0].as_numpy()

class TritonPythonModel:
    def initialize(self, args):
        self.kept = []

    def execute(self, requests):
        (request,) = requests
        (received,) = request.inputs()
        do = json.loads(request.parameters())["do"]
        result = getattr(self, do.replace(" ", "_"))(received)
        output = pb_utils.Tensor("OUT", numpy.array([json.dumps(result)], dtype=object))
        return [pb_utils.InferenceResponse([output])]

    def keep_a_result(self, received):
        result = call("in_place", received)
        self.kept.append((result, result.copy()))
        return self.check(received)

    def check(self, received):
        return [len(self.kept), all(bool((array == copy).all()) for array, copy in self.kept)]

    def drop(self, received):
        self.kept.clear()

    def send_the_same_twice(self, received):
        numbers = [call("keeps", received, "write and keep").tolist() for _ in range(2)]
        return [numbers, call("keeps", received, "drop").tolist()]

    def write_at_both_ends(self, received):
        mine = received.as_numpy()
        mine[:] = 100
        theirs = call("in_place", received)
        made = numpy.full(mine.size, 5, dtype=numpy.uint8)
        tensor = pb_utils.Tensor("IN", made)
        first = call("in_place", tensor)
        made[:] = 50
        first[:] = 60
        second = call("in_place", tensor)
        return [set_of(mine), set_of(theirs), set_of(made), set_of(first), set_of(second)]

    def write_in_one_batch(self, received):
        batch = pb_utils.Tensor("IN", numpy.full((1, 100_000), 7, dtype=numpy.uint8))
        results = []
        threads = [threading.Thread(target=lambda: results.append(call("batching", batch))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [set_of(result) for result in results]

    def first_calls_of_threads(self, received):
        results = []
        def work(number):
            array = numpy.full(3_000_000, number, dtype=numpy.uint8)
            results.append(set_of(call("in_place", pb_utils.Tensor("IN", array))) == [number + 1])
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

def set_of(array):
    return numpy.unique(array).tolist()
'''

DOUBLE = """
import numpy
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUT", numpy.tile(request.inputs()[0].as_numpy(), 2))])
            for request in requests
        ]
"""

BATCHING = """
backend: "python"
max_batch_size: 2
input { name: "IN" data_type: TYPE_UINT8 dims: [ -1 ] }
output { name: "OUT" data_type: TYPE_UINT8 dims: [ -1 ] }
instance_group { kind: KIND_CPU }
dynamic_batching { max_queue_delay_microseconds: 10000000 }
"""


@pytest.fixture(scope="module")
def server(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    write(repository, "in_place", IN_PLACE)
    write(repository, "batching", IN_PLACE, BATCHING)
    write(repository, "passes_on", PASSES_ON, config("X:UINT8", "X:UINT8"))
    write(repository, "keeps", KEEPS, config("IN:UINT8", "OUT:INT32"))
    write(repository, "calls", CALLS, config("IN:UINT8", "OUT:STRING"))
    write(repository, "double", DOUBLE)
    identity(repository)
    with serve(repository) as served:
        yield served


@pytest.fixture(autouse=True)
def nothing_stays(server: Served) -> Iterator[None]:
    """After each test no request holds shared memory, and no stub reads any."""
    yield
    for model in ("in_place", "batching", "passes_on", "keeps", "calls", "double", "identity"):
        wait_until(lambda model=model: leased_blocks(server, model) == 0, f"no leased blocks of {model}")
        assert metric(server, "atoll_shared_memory_used_bytes", model) == 0
        assert metric(server, "atoll_instance_restarts", model) == 0


def data(size: int, seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


# -- writing


@pytest.mark.parametrize("size", SIZES)
def test_each_request_sees_its_own_data_though_the_model_writes_into_it(server: Served, size: int) -> None:
    with Caller(server) as caller:
        for turn in range(6):
            x = data(size, turn)
            assert np.array_equal(caller("in_place", {"IN": x})["OUT"], x + 1)


def test_requests_of_several_clients_do_not_mix(server: Served) -> None:
    def run(client: int) -> None:
        with Caller(server) as caller:
            for turn in range(20):
                x = data(SIZES[(client + turn) % 6], client * 100 + turn)
                assert np.array_equal(caller("in_place", {"IN": x})["OUT"], x + 1)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))


@pytest.mark.parametrize("size", SIZES)
def test_a_tensor_that_is_passed_on_arrives_unmodified(server: Served, size: int) -> None:
    with Caller(server) as caller:
        for turn in range(3):
            x = data(size, turn)
            assert np.array_equal(caller("passes_on", {"X": x})["X"], x)


# -- keeping


def keeps(served: Served, do: str, x: np.ndarray[Any, Any]) -> list[int]:
    """How many inputs are kept, whether all are unchanged, the first and the last element of the last input."""
    numbers: list[int] = call(served, "keeps", {"IN": x}, parameters={"do": do})["OUT"].tolist()
    return numbers


@pytest.mark.parametrize("size", [4 * KIB, 33 * KIB, 5 * MIB])
def test_inputs_that_a_model_keeps_stay_valid_until_it_drops_them(server: Served, size: int) -> None:
    for turn in range(5):
        assert keeps(server, "keep", data(size, turn))[:2] == [turn + 1, 1]
        for other in range(4):
            assert keeps(server, "write", data(size, 50 + other))[:2] == [turn + 1, 1]
    assert leased_blocks(server, "keeps") == (5 if size > 8 * KIB else 0)
    assert keeps(server, "drop", data(16, 0))[:2] == [0, 1]
    assert leased_blocks(server, "keeps") == 0


@pytest.mark.spec("python_backend:C65")
def test_what_a_thread_drops_is_released_without_another_request(server: Served, rendezvous: Rendezvous) -> None:
    for turn in range(3):
        keeps(server, "keep", data(MIB, turn))
    keeps(server, "drop later", data(16, 0))
    assert leased_blocks(server, "keeps") == 3
    rendezvous.next().let_go()
    wait_until(lambda: leased_blocks(server, "keeps") == 0, "the blocks are released", timeout_s=5)


# -- by reference from stub to stub


def calls(served: Served, do: str, x: np.ndarray[Any, Any]) -> Any:
    return json.loads(call(served, "calls", {"IN": x}, parameters={"do": do})["OUT"][0])


@pytest.mark.parametrize("size", [16, 9 * KIB, 5 * MIB])
def test_results_of_calls_stay_valid_while_they_are_kept(server: Served, size: int) -> None:
    for turn in range(4):
        assert calls(server, "keep a result", data(size, turn)) == [turn + 1, True]
        x = data(size, 90 + turn)
        assert np.array_equal(call(server, "in_place", {"IN": x})["OUT"], x + 1)
    assert calls(server, "check", data(size, 5)) == [4, True]
    calls(server, "drop", data(size, 5))


@pytest.mark.parametrize("size", [16, 9 * KIB, 5 * MIB])
def test_a_tensor_sent_twice_is_seen_unmodified_though_the_first_is_kept_and_written(server: Served, size: int) -> None:
    x = np.full(size, 3, dtype=np.uint8)
    assert calls(server, "send the same twice", x) == [[[1, 1, 4, 4], [2, 1, 4, 4]], [0, 1, 3, 3]]


@pytest.mark.parametrize("size", [16, 9 * KIB, 5 * MIB])
def test_no_end_of_a_call_sees_what_the_other_writes(server: Served, size: int) -> None:
    x = np.full(size, 3, dtype=np.uint8)
    mine, theirs, made, first, second = calls(server, "write at both ends", x)
    assert (mine, theirs) == ([100], [4])
    assert (made, first) == ([50], [60])
    assert second == [6]


def test_two_requests_of_one_batch_with_the_same_tensor_do_not_see_each_others_writes(server: Served) -> None:
    assert calls(server, "write in one batch", data(16, 0)) == [[8], [8]]


def test_a_result_outlives_the_stub_it_came_from(tmp_path: Path) -> None:
    write(tmp_path, "in_place", IN_PLACE)
    write(tmp_path, "calls", CALLS, config("IN:UINT8", "OUT:STRING"))
    with serve(tmp_path) as served:
        # The first chunk of the caller is named by several threads at once, whichever of them makes it.
        assert calls(served, "first calls of threads", data(16, 0)) == [True] * 8
        assert calls(served, "keep a result", data(MIB, 1)) == [1, True]
        os.kill(served.stubs()["in_place_0_0"], signal.SIGKILL)
        served.wait_for_log("instance 'in_place_0_0' serves again")
        assert calls(served, "keep a result", data(MIB, 2)) == [2, True]
        assert calls(served, "drop", data(MIB, 3)) is None
        assert leased_blocks(served, "calls") == 0


# -- how much


def chunks(pid: int) -> int:
    """How many shared-memory objects a process has open."""
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        target = os.readlink(f"/proc/{pid}/fd/{name}")
        if "triton_python_backend_shm_region_" in target:
            found.add(target)
    return len(found)


@pytest.mark.spec("python_backend:C246")
@pytest.mark.spec("python_backend:Q43")
def test_a_long_row_of_large_requests_uses_no_more_memory_than_a_few(server: Served) -> None:
    x = data(20 * MIB, 1)
    before = chunks(server.process.pid)
    with Caller(server) as caller:
        for _ in range(25):
            assert caller("double", {"IN": x})["OUT"].nbytes == 2 * x.nbytes
    # One chunk for requests and one for responses, and one more of each while a client still reads the last one.
    assert chunks(server.process.pid) <= before + 4
    assert metric(server, "atoll_shared_memory_bytes", "double") <= 2 * 64 * MIB


@pytest.mark.spec("python_backend:C242")
def test_chunks_that_nobody_uses_any_more_are_given_back(tmp_path: Path) -> None:
    write(tmp_path, "double", DOUBLE)
    asyncio.run(grow_and_trim(tmp_path))


async def grow_and_trim(repository: Path) -> None:
    """With the core alone, so that the time between two trims is the test's."""
    server = Server(ServerOptions(repositories=(str(repository),)))
    await server.start()
    try:
        model = server.model("double")
        channel = model.instances[0].channel
        assert channel is not None
        for _ in range(2):
            for nbytes in (MIB, 80 * MIB):
                assert await infer(server, nbytes) == 2 * nbytes
            assert model.arena.stats().chunks == len(channel.chunk_ids) == 2
            server._upkeep.trim()  # used since the last time
            assert await infer(server, MIB) == 2 * MIB  # tells the stub that its large answer was read
            server._upkeep.trim()
            assert model.arena.stats().chunks == 1
            assert await infer(server, MIB) == 2 * MIB  # comes behind the stub's answer to the trim
            assert len(channel.chunk_ids) == 1
    finally:
        assert await server.stop(10)


async def infer(server: Server, nbytes: int) -> int:
    """The size of the answer to a request of that size; nothing of it is referred to any more."""
    answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def respond(response: Response) -> None:
        answered.set_result(response.outputs[0].nbytes)

    server.infer(Request("double", [Tensor("IN", "UINT8", [nbytes], bytes(nbytes))], respond))
    return await answered
