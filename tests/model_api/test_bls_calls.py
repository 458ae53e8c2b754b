"""Single calls of other models: from coroutines, side by side, nested, with odd tensors, and when things go wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bls_scripts import ECHO, run, write_scripted, write_targets
from calling import call, leased_blocks, metric, wait_until
from rendezvous import Rendezvous, config, write
from serving import Served, serve

DEPTH = 40
MODELS = ("scripted", "scripted_async", "deep", "forwarder", "square", "echo", "echo_2d", "mirror", "mortal")

FORWARDER = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for received in requests:
            request = pb_utils.InferenceRequest(
                model_name="echo", inputs=received.inputs(), requested_output_names=["OUT"]
            )
            responses.append(pb_utils.InferenceResponse(request.exec().output_tensors()))
        return responses
"""

MORTAL = """
import os
import signal
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        if requests[0].inputs()[0].as_numpy()[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", r.inputs()[0].as_numpy())]) for r in requests]
"""

TWO_OR_THREE = """
backend: "python"
input [
  { name: "IN" data_type: TYPE_INT32 dims: [ -1 ] },
  { name: "IN1" data_type: TYPE_INT32 dims: [ -1 ] },
  { name: "IN2" data_type: TYPE_INT32 dims: [ -1 ] optional: true }
]
output [ { name: "OUT" data_type: TYPE_INT32 dims: [ -1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""


@pytest.fixture(scope="module")
def server(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    write_scripted(repository)
    write_scripted(repository, "scripted_async", "async")
    write_scripted(repository, "deep", count=DEPTH + 1)
    write_targets(repository)
    write(repository, "forwarder", FORWARDER, config("IN:INT32", "OUT:INT32"))
    write(repository, "mortal", MORTAL, config("IN:INT32", "OUT:INT32"))
    write(repository, "two_or_three", ECHO, TWO_OR_THREE)
    write(repository, "echo_2d", ECHO, config("IN:INT32", "OUT:INT32").replace("[ -1 ]", "[ -1, -1 ]"))
    with serve(repository) as served:
        yield served


@pytest.fixture(autouse=True)
def nothing_stays(server: Served) -> Iterator[None]:
    """After each test no block is held, though no further request comes to any stub."""
    yield
    for model in MODELS:
        wait_until(lambda model=model: leased_blocks(server, model) == 0, f"no leased blocks of {model}", 5)
        assert metric(server, "atoll_shared_memory_used_bytes", model) == 0


# -- at the same time


@pytest.mark.spec("python_backend:Q52")
@pytest.mark.spec("python_backend:C250")
def test_a_coroutine_gathers_calls_and_makes_a_plain_one(server: Served) -> None:
    script = """
    responses = await asyncio.gather(*(request("square", ints(number)).async_exec() for number in range(10)))
    return values(responses) + [value(request("square", ints(10)).exec())]
    """
    assert run(server, script, "scripted_async") == [number**2 for number in range(11)]


@pytest.mark.spec("python_backend:C262")
def test_forty_calls_of_coroutines_are_under_way_together(server: Served) -> None:
    script = """
    responses = await asyncio.gather(
        *(request("echo", numpy.full(10_000, number, numpy.int32)).async_exec() for number in range(40))
    )
    return values(responses)
    """
    assert run(server, script, "scripted_async") == list(range(40))


@pytest.mark.spec("python_backend:C262")
def test_forty_threads_call_at_the_same_time(server: Served) -> None:
    script = """
    results = [None] * 40
    def work(number):
        results[number] = value(request("echo", numpy.full(10_000, number, numpy.int32)).exec())
    threads = [threading.Thread(target=work, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
    """
    assert run(server, script) == list(range(40))


@pytest.mark.spec("python_backend:C180")
@pytest.mark.parametrize("size", [1, 10_000])
def test_one_request_object_executes_in_several_threads_at_once(server: Served, size: int) -> None:
    script = f"""
    shared = request("echo", numpy.full({size}, 5, numpy.int32))
    results = []
    threads = [threading.Thread(target=lambda: results.append(value(shared.exec()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
    """
    assert run(server, script) == [5] * 8


# -- nested

NESTED = """
parameters = json.loads(received.parameters())
if parameters["depth"] == 0:
    return parameters
parameters["depth"] -= 1
return json.loads(value(request("deep", *received.inputs(), parameters=parameters).exec()))
"""


@pytest.mark.spec("python_backend:C256")
@pytest.mark.spec("python_backend:C263")
@pytest.mark.parametrize("depth", [1, DEPTH])
def test_a_model_with_instances_to_spare_calls_itself_again_and_again(server: Served, depth: int) -> None:
    assert run(server, NESTED, "deep", parameters={"depth": depth}) == {"depth": 0}


@pytest.mark.spec("python_backend:Q57")
def test_parameters_pass_through_four_calls(server: Served) -> None:
    parameters = {"bool": False, "int": -(2**63), "text": "", "other": "ü"}
    assert run(server, NESTED, "deep", parameters={**parameters, "depth": 4}) == {**parameters, "depth": 0}


# -- what a request carries


@pytest.mark.spec("python_backend:C259")
@pytest.mark.parametrize("correlation_id", [0, 1, 2**64 - 1, "a sequence", ""])
def test_a_sequence_is_named_by_a_number_or_a_text(server: Served, correlation_id: int | str) -> None:
    script = f"""
    made = request("mirror", ints(1), correlation_id={correlation_id!r}, flags=1)
    seen = [json.loads(value(made.exec()))]
    made.set_flags(pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END)
    return seen + [json.loads(value(made.exec()))]
    """
    first, last = run(server, script)
    assert (first["correlation_id"], first["flags"]) == (correlation_id, 1)
    assert (last["correlation_id"], last["flags"]) == (correlation_id, 2)


@pytest.mark.spec("python_backend:Q51")
def test_outputs_are_in_host_memory_where_there_is_no_gpu_whatever_is_preferred(server: Served) -> None:
    script = """
    kinds = pb_utils.TRITONSERVER_MEMORY_CPU, pb_utils.TRITONSERVER_MEMORY_GPU
    responses = [
        request("echo", ints(4), preferred_memory=pb_utils.PreferredMemory(kind)).exec() for kind in kinds
    ]
    return [[response.output_tensors()[0].is_cpu(), value(response)] for response in responses]
    """
    assert run(server, script) == [[True, 4], [True, 4]]


# -- tensors


@pytest.mark.spec("python_backend:Q42")
def test_tensors_without_elements_travel(server: Served) -> None:
    script = """
    shapes = [(0,), (1, 0), (0, 3)]
    models = ["echo", "echo_2d", "echo_2d"]
    responses = [request(model, numpy.zeros(shape, numpy.int32)).exec() for model, shape in zip(models, shapes)]
    return [
        response.error().message() if response.has_error() else response.output_tensors()[0].as_numpy().shape
        for response in responses
    ]
    """
    assert run(server, script) == [[0], [1, 0], [0, 3]]


@pytest.mark.spec("python_backend:Q41")
def test_what_is_exported_by_dlpack_outlives_its_response(server: Served) -> None:
    script = """
    response = request("square", numpy.arange(10_000, dtype=numpy.int32)).exec()
    (tensor,) = response.output_tensors()
    del response
    gc.collect()
    before = sys.getrefcount(tensor)
    capsule = tensor.to_dlpack()
    exported = sys.getrefcount(tensor) - before
    del capsule
    released = sys.getrefcount(tensor) - before
    array = numpy.from_dlpack(tensor)
    del tensor
    gc.collect()
    return exported, released, array[::3333].tolist()
    """
    assert run(server, script) == [1, 0, [0, 3333**2, 6666**2, 9999**2]]


@pytest.mark.spec("python_backend:C265")
def test_fifty_outputs_of_forty_megabytes_are_let_go_one_by_one(server: Served) -> None:
    script = """
    sent = numpy.arange(10_000_000, dtype=numpy.int32)
    sums = {int(request("echo", sent).exec().output_tensors()[0].as_numpy()[-3:].sum()) for _ in range(50)}
    return list(sums)
    """
    assert run(server, script) == [3 * 10_000_000 - 6]


@pytest.mark.spec("python_backend:C261")
@pytest.mark.parametrize("size", [5, 1_000_000])
def test_outputs_of_a_call_go_straight_into_a_response(server: Served, size: int) -> None:
    data = np.arange(size, dtype=np.int32)
    np.testing.assert_array_equal(call(server, "forwarder", {"IN": data})["OUT"], data)


# -- what goes wrong


@pytest.mark.spec("python_backend:C251")
def test_an_unknown_version_is_an_error(server: Served) -> None:
    assert run(server, "return value(request('square', ints(1), model_version=7).exec())") == (
        "Model square - Error when running inference: Request for unknown model: 'square' version 7 is not found"
    )


@pytest.mark.spec("python_backend:C253")
def test_a_model_with_optional_inputs_tells_how_many_it_takes(server: Served) -> None:
    script = """
    made = [request("two_or_three", *[ints(1)] * count).exec() for count in (1, 4)]
    return values(made)
    """
    one, four = run(server, script)
    assert "expected number of inputs between 2 and 3 but got 1 inputs for model 'two_or_three'" in one
    assert "expected number of inputs between 2 and 3 but got 4 inputs for model 'two_or_three'" in four


@pytest.mark.spec("python_backend:C254")
def test_the_callees_exception_comes_through_a_coroutine(server: Served) -> None:
    script = """
    response = await request("scripted", text("    raise KeyError('k')")).async_exec()
    return int(response.error().code()), value(response)
    """
    code, text = run(server, script, "scripted_async")
    assert code == 1
    assert text.startswith("Failed to process the request(s) for model 'scripted_0_0', message: KeyError: 'k'\n\nAt:\n")


def test_a_call_waits_for_the_restart_of_its_target(server: Served) -> None:
    script = """
    def call(number):
        return value(request("mortal", ints(number)).exec())
    return [call(1), call(-1), call(2)]
    """
    before, death, after = run(server, script)
    assert "Stub process 'mortal_0_0' is not healthy. It was killed by signal 9 (SIGKILL)." in death
    assert (before, after) == (1, 2)


@pytest.mark.spec("python_backend:Q53")
@pytest.mark.spec("python_backend:C264")
@pytest.mark.parametrize(("model", "execute"), [("scripted", "exec()"), ("scripted_async", "async_exec()")])
def test_a_tensor_that_no_memory_can_hold_is_an_error_response(server: Served, model: str, execute: str) -> None:
    # An array of a sparse file: larger than any memory, and none of it is needed to be refused.
    wait = "await " if "async" in model else ""
    script = f"""
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(1 << 42)
        enormous = numpy.memmap(file, numpy.int32, "r", shape=(1 << 40,))
        first = {wait}request("echo", enormous).{execute}
        stream = {wait}request("echo", enormous).{execute.replace("()", "(decoupled=True)")}
        again = {wait}request("echo", ints(1)).{execute}
        return [value(first), values(stream), value(again)]
    """
    first, stream, again = run(server, script, model)
    assert first.startswith("Failed to increase the shared memory pool size to ")
    assert stream == [first]
    assert again == 1
