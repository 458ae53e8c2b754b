"""``pb_utils`` objects inside a real stub: what a received request tells, and what a request made there may do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http
from bls_scripts import ECHO, run, write_scripted, write_targets
from calling import call
from rendezvous import Rendezvous, config, write
from serving import Served, serve

FAILING = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        error = pb_utils.TritonError("as told", pb_utils.TritonError.NOT_FOUND)
        return [pb_utils.InferenceResponse(error=error, parameters={"lost": 1}) for _ in requests]
"""
# Answers with what it got, by DLPack; in BF16 there is no other way.
BF16 = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            (tensor,) = request.inputs()
            try:
                tensor.as_numpy()
            except pb_utils.TritonModelException as error:
                text = pb_utils.Tensor("TEXT", np.array([str(error)], object))
            outputs = [pb_utils.Tensor.from_dlpack("OUT", tensor.to_dlpack()), text]
            responses.append(pb_utils.InferenceResponse(outputs))
        return responses
"""


@pytest.fixture(scope="module")
def server(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    write_scripted(repository)
    write_scripted(repository, "scripted_async", "async")
    write_targets(repository)
    write(repository, "failing", FAILING)
    write(repository, "echo_text", ECHO, config("IN:STRING", "OUT:STRING"))
    write(repository, "echo_5d", ECHO, config("IN:INT32", "OUT:INT32").replace("[ -1 ]", "[ -1, -1, -1, -1, -1 ]"))
    write(repository, "bf16", BF16, config("IN:BF16", "OUT:BF16 TEXT:STRING"))
    with serve(repository) as served:
        yield served


# -- a received request


@pytest.mark.spec("python_backend:C171")
@pytest.mark.parametrize(
    "parameters", [{}, {"text": "ü", "empty": "", "number": -5, "yes": True, "half": 0.5, "large": 2**63 - 1}]
)
def test_parameters_of_every_kind_are_json_text(server: Served, parameters: dict[str, Any]) -> None:
    assert run(server, "return json.loads(received.parameters())", parameters=parameters) == parameters
    assert (run(server, "return received.parameters()", parameters=parameters) == "{}") == (not parameters)


@pytest.mark.spec("python_backend:C174")
def test_requested_outputs_are_a_set_of_names(server: Served) -> None:
    script = "names = received.requested_output_names(); return [type(names).__name__, sorted(names)]"
    assert run(server, script) == ["set", ["OUT"]]
    script = 'return sorted(request("m", outputs=["B", "A", "B"]).requested_output_names())'
    assert run(server, script) == ["A", "B"]


def test_a_received_request_is_not_cancelled_and_has_a_trace_without_context(server: Served) -> None:
    assert run(server, "return [received.is_cancelled(), received.trace().get_context()]") == [False, None]


# -- responses


@pytest.mark.spec("python_backend:C184")
def test_an_error_response_has_no_parameters(server: Served) -> None:
    script = """
    response = request("failing", numpy.zeros(1, numpy.uint8)).exec()
    return [response.error().message(), int(response.error().code()), response.parameters()]
    """
    assert run(server, script) == ["as told", 2, ""]
    refused = call(server, "failing", {"IN": np.zeros(1, np.uint8)})
    assert (refused.status, refused.error, refused.parameters) == (404, "as told", {})


@pytest.mark.spec("python_backend:C150")
@pytest.mark.spec("python_backend:Q6")
@pytest.mark.parametrize("count", [3, 10_000])
def test_bf16_travels_by_dlpack(server: Served, count: int) -> None:
    sent = np.resize(np.array([1.5, -2.0, 0.25], ml_dtypes.bfloat16), count)
    tensor = tritonclient.http.InferInput("IN", [count], "BF16")
    tensor.set_data_from_numpy(sent)
    with tritonclient.http.InferenceServerClient(server.http_url) as client:
        result = client.infer("bf16", [tensor])
    assert result.as_numpy("OUT").tolist() == sent.tolist()
    assert [output["datatype"] for output in result.get_response()["outputs"]] == ["BF16", "BYTES"]
    text = b"Tensor dtype is BF16 and cannot be converted to NumPy. Use to_dlpack() and from_dlpack() instead."
    assert result.as_numpy("TEXT").item() == text


# -- a request that the model made


@pytest.mark.spec("python_backend:C177")
@pytest.mark.spec("python_backend:K9")
def test_what_belongs_to_received_requests_does_no_harm_to_others(server: Served) -> None:
    script = """
    made = request("square", ints(3))
    try:
        made.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
        refused = None
    except pb_utils.TritonModelException as error:
        refused = type(error).__name__
    return [made.is_cancelled(), refused, value(made.exec()), made.is_cancelled()]
    """
    assert run(server, script) == [False, "TritonModelException", 9, False]


@pytest.mark.spec("python_backend:C178")
def test_an_asynchronous_call_needs_a_running_loop(server: Served) -> None:
    script = """
    try:
        request("square", ints(3)).async_exec()
    except RuntimeError as error:
        return str(error)
    """
    assert run(server, script) == "no running event loop"


@pytest.mark.spec("python_backend:C179")
def test_asynchronous_calls_run_in_the_loops_default_executor(server: Served) -> None:
    """As many at once as that has workers; their results in the order in which they were gathered."""
    script = """
    import concurrent.futures
    class Two(concurrent.futures.ThreadPoolExecutor):
        running = most = submitted = 0
        lock = threading.Lock()
        def submit(self, work, *arguments):
            self.submitted += 1
            return super().submit(self.counted, work, *arguments)
        def counted(self, work, *arguments):
            with self.lock:
                self.running += 1
                self.most = max(self.most, self.running)
            result = work(*arguments)
            with self.lock:
                self.running -= 1
            return result
    executor = Two(2)
    loop = asyncio.get_running_loop()
    loop.set_default_executor(executor)
    responses = await asyncio.gather(*(request("square", ints(number)).async_exec() for number in range(8)))
    return [values(responses), executor.submitted, executor.most <= 2]
    """
    assert run(server, script, "scripted_async") == [[number**2 for number in range(8)], 8, True]


# -- tensors


@pytest.mark.spec("python_backend:Q9")
@pytest.mark.parametrize("dtype", ["object", "numpy.bytes_"])
def test_texts_beyond_ascii_are_bytes_in_utf_8(server: Served, dtype: str) -> None:
    script = f"""
    sent = "\\U0001f600 ü".encode()
    response = request("echo_text", numpy.array([sent], dtype={dtype})).exec()
    return response.output_tensors()[0].as_numpy()[0].decode()
    """
    assert run(server, script) == "\U0001f600 ü"


@pytest.mark.spec("python_backend:Q11")
def test_constant_and_empty_strings_alternate(server: Served) -> None:
    script = """
    found = []
    for turn in range(6):
        sent = numpy.array(["constant"] if turn % 2 else [], dtype=object)
        output = request("echo_text", sent).exec().output_tensors()[0].as_numpy()
        found.append([output.size, [element.decode() for element in output]])
    return found
    """
    assert run(server, script) == [[0, []], [1, ["constant"]]] * 3


@pytest.mark.spec("python_backend:Q12")
def test_views_of_five_dimensions_arrive_in_their_own_order(server: Served) -> None:
    script = """
    array = numpy.arange(2 * 3 * 4 * 5 * 6, dtype=numpy.int32).reshape(2, 3, 4, 5, 6)
    views = [array.reshape(6, 5, 4, 3, 2), array.T, array.transpose(0, 3, 1, 2, 4), array[:, ::2]]
    outputs = [request("echo_5d", view).exec().output_tensors()[0].as_numpy() for view in views]
    return [numpy.array_equal(output, view) for output, view in zip(outputs, views)]
    """
    assert run(server, script) == [True] * 4


# -- classes


@pytest.mark.spec("python_backend:C127")
def test_models_may_add_to_the_loggers_class(server: Served) -> None:
    script = """
    pb_utils.Logger.info = pb_utils.Logger.log_info
    pb_utils.Logger.info("said by another name")
    return hasattr(pb_utils.Logger, "info")
    """
    assert run(server, script)
    server.wait_for_log("said by another name")
