"""Reading ``config.pbtxt``."""

from pathlib import Path

import pytest
from atoll.errors import Code, ServerError
from atoll.repository import pbtxt

PATH = Path("/models/m/config.pbtxt")


@pytest.mark.spec("server:186")
def test_reads_every_kind_of_field() -> None:
    config = pbtxt.parse(
        b"""
        # a comment
        name: "m" max_batch_size: 8
        input [ { name: "I" data_type: TYPE_FP32 dims: [ 3, -1 ] }, { name: 'J' data_type: TYPE_STRING dims: 1 } ]
        dynamic_batching { priority_queue_policy { key: 2 value { timeout_action: DELAY } } }
        instance_group { kind: KIND_CPU count: 2 }
        parameters: { key: "k" value: { string_value: "a" "b" } }
        version_policy: { specific { versions: [1, 3] } }
        response_cache { enable: true }
        """,
        PATH,
    )
    assert [tensor.name for tensor in config.input] == ["I", "J"]
    assert list(config.input[0].dims) == [3, -1]
    assert config.dynamic_batching.priority_queue_policy[2].timeout_action == 1
    assert config.parameters["k"].string_value == "ab"
    assert list(config.version_policy.specific.versions) == [1, 3]
    assert config.response_cache.enable


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        (b'name: "m"\nfoo: 1', "line 2, column 1", 'no field named "foo"'),
        (b"\n\ninput { dims: [1 }", "line 3, column", "Expected"),
        (b"input { name: 'I' data_type: TYPE_FLOAT }", "line 1, column", "no value named TYPE_FLOAT"),
        (b"max_batch_size: 3000000000", "line 1, column 17", "max_batch_size: 3000000000"),
        (b"name: 'a'\nname: 'b'", "line 2, column", '"name"'),
        (b"dynamic_batching {}\nsequence_batching {}", "line 2, column", '"sequence_batching"'),
        (b"name: 'm'\nplatform: '\xff'", "line 2", "not UTF-8"),
        (b"input {", "line 1, column", "Expected"),
    ],
)
@pytest.mark.spec("server:186")
def test_an_error_names_file_place_and_field(text: bytes, place: str, reason: str) -> None:
    with pytest.raises(ServerError) as caught:
        pbtxt.parse(text, PATH)
    assert caught.value.code is Code.INTERNAL
    assert caught.value.message.startswith(f"failed to read text proto from {PATH}: {place}")
    assert reason in caught.value.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    with pytest.raises(ServerError) as caught:
        pbtxt.read(path)
    assert caught.value.code is Code.INTERNAL
    assert caught.value.message == f"failed to open text file for read {path}: No such file or directory"
