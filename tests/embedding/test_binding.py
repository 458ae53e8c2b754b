"""The low-level binding: names, options, messages, metrics, the log."""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonserver
from atoll.embedding.log import process_log
from embedded import EXAMPLE_MODELS
from tritonserver import DataType, InstanceGroupKind, LogFormat, MemoryType, ModelControlMode, Options, _c
from tritonserver._api._logging import LogLevel, LogMessage


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    process_log.remove()
    yield
    process_log.remove()


@pytest.mark.spec("inprocess:40")
@pytest.mark.spec("inprocess:56")
@pytest.mark.parametrize(
    ("kind", "name", "nbytes"),
    [(DataType.INVALID, "<invalid>", 0), (DataType.BYTES, "BYTES", 0), (DataType.BOOL, "BOOL", 1)]
    + [(DataType[f"{sign}INT{bits}"], f"{sign}INT{bits}", bits // 8) for sign in ("", "U") for bits in (8, 16, 32, 64)]
    + [(DataType[name], name, nbytes) for name, nbytes in (("FP16", 2), ("FP32", 4), ("FP64", 8), ("BF16", 2))],
)
def test_data_types(kind: DataType, name: str, nbytes: int) -> None:
    assert _c.TRITONSERVER_DataTypeString(kind) == name
    assert _c.TRITONSERVER_StringToDataType(name) is kind
    assert _c.TRITONSERVER_DataTypeByteSize(kind) == nbytes


@pytest.mark.spec("inprocess:56")
def test_names_of_members() -> None:
    assert [_c.TRITONSERVER_MemoryTypeString(kind) for kind in MemoryType] == ["CPU", "CPU_PINNED", "GPU"]
    assert [_c.TRITONSERVER_InstanceGroupKindString(kind) for kind in InstanceGroupKind][2:] == ["GPU", "MODEL"]
    assert _c.TRITONSERVER_ParameterTypeString(_c.TRITONSERVER_ParameterType.DOUBLE) == "DOUBLE"
    levels = _c.TRITONSERVER_InferenceTraceLevel
    assert _c.TRITONSERVER_InferenceTraceLevelString(levels.TENSORS) == "TENSORS"
    assert int(levels.TIMESTAMPS) | int(levels.TENSORS) == 12
    activity = _c.TRITONSERVER_InferenceTraceActivity.TENSOR_BACKEND_OUTPUT
    assert (_c.TRITONSERVER_InferenceTraceActivityString(activity), activity) == ("TENSOR_BACKEND_OUTPUT", 9)
    assert len(_c.api_version()) == 2


@pytest.mark.spec("inprocess:56")
def test_small_values() -> None:
    for value in ("text", 1, True, b"bytes"):
        assert _c.TRITONSERVER_Parameter("name", value).value == value
    with pytest.raises(TypeError):
        _c.TRITONSERVER_Parameter("name", 1.5)
    text = '{"a":[1,true,"b"]}'
    assert _c.TRITONSERVER_Message(text).serialize_to_json() == text
    attributes = _c.TRITONSERVER_BufferAttributes()
    handle = ctypes.create_string_buffer(bytes(range(64)), 64)
    attributes.cuda_ipc_handle = ctypes.addressof(handle)
    attributes.memory_type, attributes.memory_type_id, attributes.byte_size = MemoryType.GPU, 1, 10
    assert ctypes.string_at(attributes.cuda_ipc_handle, 64) == bytes(range(64))
    assert (attributes.memory_type, attributes.memory_type_id, attributes.byte_size) == (MemoryType.GPU, 1, 10)


@pytest.mark.spec("inprocess:40")
@pytest.mark.spec("inprocess:56")
def test_a_server_by_the_low_level_names(tmp_path: Path) -> None:
    model = tmp_path / "test" / "1"
    model.mkdir(parents=True)
    model.joinpath("model.py").write_bytes((EXAMPLE_MODELS / "test" / "1" / "model.py").read_bytes())
    options = _c.TRITONSERVER_ServerOptions()
    options.set_model_repository_path(str(tmp_path))
    options.set_model_control_mode(ModelControlMode.POLL)
    server = _c.TRITONSERVER_Server(options)
    try:
        assert (server.is_live(), server.is_ready(), server.model_is_ready("test", 1)) == (True, True, True)
        assert server.model_batch_properties("test", -1) == (1, 0)
        assert server.model_transaction_properties("test", -1) == (1, 0)
        assert json.loads(server.model_metadata("test", -1).serialize_to_json())["name"] == "test"
        assert "input" in json.loads(server.model_config("test", -1, 1).serialize_to_json())
        assert json.loads(server.model_statistics("test", -1).serialize_to_json())["model_stats"][0]["version"] == "1"
        assert json.loads(server.model_index(1).serialize_to_json())[0]["version"] == "1"
        assert "nv_cpu_memory_used_bytes" in server.metrics().formatted(tritonserver.MetricFormat.PROMETHEUS)
        server.poll_model_repository()
    finally:
        server.stop()


@pytest.mark.spec("inprocess:38")
@pytest.mark.spec("inprocess:56")
@pytest.mark.parametrize(
    ("format", "begins"),
    [
        (LogFormat.DEFAULT, r'{}\d{{4}} \d\d:\d\d:\d\d\.\d{{6}} \d+ \S.*?:\d+\] "the text {}"'),
        (LogFormat.ISO8601, r'\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ {} \d+ \S.*?:\d+\] "the text {}"'),
    ],
)
def test_the_log_writes_at_once(tmp_path: Path, format: LogFormat, begins: str) -> None:
    file = tmp_path / "log"
    file.write_text("before\n")
    options = _c.TRITONSERVER_ServerOptions()
    options.set_log_file(str(file))
    options.set_log_format(format)
    options.set_log_info(False)
    for level, letter in ((LogLevel.INFO, "I"), (LogLevel.WARN, "W"), (LogLevel.ERROR, "E")):
        LogMessage(level, f"the text {letter}")
        assert _c.TRITONSERVER_LogIsEnabled(level) is (level is not LogLevel.INFO)
    before, *lines = file.read_text().splitlines()
    assert before == "before"
    assert len(lines) == 2
    for letter, line in zip("WE", lines, strict=True):
        assert re.fullmatch(begins.format(letter, letter), line)


@pytest.mark.spec("inprocess:7")
@pytest.mark.spec("inprocess:57")
def test_a_callback_takes_the_place_of_the_log() -> None:
    got: list[tuple[Any, ...]] = []
    options = _c.TRITONSERVER_ServerOptions()
    options.set_log_callback(lambda *record: got.append(record))
    _c.TRITONSERVER_LogMessage(LogLevel.ERROR, "/a/file.py", 7, 'a "message"')
    ((level, file, line, micros, message),) = got
    assert (level, file, line, message) == (LogLevel.ERROR, "file.py", 7, 'a "message"')
    assert micros > 1_600_000_000_000_000
    options.set_log_info(False)
    _c.TRITONSERVER_LogMessage(LogLevel.INFO, "file.py", 7, "unwanted")
    _c.TRITONSERVER_LogMessage(LogLevel.VERBOSE, "file.py", 7, "unwanted")
    assert len(got) == 1
    options.set_log_verbose(1)
    _c.TRITONSERVER_LogMessage(LogLevel.VERBOSE, "file.py", 7, "verbose")
    assert (got[-1][0], got[-1][4]) == (LogLevel.VERBOSE, "verbose")

    def fail(*record: Any) -> None:
        raise ValueError("whoever listens")

    options.set_log_callback(fail)
    _c.TRITONSERVER_LogMessage(LogLevel.ERROR, "file.py", 7, "text")
    options.set_log_callback(None)
    options.set_log_error(False)
    _c.TRITONSERVER_LogMessage(LogLevel.ERROR, "file.py", 7, "text")
    assert len(got) == 2


@pytest.mark.spec("inprocess:57")
def test_options_of_the_log_act_without_a_server() -> None:
    got: list[str] = []
    options = Options("no/such/place", log_callback=lambda *record: got.append(record[-1]), log_info=True)
    assert isinstance(options._create_tritonserver_server_options(), _c.TRITONSERVER_ServerOptions)
    LogMessage(LogLevel.INFO, "heard")
    assert got == ["heard"]
