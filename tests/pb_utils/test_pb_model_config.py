"""``ModelConfig``: what a model may complete, and the texts for what it may not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from triton_python_backend_utils import ModelConfig

WHERE = "in auto-complete-config function for model 'm'"
ENTRY = {"name": "A", "data_type": "TYPE_FP32", "dims": [4]}


def configured(**fields: Any) -> ModelConfig:
    return ModelConfig(json.dumps({"name": "m", "max_batch_size": 0, "input": [], "output": [], **fields}))


def tensor(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**ENTRY, **changes}.items() if value is not None}


FAILING: list[tuple[str, dict[str, Any], Callable[[ModelConfig], None], str]] = [
    (
        "smaller batches",
        {"max_batch_size": 8},
        lambda config: config.set_max_batch_size(4),
        "configuration specified max_batch_size 8, but in auto-complete-config function for model 'm' specified "
        "max_batch_size 4",
    ),
    *(
        (
            f"dynamic batching with {scheduler}",
            {scheduler: {}},
            lambda config: config.set_dynamic_batching(),
            f"Configuration specified scheduling_choice as '{scheduler}', but auto-complete-config function for model "
            "'m' tries to set scheduling_choice as 'dynamic_batching'",
        )
        for scheduler in ("sequence_batching", "ensemble_scheduling")
    ),
    (
        "input with more",
        {},
        lambda config: config.add_input(tensor(is_shape_tensor=True)),
        f"input 'A' {WHERE} contains property other than 'name', 'data_type', 'dims' and 'optional'.",
    ),
    (
        "output with more",
        {},
        lambda config: config.add_output(tensor(optional=True)),
        f"output 'A' {WHERE} contains property other than 'name', 'data_type' and 'dims'.",
    ),
    *(
        (
            f"{kind} without {missing}",
            {},
            lambda config, kind=kind, missing=missing: add(config, kind, **{missing: None}),
            text,
        )
        for kind in ("input", "output")
        for missing, text in [
            ("name", f"{kind} {WHERE} is missing 'name' property."),
            ("data_type", f"{kind} 'A' {WHERE} is missing 'data_type' property."),
            ("dims", f"{kind} 'A' {WHERE} is missing 'dims' property."),
        ]
    ),
    *(
        (
            f"{kind} of another type",
            {kind: [ENTRY]},
            lambda config, kind=kind: add(config, kind, data_type="TYPE_INT8"),
            f"unable to load model 'm', configuration expects datatype TYPE_FP32 for {kind} 'A', model provides "
            "TYPE_INT8",
        )
        for kind in ("input", "output")
    ),
    *(
        (
            f"{kind} of other dims",
            {kind: [ENTRY]},
            lambda config, kind=kind: add(config, kind, dims=[16]),
            "model 'm', tensor 'A': the model expects dims [16] but the model configuration specifies dims [4]",
        )
        for kind in ("input", "output")
    ),
    (
        "input of tuple dims",
        {"input": [ENTRY]},
        lambda config: config.add_input(tensor(dims=(4,))),
        "model 'm', tensor 'A': the model expects dims (4,) but the model configuration specifies dims [4]",
    ),
    (
        "input that is optional",
        {"input": [{**ENTRY, "optional": False}]},
        lambda config: config.add_input(tensor(optional=True)),
        "model 'm', tensor 'A': the model expects optional True but the model configuration specifies optional False",
    ),
    (
        "policy with more",
        {},
        lambda config: config.set_model_transaction_policy({"decoupled": True, "more": 1}),
        "model transaction property in auto-complete-config function for model 'm' contains property other than "
        "'decoupled'.",
    ),
    (
        "another policy",
        {"model_transaction_policy": {"decoupled": False}},
        lambda config: config.set_model_transaction_policy({"decoupled": True}),
        "trying to change decoupled property in auto-complete-config for model 'm', which is already set to 'False'.",
    ),
]


def add(config: ModelConfig, kind: str, **changes: Any) -> None:
    (config.add_input if kind == "input" else config.add_output)(tensor(**changes))


@pytest.mark.spec("python_backend:C215")
@pytest.mark.spec("python_backend:Q113")
@pytest.mark.parametrize(
    ("fields", "call", "text"), [case[1:] for case in FAILING], ids=[case[0].replace(" ", "-") for case in FAILING]
)
def test_a_contradiction_is_a_value_error(
    fields: dict[str, Any], call: Callable[[ModelConfig], None], text: str
) -> None:
    config = configured(**fields)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call(config)
    assert str(caught.value) == text


@pytest.mark.spec("python_backend:C215")
def test_another_property_of_a_tensor_without_a_name_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="name"):
        configured().add_input({"shape": [1]})


@pytest.mark.spec("python_backend:C216")
def test_the_dict_is_live() -> None:
    config = configured()
    config.as_dict()["max_batch_size"] = 7
    assert config.as_dict()["max_batch_size"] == 7
    assert config.as_dict() is config.as_dict()


@pytest.mark.spec("python_backend:C217")
@pytest.mark.parametrize("before", [0, 2, 4])
def test_a_batch_size_overwrites_one_that_is_not_greater(before: int) -> None:
    config = configured(max_batch_size=before)
    config.set_max_batch_size(4)
    assert config.as_dict()["max_batch_size"] == 4


def test_dynamic_batching_is_added_or_left_as_it_is() -> None:
    config = configured()
    config.set_dynamic_batching()
    assert config.as_dict()["dynamic_batching"] == {}
    config.as_dict()["dynamic_batching"] = settings = {"max_queue_delay_microseconds": 5}
    config.set_dynamic_batching()
    assert config.as_dict()["dynamic_batching"] is settings


@pytest.mark.parametrize("kind", ["input", "output"])
def test_a_tensor_completes_its_entry_or_comes_after_the_configured_ones(kind: str) -> None:
    partial = {"name": "A", "data_type": "TYPE_INVALID", "dims": [], "label_filename": "x"}
    config = configured(**{kind: [partial, {"name": "B", "dims": [4]}]})
    add(config, kind)
    add(config, kind, name="B")
    add(config, kind, name="C")
    assert config.as_dict()[kind] == [
        {**ENTRY, "label_filename": "x"},
        {**ENTRY, "name": "B"},
        {**ENTRY, "name": "C"},
    ]
    add(config, kind)
    assert len(config.as_dict()[kind]) == 3


def test_an_input_may_be_optional() -> None:
    config = configured(input=[dict(ENTRY)])
    config.add_input(tensor(optional=True))
    config.add_input(tensor(optional=True, name="B"))
    assert [entry["optional"] for entry in config.as_dict()["input"]] == [True, True]
    config.add_input(tensor())
    assert config.as_dict()["input"][0]["optional"] is True


def test_a_configuration_without_tensors_gets_them() -> None:
    config = ModelConfig('{"name": "m"}')
    config.add_output(tensor())
    config.set_max_batch_size(4)
    assert config.as_dict() == {"name": "m", "output": [ENTRY], "max_batch_size": 4}


@pytest.mark.parametrize("decoupled", [True, False])
def test_a_policy_is_set_once(decoupled: bool) -> None:
    config = configured()
    config.set_model_transaction_policy({"decoupled": decoupled})
    config.set_model_transaction_policy({"decoupled": decoupled})
    assert config.as_dict()["model_transaction_policy"] == {"decoupled": decoupled}
