"""Readiness that a model decides by its own ``is_ready``, and that of models whose stub is gone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from commands import CONFIG, DECOUPLED, Driver, driver
from grpc_wire import RpcClient
from rendezvous import Rendezvous, write
from serving import Served, serve

__all__ = ["driver"]

MODEL = """
import asyncio
import os
import numpy as np
import triton_python_backend_utils as pb_utils
from rendezvous import at

class TritonPythonModel:
    def initialize(self, args):
        self.name = args["model_instance_name"]
        lives = os.path.join(args["model_repository"], "lives")
        if args["model_name"] == "mortal" and os.path.exists(lives):
            at("rebirth")
        open(lives, "w").close()
        IS_READY_IN_INITIALIZE

    async def execute(self, requests):
        self.loop = asyncio.get_running_loop()
        if requests[0].inputs()[0].as_numpy().item() == b"busy":
            at("busy")
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUT", request.inputs()[0].as_numpy())]) for request in requests
        ]

    IS_READY
"""
STREAM = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for number in range(8):
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", request.inputs()[0].as_numpy())]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def is_ready(self):
        return True
"""
UNWILLING = "Model '{name}_0_0' is not ready (user-defined check failed)."
NO_BOOLEAN = "is_ready() must return a boolean value"
CHECKS: dict[str, tuple[str, str | None]] = {
    "absent": ("", None),
    "true": ("def is_ready(self): return True", None),
    "false": ("def is_ready(self): return False", UNWILLING),
    "raises": ("def is_ready(self): raise ValueError('no idea')", "ValueError: no idea"),
    "exits": ("def is_ready(self): raise SystemExit(1)", "SystemExit: 1"),
    "none": ("def is_ready(self): pass", NO_BOOLEAN),
    "number": ("def is_ready(self): return 1", NO_BOOLEAN),
    "numpy": ("def is_ready(self): return np.bool_(True)", NO_BOOLEAN),
    "coroutine": ("async def is_ready(self): await asyncio.sleep(0); return True", None),
    "same_loop": ("async def is_ready(self): return asyncio.get_running_loop() is self.loop", None),
    "unwilling": ("async def is_ready(self): await asyncio.sleep(0); return False", UNWILLING),
    "attribute": ("is_ready = 'yes'", None),
    "second": ("def is_ready(self): return self.name != 'second_0_1'", "Model 'second_0_1' is not ready (user-"),
    "elsewhere": (
        "def is_ready(self): import threading; return threading.current_thread() is not threading.main_thread()",
        None,
    ),
    "waiting": ("def is_ready(self): return at('waiting') == 'yes'", None),
    "mortal": ("", None),
}


@pytest.fixture(scope="module")
def served(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    for name, (check, _) in CHECKS.items():
        code = MODEL.replace("IS_READY_IN_INITIALIZE", "pass").replace("IS_READY", check)
        write(repository, name, code, CONFIG.replace("count: 1", f"count: {2 if name == 'second' else 1}"))
    code = MODEL.replace("IS_READY_IN_INITIALIZE", "self.is_ready = lambda: False").replace("IS_READY", "")
    write(repository, "assigned", code, CONFIG)
    write(repository, "stream", STREAM, DECOUPLED)
    with serve(repository, "--log-verbose=1") as served:
        yield served


def is_ready(served: Served, name: str) -> bool:
    """Over HTTP; both protocols say the same where one asks after the other."""
    status, body = served.get(f"/v2/models/{name}/ready")
    assert (status, body) in ((200, b""), (400, {"error": "Model version not ready"}))
    return status == 200


def is_ready_by_grpc(served: Served, name: str) -> bool:
    with RpcClient(served.grpc_url) as client:
        return bool(client.call("ModelReady", name=name).ready)


def reason_is_logged(served: Served, name: str, reason: str, times: int = 1) -> None:
    escaped = reason.replace("(", r"\(").replace(")", r"\)")
    served.wait_for_log(f"Model '{name}' version 1 is not ready: {escaped}", times=times)


@pytest.mark.spec("python_backend:C102")
@pytest.mark.spec("python_backend:C103")
@pytest.mark.spec("python_backend:C105")
@pytest.mark.spec("python_backend:C106")
@pytest.mark.spec("python_backend:C109")
@pytest.mark.spec("python_backend:C110")
@pytest.mark.spec("python_backend:Q94")
@pytest.mark.parametrize("name", [name for name in CHECKS if name != "waiting"])
def test_the_model_says_whether_it_is_ready_and_serves_all_the_same(served: Served, driver: Driver, name: str) -> None:
    reason = CHECKS[name][1]
    assert driver.one(name, "ok") == {"OUT": "ok"}
    for _ in range(2):
        assert is_ready(served, name) is is_ready_by_grpc(served, name) is (reason is None)
    if reason is not None:
        reason_is_logged(served, name, reason.format(name=name), times=4)
    assert driver.one(name, "ok") == {"OUT": "ok"}


@pytest.mark.spec("python_backend:C6")
def test_a_model_is_asked_beside_what_it_executes_and_in_another_thread(
    served: Served, driver: Driver, rendezvous: Rendezvous
) -> None:
    with ThreadPoolExecutor(1) as pool:
        executing = pool.submit(driver.one, "elsewhere", "busy")
        visit = rendezvous.next()
        assert is_ready(served, "elsewhere")
        visit.let_go()
        assert executing.result() == {"OUT": "busy"}


@pytest.mark.spec("server:17")
@pytest.mark.spec("python_backend:C104")
def test_an_is_ready_assigned_in_initialize_counts(served: Served) -> None:
    assert not is_ready(served, "assigned")
    reason_is_logged(served, "assigned", "Model 'assigned_0_0' is not ready (user-defined check failed).")


@pytest.mark.spec("python_backend:C112")
def test_one_model_that_is_not_ready_makes_a_strict_server_not_ready(served: Served, rendezvous: Rendezvous) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(served.get, "/v2/health/ready")
        rendezvous.next().let_go("yes")  # the model "waiting" is willing; others are not
        assert answer.result()[0] == 400


@pytest.mark.spec("python_backend:C107")
@pytest.mark.spec("python_backend:Q95")
def test_a_check_that_takes_too_long_goes_on_and_answers_the_next_question(
    served: Served, driver: Driver, rendezvous: Rendezvous
) -> None:
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(is_ready, served, "waiting")
        visit = rendezvous.next()
        second = pool.submit(is_ready_by_grpc, served, "waiting")
        assert driver.one("waiting", "in between") == {"OUT": "in between"}
        assert first.result() is second.result() is False
        assert 5 <= time.monotonic() - began < 8
        reason_is_logged(served, "waiting", "Timed out waiting for user-defined is_ready() response")
        reason_is_logged(served, "waiting", "Timed out waiting for in-flight is_ready() response")
        third = pool.submit(is_ready, served, "waiting")
        assert driver.one("waiting", "still") == {"OUT": "still"}
        visit.let_go("yes")
        assert third.result()


@pytest.mark.spec("python_backend:Q96")
def test_many_questions_and_requests_at_the_same_time(served: Served, driver: Driver) -> None:
    with ThreadPoolExecutor(16) as pool:
        ready = [pool.submit(is_ready, served, name) for name in ("true", "stream") * 16]
        ready += [pool.submit(is_ready_by_grpc, served, name) for name in ("true", "stream") * 8]
        single = [pool.submit(driver.one, "true", str(number)) for number in range(16)]
        streams = [pool.submit(driver.all, "stream", str(number)) for number in range(16)]
        assert all(future.result() for future in ready)
        assert [future.result() for future in single] == [{"OUT": str(number)} for number in range(16)]
        assert [future.result() for future in streams] == [[{"OUT": str(number)}] * 8 for number in range(16)]


@pytest.mark.spec("python_backend:C113")
@pytest.mark.spec("python_backend:C108")
@pytest.mark.spec("python_backend:Q93")
@pytest.mark.parametrize("number", [11, 9])
def test_a_model_without_its_stub_is_not_ready(served: Served, rendezvous: Rendezvous, number: int) -> None:
    os.kill(served.stubs()["mortal_0_0"], number)
    visit = rendezvous.next()  # the next life has not come further than this
    before = served.log.count("Model 'mortal' version 1 is not ready")
    assert not is_ready(served, "mortal")
    assert not is_ready_by_grpc(served, "mortal")
    reason_is_logged(served, "mortal", "Stub process 'mortal_0_0' is not healthy.", times=before + 2)
    visit.let_go()
    served.wait_for_log(f"instance 'mortal_0_0' serves again, as process {visit.pid}")
    assert is_ready(served, "mortal")


@pytest.mark.spec("python_backend:C108")
def test_a_stub_that_dies_while_it_is_asked_is_not_ready(served: Served, rendezvous: Rendezvous) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(is_ready, served, "waiting")
        visit = rendezvous.next()
        os.kill(visit.pid, 9)
        assert answer.result() is False
    text = "Stub process is not healthy while waiting for user-defined is_ready() response"
    reason_is_logged(served, "waiting", text)
    served.wait_for_log("instance 'waiting_0_0' serves again")


@pytest.mark.spec("python_backend:C112")
@pytest.mark.parametrize(("strict", "expected"), [("true", 400), ("false", 200)])
def test_a_server_without_one_of_its_stubs(tmp_path: Path, rendezvous: Rendezvous, strict: str, expected: int) -> None:
    code = MODEL.replace("IS_READY_IN_INITIALIZE", "pass").replace("IS_READY", "")
    write(tmp_path, "mortal", code, CONFIG)
    with serve(tmp_path, f"--strict-readiness={strict}") as served:
        assert served.get("/v2/health/ready")[0] == 200
        os.kill(served.stubs()["mortal_0_0"], 9)
        visit = rendezvous.next()
        assert served.get("/v2/health/ready")[0] == expected
        visit.let_go()
        served.wait_for_log("serves again")
        assert served.get("/v2/health/ready")[0] == 200
