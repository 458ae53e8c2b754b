"""Models whose ``execute`` is a few lines of a test, and how their answers look in messages."""

from __future__ import annotations

from typing import Any

from atoll_ipc.wire import Kind
from stub_twin import numbers

__all__ = ["CLOSED", "answered", "executes", "numbered", "refused", "text"]

CLOSED = "Unable to send response. Response sender has been closed."
HEAD = """
import asyncio
import threading
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
RESCHEDULE = pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE

def answer(request):
    return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", request.inputs()[0].as_numpy())])

def number(value):
    return pb_utils.InferenceResponse([], parameters={"n": value})

def refusal(call, *arguments):
    try:
        call(*arguments)
    except pb_utils.TritonModelException as error:
        return pb_utils.InferenceResponse([], parameters={"refused": str(error)})

class TritonPythonModel:
    kept = None

    %s execute(self, requests):
"""


def executes(body: str, async_: bool = False) -> str:
    """A model whose ``execute`` has this body."""
    return HEAD % ("async def" if async_ else "def") + "".join(f"        {line}\n" for line in body.splitlines())


def text(message: list[Any]) -> str:
    """The error of a RESPONSE that is final."""
    kind, _, _, (tensors, error, _), final, *_ = message
    assert (kind, tensors, final) == (Kind.RESPONSE, [], True)
    assert error[0] == 1
    return str(error[1])


def answered(value: float) -> list[Any]:
    return [[numbers(value, name="OUT")], None, None]


def numbered(value: Any) -> list[Any]:
    return [[], None, {"n": value}]


def refused(message: list[Any]) -> str:
    return str(message[3][2]["refused"])
