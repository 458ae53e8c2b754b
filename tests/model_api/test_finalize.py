"""``finalize``, and what an unload or the server's end waits for."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from calling import refuses_connections, wait_until
from commands import CONFIG, DECOUPLED, command, texts_of
from grpc_wire import RpcClient
from rendezvous import Rendezvous, write
from serving import Served, serve

MODEL = """
import threading
import numpy as np
import triton_python_backend_utils as pb_utils
from rendezvous import at

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL

class TritonPythonModel:
    def initialize(self, args):
        self.name = args["model_name"]
        self.senders = []
        self.thread = threading.Thread(target=at, args=("worker",))
        if self.name == "failing":
            raise ValueError("not today")

    def execute(self, requests):
        for request in requests:
            what = request.inputs()[0].as_numpy().item().decode()
            sender = request.get_response_sender()
            if what == "thread":
                self.thread.start()
            if what == "keep":
                self.senders.append(sender)
                print("kept a sender", flush=True)
            elif what == "later":
                threading.Thread(target=self.later, args=(sender,)).start()
            elif what == "misuse":
                threading.Thread(target=self.misuse, args=(sender,)).start()
            else:
                sender.send(self.response(what), FINAL)

    def response(self, text):
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([[text]], object))])

    def later(self, sender):
        at("later")
        sender.send(self.response("later"), FINAL)

    def misuse(self, sender):
        for arguments in ((None, FINAL), (self.response("first"),), (self.response("second"),), (None, FINAL)):
            try:
                sender.send(*arguments)
            except pb_utils.TritonModelException as error:
                print("refused:", error, flush=True)

    def finalize(self):
        pb_utils.Logger.log_warn("finalize of " + self.name)
        if self.name == "slow":
            at("finalize")
        elif self.name == "joining":
            print("Finalize invoked", flush=True)
            self.thread.join()
            print("Finalize complete...", flush=True)
        elif self.name == "calling":
            pb_utils.InferenceRequest(model_name="slow", requested_output_names=[], inputs=[]).exec()
        elif self.name == "crashing":
            raise ValueError("the end is not nice")
"""
NAMES = ("slow", "joining", "calling", "crashing", "threaded", "open", "misused")


@pytest.fixture(scope="module")
def served(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    for name in NAMES:
        write(repository, name, MODEL, CONFIG if name == "misused" else DECOUPLED)
    write(repository, "failing", MODEL, CONFIG)
    flags = ("--model-control-mode=explicit", *(f"--load-model={name}" for name in (*NAMES, "failing")))
    with serve(repository, *flags, "--exit-on-error=false") as served:
        yield served


def unload(served: Served, name: str) -> None:
    status, body = served.post(f"/v2/repository/models/{name}/unload", {})
    assert status == 200, body


def unloaded(served: Served, name: str) -> bool:
    return f"successfully unloaded '{name}' version 1" in served.log


def wait_for_unloaded(served: Served, name: str) -> None:
    served.wait_for_log(f"successfully unloaded '{name}' version 1")


@pytest.mark.spec("python_backend:C97")
def test_finalize_is_not_called_where_initialize_failed(served: Served) -> None:
    served.wait_for_log("ValueError: not today")
    served.wait_for_log("failed to load 'failing'")
    assert "finalize of failing" not in served.log


@pytest.mark.spec("python_backend:C96")
@pytest.mark.spec("python_backend:C99")
def test_an_exception_in_finalize_is_logged_and_forgotten(served: Served) -> None:
    unload(served, "crashing")
    wait_for_unloaded(served, "crashing")
    assert served.log.count("finalize of crashing") == 1
    line = next(line for line in served.log.splitlines() if "the end is not nice" in line)
    assert line.startswith("I")
    assert served.get("/v2/models/crashing/ready")[0] in (400, 404)


@pytest.mark.spec("python_backend:C96")
def test_a_model_may_call_no_other_in_finalize(served: Served) -> None:
    unload(served, "calling")
    wait_for_unloaded(served, "calling")
    assert "BLS is only supported during the 'execute' function." in served.log


@pytest.mark.spec("python_backend:C98")
def test_an_unload_waits_for_finalize(served: Served, rendezvous: Rendezvous) -> None:
    unload(served, "slow")
    visit = rendezvous.next()
    assert served.get("/v2/models/slow/ready")[0] in (400, 404)
    assert not unloaded(served, "slow")
    visit.let_go()
    wait_for_unloaded(served, "slow")


@pytest.mark.spec("python_backend:Q68")
def test_finalize_may_wait_for_threads(served: Served, rendezvous: Rendezvous) -> None:
    with RpcClient(served.grpc_url) as client:
        assert [texts_of(message) for message in client.stream([command("joining", "thread")])] == [{"OUT": "thread"}]
    visit = rendezvous.next()
    unload(served, "joining")
    served.wait_for_log("Finalize invoked")
    assert "Finalize complete..." not in served.log
    visit.let_go()
    wait_for_unloaded(served, "joining")
    assert "Finalize complete..." in served.log


@pytest.mark.spec("python_backend:C100")
def test_a_thread_that_is_no_daemon_keeps_the_stub(served: Served, rendezvous: Rendezvous) -> None:
    with RpcClient(served.grpc_url) as client:
        assert list(client.stream([command("threaded", "thread")]))
    visit = rendezvous.next()
    pid = served.stubs()["threaded_0_0"]
    unload(served, "threaded")
    served.wait_for_log("finalize of threaded")
    assert served.stubs()["threaded_0_0"] == pid
    assert not unloaded(served, "threaded")
    visit.let_go()
    wait_for_unloaded(served, "threaded")


@pytest.mark.spec("python_backend:C101")
def test_an_unload_waits_for_responses_that_are_to_come(served: Served, rendezvous: Rendezvous) -> None:
    with RpcClient(served.grpc_url) as client:
        call = client.stream([command("open", "later")])
        visit = rendezvous.next()
        unload(served, "open")
        wait_until(lambda: served.get("/v2/models/open/ready")[0] != 200, "the unload has begun")
        assert "finalize of open" not in served.log
        visit.let_go()
        assert [texts_of(message) for message in call] == [{"OUT": "later"}]
    wait_for_unloaded(served, "open")


@pytest.mark.spec("python_backend:Q77")
def test_misused_senders_do_not_keep_a_model_from_unloading(served: Served) -> None:
    with RpcClient(served.grpc_url) as client:
        assert b"first" in client.infer(command("misused", "misuse")).raw_output_contents[0]
    served.wait_for_log("refused: .*cannot send more than one response")
    unload(served, "misused")
    wait_for_unloaded(served, "misused")


@pytest.mark.spec("python_backend:C76")
@pytest.mark.spec("python_backend:K3")
def test_the_end_of_the_server_waits_for_open_senders_so_long_and_no_longer(
    tmp_path: Path, rendezvous: Rendezvous
) -> None:
    write(tmp_path, "open", MODEL, DECOUPLED)
    with serve(tmp_path, "--exit-timeout-secs=1") as served, RpcClient(served.grpc_url) as client:
        kept = client.stream([command("open", "keep")])
        served.wait_for_log("kept a sender")
        later = client.stream([command("open", "later")])
        visit = rendezvous.next()
        with ThreadPoolExecutor(1) as pool:
            stopped = pool.submit(served.stop, signal.SIGTERM)
            wait_until(lambda: refuses_connections(served), "the server is stopping")
            visit.let_go()
            assert [texts_of(message) for message in later] == [{"OUT": "later"}]
            stopped.result()
        with pytest.raises(grpc.RpcError):
            next(kept)
        assert kept.code() == grpc.StatusCode.UNAVAILABLE
        assert "finalize of open" in served.log
