"""Ensembles that are refused before any other model is looked at."""

from collections.abc import Callable

import pytest
from atoll.errors import Code, ServerError
from atoll.repository.config import ModelConfig

Resolve = Callable[..., ModelConfig]

pytestmark = pytest.mark.spec("server:188")

INPUT = "input { name: 'I' data_type: TYPE_FP32 dims: 1 } "
OUTPUT = "output { name: 'O' data_type: TYPE_FP32 dims: 1 } "
A = "step { model_name: 'a' model_version: -1 input_map { key: 'x' value: 'I' } output_map { key: 'y' value: 'T' } } "
B = "step { model_name: 'b' model_version: -1 input_map { key: 'x' value: 'T' } output_map { key: 'y' value: 'O' } } "


def ensemble(steps: str, others: str = "", tensors: str = INPUT + OUTPUT) -> str:
    return f"platform: 'ensemble' {tensors} {others} ensemble_scheduling {{ {steps} }}"


def test_a_sound_ensemble(resolve: Resolve) -> None:
    config = resolve(ensemble(A + B), strict=True)
    assert (config.platform, config.backend, config.instances) == ("ensemble", "", [])
    assert config.json["instance_group"] == []
    assert config.json["default_model_filename"] == ""
    assert "optimization" not in config.json
    config.check_loadable()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("platform: 'ensemble'", "ensemble scheduling must be set for ensemble m whose platform is ensemble"),
        (
            f"backend: 'python' ensemble_scheduling {{ {A} }}",
            "ensemble scheduling cannot be set for model 'm' whose platform is not ensemble",
        ),
        (
            f"ensemble_scheduling {{ {A} }}",
            "ensemble scheduling cannot be set for model 'm' whose platform is not ensemble",
        ),
        (
            ensemble(A + B, "backend: 'python'"),
            "Ensemble model 'm' must have platform type 'ensemble' and empty backend type",
        ),
        (ensemble(A + B, "instance_group { }"), "instance group should not be specified for ensemble 'm'"),
        (ensemble(A + B, "optimization { }"), "optimization should not be specified for ensemble 'm'"),
        (ensemble(A + B, "model_warmup { }"), "model_warmup can not be specified for ensemble 'm'"),
        (ensemble(""), "must specify 'step' for ensemble 'm'"),
        (ensemble("step { }"), "must specify 'model_name' in step 0 of ensemble 'm'"),
        (ensemble(A + "step { model_name: 'b' }"), "must specify 'input_map' in step 1 of ensemble 'm'"),
        (
            ensemble("step { model_name: 'a' input_map { key: 'x' value: 'I' } }"),
            "must specify 'output_map' in step 0 of ensemble 'm'",
        ),
        (
            ensemble(A + B + A),
            "ensemble tensor 'T' can appear in an output map only once for ensemble 'm' step 2",
        ),
        (
            ensemble(A + B, tensors=INPUT + OUTPUT + INPUT.replace("'I'", "'J'")),
            "ensemble input 'J' for ensemble m' is not used",
        ),
        (ensemble(A), "ensemble output 'O' for ensemble m' is not used"),
        (
            ensemble(A.replace("'I'", "'U'") + B),
            "ensemble input 'I' for ensemble m' is not used",
        ),
        (ensemble(A + B.replace("'T'", "'I'")), "ensemble tensor 'T' is unused in ensemble 'm'"),
        (
            ensemble(A + B, tensors=OUTPUT),
            "ensemble tensor 'I' is used in step 0 of ensemble 'm', but nothing produces it",
        ),
    ],
)
def test_refused(resolve: Resolve, text: str, message: str) -> None:
    with pytest.raises(ServerError) as caught:
        resolve(text)
    assert (caught.value.code, caught.value.message) == (Code.INVALID_ARG, message)


def test_steps_that_wait_for_each_other(resolve: Resolve) -> None:
    steps = (
        "step { model_name: 'a' input_map { key: 'x' value: 'I' } input_map { key: 'z' value: 'B' } "
        "output_map { key: 'y' value: 'A' } output_map { key: 'w' value: 'O' } } "
        "step { model_name: 'b' input_map { key: 'x' value: 'A' } output_map { key: 'y' value: 'B' } }"
    )
    with pytest.raises(ServerError) as refused:
        resolve(ensemble(steps), strict=True)
    assert refused.value.message == (
        "output 'O' for ensemble 'm' is not written: at least one of its depending tensors, 'A', is not connected"
    )
