"""gRPC without ``tritonclient``: grpcio's own client with our messages, or with bytes that no client would send."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
import numpy as np
from atoll_protos import messages

__all__ = ["RpcClient", "SERVICE", "infer_request", "parameter", "two_in"]

SERVICE = "/inference.GRPCInferenceService/"
_TIMEOUT_S = 20


def _same(data: bytes) -> bytes:
    return data


class RpcClient:
    """Calls over one channel; a context manager."""

    def __init__(self, url: str) -> None:
        self.channel = grpc.insecure_channel(url)

    def __enter__(self) -> RpcClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.channel.close()

    def send(self, path: str, data: bytes, **options: Any) -> bytes:
        """The bytes that answer ``data``."""
        answer = self.channel.unary_unary(path, _same, _same)(data, timeout=_TIMEOUT_S, **options)
        assert isinstance(answer, bytes)
        return answer

    def start(self, request: Any) -> Any:
        """A ModelInfer call that goes on; the call object."""
        method = self.channel.unary_unary(SERVICE + "ModelInfer", _same, _same)
        return method.future(request.SerializeToString(), timeout=_TIMEOUT_S)

    def call(self, rpc: str, /, **fields: Any) -> Any:
        request = getattr(messages, f"{rpc}Request")(**fields)
        return getattr(messages, f"{rpc}Response").FromString(self.send(SERVICE + rpc, request.SerializeToString()))

    def infer(self, request: Any) -> Any:
        return messages.ModelInferResponse.FromString(self.send(SERVICE + "ModelInfer", request.SerializeToString()))

    def stream(self, requests: Iterable[Any], **options: Any) -> Any:
        """The call object of a stream: iterate over its messages."""
        method = self.channel.stream_stream(
            SERVICE + "ModelStreamInfer", _same, messages.ModelStreamInferResponse.FromString
        )
        data = (request if isinstance(request, bytes) else request.SerializeToString() for request in requests)
        return method(data, timeout=_TIMEOUT_S, **options)


def parameter(value: Any, kind: str = "") -> Any:
    """An ``InferParameter``; ``kind`` names its field where the value's type does not tell."""
    if not kind:
        kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
    return messages.InferParameter(**{kind: value})


def infer_request(model: str, *inputs: dict[str, Any], outputs: Iterable[Any] = (), **fields: Any) -> Any:
    """A ``ModelInferRequest``; parameters by plain values, of the request as of inputs and outputs."""
    request = messages.ModelInferRequest(model_name=model, **_converted(fields))
    for tensor in inputs:
        request.inputs.add(**_converted(tensor))
    for output in outputs:
        request.outputs.add(**_converted(output if isinstance(output, dict) else {"name": output}))
    return request


def _converted(fields: dict[str, Any]) -> dict[str, Any]:
    if "parameters" not in fields:
        return fields
    parameters = {
        key: value if isinstance(value, messages.InferParameter) else parameter(value)
        for key, value in fields["parameters"].items()
    }
    return {**fields, "parameters": parameters}


def two_in(*, outputs: Iterable[Any] = (), **fields: Any) -> Any:
    """A valid request to ``two_in`` with raw contents, changed."""
    return infer_request(
        fields.pop("model", "two_in"),
        {"name": "INPUT0", "datatype": "FP32", "shape": [1, 2, 2]},
        {"name": "INPUT1", "datatype": "INT32", "shape": [1, 2]},
        outputs=outputs,
        raw_input_contents=fields.pop(
            "raw", [np.array([1, 2, 3, 4], "<f4").tobytes(), np.array([5, 6], "<i4").tobytes()]
        ),
        **fields,
    )
