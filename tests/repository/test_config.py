"""A model's settings as the supervisor reads them, before and after auto-complete."""

import json
from collections.abc import Callable

import pytest
from atoll.errors import Code, ServerError
from atoll.repository.config import (
    DynamicBatching,
    Instance,
    InstanceGroup,
    ModelConfig,
    QueuePolicy,
    TensorSpec,
)
from atoll.repository.versions import VersionPolicy

Resolve = Callable[..., ModelConfig]

ADD_SUB = """
backend: "python" max_batch_size: 8
input { name: "INPUT0" data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 2, 2 ] } optional: true }
input { name: "INPUT1" data_type: TYPE_STRING dims: [ -1 ] allow_ragged_batch: true }
output { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 2, 2 ] } label_filename: "labels.txt" }
parameters { key: "b" value { string_value: "2" } }
parameters { key: "a" value { string_value: "1" } }
version_policy { latest { num_versions: 2 } }
model_transaction_policy { decoupled: true }
"""


def test_fields(resolve: Resolve) -> None:
    config = resolve(ADD_SUB, name="add_sub")
    assert (config.name, config.backend, config.platform) == ("add_sub", "python", "")
    assert (config.max_batch_size, config.decoupled, config.default_model_filename) == (8, True, "model.py")
    assert config.inputs == {
        "INPUT0": TensorSpec("INPUT0", "FP32", (4,), (2, 2), optional=True),
        "INPUT1": TensorSpec("INPUT1", "BYTES", (-1,), allow_ragged_batch=True),
    }
    assert config.outputs == {"OUTPUT0": TensorSpec("OUTPUT0", "FP32", (4,), (2, 2), label_filename="labels.txt")}
    assert config.parameters == {"a": "1", "b": "2"}
    assert config.version_policy == VersionPolicy("latest", 2)
    assert config.instance_groups == (InstanceGroup("add_sub", "CPU", 1),)
    assert config.dynamic_batching is None
    assert config.json["name"] == "add_sub"
    assert json.loads(json.dumps(config.json)) == config.json


@pytest.mark.spec("server:216")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", False),
        ("dynamic_batching { }", False),
        ("dynamic_batching { preserve_ordering: true }", True),
        ("sequence_batching { }", False),
        ("sequence_batching { oldest { } }", False),
        ("sequence_batching { oldest { preserve_ordering: true } }", True),
    ],
)
def test_whether_responses_leave_in_order(resolve: Resolve, text: str, expected: bool) -> None:
    assert resolve(text).preserves_ordering is expected


@pytest.mark.spec("server:18")
def test_metadata(resolve: Resolve) -> None:
    assert json.dumps(resolve(ADD_SUB, name="add_sub").metadata([10, 9])) == json.dumps(
        {
            "name": "add_sub",
            "versions": ["9", "10"],
            "platform": "python",
            "inputs": [
                {"name": "INPUT0", "datatype": "FP32", "shape": [-1, 4]},
                {"name": "INPUT1", "datatype": "BYTES", "shape": [-1, -1]},
            ],
            "outputs": [{"name": "OUTPUT0", "datatype": "FP32", "shape": [-1, 4]}],
        }
    )


@pytest.mark.spec("server:18")
def test_metadata_without_batching_and_with_a_platform(resolve: Resolve) -> None:
    text = "platform: 'mine' backend: 'python' output { name: 'O' data_type: TYPE_BF16 dims: [ 1, 2 ] }"
    metadata = resolve(text).metadata([1])
    assert metadata["platform"] == "mine"
    assert metadata["inputs"] == []
    assert metadata["outputs"] == [{"name": "O", "datatype": "BF16", "shape": [1, 2]}]


def test_dynamic_batching(resolve: Resolve) -> None:
    config = resolve(
        """max_batch_size: 8 dynamic_batching {
             preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100
             priority_levels: 2 default_priority_level: 2
             default_queue_policy { max_queue_size: 5 }
             priority_queue_policy {
               key: 1 value { timeout_action: DELAY default_timeout_microseconds: 7 allow_timeout_override: true }
             }
           }"""
    )
    urgent, ordinary = QueuePolicy("DELAY", 7, True), QueuePolicy(max_queue_size=5)
    assert config.dynamic_batching == DynamicBatching((4, 8), 100, False, 2, 2, ordinary, {1: urgent})
    assert config.dynamic_batching.queue_policy(1) == urgent
    assert config.dynamic_batching.queue_policy(2) == ordinary


@pytest.mark.parametrize(
    ("text", "gpus", "expected"),
    [
        ("", (), [Instance("m_0", "CPU", 0, False)]),
        ("", (0, 1), [Instance("m_0", "GPU", 0, False), Instance("m_0", "GPU", 1, False)]),
        (
            "instance_group [ { count: 2 }, { passive: true } ]",
            (),
            [
                Instance("m_0_0", "CPU", 0, False),
                Instance("m_0_1", "CPU", 0, False),
                Instance("m_1_0", "CPU", 0, True),
            ],
        ),
        (
            "instance_group { name: 'g' gpus: [ 3 ] count: 2 }",
            (3,),
            [Instance("g_0", "GPU", 3, False), Instance("g_1", "GPU", 3, False)],
        ),
        ("instance_group { kind: KIND_MODEL }", (), [Instance("m_0_0", "MODEL", 0, False)]),
    ],
)
@pytest.mark.spec("server:190")
def test_instance_names(resolve: Resolve, text: str, gpus: tuple[int, ...], expected: list[Instance]) -> None:
    assert resolve(text, gpus=gpus).instances == expected


COMPLETED = {
    "max_batch_size": 4,
    "input": [{"name": "I", "data_type": "TYPE_INT32", "dims": [2], "optional": True}],
    "output": [{"name": "O", "data_type": "TYPE_FP64", "dims": [-1]}],
}


@pytest.mark.spec("server:191")
def test_auto_complete_brings_tensors_and_batch_size(resolve: Resolve) -> None:
    config = resolve("")
    assert config.inputs == {}
    completed = config.complete(config.json | COMPLETED)
    assert completed.max_batch_size == 4
    assert completed.inputs == {"I": TensorSpec("I", "INT32", (2,), optional=True)}
    assert completed.outputs == {"O": TensorSpec("O", "FP64", (-1,))}
    assert completed.dynamic_batching is None
    assert completed.json["input"][0]["allow_ragged_batch"] is False
    assert config.complete(json.dumps(config.json | COMPLETED)) == completed


@pytest.mark.spec("server:191")
def test_a_tensor_without_a_type_waits_for_auto_complete(resolve: Resolve) -> None:
    config = resolve("input { name: 'I' }")
    assert config.inputs["I"].datatype == "<invalid>"
    assert config.complete(COMPLETED).inputs["I"].datatype == "INT32"


@pytest.mark.spec("C26")
def test_auto_complete_changes_nothing_else(resolve: Resolve) -> None:
    config = resolve("parameters { key: 'k' value { string_value: 'v' } }")
    edited = config.json | {"parameters": {}, "backend": "other", "instance_group": [], "note": {"of": "the model"}}
    assert config.complete(edited) == config


@pytest.mark.spec("C27")
def test_auto_complete_chooses_a_scheduler_where_there_is_none(resolve: Resolve) -> None:
    wanted = COMPLETED | {"dynamic_batching": {"priority_levels": 20, "default_priority_level": 10}}
    completed = resolve("").complete(wanted)
    assert completed.dynamic_batching == DynamicBatching((4,), priority_levels=20, default_priority_level=10)


@pytest.mark.spec("C27")
def test_auto_complete_leaves_a_chosen_scheduler(resolve: Resolve) -> None:
    config = resolve("dynamic_batching { max_queue_delay_microseconds: 5 }")
    assert config.complete(COMPLETED).dynamic_batching == DynamicBatching((4,), 5)
    assert config.complete(COMPLETED | {"dynamic_batching": {}}).dynamic_batching == DynamicBatching((4,), 5)
    with pytest.raises(ServerError) as caught:
        config.complete(COMPLETED | {"sequence_batching": {}})
    assert caught.value.message.startswith("Cannot update scheduling choice from dynamic_batching to sequence_batching")


@pytest.mark.spec("C28")
def test_auto_complete_sets_decoupled(resolve: Resolve) -> None:
    assert resolve("").complete(COMPLETED | {"model_transaction_policy": {"decoupled": True}}).decoupled
    assert resolve("model_transaction_policy { decoupled: true }").complete(COMPLETED).decoupled


@pytest.mark.parametrize(
    ("text", "completed", "message"),
    [
        ("", {"max_batch_size": -1}, "'max_batch_size' must be non-negative value for m"),
        ("", {"input": [{"name": "I", "data_type": "TYPE_INT8"}]}, "model input 'I' must specify 'dims' for m"),
        (
            "response_cache { enable: true }",
            {"model_transaction_policy": {"decoupled": True}},
            "Response Cache does not currently support model m with 'decoupled' transaction policy. "
            "Please disable the response cache.",
        ),
    ],
)
@pytest.mark.spec("server:191")
def test_the_completed_configuration_is_checked(
    resolve: Resolve, text: str, completed: dict[str, object], message: str
) -> None:
    with pytest.raises(ServerError) as caught:
        resolve(text).complete(completed)
    assert (caught.value.code, caught.value.message) == (Code.INVALID_ARG, message)


@pytest.mark.parametrize("completed", ["", "[]", {"input": 3}, {"input": [{"name": "I", "nmae": 1}]}])
def test_a_result_that_is_no_configuration(resolve: Resolve, completed: str | dict[str, object]) -> None:
    with pytest.raises(ServerError) as caught:
        resolve("").complete(completed)
    assert caught.value.code is Code.INTERNAL
    assert caught.value.message.startswith("Failed to parse auto-complete JSON.")
