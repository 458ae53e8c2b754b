"""How long clients' shared memory is in use, and what happens when a client or a stub does away with its side."""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from calling import in_background, leased_blocks, statistics, wait_until
from rendezvous import Rendezvous, config, identity, write
from serving import Served, serve
from shared_regions import Region, infer, region, start_tracker

MIB = 1 << 20

KEEPS = '''
"""Keeps its inputs as it is told, and answers with all it keeps."""
import json
import numpy
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.arrays = []
        self.tensors = []

    def execute(self, requests):
        (request,) = requests
        (tensor,) = request.inputs()
        do = json.loads(request.parameters())["do"]
        if do == "keep the array":
            self.arrays.append(tensor.as_numpy())
        elif do == "write and keep":
            array = tensor.as_numpy()
            array[:10] = 99
            self.arrays.append(array[5:])
        elif do == "keep the tensor":
            self.tensors.append(tensor)
        elif do == "write and keep the tensor":
            tensor.as_numpy()[:10] = 99
            self.tensors.append(tensor)
        elif do == "pass on":
            return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", numpy.zeros(1, numpy.uint8)), *self.tensors])]
        elif do == "write":
            for array in self.arrays:
                array[0] = 77
        elif do == "drop":
            self.arrays.clear()
            self.tensors.clear()
        arrays = self.arrays + [tensor.as_numpy() for tensor in self.tensors if do == "show"]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", numpy.concatenate([[1], *arrays]).astype("u1"))])]
'''

MEETS = """
import triton_python_backend_utils as pb_utils
from rendezvous import at

class TritonPythonModel:
    def execute(self, requests):
        x = requests[0].inputs()[0].as_numpy()
        at("here")
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x + 1)])]
"""

STREAMS = '''
"""Three responses, and then a look at the input when the client has been told that there is no more."""
import triton_python_backend_utils as pb_utils
from rendezvous import at

class TritonPythonModel:
    def execute(self, requests):
        (request,) = requests
        sender = request.get_response_sender()
        x = request.inputs()[0].as_numpy()
        for number in range(3):
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x + number)]))
            at("sent")
        before = x.copy()
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        at("done")
        at("same" if (x == before).all() else "changed")
'''

DECOUPLED = "model_transaction_policy { decoupled: true }"


@pytest.fixture(scope="module")
def server(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    start_tracker()
    write(repository, "keeps", KEEPS, config("IN:UINT8", "OUT:UINT8 IN:UINT8"))
    write(repository, "meets", MEETS)
    write(repository, "streams", STREAMS, config(more=DECOUPLED))
    write(repository, "cached", MEETS, config(more="response_cache { enable: true }"))
    identity(repository)
    with serve(repository, "--cache-config=local,size=16777216") as served:
        yield served


@pytest.fixture(autouse=True)
def nothing_stays(server: Served) -> Iterator[None]:
    yield
    for model in ("keeps", "meets", "streams", "cached", "identity"):
        wait_until(lambda model=model: leased_blocks(server, model) == 0, f"no leased blocks of {model}")
    processes = server.processes()
    wait_until(lambda: not any("/atoll_test_" in maps_of(process.pid) for process in processes), "no region is mapped")


def maps_of(pid: int) -> str:
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        return maps.read()


@pytest.fixture
def shared(server: Served) -> Iterator[Region]:
    with region(4 * MIB, server) as shared:
        yield shared


def data(size: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def pid_of(served: Served, model: str) -> int:
    (pid,) = (pid for name, pid in served.stubs().items() if name.startswith(f"{model}_"))
    return pid


# -- what a model keeps


def keeps(served: Served, do: str, where: tuple[Any, Any] = ([1], [0])) -> list[int]:
    status, outputs = infer(served, "keeps", {"IN": where}, do=do)
    assert status == 200, outputs
    answer: list[int] = outputs["OUT"]["data"][1:]
    return answer


def overwrite(shared: Region) -> None:
    shared[0] = np.full(shared.nbytes, 55, np.uint8)


def shorten(shared: Region) -> None:
    os.truncate(shared.path, 0)


@pytest.mark.parametrize("harm", [overwrite, shorten, Region.unregister])
def test_what_a_model_keeps_stays_as_it_was(server: Served, harm: Callable[[Region], None]) -> None:
    """Arrays and tensors, written to or not, seen or not, whatever the client does with its memory."""
    x = data(20_000)
    written = x.copy()
    written[:10] = 99
    with region(MIB, server) as shared:
        shared[3] = x
        place = ([20_000], shared.place(20_000, 3))
        for do in ("keep the array", "write and keep", "keep the tensor", "write and keep the tensor"):
            keeps(server, do, place)
        harm(shared)
        expected = [*x, *written[5:], *x, *written]
        assert keeps(server, "show") == expected
        if harm is Region.unregister:
            wait_until(lambda: not shared.is_mapped_by(pid_of(server, "keeps")), "the stub has let go")
        keeps(server, "write")
        expected[0] = expected[20_000] = 77
        assert keeps(server, "show") == expected
        status, outputs = infer(server, "keeps", {"IN": ([1], [0])}, do="pass on")
        assert status == 200
        assert outputs["IN"]["data"] == x.tolist()  # as it came, also the one that was written to
        assert keeps(server, "drop") == []


def test_what_is_kept_of_one_request_does_not_hold_the_region(server: Served, shared: Region) -> None:
    shared[0] = data(MIB)
    keeps(server, "keep the array", ([MIB], shared.place(MIB)))
    assert leased_blocks(server, "keeps") == 0
    keeps(server, "drop")


# -- regions that are unregistered, and registered again


@pytest.mark.spec("server:119")
def test_a_region_that_is_unregistered_in_use_stays_until_the_request_ends(
    server: Served, shared: Region, rendezvous: Rendezvous
) -> None:
    x = data(MIB)
    shared[0] = x
    there = {"OUT": shared.place(MIB, MIB)}
    with in_background(infer, server, "meets", {"IN": ([MIB], shared.place(MIB))}, there) as answer:
        visit = rendezvous.next()
        shared.unregister()
        refused = infer(server, "identity", {"IN": ([1], shared.place(1))})
        assert refused == (404, f"Unable to find shared memory region: '{shared.name}'")
        assert shared.is_mapped_by(visit.pid)
        visit.let_go()
        assert answer.result(20)[0] == 200
    assert np.array_equal(shared.array(np.uint8, MIB, MIB), x + 1)
    wait_until(lambda: not shared.is_mapped_by(visit.pid), "the stub has let go")
    assert not shared.is_mapped_by(server.process.pid)


@pytest.mark.spec("server:119")
def test_a_request_that_waits_holds_its_region_too(server: Served, shared: Region, rendezvous: Rendezvous) -> None:
    """And a region of the same name is another one."""
    shared[0] = data(2 * MIB)
    with (
        in_background(infer, server, "meets", {"IN": ([MIB], shared.place(MIB))}) as first,
        in_background(queued, server, shared) as second,
    ):
        visit = rendezvous.next()
        wait_until(lambda: "} 1\n" in pending(server, "meets"), "one waits")
        shared.unregister()
        with region(MIB, server) as other:
            path = f"/v2/systemsharedmemory/region/{shared.name}/register"
            assert server.post(path, {"key": other.key, "byte_size": MIB}) == (200, b"")
            visit.let_go()
            rendezvous.next().let_go()
            assert first.result(20)[0] == 200
            assert second.result(20)[0] == 200
            assert not other.array(np.uint8, MIB).any()
            shared.unregister()
    x = data(2 * MIB)
    assert np.array_equal(shared.array(np.uint8, MIB, 2 * MIB), x[MIB:] + 1)


def queued(served: Served, shared: Region) -> tuple[int, Any]:
    place, there = shared.place(MIB, MIB), shared.place(MIB, 2 * MIB)
    return infer(served, "meets", {"IN": ([MIB], place)}, {"OUT": there})


def pending(served: Served, model: str) -> str:
    name = "nv_inference_pending_request_count"
    return "".join(f"{line}\n" for line in served.metrics().splitlines() if line.startswith(name) and model in line)


# -- streams


def test_a_stream_writes_each_response_into_the_region(server: Served, shared: Region, rendezvous: Rendezvous) -> None:
    x = data(MIB)
    shared[0] = x
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()
    tensor = tritonclient.grpc.InferInput("IN", [MIB], "UINT8")
    tensor.set_shared_memory(shared.name, MIB)
    output = tritonclient.grpc.InferRequestedOutput("OUT")
    output.set_shared_memory(shared.name, MIB, MIB)
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(lambda result, error: results.put((result, error)))
        client.async_stream_infer("streams", [tensor], outputs=[output], enable_empty_final_response=True)
        for number in range(3):
            result, error = results.get(timeout=20)
            assert error is None
            assert list(result.get_response().raw_output_contents) == [b""]
            assert np.array_equal(shared.array(np.uint8, MIB, MIB), x + number)
            rendezvous.next().let_go()
        _, error = results.get(timeout=20)
        assert error is None
        visit = rendezvous.next()
        overwrite(shared)
        visit.let_go()
        visit = rendezvous.next()
        assert visit.place == "same"
        visit.let_go()


# -- deaths, and files that become shorter


def test_a_stub_that_starts_again_maps_regions_again(server: Served, shared: Region) -> None:
    x = data(MIB)
    shared[0] = x
    for turn in range(2):
        inputs, there = {"IN": ([MIB], shared.place(MIB))}, {"OUT": shared.place(MIB, (turn + 1) * MIB)}
        assert infer(server, "identity", inputs, there)[0] == 200
        assert np.array_equal(shared.array(np.uint8, MIB, (turn + 1) * MIB), x)
        if not turn:
            os.kill(pid_of(server, "identity"), signal.SIGKILL)
            server.wait_for_log(r"instance 'identity_0_0' serves again")


def test_a_stub_that_dies_lets_go_of_regions_and_what_waited_is_served(
    server: Served, shared: Region, rendezvous: Rendezvous
) -> None:
    shared[0] = data(2 * MIB)
    with (
        in_background(infer, server, "meets", {"IN": ([MIB], shared.place(MIB))}) as first,
        in_background(queued, server, shared) as second,
    ):
        visit = rendezvous.next()
        wait_until(lambda: "} 1\n" in pending(server, "meets"), "one waits")
        os.kill(visit.pid, signal.SIGKILL)
        answers = [rendezvous.next()]
        answers[0].let_go()
        results = [first.result(20), second.result(20)]
    assert sorted(status for status, _ in results) == [200, 500]
    assert any("SIGKILL" in str(error) for _, error in results)


def test_a_file_that_is_shortened_under_a_model(server: Served, rendezvous: Rendezvous) -> None:
    """The model's process dies of looking; the server lives, and the next stub serves."""
    with (
        region(MIB, server) as shared,
        in_background(infer, server, "meets", {"IN": ([MIB], shared.place(MIB))}) as answer,
    ):
        visit = rendezvous.next()
        shorten(shared)
        visit.let_go()
        status, error = answer.result(20)
        assert status == 500
        assert "SIGBUS" in error
    assert server.get("/v2/health/live")[0] == 200
    with in_background(infer, server, "meets", {"IN": ([1], [4])}) as answer:
        rendezvous.next().let_go()
        assert answer.result(20)[1]["OUT"]["data"] == [5]


@pytest.mark.parametrize("size", [16, MIB])
def test_a_file_that_was_shortened_before(server: Served, size: int) -> None:
    """An error for the request, and nobody dies."""
    stubs = server.stubs()
    with region(2 * MIB, server) as shared:
        inputs, there = {"IN": ([size], shared.place(size, MIB))}, {"OUT": shared.place(size)}
        assert infer(server, "identity", inputs, there)[0] == 200
        os.truncate(shared.path, MIB + 8)
        status, error = infer(server, "identity", inputs, there)
        assert status in (400, 500)
        assert "is shorter than when it was registered" in error
        outside = {"OUT": shared.place(size, MIB)}
        status, error = infer(server, "identity", {"IN": ([size], [1] * size)}, outside)
        assert status == 400
        assert error == f"shared memory region '{shared.name}' is shorter than when it was registered"
        assert os.path.getsize(shared.path) == MIB + 8
    assert server.stubs() == stubs


# -- the response cache


def test_the_cache_keeps_a_copy_and_writes_it_into_regions(
    server: Served, shared: Region, rendezvous: Rendezvous
) -> None:
    x = data(20_000)
    shared[0] = x

    def ask(there: int) -> list[int]:
        outputs = {"OUT": shared.place(20_000, there)}
        status, error = infer(server, "cached", {"IN": ([20_000], shared.place(20_000))}, outputs)
        assert status == 200, error
        written: list[int] = shared.array(np.uint8, 20_000, there).tolist()
        return written

    with in_background(ask, MIB) as answer:
        rendezvous.next().let_go()
        assert answer.result(20) == (x + 1).tolist()
    overwrite(shared)
    shared[0] = x
    wait_until(lambda: statistics(server, "cached")["inference_stats"]["cache_miss"]["count"] == 1, "it is kept")
    assert ask(2 * MIB) == (x + 1).tolist()
    shorten(shared)
    status, error = infer(server, "cached", {"IN": ([20_000], shared.place(20_000))})
    assert (status, error) == (400, f"shared memory region '{shared.name}' is shorter than when it was registered")
