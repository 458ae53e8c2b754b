"""What happens when an execution fails, and when a model calls another (BLS)."""

from pathlib import Path
from typing import Any

import pytest
from atoll_ipc.memory import OutOfSharedMemory
from atoll_ipc.wire import Kind
from stub_twin import (
    ECHO,
    LARGE,
    LoadedModel,
    SupervisorTwin,
    described,
    execute,
    numbers,
    reply,
    request,
)

pytestmark = pytest.mark.usefixtures("fresh_imports")

# -- failures


@pytest.mark.spec("python_backend:C42")
def test_an_exception_fails_the_batch_and_the_instance_lives(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(
        ECHO.replace(
            "        return [", "        if len(requests) > 1:\n            raise ValueError('two')\n        return ["
        )
    )
    block, reference = twin.place(LARGE.tobytes())
    twin.send(execute(4, request(described("IN", reference)), request(numbers(1))))
    _, execution_id, text, released = twin.receive(Kind.FAILED)
    assert execution_id == 4
    assert text.startswith("ValueError: two\n\nAt:\n  ")
    assert released == [list(block.key)]  # though the exception's frames referred to the requests
    assert model.run(request(numbers(1))) == [[[numbers(1, name="OUT")], None, None]]


@pytest.mark.spec("python_backend:C120")
def test_sys_exit_in_execute_is_an_error_like_any_other(model: LoadedModel) -> None:
    model.load("import sys\nclass TritonPythonModel:\n    def execute(self, requests):\n        sys.exit(3)\n")
    assert model.fail(request()).startswith("SystemExit: 3\n")
    assert model.fail(request()).startswith("SystemExit: 3\n")


def test_a_broken_contract_is_told_without_frames(model: LoadedModel) -> None:
    model.load("class TritonPythonModel:\n    def execute(self, requests):\n        return ()\n")
    assert model.fail(request()) == "Expected a list in the execute return, found type '<class 'tuple'>'."


def test_nothing_of_a_batch_stays_lent_when_its_last_output_finds_no_room(
    model: LoadedModel, twin: SupervisorTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.load(ECHO.replace(".as_numpy()", ".as_numpy() * 2"))
    _block, reference = twin.place(LARGE.tobytes())
    allocate = twin.store.arena.allocate
    calls = []

    def third_is_too_many(nbytes: int) -> Any:
        calls.append(nbytes)
        if len(calls) == 3:
            raise OutOfSharedMemory("Failed to increase the shared memory pool size")
        return allocate(nbytes)

    monkeypatch.setattr(twin.store.arena, "allocate", third_is_too_many)
    assert model.fail(*[request(described("IN", reference))] * 3) == "Failed to increase the shared memory pool size"
    assert twin.store.arena.stats().blocks == 0
    assert len(model.run(*[request(described("IN", reference))] * 3)) == 3


# -- BLS

CALLER = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        (request,) = requests
        call = pb_utils.InferenceRequest(
            model_name="other", model_version=3, request_id="nested", correlation_id=7, flags=1, timeout=9,
            requested_output_names=["OUT"], inputs=request.inputs(), parameters={"a": True},
        )
        response = call.exec()
        if response.has_error():
            error = response.error()
            text = f"{int(error.code())} {error.message()} {response.parameters()!r}"
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(text))]
        return [response]
"""


def test_a_model_calls_another(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(CALLER)
    twin.send(execute(1, request(numbers(1))))
    _, call_id, fields, released = twin.receive(Kind.INFER)
    assert fields == ["nested", 7, 1, 9, {"a": True}, ["OUT"], [numbers(1)], "other", 3, False, False, 0]
    assert released == []
    twin.send(reply(call_id, [[numbers(2, name="OUT")], None, {"b": 1}]))
    assert twin.receive(Kind.RESULT)[2] == [[[numbers(2, name="OUT")], None, {"b": 1}]]


@pytest.mark.spec("python_backend:C182")
def test_the_error_of_a_call_is_a_response(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(CALLER)
    twin.send(execute(1, request(numbers(1))))
    _, call_id, _, _ = twin.receive(Kind.INFER)
    twin.send(reply(call_id, [[], [4, "not ready"], None]))
    assert twin.receive(Kind.RESULT)[2] == [[[], [1, "4 not ready ''"], None]]


def test_a_call_passes_large_tensors_by_reference_both_ways(model: LoadedModel, twin: SupervisorTwin) -> None:
    model.load(CALLER)
    block, reference = twin.place(LARGE.tobytes())
    answer_block, answer = twin.place(LARGE.tobytes())
    twin.send(execute(1, request(described("IN", reference))))
    _, call_id, fields, _ = twin.receive(Kind.INFER)
    assert fields[6] == [described("IN", reference)]
    twin.send(reply(call_id, [[described("OUT", answer)], None, None]))
    _, _, responses, released, *_ = twin.receive(Kind.RESULT)
    assert responses == [[[described("OUT", answer)], None, None]]
    assert sorted(released) == sorted([list(block.key), list(answer_block.key)])


@pytest.mark.spec("python_backend:C264")
def test_a_call_that_finds_no_room_is_an_error_response_and_lends_nothing(
    model: LoadedModel, twin: SupervisorTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.load(
        CALLER.replace(
            "inputs=request.inputs()",
            "inputs=[pb_utils.Tensor(n, request.inputs()[0].as_numpy().repeat(9000)) for n in 'AB']",
        )
    )
    allocate = twin.store.arena.allocate
    blocks: list[Any] = []

    def one_only(nbytes: int) -> Any:
        if blocks:
            raise OutOfSharedMemory("no room")
        blocks.append(nbytes)
        return allocate(nbytes)

    monkeypatch.setattr(twin.store.arena, "allocate", one_only)
    assert model.run(request(numbers(1))) == [[[], [1, "1 no room ''"], None]]
    assert twin.store.arena.stats().blocks == 0


@pytest.mark.spec("python_backend:C38")
def test_a_model_may_not_call_before_it_is_initialized(model: LoadedModel) -> None:
    error = model.load(
        """
        import triton_python_backend_utils as pb_utils

        class TritonPythonModel:
            def initialize(self, args):
                pb_utils.InferenceRequest(model_name="other", requested_output_names=[], inputs=[]).exec()
        """
    )
    assert error is not None
    assert error.startswith("TritonModelException: BLS is only supported during the 'execute' function.\n")


def test_get_model_dir_is_the_folder_of_the_version(model: LoadedModel, tmp_path: Path) -> None:
    error = model.load(
        """
        import triton_python_backend_utils as pb_utils

        class TritonPythonModel:
            def initialize(self, args):
                raise ValueError(pb_utils.get_model_dir())
        """
    )
    assert error is not None
    assert error.startswith(f"ValueError: {tmp_path}/m/1\n")
