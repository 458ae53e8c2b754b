"""What the module offers by name, and its small types."""

from __future__ import annotations

import json
from typing import Any

import c_python_backend_utils
import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from c_python_backend_utils import InferenceTrace, MemoryType
from triton_python_backend_utils import InferenceRequest, InferenceResponse, PreferredMemory


def build(**changes: Any) -> InferenceRequest:
    return InferenceRequest(**{"model_name": "m", "requested_output_names": [], "inputs": [], **changes})


@pytest.mark.spec("python_backend:C126")
def test_the_companion_module_names_what_the_main_one_does_not() -> None:
    for name in c_python_backend_utils.__all__:
        assert hasattr(c_python_backend_utils, name)
        if hasattr(pb_utils, name):
            assert getattr(pb_utils, name) is getattr(c_python_backend_utils, name)
    for name in ("InferenceTrace", "MemoryType"):
        assert name in c_python_backend_utils.__all__
        assert not hasattr(pb_utils, name)


@pytest.mark.spec("python_backend:C218")
def test_constants() -> None:
    assert (pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START, pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END) == (
        1,
        2,
    )
    assert pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL == 1
    assert (pb_utils.TRITONSERVER_REQUEST_RELEASE_ALL, pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE) == (1, 2)


@pytest.mark.spec("python_backend:C130")
def test_kinds_of_memory_are_numbers() -> None:
    gpu, cpu = pb_utils.TRITONSERVER_MEMORY_GPU, pb_utils.TRITONSERVER_MEMORY_CPU
    assert (int(gpu), int(cpu), gpu.value, cpu.name) == (0, 1, 0, "TRITONSERVER_MEMORY_CPU")
    assert gpu == 0
    assert hash(cpu) == hash(1)
    assert gpu is MemoryType.TRITONSERVER_MEMORY_GPU


@pytest.mark.spec("python_backend:C187")
@pytest.mark.spec("python_backend:C130")
@pytest.mark.parametrize("memory_type", [0, 1, None, "CPU", np.int8(0)])
def test_a_preferred_memory_is_of_a_kind_of_memory(memory_type: Any) -> None:
    with pytest.raises(TypeError):
        PreferredMemory(memory_type)


@pytest.mark.spec("python_backend:C187")
def test_a_preferred_memory_is_on_device_0_by_default() -> None:
    preferred = PreferredMemory(pb_utils.TRITONSERVER_MEMORY_GPU)
    assert (preferred._memory_type, preferred._device_id) == (0, 0)
    assert PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, np.int64(2))._device_id == 2  # type: ignore[arg-type]
    for device_id in (None, "0", 1.0):
        with pytest.raises(TypeError):
            PreferredMemory(pb_utils.TRITONSERVER_MEMORY_GPU, device_id)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        PreferredMemory()  # type: ignore[call-arg]


@pytest.mark.spec("python_backend:C167")
@pytest.mark.parametrize("argument", ["preferred_memory", "trace"])
@pytest.mark.parametrize("value", [0, "CPU", pb_utils.TRITONSERVER_MEMORY_CPU, object()])
def test_preferred_memory_and_trace_are_of_their_types(argument: str, value: Any) -> None:
    with pytest.raises(TypeError):
        build(**{argument: value})


def test_a_request_keeps_its_preferred_memory() -> None:
    preferred = PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU)
    assert build(preferred_memory=preferred)._preferred_memory is preferred
    assert build()._preferred_memory is None


def test_a_request_has_a_trace() -> None:
    assert build().trace().get_context() is None
    trace = InferenceTrace('{"traceparent": "00-1-2-01"}')
    assert build(trace=trace).trace() is trace
    assert trace.get_context() == '{"traceparent": "00-1-2-01"}'
    received = InferenceRequest._received(["", 0, 0, 0, None, [], [], None], [], [])
    assert received.trace().get_context() is None


@pytest.mark.spec("python_backend:C170")
@pytest.mark.parametrize("make", [build, InferenceResponse])
def test_subclasses_of_plain_values_are_parameters(make: Any) -> None:
    class Text(str):
        pass

    class Values(dict[str, Any]):
        pass

    made = make(parameters=Values({Text("a"): Text("b"), "c": pb_utils.TritonError.INTERNAL, "d": True}))
    assert json.loads(made.parameters()) == {"a": "b", "c": 1, "d": True}
    with pytest.raises(pb_utils.TritonModelException, match=r"found type <class 'numpy\.bool"):
        make(parameters={"a": np.True_})
