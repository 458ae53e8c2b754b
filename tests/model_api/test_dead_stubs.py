"""What a server does while a stub is dead: its other models are served, and requests wait for the next life."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bls_scripts import run, write_scripted
from calling import call, leased_blocks, metric, wait_until
from grpc_wire import RpcClient, infer_request
from rendezvous import Rendezvous, identity, write
from serving import Served, serve

# Its second life begins when the test says so.
MORTAL = """
import os
import triton_python_backend_utils as pb_utils
from rendezvous import at

class TritonPythonModel:
    def initialize(self, args):
        lives = os.path.join(args["model_repository"], "lives")
        if os.path.exists(lives):
            at("rebirth")
        open(lives, "w").close()

    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", r.inputs()[0].as_numpy())]) for r in requests]
"""
UNWILLING = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", r.inputs()[0].as_numpy())]) for r in requests]

    def is_ready(self):
        return False
"""
X = {"IN": np.arange(4, dtype=np.uint8)}


@pytest.fixture(scope="module")
def server(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    write(repository, "mortal", MORTAL)
    write(repository, "unwilling", UNWILLING)
    identity(repository)
    write_scripted(repository)
    with serve(repository) as served:
        yield served


@pytest.mark.spec("python_backend:C117")
@pytest.mark.spec("python_backend:K4")
def test_two_thousand_requests_to_a_dead_stub_wait_for_it_and_block_nothing(
    server: Served, rendezvous: Rendezvous
) -> None:
    os.kill(server.stubs()["mortal_0_0"], signal.SIGKILL)
    visit = rendezvous.next()
    tensor = {"name": "IN", "datatype": "UINT8", "shape": [4]}
    with RpcClient(server.grpc_url) as client:
        calls = [
            client.start(infer_request("mortal", tensor, raw_input_contents=[number.to_bytes(4, "little")]))
            for number in range(2000)
        ]
        wait_until(
            lambda: metric(server, "nv_inference_pending_request_count", "mortal") == 2000, "all requests are queued"
        )
        assert np.array_equal(call(server, "identity", X)["OUT"], X["IN"])
        assert server.get("/v2/models/mortal/ready")[0] == 400
        visit.let_go()
        answers = [future.result() for future in calls]
    assert [number.to_bytes(4, "little") in answer for number, answer in enumerate(answers)] == [True] * 2000


@pytest.mark.spec("python_backend:C248")
def test_the_next_life_begins_with_all_memory_free(server: Served, rendezvous: Rendezvous) -> None:
    large = {"IN": np.ones(1 << 20, dtype=np.uint8)}
    for _ in range(2):
        assert np.array_equal(call(server, "mortal", large)["OUT"], large["IN"])
        os.kill(server.stubs()["mortal_0_0"], signal.SIGKILL)
        rendezvous.next().let_go()
        assert np.array_equal(call(server, "mortal", X)["OUT"], X["IN"])
        wait_until(lambda: leased_blocks(server, "mortal") == 0, "nothing is leased")
        assert metric(server, "atoll_shared_memory_used_bytes", "mortal") == 0


@pytest.mark.spec("python_backend:C111")
def test_a_model_that_is_not_ready_is_not_called(server: Served) -> None:
    script = """
    made = request("unwilling", numpy.zeros(4, numpy.uint8))
    return values([made.exec(), *made.exec(decoupled=True)])
    """
    refused = (
        "Model unwilling - Error when running inference: "
        "Failed for execute the inference request. Model 'unwilling' is not ready."
    )
    assert run(server, script) == [refused] * 2
    assert np.array_equal(call(server, "unwilling", X)["OUT"], X["IN"])
