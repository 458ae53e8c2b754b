"""Decoupled models that are told what to do, and the server that the tests of them share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import DECOUPLED
from rendezvous import Rendezvous, config, write
from serving import Served, serve

__all__ = ["PREFIX", "outs", "served"]

MODEL = """
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import triton_python_backend_utils as pb_utils
from rendezvous import at

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL

def response(text, *more, **options):
    names = ("OUT", "MORE")
    tensors = [pb_utils.Tensor(name, np.array([[value]], object)) for name, value in zip(names, (text, *more))]
    return pb_utils.InferenceResponse(tensors, **options)

def failure(text):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text))

class TritonPythonModel:
    def initialize(self, args):
        self.pool = ThreadPoolExecutor(8)

    def execute(self, requests):
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy().item().decode()
            verb, _, argument = text.partition(":")
            if verb == "return":
                request.get_response_sender().send(response("first"))
                if argument == "later":
                    threading.Thread(target=self.too_late, args=(request.get_response_sender(),)).start()
                return [response("returned")] * len(requests)
            if verb == "final and return":
                request.get_response_sender().send(response("first"), FINAL)
                return [response("returned")] * len(requests)
            getattr(self, verb)(request.get_response_sender(), argument, request)

    def too_late(self, sender):
        at("too late")
        try:
            sender.send(response("late"), FINAL)
        except pb_utils.TritonModelException as error:
            print("too late:", error, flush=True)

    def ok(self, sender, argument, request):
        sender.send(response("ok"), FINAL)

    def gate(self, sender, argument, request):
        at("gate")
        sender.send(flags=FINAL)

    def count(self, sender, argument, request):
        '''So many responses, the final flag with the last one.'''
        for number in range(int(argument)):
            sender.send(response(str(number)), FINAL if number + 1 == int(argument) else 0)
        if not int(argument):
            sender.send(flags=FINAL)

    def alone(self, sender, argument, request):
        '''So many responses, then the final flag alone.'''
        for number in range(int(argument)):
            sender.send(response(str(number)))
        sender.send(flags=FINAL)

    def pooled(self, sender, argument, request):
        self.pool.submit(self.alone, sender, argument, request)

    def visiting(self, sender, argument, request):
        '''One response before execute returns, one each time a visit is let go, until told to end.'''
        sender.send(response(argument))
        threading.Thread(target=self.visit, args=(sender, argument)).start()

    def visit(self, sender, name):
        while True:
            word = at(name)
            if word == "end":
                return sender.send(flags=FINAL)
            sender.send(response(f"{name} {word}"))

    def same(self, sender, argument, request):
        again = response("same", parameters={"again": True})
        for _ in range(100):
            sender.send(again)
        sender.send(flags=FINAL)

    def both(self, sender, argument, request):
        sender.send(response("both", "more"))
        sender.send(response("known", "more"), FINAL)

    def error(self, sender, argument, request):
        if argument == "then final":
            sender.send(response("before"))
            sender.send(failure("failed"))
            sender.send(flags=FINAL)
        elif argument == "final":
            sender.send(response("before"))
            sender.send(failure("failed"), FINAL)
        elif argument == "then data":
            sender.send(failure("failed"))
            sender.send(response("after"), FINAL)
        elif argument == "final later":
            sender.send(response("before"))
            sender.send(failure("failed"))
            threading.Thread(target=self.final_later, args=(sender,)).start()

    def final_later(self, sender):
        at("final later")
        sender.send(flags=FINAL)

    def after_final(self, sender, argument, request):
        sender.send(flags=FINAL)
        try:
            sender.send(response("late"))
        except pb_utils.TritonModelException:
            pass

    def crash(self, sender, argument, request):
        if argument:
            sender.send(response("before"), FINAL if argument == "after final" else 0)
        raise ValueError("Intentional Error")

    def thread(self, sender, argument, request):
        threading.Thread(target=self.crash, args=(sender, argument, request)).start()

    def lost(self, sender, argument, request):
        sender.send(response("before"))

    def full(self, sender, argument, request):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
        try:
            large = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.zeros(1 << 28, np.uint8))])
            sender.send(large, FINAL if argument == "final" else 0)
        except pb_utils.TritonModelException as error:
            if argument != "final":
                sender.send(response("refused"), FINAL)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
"""

BLOCKS = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            count = int(request.inputs()[0].as_numpy()[0])
            sender = request.get_response_sender()
            for number in range(count):
                array = np.full(3 << 20, number, np.uint8)
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array)]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

SINGLE = DECOUPLED.replace("dynamic_batching { }", "")
PREFIX = "Failed to process the request(s) for model 'streams_0_0', message: "


@pytest.fixture(scope="module")
def served(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    write(repository, "streams", MODEL, DECOUPLED)
    write(repository, "single", MODEL, SINGLE)
    write(repository, "blocks", BLOCKS, config(more="model_transaction_policy { decoupled: true }"))
    with serve(repository) as served:
        yield served


def outs(answers: list[dict[str, str]]) -> list[str]:
    return [answer["OUT"] for answer in answers]
