"""A user's model that uses all of the API, with the annotations that strict type checkers ask for."""

import asyncio
import json
import threading
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from c_python_backend_utils import InferenceResponseSender, InferenceTrace, Metric, ResponseIterator


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(auto_complete_model_config: pb_utils.ModelConfig) -> pb_utils.ModelConfig:
        auto_complete_model_config.add_input({"name": "IN", "data_type": "TYPE_FP32", "dims": [-1], "optional": True})
        auto_complete_model_config.add_output({"name": "OUT", "data_type": "TYPE_FP32", "dims": [-1]})
        auto_complete_model_config.set_max_batch_size(8)
        auto_complete_model_config.set_dynamic_batching()
        auto_complete_model_config.set_model_transaction_policy({"decoupled": False})
        config: dict[str, Any] = auto_complete_model_config.as_dict()
        assert config["max_batch_size"] == 8
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        entry = pb_utils.get_output_config_by_name(config, "OUT")
        assert entry is not None
        assert pb_utils.get_input_config_by_name(config, "IN") is not None
        self.dtype = pb_utils.triton_string_to_numpy(entry["data_type"])
        self.decoupled: bool = pb_utils.using_decoupled_model_transaction_policy(config)
        self.folder: str = pb_utils.get_model_dir()
        self.family = pb_utils.MetricFamily("model_requests", "Requests", pb_utils.MetricFamily.COUNTER)
        self.counter: Metric = self.family.Metric(labels={"model": args["model_name"]})
        times = pb_utils.MetricFamily("model_seconds", "Times", kind=pb_utils.MetricFamily.HISTOGRAM)
        self.times = times.Metric(labels={}, buckets=[0.1, 1.0])
        pb_utils.Logger.log("ready", pb_utils.Logger.INFO)
        pb_utils.Logger.log_verbose("in every detail")
        if not pb_utils.is_model_ready("other", "1"):
            pb_utils.load_model("other", config=json.dumps({}), files={"file:1/model.py": b""})

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse | None] | None:
        responses: list[pb_utils.InferenceResponse | None] = []
        for request in requests:
            self.counter.increment(1)
            self.times.observe(0.5)
            value: float = self.counter.value()
            if value < 0:
                request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
                responses.append(None)
                continue
            tensor = pb_utils.get_input_tensor_by_name(request, "IN")
            if tensor is None:
                error = pb_utils.TritonError("no input", pb_utils.TritonError.INVALID_ARG)
                responses.append(pb_utils.InferenceResponse(error=error))
                continue
            responses.append(self.answer(request, tensor))
        return responses

    def answer(self, request: pb_utils.InferenceRequest, tensor: pb_utils.Tensor) -> pb_utils.InferenceResponse:
        array = tensor.as_numpy()
        shape: list[int] = tensor.shape()
        assert tensor.is_cpu()
        assert tensor.name()
        assert tensor.triton_dtype()
        assert shape
        outputs = [
            pb_utils.Tensor("OUT", array.astype(np.float32) * 2),
            pb_utils.Tensor.from_dlpack("SAME", tensor.to_dlpack()),
            pb_utils.Tensor.from_dlpack("AGAIN", tensor),
        ]
        correlation_id: int | str = request.correlation_id()
        given: dict[str, Any] = json.loads(request.parameters())
        given.update(id=request.request_id(), flags=request.flags(), timeout=request.timeout())
        if request.is_cancelled() or correlation_id in request.requested_output_names():
            raise pb_utils.TritonModelException("given up")
        return pb_utils.InferenceResponse(output_tensors=outputs, parameters={"text": "t", "number": 1, "yes": True})

    def call(self, request: pb_utils.InferenceRequest) -> list[pb_utils.Tensor]:
        trace: InferenceTrace = request.trace()
        context: str | None = trace.get_context()
        made = pb_utils.InferenceRequest(
            model_name="other",
            requested_output_names=["OUT"],
            inputs=request.inputs(),
            request_id=context or "",
            correlation_id="sequence",
            model_version=1,
            flags=pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START | pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END,
            timeout=1000,
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
            trace=trace,
            parameters={"key": 1},
        )
        response = made.exec()
        if response.has_error():
            failure = response.error()
            assert failure is not None
            raise pb_utils.TritonModelException(f"{failure.code()}: {failure.message()}")
        output = pb_utils.get_output_tensor_by_name(response, "OUT")
        assert output is not None
        assert response.parameters()
        return [output, *response.output_tensors()]

    def relay(self, request: pb_utils.InferenceRequest, made: pb_utils.InferenceRequest) -> None:
        sender: InferenceResponseSender = request.get_response_sender()
        iterator: ResponseIterator = made.exec(decoupled=True)
        for response in iterator:
            sender.send(response)
            if sender.is_cancelled():
                iterator.cancel()
        first: pb_utils.InferenceResponse = next(iter(iterator))
        threading.Thread(target=sender.send, args=(first, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)).start()
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    async def gather(self, made: pb_utils.InferenceRequest) -> list[pb_utils.InferenceResponse]:
        responses: list[pb_utils.InferenceResponse] = await asyncio.gather(*(made.async_exec() for _ in range(3)))
        stream: ResponseIterator = await made.async_exec(decoupled=True)
        return [*responses, *stream]

    def is_ready(self) -> bool:
        return True

    def finalize(self) -> None:
        pb_utils.unload_model("other", unload_dependents=True)
        pb_utils.Logger.log_error("gone")


def strings() -> None:
    array = np.array([b"a", b"b"], dtype=np.object_)
    serialized = pb_utils.serialize_byte_tensor(array)
    assert isinstance(serialized, bytes)
    back: np.ndarray[Any, Any] = pb_utils.deserialize_bytes_tensor(serialized)
    assert pb_utils.triton_to_numpy_type(pb_utils.numpy_to_triton_type(np.float32) or 0) is np.float32
    assert back.size == 2
