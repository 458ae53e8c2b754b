"""Requests and responses of an embedded server, in threads and in coroutines."""

from __future__ import annotations

import asyncio
import gc
import json
import queue
import re
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonserver
from atoll.embedding.inbox import AsyncInbox
from embedded import EXAMPLE_MODELS
from serving import write_model
from tritonserver import InferenceRequest, MemoryAllocator, MemoryBuffer, MemoryType, Model, Server, Tensor

COUNTS = """
import threading
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "N", "data_type": "TYPE_INT32", "dims": [1]})
        config.add_output({"name": "OUT", "data_type": "TYPE_INT32", "dims": [-1]})
        config.set_model_transaction_policy({"decoupled": True})
        return config

    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self.send, args=(request,)).start()

    def send(self, request):
        sender = request.get_response_sender()
        count = int(request.inputs()[0].as_numpy()[0])
        number = 0
        while number != count and not request.is_cancelled():
            out = np.full(4096 if count > 3 or count < 0 else 1, number, np.int32)
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", out)]))
            number += 1
        if request.is_cancelled():
            error = pb_utils.TritonError("cancelled by its client", pb_utils.TritonError.CANCELLED)
            sender.send(pb_utils.InferenceResponse(error=error))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
RAISES = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse(error=pb_utils.TritonError("not today")) for _ in requests]
"""
CONFIG = """
backend: "python"
max_batch_size: 4
input [{ name: "IN" data_type: TYPE_FP32 dims: [ 2 ] }]
output [{ name: "OUT" data_type: TYPE_FP32 dims: [ 2 ] }]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder, "counts", COUNTS, 'backend: "python"')
    write_model(folder, "raises", RAISES, CONFIG)
    with Server(model_repository=[str(folder), str(EXAMPLE_MODELS)], exit_timeout=10) as started:
        yield started


@pytest.fixture
def model(server: Server) -> Model:
    return server.model("test")


def numbers(count: int) -> dict[str, Any]:
    return {"N": np.array([count], np.int32)}


@pytest.mark.spec("inprocess:22")
@pytest.mark.spec("inprocess:55")
@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("fp16", np.ones((2, 2), np.float16), None),
        ("bool", np.array([[True, False]]), None),
        ("bool", [[True, False]], np.array([[True, False]])),
        ("fp64", [[0.5]], np.array([[0.5]])),
        ("int64", [[1, 2]], np.array([[1, 2]])),
        ("int32", np.arange(6, dtype=np.int32).reshape(2, 3).T, None),
        ("fp32", np.ones((0, 3), np.float32), None),
        ("uint8", Tensor.from_dlpack(np.arange(9, dtype=np.uint8).reshape(3, 3)), np.arange(9).reshape(3, 3)),
        ("fp32", np.arange(1 << 16, dtype=np.float32).reshape(256, 256), None),
        ("int8", np.arange(1 << 16, dtype=np.int8).reshape(256, 256).T, None),
    ],
)
def test_inputs_come_back(model: Model, name: str, value: Any, expected: Any) -> None:
    (response,) = model.infer(inputs={f"{name}_input": value})
    np.testing.assert_array_equal(
        np.from_dlpack(response.outputs[f"{name}_output"]), value if expected is None else expected
    )
    assert response.final
    assert (model.name, model.version) == ("test", 1)


@pytest.mark.spec("inprocess:31")
@pytest.mark.parametrize("value", [[["hello world!"]], [["a\0", "", "äöü"]], [[b"a\0", b"b"]], [["x" * 20000]]])
def test_strings_come_back(model: Model, value: Any) -> None:
    (response,) = model.infer(inputs={"string_input": value})
    expected = [[item.decode() if isinstance(item, bytes) else item for item in row] for row in value]
    output = response.outputs["string_output"]
    assert [[item.decode() for item in row] for row in output.to_bytes_array().tolist()] == expected


@pytest.mark.spec("inprocess:1")
@pytest.mark.spec("inprocess:22")
def test_a_request_may_be_sent_again(server: Server, model: Model) -> None:
    request = model.create_request(model="other", request_id="7", inputs={"int32_input": np.ones((1, 1), np.int32)})
    assert isinstance(InferenceRequest(server.model("test")), InferenceRequest)
    for _ in range(2):
        (response,) = model.infer(request)
        assert (response.request_id, response.error, response.classification_label) == ("7", None, None)


@pytest.mark.spec("inprocess:22")
def test_parameters_keep_their_types(model: Model) -> None:
    given = {"a": 0, "b": 0.5, "c": False, "d": "test"}
    (response,) = model.infer(inputs={"int32_input": np.ones((1, 1), np.int32)}, parameters=given)
    (text,) = response.outputs["output_parameters"].to_string_array()
    found = json.loads(text)
    assert found == given
    assert [type(value) for value in found.values()] == [int, float, bool, str]
    for value in ({}, None):
        with pytest.raises(tritonserver.InvalidArgumentError) as caught:
            model.infer(inputs={}, parameters={"a": value})
        assert str(caught.value) == f"Unsupported Value. Can't convert {type(value)} to Request Parameter"


@pytest.mark.spec("inprocess:23")
@pytest.mark.parametrize(
    ("name", "inputs", "error", "text"),
    [
        ("other", {}, "NotFoundError", "Request for unknown model: 'other' is not found"),
        (
            "raises",
            {"IN": np.ones((1, 2))},
            "InvalidArgumentError",
            "[request id: <id_unknown>] inference input 'IN' data-type is 'FP64', but model 'raises' expects 'FP32'",
        ),
        (
            "raises",
            {"IN": np.ones((1, 3), np.float32)},
            "InvalidArgumentError",
            "[request id: <id_unknown>] unexpected shape for input 'IN' for model 'raises'. Expected [-1,2], "
            "got [1,3]. ",
        ),
        (
            "raises",
            {"IN": np.ones((5, 2), np.float32)},
            "InvalidArgumentError",
            "[request id: <id_unknown>] inference request batch-size must be <= 4 for 'raises'",
        ),
        (
            "raises",
            {},
            "InvalidArgumentError",
            "[request id: <id_unknown>] expected 1 inputs but got 0 inputs for model 'raises'. Got input(s) [], but "
            "missing required input(s) ['IN']. Please provide all required input(s).",
        ),
        ("raises", {"IN": "text"}, "InvalidArgumentError", "Input type <class 'str'> not supported."),
    ],
)
def test_requests_are_refused_at_once(server: Server, name: str, inputs: Any, error: str, text: str) -> None:
    for infer in (server.model(name).infer, server.model(name).async_infer):
        with pytest.raises(getattr(tritonserver, error)) as caught:
            infer(inputs=inputs)
        assert str(caught.value).startswith(text)


@pytest.mark.spec("inprocess:3")
@pytest.mark.spec("inprocess:25")
def test_errors_are_raised_or_given(server: Server) -> None:
    inputs = {"IN": np.ones((1, 2), np.float32)}
    responses = server.model("raises").infer(inputs=inputs)
    with pytest.raises(tritonserver.InternalError) as caught:
        next(responses)
    message, response = caught.value.args
    assert "not today" in message
    assert response.error is caught.value
    assert list(responses) == []
    (given,) = server.model("raises").infer(inputs=inputs, raise_on_error=False)
    assert (type(given.error), given.outputs, given.final) == (tritonserver.InternalError, {}, True)


@pytest.mark.spec("inprocess:24")
def test_a_stream_ends_with_an_empty_response(server: Server) -> None:
    responses = server.model("counts").infer(inputs=numbers(3))
    found = [(np.from_dlpack(one.outputs["OUT"]).tolist() if one.outputs else None, one.final) for one in responses]
    assert found == [([0], False), ([1], False), ([2], False), (None, True)]
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(responses)


@pytest.mark.spec("inprocess:24")
@pytest.mark.spec("inprocess:55")
def test_the_same_in_a_coroutine(server: Server, model: Model) -> None:
    async def run() -> tuple[list[bool], list[Any]]:
        stream = server.model("counts").async_infer(inputs=numbers(2))
        finals = [response.final async for response in stream]
        with pytest.raises(StopAsyncIteration):
            await stream.__anext__()
        outputs = []
        for value in (np.ones((1, 2), np.float16), np.array([[True]])):
            name = "fp16" if value.dtype == np.float16 else "bool"
            async for response in model.async_infer(inputs={f"{name}_input": value}):
                outputs.append(np.from_dlpack(response.outputs[f"{name}_output"]).tolist())
        return finals, outputs

    assert asyncio.run(run()) == ([False, False, True], [[[1, 1]], [[True]]])


@pytest.mark.spec("inprocess:26")
@pytest.mark.spec("inprocess:55")
def test_memory_types_of_outputs(model: Model) -> None:
    inputs = {"int32_input": np.ones((1, 1), np.int32)}
    responses = model.infer(inputs=inputs, output_memory_type="unsupported")
    with pytest.raises(tritonserver.InvalidArgumentError, match=r"^Memory type unsupported not supported: "):
        next(responses)
    for fine in ("cpu", MemoryType.CPU, (MemoryType.CPU, 0)):
        (response,) = model.infer(inputs=inputs, output_memory_type=fine)
        assert response.outputs["int32_output"].memory_type is MemoryType.CPU


@pytest.mark.spec("inprocess:27")
@pytest.mark.spec("inprocess:55")
def test_responses_go_to_a_queue_before_anybody_asks(server: Server) -> None:
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()
    iterators = [server.model("counts").infer(inputs=numbers(2), response_queue=found) for _ in range(2)]
    queued = [found.get(timeout=10) for _ in range(6)]
    assert sum(response.final for response in queued) == 2
    read = [response for iterator in iterators for response in iterator]
    assert {id(response) for response in read} == {id(response) for response in queued}
    assert found.empty()


@pytest.mark.spec("inprocess:27")
@pytest.mark.spec("inprocess:55")
def test_the_same_with_a_queue_of_asyncio(server: Server) -> None:
    async def run() -> None:
        found: asyncio.Queue[Any] = asyncio.Queue()
        iterator = server.model("raises").async_infer(
            inputs={"IN": np.ones((1, 2), np.float32)}, response_queue=found, raise_on_error=False
        )
        queued = await asyncio.wait_for(found.get(), 10)
        assert isinstance(queued.error, tritonserver.InternalError)
        assert [response async for response in iterator] == [queued]
        assert found.empty()

    asyncio.run(run())


@pytest.mark.spec("inprocess:28")
def test_cancel(server: Server) -> None:
    responses = server.model("counts").infer(inputs=numbers(-1))
    next(responses)
    responses.cancel()
    with pytest.raises(tritonserver.UnknownError, match="cancelled"):
        list(responses)


@pytest.mark.spec("inprocess:28")
def test_one_reader_at_a_time(server: Server) -> None:
    async def run() -> None:
        responses = server.model("counts").async_infer(inputs=numbers(0))
        responses._inbox = AsyncInbox()  # in which nothing arrives
        reading = asyncio.ensure_future(responses.__anext__())
        await asyncio.sleep(0)
        with pytest.raises(tritonserver.AlreadyExistsError, match=r"^cannot call GetNextResponse concurrently$"):
            await responses.__anext__()
        reading.cancel()

    asyncio.run(run())


@pytest.mark.spec("inprocess:14")
@pytest.mark.spec("inprocess:28")
def test_what_nobody_reads_does_not_stop_the_server(tmp_path: Path) -> None:
    write_model(tmp_path, "counts", COUNTS, 'backend: "python"')
    server = Server(model_repository=str(tmp_path), exit_timeout=20).start()
    responses = server.model("counts").infer(inputs=numbers(6000))  # more than a reader may be behind
    kept = np.from_dlpack(next(responses).outputs["OUT"])
    del responses
    server.stop()
    assert kept.tolist() == [0] * 4096


@pytest.mark.spec("inprocess:14")
def test_a_model_that_outlives_the_exit_timeout(tmp_path: Path) -> None:
    write_model(tmp_path, "counts", COUNTS, 'backend: "python"')
    server = Server(model_repository=str(tmp_path), exit_timeout=1).start()
    responses = server.model("counts").infer(inputs=numbers(-1))
    next(responses)
    with pytest.raises(tritonserver.InternalError, match=r"^Exit timeout expired\. Exiting immediately\.$"):
        server.stop()
    with pytest.raises(tritonserver.UnavailableError, match=r"^Server exiting$"):
        server.live()
    server.stop()


@pytest.mark.spec("inprocess:35")
def test_outputs_outlive_everything(tmp_path: Path) -> None:
    server = Server(model_repository=str(EXAMPLE_MODELS)).start()
    given = np.random.default_rng(0).random((512, 512))
    (response,) = server.model("test").infer(inputs={"fp64_input": given})
    view = np.from_dlpack(response.outputs["fp64_output"])
    server.stop()
    del response, server
    gc.collect()
    np.testing.assert_array_equal(view, given)
    assert not view.flags.writeable


@pytest.mark.spec("inprocess:35")
def test_memory_of_outputs_is_given_back(server: Server, model: Model) -> None:
    given = np.ones((1024, 1024))
    for _ in range(40):  # 320 MiB through an arena of 64
        (response,) = model.infer(inputs={"fp64_input": given})
        del response
    page = server.metrics()
    reserved = re.search(r'atoll_shared_memory_bytes\{model="test",version="1"\} (\d+)', page)
    assert reserved is not None
    assert int(reserved[1]) <= 128 << 20


@pytest.mark.spec("inprocess:35")
@pytest.mark.spec("inprocess:55")
def test_inference_leaves_nothing(model: Model) -> None:
    def infer(count: int) -> int:
        for _ in range(count):
            for response in model.infer(inputs={"fp16_input": np.ones((1, 4), np.float16)}):
                np.from_dlpack(response.outputs["fp16_output"])
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    infer(50)
    tracemalloc.start()
    try:
        first = infer(100)
        assert infer(400) - first < 120_000
    finally:
        tracemalloc.stop()


@pytest.mark.spec("inprocess:9")
def test_many_threads(model: Model, server: Server) -> None:
    def infer(number: int) -> list[list[int]]:
        (response,) = server.model("test").infer(inputs={"int64_input": [[number]]})
        found: list[list[int]] = np.from_dlpack(response.outputs["int64_output"]).tolist()
        return found

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(infer, range(64))) == [[[number]] for number in range(64)]


def test_the_host_keeps_its_threads_and_loops(server: Server) -> None:
    assert [thread.daemon for thread in threading.enumerate() if thread.name.startswith("atoll-")] == [True]
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


class _Given(MemoryAllocator):
    def allocate(self, size: int, memory_type: MemoryType, memory_type_id: int) -> MemoryBuffer:
        if size == 8:
            raise ValueError("no memory today")
        return MemoryBuffer.from_dlpack(np.empty(size, np.int8))


@pytest.mark.spec("inprocess:41")
@pytest.mark.spec("inprocess:55")
def test_allocators_of_older_releases(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    request = {"inputs": {"int32_input": np.ones((1, 4), np.int32)}, "output_memory_allocator": _Given()}
    (response,) = model.infer(**request)
    assert np.from_dlpack(response.outputs["int32_output"]).tolist() == [[1, 1, 1, 1]]
    request["inputs"] = {"int32_input": np.ones((1, 2), np.int32)}
    with pytest.raises(tritonserver.InternalError, match="no memory today"):
        next(model.infer(**request))
    buffer = tritonserver.default_memory_allocators[MemoryType.CPU].allocate(200, MemoryType.CPU, 0)
    floats = np.from_dlpack(Tensor(tritonserver.DataType.FP32, (50,), buffer))
    assert (buffer.size, floats.nbytes, floats.ctypes.data) == (200, 200, buffer.owner.ctypes.data)
    monkeypatch.delitem(tritonserver.default_memory_allocators, MemoryType.CPU)
    with pytest.raises(tritonserver.InvalidArgumentError, match="not supported by default_memory_allocators"):
        model.infer(inputs=request["inputs"], output_memory_type="cpu")


def test_a_model_that_takes_any_rank(server: Server) -> None:
    for value in (["a"], [["a"]], [[["a", "b"]]]):
        (response,) = server.model("identity").infer(inputs={"INPUT0": value})
        assert response.outputs["OUTPUT0"].to_string_array().tolist() == value
