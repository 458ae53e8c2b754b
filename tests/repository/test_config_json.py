"""The configuration as JSON."""

import json
from pathlib import Path

import pytest
from atoll.errors import Code, ServerError
from atoll.repository import pbtxt
from atoll.repository.config_json import from_json, to_json
from atoll_protos import messages

FULL = b"""
name: "m" backend: "python" max_batch_size: 4
version_policy { specific { versions: [ 9007199254740993 ] } }
input { name: "I" data_type: TYPE_FP32 dims: [ 3, -1 ] reshape { shape: [] } optional: true }
output { name: "O" data_type: TYPE_STRING dims: 1 label_filename: "labels.txt" }
optimization { input_pinned_memory { enable: true } }
dynamic_batching {
  default_queue_policy { max_queue_size: 3 }
  priority_queue_policy { key: 10 value { } }
  priority_queue_policy { key: 2 value { timeout_action: DELAY default_timeout_microseconds: 18446744073709551615 } }
}
instance_group { name: "g" kind: KIND_CPU count: 1 rate_limiter { resources { name: "R" global: true count: 2 } } }
parameters { key: "k" value { string_value: "v" } }
model_warmup { name: "w" inputs { key: "I" value { zero_data: false dims: 2 } } }
model_transaction_policy { }
model_metrics { metric_control { histogram_options { buckets: [ 0.1, inf ] } } }
"""


def config(text: bytes) -> dict[str, object]:
    return to_json(pbtxt.parse(text, Path("config.pbtxt")))


@pytest.mark.spec("server:24")
@pytest.mark.spec("C31")
def test_an_empty_configuration_prints_every_scalar_list_and_map() -> None:
    assert to_json(messages.ModelConfig()) == {
        "name": "",
        "platform": "",
        "backend": "",
        "runtime": "",
        "max_batch_size": 0,
        "input": [],
        "output": [],
        "batch_input": [],
        "batch_output": [],
        "instance_group": [],
        "default_model_filename": "",
        "cc_model_filenames": {},
        "metric_tags": {},
        "parameters": {},
        "model_warmup": [],
    }


@pytest.mark.spec("server:24")
@pytest.mark.spec("server:25")
def test_keys_and_values_of_every_kind() -> None:
    assert json.dumps(config(FULL)) == json.dumps(
        {
            "name": "m",
            "platform": "",
            "backend": "python",
            "runtime": "",
            "version_policy": {"specific": {"versions": [9007199254740993]}},
            "max_batch_size": 4,
            "input": [
                {
                    "name": "I",
                    "data_type": "TYPE_FP32",
                    "format": "FORMAT_NONE",
                    "dims": [3, -1],
                    "reshape": {"shape": []},
                    "is_shape_tensor": False,
                    "allow_ragged_batch": False,
                    "optional": True,
                    "is_non_linear_format_io": False,
                }
            ],
            "output": [
                {
                    "name": "O",
                    "data_type": "TYPE_STRING",
                    "dims": [1],
                    "label_filename": "labels.txt",
                    "is_shape_tensor": False,
                    "is_non_linear_format_io": False,
                }
            ],
            "batch_input": [],
            "batch_output": [],
            "optimization": {
                "priority": "PRIORITY_DEFAULT",
                "input_pinned_memory": {"enable": True},
                "gather_kernel_buffer_threshold": 0,
                "eager_batching": False,
            },
            "dynamic_batching": {
                "preferred_batch_size": [],
                "max_queue_delay_microseconds": 0,
                "preserve_ordering": False,
                "priority_levels": 0,
                "default_priority_level": 0,
                "default_queue_policy": {
                    "timeout_action": "REJECT",
                    "default_timeout_microseconds": 0,
                    "allow_timeout_override": False,
                    "max_queue_size": 3,
                },
                "priority_queue_policy": {
                    "2": {
                        "timeout_action": "DELAY",
                        "default_timeout_microseconds": 18446744073709551615,
                        "allow_timeout_override": False,
                        "max_queue_size": 0,
                    },
                    "10": {
                        "timeout_action": "REJECT",
                        "default_timeout_microseconds": 0,
                        "allow_timeout_override": False,
                        "max_queue_size": 0,
                    },
                },
            },
            "instance_group": [
                {
                    "name": "g",
                    "kind": "KIND_CPU",
                    "count": 1,
                    "rate_limiter": {"resources": [{"name": "R", "global": True, "count": 2}], "priority": 0},
                    "gpus": [],
                    "secondary_devices": [],
                    "profile": [],
                    "passive": False,
                    "host_policy": "",
                }
            ],
            "default_model_filename": "",
            "cc_model_filenames": {},
            "metric_tags": {},
            "parameters": {"k": {"string_value": "v"}},
            "model_warmup": [
                {
                    "name": "w",
                    "batch_size": 0,
                    "inputs": {"I": {"data_type": "TYPE_INVALID", "dims": [2], "zero_data": False}},
                    "count": 0,
                }
            ],
            "model_transaction_policy": {"decoupled": False},
            "model_metrics": {"metric_control": [{"histogram_options": {"buckets": [0.1, "Infinity"]}}]},
        }
    )


@pytest.mark.spec("server:25")
def test_sequence_batching_keys_and_short_floats() -> None:
    text = b"""sequence_batching {
      control_input { name: "S" control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0.1, 1 ] } }
      direct { minimum_slot_utilization: 0.7 }
    }"""
    assert json.dumps(config(text)["sequence_batching"]) == json.dumps(
        {
            "direct": {"max_queue_delay_microseconds": 0, "minimum_slot_utilization": 0.7},
            "max_sequence_idle_microseconds": 0,
            "control_input": [
                {
                    "name": "S",
                    "control": [
                        {
                            "kind": "CONTROL_SEQUENCE_START",
                            "int32_false_true": [],
                            "fp32_false_true": [0.1, 1.0],
                            "bool_false_true": [],
                            "data_type": "TYPE_INVALID",
                        }
                    ],
                }
            ],
            "state": [],
            "iterative_sequence": False,
        }
    )


def test_an_enum_value_without_a_name_stays_a_number() -> None:
    assert config(b"output { data_type: 77 }")["output"][0]["data_type"] == 77  # type: ignore[index]


@pytest.mark.spec("server:26")
def test_json_leads_back_to_the_same_message() -> None:
    message = pbtxt.parse(FULL, Path("config.pbtxt"))
    assert from_json(to_json(message)) == message
    assert from_json(json.dumps(to_json(message), allow_nan=False)) == message


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ('{"foo": 1}', 'no field named "foo"'),
        ({"input": [{"nmae": "I"}]}, 'no field named "nmae"'),
        ({"max_batch_size": "x"}, "max_batch_size"),
        ({"input": {}}, "input"),
        ({"input": [{"data_type": "TYPE_X"}]}, "TYPE_X"),
        ('{"name": "m"', "invalid model configuration: "),
        ("", "invalid model configuration: "),
        ("[" * 100_000, "invalid model configuration: "),
        ("3", "it is not a JSON object"),
        ("[]", "it is not a JSON object"),
        (b'{"name": "\xff"}', "invalid model configuration: "),
    ],
)
def test_what_is_no_configuration_is_refused(source: str | bytes | dict[str, object], reason: str) -> None:
    with pytest.raises(ServerError) as caught:
        from_json(source)
    assert caught.value.code is Code.INVALID_ARG
    assert caught.value.message.startswith("invalid model configuration: ")
    assert reason in caught.value.message
    assert "\n" not in caught.value.message


def test_only_some_fields() -> None:
    assert from_json({"max_batch_size": 3, "name": "m", "junk": 1}, only=["max_batch_size"]).max_batch_size == 3
