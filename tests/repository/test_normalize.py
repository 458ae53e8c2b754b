"""What is filled in where a configuration is silent."""

from pathlib import Path
from typing import Any

import pytest
from atoll.errors import Code, ServerError
from atoll.repository import pbtxt
from atoll.repository.normalize import normalize

pytestmark = pytest.mark.spec("server:189")


def normalized(text: str, *, name: str = "m", has_model_file: bool = True, gpus: tuple[int, ...] = ()) -> Any:
    config = pbtxt.parse(text.encode(), Path("config.pbtxt"))
    normalize(config, name=name, has_model_file=has_model_file, gpus=gpus)
    return config


def groups(config: Any) -> list[tuple[str, int, int, list[int]]]:
    return [(group.name, group.kind, group.count, list(group.gpus)) for group in config.instance_group]


GPU, CPU, MODEL = 1, 2, 3


def test_an_empty_configuration() -> None:
    config = normalized("")
    assert (config.name, config.backend, config.platform) == ("m", "python", "")
    assert config.default_model_filename == "model.py"
    assert config.version_policy.latest.num_versions == 1
    assert config.optimization.input_pinned_memory.enable
    assert config.optimization.output_pinned_memory.enable
    assert groups(config) == [("m", CPU, 1, [])]
    assert config.WhichOneof("scheduling_choice") is None


def test_what_is_given_stays() -> None:
    config = normalized(
        """name: "m" backend: "other" default_model_filename: "x.py" version_policy { all {} }
        optimization { input_pinned_memory { enable: false } }"""
    )
    assert (config.backend, config.default_model_filename) == ("other", "x.py")
    assert config.version_policy.WhichOneof("policy_choice") == "all"
    assert not config.optimization.input_pinned_memory.enable
    assert config.optimization.output_pinned_memory.enable


def test_a_name_that_contradicts_the_directory() -> None:
    with pytest.raises(ServerError) as caught:
        normalized('name: "other"')
    assert caught.value.code is Code.INVALID_ARG
    assert caught.value.message == (
        "unexpected directory name 'm' for model 'other', directory name must equal model name"
    )


@pytest.mark.parametrize(
    ("text", "name", "has_model_file", "backend"),
    [
        ("", "m", True, "python"),
        ('default_model_filename: "model.py"', "m", False, "python"),
        ("", "resnet.python", False, "python"),
        ("", "a.b.onnx", False, "onnx"),
        ('platform: "ensemble"', "m", True, ""),
        ('platform: "foo"', "m", True, ""),
        ('platform: "foo" default_model_filename: "model.py"', "m", True, "python"),
    ],
)
def test_backend_is_inferred(text: str, name: str, has_model_file: bool, backend: str) -> None:
    assert normalized(text, name=name, has_model_file=has_model_file).backend == backend


@pytest.mark.parametrize(
    ("text", "name", "has_model_file"),
    [("", "m", False), ("", "m.", False), ('default_model_filename: "other.py"', "m", True)],
)
def test_backend_that_cannot_be_inferred(text: str, name: str, has_model_file: bool) -> None:
    with pytest.raises(ServerError) as caught:
        normalized(text, name=name, has_model_file=has_model_file)
    assert caught.value.code is Code.INVALID_ARG
    assert caught.value.message == (
        f"Invalid model name: Could not determine backend for model '{name}' with no backend in model configuration. "
        "Expected model name of the form 'model.<backend_name>'."
    )


def test_an_ensemble_gets_no_instances_and_no_optimization() -> None:
    config = normalized('platform: "ensemble" ensemble_scheduling { }', has_model_file=False)
    assert not config.instance_group
    assert not config.HasField("optimization")
    assert not config.default_model_filename
    assert config.version_policy.latest.num_versions == 1


@pytest.mark.parametrize(
    ("text", "preferred"),
    [
        ("max_batch_size: 8 dynamic_batching {}", [8]),
        ("max_batch_size: 8 dynamic_batching { preferred_batch_size: [2, 4] }", [2, 4]),
        ("max_batch_size: 0 dynamic_batching {}", []),
    ],
)
def test_preferred_batch_size_of_dynamic_batching(text: str, preferred: list[int]) -> None:
    assert list(normalized(text).dynamic_batching.preferred_batch_size) == preferred


@pytest.mark.parametrize(
    ("text", "idle_us", "preferred"),
    [
        ("sequence_batching { direct {} }", 1_000_000, []),
        ("max_batch_size: 4 sequence_batching { oldest {} }", 1_000_000, [4]),
        ("max_batch_size: 4 sequence_batching { oldest { preferred_batch_size: 2 } }", 1_000_000, [2]),
        ("sequence_batching { max_sequence_idle_microseconds: 5 oldest {} }", 5, []),
    ],
)
def test_sequence_batching(text: str, idle_us: int, preferred: list[int]) -> None:
    batching = normalized(text).sequence_batching
    assert batching.max_sequence_idle_microseconds == idle_us
    assert list(batching.oldest.preferred_batch_size) == preferred


@pytest.mark.parametrize(
    ("text", "gpus", "expected"),
    [
        ("", (0, 1), [("m", GPU, 1, [0, 1])]),
        ("instance_group {}", (), [("m_0", CPU, 1, [])]),
        ("instance_group {}", (2,), [("m_0", GPU, 1, [2])]),
        ("instance_group { gpus: 0 }", (), [("m_0", GPU, 1, [0])]),
        ("instance_group { kind: KIND_GPU count: 2 }", (0, 1), [("m_0", GPU, 2, [0, 1])]),
        ("instance_group { kind: KIND_GPU gpus: 1 }", (0, 1), [("m_0", GPU, 1, [1])]),
        ("instance_group { kind: KIND_CPU }", (0,), [("m_0", CPU, 1, [])]),
        ("instance_group { kind: KIND_MODEL count: 3 }", (0,), [("m_0", MODEL, 3, [])]),
        (
            "instance_group [ { name: 'g' count: -1 }, { count: 0 }, { count: 2 } ]",
            (),
            [("g", CPU, 1, []), ("m_1", CPU, 1, []), ("m_2", CPU, 2, [])],
        ),
    ],
)
def test_instance_groups(text: str, gpus: tuple[int, ...], expected: list[object]) -> None:
    assert groups(normalized(text, gpus=gpus)) == expected
