"""Configurations that are refused, with the words they are refused in; and their neighbours that are not."""

from collections.abc import Callable

import pytest
from atoll.errors import Code, ServerError
from atoll.repository.checks import check_stub_name
from atoll.repository.config import ModelConfig

Resolve = Callable[..., ModelConfig]

pytestmark = pytest.mark.spec("server:187")

ONE_OF = "'int32_false_true', 'fp32_false_true' or 'bool_false_true'"
DIMENSION = "must be integer >= 1, or -1 to indicate a variable-size dimension"


def refusal(resolve: Resolve, text: str, **options: object) -> str:
    with pytest.raises(ServerError) as caught:
        resolve(text, **options)
    assert caught.value.code is Code.INVALID_ARG
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size: -1", "'max_batch_size' must be non-negative value for m"),
        ('platform: "foo"', "unexpected platform type 'foo' for m"),
        (
            'platform: "onnxruntime_onnx" backend: "python"',
            "unexpected 'platform' and 'backend' pair, got:onnxruntime_onnx, python",
        ),
        ('backend: "ensemble"', "Ensemble model 'm' must have platform type 'ensemble' and empty backend type"),
        (
            "max_batch_size: 4 dynamic_batching { preferred_batch_size: 0 }",
            "dynamic batching preferred size must be positive for m",
        ),
        (
            "max_batch_size: 4 dynamic_batching { preferred_batch_size: [4, 5] }",
            "dynamic batching preferred size must be <= max batch size for m",
        ),
        (
            "dynamic_batching { priority_levels: 2 }",
            "default priority level must be in range [1, 2] for m",
        ),
        (
            "dynamic_batching { priority_levels: 2 default_priority_level: 3 }",
            "default priority level must be in range [1, 2] for m",
        ),
        (
            "dynamic_batching { priority_levels: 2 default_priority_level: 2 "
            "priority_queue_policy { key: 3 value {} } }",
            "priority queue policy must have priority level in range [1, 2] for m",
        ),
        (
            "dynamic_batching { priority_levels: 2 default_priority_level: 2 preserve_ordering: true }",
            "Only one priority level is allowed when 'preserve_ordering' is true for m",
        ),
        (
            "dynamic_batching { preserve_ordering: true default_queue_policy { timeout_action: DELAY } }",
            "Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true for m",
        ),
        (
            "dynamic_batching { preserve_ordering: true priority_levels: 1 default_priority_level: 1 "
            "priority_queue_policy { key: 1 value { timeout_action: DELAY } } }",
            "Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true for m",
        ),
        (
            "response_cache { enable: true } sequence_batching { direct {} }",
            "Response Cache does not currently support model m with sequence batching scheduler. "
            "Please disable the response cache.",
        ),
        (
            "response_cache { enable: true } model_transaction_policy { decoupled: true }",
            "Response Cache does not currently support model m with 'decoupled' transaction policy. "
            "Please disable the response cache.",
        ),
        ("model_metrics { metric_control {} }", "metric control must specify 'metric_identifier'"),
        (
            "model_metrics { metric_control { metric_identifier {} } }",
            "metric identifier must specify non-empty 'family'",
        ),
        (
            "model_metrics { metric_control { metric_identifier { family: 'f' } } }",
            "metric control must specify 'histogram_options'",
        ),
        (
            "model_metrics { metric_control { metric_identifier { family: 'f' } histogram_options {} } }",
            "histogram options must specify non-empty 'buckets'",
        ),
    ],
)
def test_model_and_scheduler(resolve: Resolve, text: str, message: str) -> None:
    assert refusal(resolve, text) == message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "max_batch_size: 4 dynamic_batching { preferred_batch_size: [1, 4] }",
        "dynamic_batching { preserve_ordering: true priority_levels: 1 default_priority_level: 1 }",
        "dynamic_batching { default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 1 } }",
        "response_cache { enable: true } dynamic_batching {}",
        "response_cache { } model_transaction_policy { decoupled: true }",
        'platform: "anything" backend: "python"',
    ],
)
def test_sound_models(resolve: Resolve, text: str) -> None:
    assert resolve(text).backend == "python"


def control(*tensors: str) -> str:
    return "max_batch_size: 4 sequence_batching { " + " ".join(f"control_input {{ {one} }}" for one in tensors) + " }"


def start(fields: str) -> str:
    return f"name: 'S' control {{ kind: CONTROL_SEQUENCE_START {fields} }}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (control("control { int32_false_true: [0, 1] }"), "sequence batching control tensor must have a name for m"),
        (
            control(start("int32_false_true: [0, 1]"), "name: 'S' control { kind: CONTROL_SEQUENCE_END }"),
            "sequence batching control tensor 'S' is specified for multiple control kinds for m",
        ),
        (
            control(start("int32_false_true: [0, 1]"), "name: 'T' control { bool_false_true: [false, true] }"),
            "sequence batching specifies multiple CONTROL_SEQUENCE_START tensors for m",
        ),
        (
            control("name: 'R' control { kind: CONTROL_SEQUENCE_READY }"),
            f"sequence batching must specify either {ONE_OF} for CONTROL_SEQUENCE_READY for m",
        ),
        (
            control(start("int32_false_true: [0, 1] fp32_false_true: [0, 1]")),
            "sequence batching specifies more than one from 'int32_false_true', 'fp32_false_true' and "
            "'bool_false_true' for CONTROL_SEQUENCE_START for m",
        ),
        (
            control("name: 'E' control { kind: CONTROL_SEQUENCE_END fp32_false_true: [0, 1, 2] }"),
            "sequence batching control 'fp32_false_true' must have exactly 2 entries for CONTROL_SEQUENCE_END for m",
        ),
        (
            control(start("bool_false_true: true")),
            "sequence batching control 'bool_false_true' must have exactly 2 entries for CONTROL_SEQUENCE_START for m",
        ),
        (
            control("name: 'C' control { kind: CONTROL_SEQUENCE_CORRID int32_false_true: [0, 1] }"),
            f"sequence batching must not specify either {ONE_OF} for CONTROL_SEQUENCE_CORRID for m",
        ),
        (
            control("name: 'C' control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_FP32 }"),
            "unexpected data type for control CONTROL_SEQUENCE_CORRID for m. "
            "Allowed data types are TYPE_UINT64, TYPE_INT64, TYPE_UINT32, TYPE_INT32 and TYPE_STRING",
        ),
        (
            "max_batch_size: 4 sequence_batching { oldest { preferred_batch_size: -1 } }",
            "sequence batching preferred batch size must be positive for m",
        ),
        (
            "max_batch_size: 4 sequence_batching { oldest { preferred_batch_size: 5 } }",
            "sequence batching preferred batch size must be <= max batch size for m",
        ),
        (
            "sequence_batching { direct { minimum_slot_utilization: 1.5 } }",
            "sequence batching minimum slot utilization must be in range (0.0, 1.0] for m",
        ),
        (
            "sequence_batching { direct { minimum_slot_utilization: nan } }",
            "sequence batching minimum slot utilization must be in range (0.0, 1.0] for m",
        ),
    ],
)
def test_sequence_batching(resolve: Resolve, text: str, message: str) -> None:
    assert refusal(resolve, text) == message


@pytest.mark.parametrize(
    "text",
    [
        "sequence_batching {}",
        "sequence_batching { direct {} }",
        "max_batch_size: 4 sequence_batching { oldest { max_candidate_sequences: 8 } }",
        control(
            start("int32_false_true: [0, 1]"),
            "name: 'E' control { kind: CONTROL_SEQUENCE_END bool_false_true: [false, true] }",
            "name: 'R' control { kind: CONTROL_SEQUENCE_READY fp32_false_true: [0, 1] }",
            "name: 'C' control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING }",
        ),
    ],
)
def test_sound_sequence_batching(resolve: Resolve, text: str) -> None:
    assert "sequence_batching" in resolve(text).json


@pytest.mark.parametrize(
    ("text", "gpus", "message"),
    [
        (
            "instance_group { kind: KIND_GPU }",
            (),
            "instance group m_0 of model m has kind KIND_GPU but no GPUs are available",
        ),
        (
            "instance_group { name: 'g' gpus: 0 }",
            (),
            "instance group g of model m has kind KIND_GPU but no GPUs are available",
        ),
        (
            "instance_group { kind: KIND_CPU gpus: 0 }",
            (0,),
            "instance group m_0 of model m has kind KIND_CPU but specifies one or more GPUs",
        ),
        (
            "instance_group { kind: KIND_MODEL gpus: 0 }",
            (0,),
            "instance group m_0 of model m has kind KIND_MODEL but specifies one or more GPUs",
        ),
        (
            "instance_group { kind: KIND_GPU gpus: [0, 7] }",
            (0, 1),
            "instance group m_0 of model m specifies invalid or unsupported gpu id 7. GPUs with at least the minimum "
            "required CUDA compute compatibility of 6.000000 are: 0, 1",
        ),
        ("instance_group { kind: 77 }", (), "instance group m_0 of model m has unknown kind 77"),
    ],
)
@pytest.mark.spec("server:199")
def test_instance_groups(resolve: Resolve, text: str, gpus: tuple[int, ...], message: str) -> None:
    assert refusal(resolve, text, gpus=gpus) == message


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ("data_type: TYPE_FP32 dims: 1", "{role} must specify 'name' for m"),
        ("name: 'T' dims: 1", "{role} 'T' must specify 'data_type' for m"),
        ("name: 'T' data_type: 77 dims: 1", "{role} 'T' must specify 'data_type' for m"),
        ("name: 'T' data_type: TYPE_FP32", "{role} 'T' must specify 'dims' for m"),
        ("name: 'T' data_type: TYPE_FP32 dims: 0", f"{{role}} 'T' dimension {DIMENSION} for m"),
        ("name: 'T' data_type: TYPE_FP32 dims: [2, -2]", f"{{role}} 'T' dimension {DIMENSION} for m"),
        (
            "name: 'T' data_type: TYPE_FP32 dims: 1 reshape { shape: 0 }",
            f"{{role}} 'T' reshape dimensions {DIMENSION} for m",
        ),
        (
            "name: 'T' data_type: TYPE_FP32 dims: 1 reshape { }",
            "{role} 'T' cannot have empty reshape for non-batching model as scalar tensors are not supported for m",
        ),
        (
            "name: 'T' data_type: TYPE_FP32 dims: [2, 3] reshape { shape: 7 }",
            "{role} 'T' has different size for dims and reshape for m",
        ),
        (
            "name: 'T' data_type: TYPE_FP32 dims: [2, -1] reshape { shape: 2 }",
            "{role} 'T' has different size for dims and reshape for m",
        ),
        (
            "name: 'T' data_type: TYPE_FP32 dims: [2, 4, -1, 6] reshape { shape: [8, -1, 7] }",
            "{role} 'T' has different size for dims and reshape for m",
        ),
        (
            "name: 'T' data_type: TYPE_FP32 dims: [-1, -1] reshape { shape: -1 }",
            "{role} 'T' has different number of variable-size dimensions for dims and reshape for m",
        ),
        (
            "name: 'T' data_type: TYPE_FP32 dims: 1 is_shape_tensor: true",
            "shape tensors are only supported for TensorRT platform for m",
        ),
        (
            "name: 'T' data_type: TYPE_FP32 dims: 1 is_non_linear_format_io: true",
            "Non-linear IO format is only supported for the TensorRT platform for m",
        ),
    ],
)
@pytest.mark.parametrize("role", ["input", "output"])
def test_tensors(resolve: Resolve, role: str, tensor: str, message: str) -> None:
    text = f"{role} {{ {tensor} }}"
    assert refusal(resolve, text, strict=True) == message.format(role=f"model {role}")
    # Where auto-complete may still bring what is missing, it is asked for at loading.
    config = resolve(text)
    with pytest.raises(ServerError, match=r"for m$"):
        config.complete(None)


def test_image_formats_need_three_dimensions(resolve: Resolve) -> None:
    text = "input { name: 'I' data_type: TYPE_UINT8 dims: [4, 4] format: FORMAT_NHWC }"
    assert refusal(resolve, text, strict=True) == "model input NHWC/NCHW require 3 dims for m"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "input { name: 'I' data_type: TYPE_UINT8 dims: [4, 4, 3] format: FORMAT_NCHW }",
        "max_batch_size: 1 input { name: 'I' data_type: TYPE_BF16 dims: 1 reshape { } }",
        "input { name: 'I' data_type: TYPE_FP32 dims: [2, 4, -1, 6] reshape { shape: [8, -1, 1, 6] } }",
        "output { name: 'O' data_type: TYPE_STRING dims: [-1, -1] reshape { shape: [1, -1, -1] } }",
    ],
)
def test_sound_tensors(resolve: Resolve, text: str) -> None:
    config = resolve(text, strict=True)
    assert config.complete(None) is config


BATCHED = "input { name: 'I' data_type: TYPE_FP32 dims: 1 } output { name: 'O' data_type: TYPE_FP32 dims: 1 } "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "batch_input { kind: BATCH_ITEM_SHAPE data_type: TYPE_INT32 source_input: ['I', 'I'] }",
            "batch input kind 'BATCH_ITEM_SHAPE' expects 1 source input, got 2",
        ),
        ("batch_input { kind: 9 }", "unknown batch input kind '9'"),
        (
            "batch_input { data_type: TYPE_INT64 source_input: 'I' }",
            "batch input data type must be TYPE_INT32 or TYPE_FP32",
        ),
        ("batch_input { data_type: TYPE_FP32 source_input: 'X' }", "unknown source input name 'X'"),
        (
            "batch_input { data_type: TYPE_FP32 source_input: 'I' target_name: ['A', 'A'] }",
            "target output name 'A' can only be specified once",
        ),
        ("batch_output { target_name: 'X' source_input: 'I' }", "unknown target output name 'X'"),
        ("batch_output { target_name: 'O' source_input: 'X' }", "unknown source input name 'X'"),
        (
            "batch_output { target_name: ['O', 'O'] source_input: 'I' }",
            "target output name 'O' can only be specified once",
        ),
    ],
)
def test_batch_tensors(resolve: Resolve, text: str, message: str) -> None:
    assert refusal(resolve, BATCHED + text, strict=True) == message


@pytest.mark.spec("server:200")
def test_kind_model_is_refused_at_loading(resolve: Resolve) -> None:
    config = resolve("instance_group { kind: KIND_MODEL }")
    with pytest.raises(ServerError) as caught:
        config.check_loadable()
    assert (caught.value.code, caught.value.message) == (
        Code.INVALID_ARG,
        "instance_group kind KIND_MODEL not supported",
    )


def test_an_unknown_backend_is_refused_at_loading(resolve: Resolve) -> None:
    config = resolve('backend: "foo"')
    with pytest.raises(ServerError) as caught:
        config.check_loadable()
    assert caught.value.message == (
        "unable to find backend library for backend 'foo', try specifying runtime on the model configuration."
    )
    config.check_loadable(["python", "foo"])


@pytest.mark.parametrize("character", list(";|&$`<>()[]{}\\\"'*?~#!"))
def test_stub_names_with_a_character_of_the_shell(resolve: Resolve, character: str) -> None:
    config = resolve("", name=f"m{character}")
    with pytest.raises(ServerError) as caught:
        config.check_loadable()
    assert (caught.value.code, caught.value.message) == (
        Code.INVALID_ARG,
        "Invalid stub name: contains invalid characters",
    )


@pytest.mark.parametrize("name", ["m_0_0", "Resnet-50.v2", "modèle 1"])
def test_sound_stub_names(name: str) -> None:
    check_stub_name(name)
