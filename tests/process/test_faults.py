"""What fails, and what is promised then: stubs, the warm parent and the server itself die, alone and under load."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from calling import (
    Answer,
    Caller,
    call,
    in_background,
    leased_blocks,
    metric,
    refuses_connections,
    statistics,
    wait_until,
)
from rendezvous import Rendezvous, config, identity, write
from serving import Served, serve

X = {"IN": np.arange(16, dtype=np.uint8)}

FRAGILE = '''
"""Does what its input says."""
import ctypes
import os
import signal
import socket
import stat
import struct
import sys
import numpy
import triton_python_backend_utils as pb_utils
from rendezvous import at

def channel():
    for name in os.listdir("/proc/self/fd"):
        try:
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as candidate:
                    if candidate.family == socket.AF_UNIX and candidate.type == socket.SOCK_STREAM:
                        return int(name)
        except OSError:
            pass

def write_frame(text):
    body = bytes.fromhex(text)
    os.write(channel(), struct.pack("<I", len(body)) + body)

def wait_for_the_end():
    while True:
        signal.pause()

def leave_a_child():
    if os.fork() == 0:
        at("child")
        os._exit(0)

class TritonPythonModel:
    def execute(self, requests):
        word, _, rest = requests[0].inputs()[0].as_numpy()[0].decode().partition(" ")
        print("asked to", word, file=sys.stderr)
        if word == "meet":
            word, _, rest = at(rest).partition(" ")
        if word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif word == "segfault":
            ctypes.string_at(0)
        elif word == "exit":
            os._exit(int(rest))
        elif word == "fork":
            leave_a_child()
        elif word == "write":
            os.write(channel(), bytes.fromhex(rest))
            wait_for_the_end()
        elif word == "frame":
            write_frame(rest)
            wait_for_the_end()
        output = pb_utils.Tensor("OUT", numpy.array([word], dtype=object))
        return [pb_utils.InferenceResponse([output]) for _ in requests]
'''

STRINGS = config(inputs="IN:STRING", outputs="OUT:STRING")


@pytest.fixture(scope="module")
def server(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    write(repository, "fragile", FRAGILE, STRINGS)
    write(repository, "fast", FRAGILE, STRINGS)
    write(repository, "looping", FRAGILE, STRINGS)
    identity(repository)
    identity(repository, "pair", count=2)
    with serve(repository) as served:
        yield served


def ask(served: Served, word: str, model: str = "fragile") -> Answer:
    return call(served, model, {"IN": [word]})


@contextlib.contextmanager
def one_restart(served: Served, model: str) -> Iterator[None]:
    """The block ends a life of an instance of the model, once, and the next one begins."""
    before = metric(served, "atoll_instance_restarts", model)
    serves_again = rf"instance '{model}_0_\d+' serves again"
    lives = len(re.findall(serves_again, served.log))
    yield
    served.wait_for_log(serves_again, times=lives + 1)
    assert metric(served, "atoll_instance_restarts", model) == before + 1
    assert "Stub process is unhealthy and it will be restarted." in served.log


# -- a stub dies


@pytest.mark.spec("python_backend:C116")
@pytest.mark.spec("python_backend:Q115")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_an_idle_stub_that_is_killed_is_replaced_without_a_failure(server: Served, number: int) -> None:
    with one_restart(server, "fragile"):
        stub = psutil.Process(server.stubs()["fragile_0_0"])
        stub.send_signal(number)
        psutil.wait_procs([stub], 10)
        assert ask(server, "echo")["OUT"] == [b"echo"]
    assert server.stubs()["fragile_0_0"] != stub.pid


@pytest.mark.spec("python_backend:C114")
@pytest.mark.spec("python_backend:C115")
@pytest.mark.spec("python_backend:C116")
@pytest.mark.parametrize(
    ("word", "cause"),
    [
        ("die", "It was killed by signal 9 (SIGKILL). Perhaps out of memory?"),
        ("segfault", "It was killed by signal 11 (SIGSEGV)."),
        ("exit 7", "It exited with code 7."),
        ("exit 0", "It exited with code 0."),
    ],
)
def test_a_stub_that_dies_in_execute_fails_its_request_with_the_cause(server: Served, word: str, cause: str) -> None:
    others = {name: pid for name, pid in server.stubs().items() if name != "fragile_0_0"}
    with one_restart(server, "fragile"):
        began = time.monotonic()
        answer = ask(server, word)
        assert time.monotonic() - began < 5
        assert answer.status == 500
        assert answer.error.startswith(
            "Failed to process the request(s) for model instance 'fragile_0_0', message: "
            f"Stub process 'fragile_0_0' is not healthy. {cause} Last lines of its stderr:\n"
        )
        assert f"asked to {word.split()[0]}" in answer.error.splitlines()
        assert ask(server, "echo")["OUT"] == [b"echo"]
    assert others.items() <= server.stubs().items()


def test_requests_queued_behind_the_one_that_killed_the_stub_are_served(server: Served, rendezvous: Rendezvous) -> None:
    pending = metric(server, "nv_inference_pending_request_count", "fragile")
    with one_restart(server, "fragile"), ThreadPoolExecutor(3) as pool:
        killer = pool.submit(ask, server, "meet here")
        visit = rendezvous.next()
        queued = [pool.submit(ask, server, "echo") for _ in range(2)]
        wait_until(
            lambda: metric(server, "nv_inference_pending_request_count", "fragile") == pending + 2, "both are queued"
        )
        visit.let_go("die")
        assert killer.result().status == 500
        assert [answer.result()["OUT"] for answer in queued] == [[b"echo"], [b"echo"]]


def test_a_dead_stub_is_noticed_though_a_child_of_it_keeps_its_channel_open(
    server: Served, rendezvous: Rendezvous
) -> None:
    assert ask(server, "fork").status == 200
    child = rendezvous.next()
    with one_restart(server, "fragile"):
        answer = ask(server, "die")
        assert "signal 9 (SIGKILL)" in answer.error
        assert ask(server, "echo").status == 200
    child.let_go()
    assert not psutil.wait_procs([psutil.Process(child.pid)] if psutil.pid_exists(child.pid) else [], 10)[1]


@pytest.mark.parametrize(
    ("word", "what"),
    [
        ("write ffffffff00000000", "a frame of 4 GiB"),
        ("write 05000000c1c1c1c1c1", "no msgpack"),
        ("frame 01", "a number"),
        ("frame a474657874", "a text"),
        ("frame 9163", "an unknown kind"),
        ("frame 80", "a map"),
        ("frame 90", "nothing"),
        ("frame 9121", "a RESULT without fields"),
        ("frame 9521cd03e7909093000000", "a RESULT of another execution"),
        ("frame 922401", "a RELEASE of a number"),
        ("frame 922491930102c0", "a RELEASE of what is no block"),
        ("frame 942301c090", "an INFER without a request"),
        ("frame 94230199a0000000c0909194a2494e0d9101950700000505a866726167696c65ff90", "a block of nobody"),
    ],
)
def test_a_stub_that_sends_nonsense_is_ended_and_replaced(server: Served, word: str, what: str) -> None:
    bystander = server.stubs()["identity_0_0"]
    with one_restart(server, "fragile"):
        assert ask(server, word).status == 500, what
    assert ask(server, "echo").status == 200
    assert np.array_equal(call(server, "identity", X)["OUT"], X["IN"])
    assert server.stubs()["identity_0_0"] == bystander


def test_a_model_in_a_crash_loop_does_not_hurt_another(server: Served) -> None:
    done = threading.Event()

    def crash() -> int:
        crashes = 0
        while not done.is_set():
            assert ask(server, "die", "looping").status == 500
            crashes += 1
        return crashes

    with in_background(crash) as crashing, Caller(server) as caller:
        server.wait_for_log("instance 'looping_0_0' serves again", times=3)
        answers = [caller("identity", X) for _ in range(300)]
        server.wait_for_log("instance 'looping_0_0' serves again", times=4)
        done.set()
        assert crashing.result() >= 4
    assert all(np.array_equal(answer["OUT"], X["IN"]) for answer in answers)


# -- under load


class Load:
    """Clients that call a model as fast as they are answered."""

    def __init__(self, served: Served, model: str, inputs: object, clients: int = 8) -> None:
        self._served, self._model, self._inputs = served, model, inputs
        self._done = threading.Event()
        self._progress = threading.Condition()
        self.answers: list[Answer] = []
        self.broken: list[Exception] = []
        self._pool = ThreadPoolExecutor(clients)
        self._clients = [self._pool.submit(self._run) for _ in range(clients)]

    def _run(self) -> None:
        with Caller(self._served) as caller:
            while not self._done.is_set():
                try:
                    answer = caller(self._model, self._inputs)  # type: ignore[arg-type]
                except (OSError, http.client.HTTPException) as error:
                    self.broken.append(error)
                    return
                with self._progress:
                    self.answers.append(answer)
                    self._progress.notify_all()

    def wait_for(self, more: int) -> None:
        """Until so many more answers came."""
        with self._progress:
            goal = len(self.answers) + more
            assert self._progress.wait_for(lambda: len(self.answers) >= goal, 30)

    def stop(self) -> None:
        self._done.set()
        self._pool.shutdown()
        for client in self._clients:
            client.result()

    @property
    def failures(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status != 200]


@pytest.mark.parametrize("model", ["pair", "identity"])
def test_two_kills_under_load_fail_no_more_than_what_was_executing(server: Served, model: str) -> None:
    before = statistics(server, model)["inference_stats"]
    load = Load(server, model, X)
    for _ in range(2):
        load.wait_for(100)
        with one_restart(server, model):
            os.kill(server.stubs()[f"{model}_0_0"], signal.SIGKILL)
    load.wait_for(100)
    load.stop()

    assert load.broken == []
    assert len(load.failures) <= 2
    assert all("signal 9 (SIGKILL)" in answer.error for answer in load.failures)
    assert all(np.array_equal(answer["OUT"], X["IN"]) for answer in load.answers if answer.status == 200)
    after = statistics(server, model)["inference_stats"]
    counted = {name: after[name]["count"] - before[name]["count"] for name in ("success", "fail")}
    assert counted == {"success": len(load.answers) - len(load.failures), "fail": len(load.failures)}
    assert metric(server, "nv_inference_pending_request_count", model) == 0
    assert leased_blocks(server, model) == 0


def test_what_was_sent_ahead_to_a_stub_survives_its_death(server: Served) -> None:
    load = Load(server, "fast", {"IN": ["echo"]})
    for _ in range(4):
        load.wait_for(50)  # executions are known to be short: the next one is sent ahead
        with one_restart(server, "fast"):
            assert "signal 9 (SIGKILL)" in ask(server, "die", "fast").error
    load.stop()
    assert load.broken == load.failures == []


def test_the_warm_parents_death_is_survived(server: Served) -> None:
    before = server.stubs()
    (parent,) = psutil.Process(server.process.pid).children()
    parent.kill()
    assert not psutil.wait_procs([psutil.Process(pid) for pid in before.values() if psutil.pid_exists(pid)], 10)[1]
    for instance in before:
        server.wait_for_log(rf"(?s)parent of .* ended with status -9.*instance '{instance}' serves again")
    after = server.stubs()
    assert after.keys() == before.keys()
    assert set(after.values()).isdisjoint(before.values())
    for model in ("identity", "pair"):
        assert np.array_equal(call(server, model, X)["OUT"], X["IN"])


# -- the end of the server


@pytest.mark.spec("python_backend:C16")
@pytest.mark.spec("python_backend:Q15")
def test_nothing_is_left_of_a_server_that_is_killed_under_load(tmp_path: Path) -> None:
    identity(tmp_path, count=2)
    shm_before = set(os.listdir("/dev/shm"))
    with serve(tmp_path) as served:
        load = Load(served, "identity", {"IN": np.ones(100_000, dtype=np.uint8)})
        load.wait_for(50)
        processes = served.processes()
        assert len(processes) == 4
        served.process.kill()
        _, left = psutil.wait_procs(processes, 10)
        assert left == []
        load.stop()
    assert load.failures == []
    assert set(os.listdir("/dev/shm")) <= shm_before


def test_sigterm_answers_what_was_accepted_before_the_server_ends(tmp_path: Path, rendezvous: Rendezvous) -> None:
    write(tmp_path, "fragile", FRAGILE, STRINGS)
    with serve(tmp_path) as served, ThreadPoolExecutor(3) as pool:
        executing = pool.submit(ask, served, "meet here")
        visit = rendezvous.next()
        queued = [pool.submit(ask, served, "echo") for _ in range(2)]
        wait_until(lambda: metric(served, "nv_inference_pending_request_count", "fragile") == 2, "both are queued")
        served.process.send_signal(signal.SIGTERM)
        served.wait_for_log(r"Signal \(15\) received")
        wait_until(lambda: refuses_connections(served), "the port is closed")
        visit.let_go("met")
        assert executing.result()["OUT"] == [b"met"]
        assert [answer.result()["OUT"] for answer in queued] == [[b"echo"], [b"echo"]]
        assert served.process.wait(20) == 0


def test_sigterm_under_load_breaks_no_answer(tmp_path: Path) -> None:
    identity(tmp_path, count=2)
    with serve(tmp_path) as served:
        load = Load(served, "identity", X)
        load.wait_for(100)
        assert served.stop() == 0
        load.stop()
    assert load.failures == []
    assert all(isinstance(error, (ConnectionError, http.client.RemoteDisconnected)) for error in load.broken)


@pytest.mark.spec("python_backend:Q116")
def test_a_server_whose_stub_was_killed_ends_cleanly(tmp_path: Path) -> None:
    identity(tmp_path, count=2)
    with serve(tmp_path) as served:
        for pid in served.stubs().values():
            os.kill(pid, signal.SIGKILL)
        assert served.stop() == 0


def test_a_finalize_that_hangs_is_given_up_after_the_exit_timeout(tmp_path: Path, rendezvous: Rendezvous) -> None:
    code = """
        from rendezvous import at

        class TritonPythonModel:
            def execute(self, requests):
                return []

            def finalize(self):
                at("finalize")
    """
    write(tmp_path, "hangs", code)
    identity(tmp_path)
    with serve(tmp_path, "--exit-timeout-secs=2") as served:
        assert served.stop() == 1
        rendezvous.next()
    assert "Exit timeout expired. Exiting immediately." in served.log


# -- no memory

SMALL_SHM = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=16m tmpfs /dev/shm && exec "$0" "$@"')
LARGE = {"IN": np.ones(64 << 20, dtype=np.uint8)}

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


@contextlib.contextmanager
def serve_in_small_shm(repository: Path, backing: str) -> Iterator[Served]:
    """A server that has 16 MiB of /dev/shm for itself."""
    if os.system(f"{SMALL_SHM[0]} --mount true 2>/dev/null") != 0:
        pytest.skip("a mount namespace of its own (unshare --mount) is not permitted here")
    identity(repository)
    write(repository, "double", DOUBLE)
    with serve(repository, f"--backend-config=python,shm-backing={backing}", within=SMALL_SHM) as served:
        yield served


@pytest.mark.spec("python_backend:C243")
@pytest.mark.spec("python_backend:C244")
@pytest.mark.spec("python_backend:C245")
@pytest.mark.spec("python_backend:C247")
@pytest.mark.spec("python_backend:Q1")
def test_a_full_shared_memory_fails_the_one_request_that_does_not_fit(tmp_path: Path) -> None:
    fits = {"IN": np.ones(2 << 20, dtype=np.uint8)}
    with serve_in_small_shm(tmp_path, "posix") as served:
        before = metric(served, "atoll_shared_memory_used_bytes", "identity")
        assert np.array_equal(call(served, "identity", fits)["OUT"], fits["IN"])
        for _ in range(3):
            refused = call(served, "identity", LARGE)
            assert refused.status == 503
            assert "Failed to increase the shared memory pool size to" in refused.error
            assert "shm-backing=memfd" in refused.error
            assert np.array_equal(call(served, "identity", fits)["OUT"], fits["IN"])
        # The input fits, the output does not: the stub notices.
        failed = call(served, "double", {"IN": np.ones(6 << 20, dtype=np.uint8)})
        assert failed.status == 500
        assert "Failed to increase the shared memory pool size to" in failed.error
        assert call(served, "double", X)["OUT"].nbytes == 32
        assert metric(served, "atoll_shared_memory_used_bytes", "identity") == before
        assert metric(served, "atoll_instance_restarts", "double") == 0


@pytest.mark.parametrize("backing", ["memfd", "auto"])
def test_memfd_is_not_bound_by_the_size_of_dev_shm(tmp_path: Path, backing: str) -> None:
    with serve_in_small_shm(tmp_path, backing) as served:
        assert np.array_equal(call(served, "identity", LARGE)["OUT"], LARGE["IN"])
