"""Traces as JSON in files: the form, whole at every moment, one file for so many."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atoll.errors import ServerError
from atoll.inference import Tensor
from atoll.observe.trace_file import FileWriter, Source, entries
from atoll.observe.trace_settings import Sampler, TraceSettings
from atoll.trace import Trace

SAMPLER = Sampler(TraceSettings(), -1)


class Sink:
    """Where traces end."""

    def __init__(self) -> None:
        self.over: list[Trace] = []

    def child_of(self, parent: Trace) -> Trace:
        return Trace(self, parent.id + 1, parent.source, with_tensors=parent.with_tensors, parent=parent)

    def ended(self, trace: Trace) -> None:
        self.over.append(trace)


def traced(
    id: int = 1,
    *,
    level: tuple[str, ...] = ("TIMESTAMPS",),
    frequency: int = 0,
    last: bool = False,
    sampler: Sampler = SAMPLER,
) -> Trace:
    source = Source(sampler, level, frequency, last)
    trace = Trace(Sink(), id, source, with_tensors="TENSORS" in level)
    trace.begin("m", 2, "r", 10)
    return trace


def documents(trace: Trace) -> list[Any]:
    source = trace.source
    assert isinstance(source, Source)
    return [json.loads(entry) for entry in entries(trace, source.level)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.json"


@pytest.fixture
def writer(path: Path) -> Iterator[FileWriter]:
    writer = FileWriter(str(path))
    writer.open()
    yield writer
    writer.close()


@pytest.mark.spec("server:126")
def test_the_form_of_timestamps() -> None:
    trace = traced()
    trace.stamp("HTTP_RECV_START", 5)
    trace.executed(20, 30, (1, 2, 3))
    assert documents(trace) == [
        {"id": 1, "model_name": "m", "model_version": 2, "request_id": "r"},
        *(
            {"id": 1, "timestamps": [{"name": name, "ns": ns}]}
            for name, ns in [
                ("HTTP_RECV_START", 5),
                ("REQUEST_START", 10),
                ("QUEUE_START", 20),
                ("COMPUTE_START", 30),
                ("COMPUTE_INPUT_END", 31),
                ("COMPUTE_OUTPUT_START", 33),
                ("COMPUTE_END", 36),
            ]
        ),
    ]
    child = trace.child()
    child.begin("other", 1, "", 11)
    assert documents(child)[0] == {"id": 2, "model_name": "other", "model_version": 1, "parent_id": 1}


@pytest.mark.spec("server:127")
def test_the_form_of_tensors() -> None:
    trace = traced(level=("TENSORS",))
    trace.queued([Tensor("X", "FP32", [1, 3], np.array([1, 2.5, -3], np.float32).tobytes())])
    trace.executed(20, 30, (1, 2, 3))
    trace.responded([Tensor("Y", "INT64", [2], np.array([7, -8]).tobytes())], "", empty=False, final=True)
    given = {"name": "X", "data": "1,2.5,-3", "shape": "1,3", "dtype": "FP32"}
    assert documents(trace)[1:] == [
        {"id": 1, "activity": "TENSOR_QUEUE_INPUT", "tensor": given},
        {"id": 1, "activity": "TENSOR_BACKEND_INPUT", "tensor": given},
        {
            "id": 1,
            "activity": "TENSOR_BACKEND_OUTPUT",
            "tensor": {"name": "Y", "data": "7,-8", "shape": "2", "dtype": "INT64"},
        },
    ]


@pytest.mark.spec("server:127")
@pytest.mark.parametrize(
    ("datatype", "data", "text"),
    [
        ("BOOL", b"\1\0", "1,0"),
        ("UINT8", b"\xff\1", "255,1"),
        ("FP16", np.array([0.5, 2], np.float16).tobytes(), "0.5,2"),
        ("FP32", np.array([0.1, np.nan], np.float32).tobytes(), "0.1,nan"),
        ("FP64", np.array([0.1, 1e300]).tobytes(), "0.1,1e+300"),
        ("BF16", b"\x80\x3f\x00\x40", "1,2"),
        ("BYTES", b"\2\0\0\0ab\0\0\0\0\1\0\0\0\xff", "ab,,\\xff"),
        ("INT32", b"", ""),
    ],
)
def test_elements_as_text(datatype: str, data: bytes, text: str) -> None:
    trace = traced(level=("TENSORS",))
    trace.queued([Tensor("X", datatype, [2], data)])
    assert documents(trace)[1]["tensor"]["data"] == text


def test_what_is_noted_of_a_tensor_is_a_copy() -> None:
    data = bytearray(b"\1\2")
    trace = traced(level=("TENSORS",))
    trace.queued([Tensor("X", "UINT8", [2], memoryview(data))])
    data[:] = b"\3\4"
    assert documents(trace)[1]["tensor"]["data"] == "1,2"


def test_a_request_id_may_be_any_text() -> None:
    trace = traced()
    trace.request_id = "a\udcff"
    assert documents(trace)[0]["request_id"] == "a\\udcff"


@pytest.mark.spec("server:126")
def test_the_file_is_json_at_every_moment(writer: FileWriter, path: Path) -> None:
    path.write_text("of another run")
    writer.open()
    assert json.loads(path.read_text()) == []
    for count in (1, 3):
        writer.write([traced(id) for id in range(count)])
        assert isinstance(json.loads(path.read_text()), list)
    assert [entry["id"] for entry in json.loads(path.read_text()) if "model_name" in entry] == [0, 0, 1, 2]


@pytest.mark.spec("server:126")
def test_a_frequency_makes_files_of_so_many_traces(writer: FileWriter, path: Path) -> None:
    writer.write([traced(id, frequency=2) for id in (1, 2, 3)])
    assert ids(f"{path}.0") == [1, 2]
    assert not Path(f"{path}.1").exists()
    child = traced(4, frequency=2).child()
    child.begin("other", 1, "", 1)
    writer.write([child])  # counts with the request that it was made for
    assert not Path(f"{path}.1").exists()
    writer.close()
    assert ids(f"{path}.1") == [3, 5]
    assert json.loads(path.read_text()) == []
    assert not list(path.parent.glob("*.part"))


@pytest.mark.spec("server:126")
def test_the_last_of_a_count_completes_a_file(writer: FileWriter, path: Path) -> None:
    writer.write([traced(1, frequency=9), traced(2, frequency=9, last=True)])
    assert ids(f"{path}.0") == [1, 2]


def test_models_with_settings_of_their_own_have_files_of_their_own(writer: FileWriter, path: Path) -> None:
    own = Sampler(TraceSettings(), -1)
    writer.write([traced(1, frequency=2), traced(2, frequency=2, sampler=own), traced(3, frequency=2, sampler=own)])
    assert ids(f"{path}.0") == [2, 3]


def ids(path: str) -> list[int]:
    return [entry["id"] for entry in json.loads(Path(path).read_text()) if "model_name" in entry]


def test_a_file_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no" / "trace.json"
    with pytest.raises(ServerError, match=f"failed to open trace file '{path}': No such file or directory"):
        FileWriter(str(path)).open()


def test_a_full_disk_leaves_the_file_whole(writer: FileWriter, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer.write([traced(1)])
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: write(fd, data[: len(data) // 2 + 1], offset))
    with pytest.raises(OSError, match="the disk is full"):
        writer.write([traced(2)])
    monkeypatch.undo()
    assert ids(str(path)) == [1]
    writer.write([traced(3)])
    assert ids(str(path)) == [1, 3]


def test_a_trace_is_over_when_the_stub_has_told_of_its_execution() -> None:
    sink = Sink()
    trace = Trace(sink, 1, None)
    assert trace.for_stub() == (1, None)
    trace.end()
    assert sink.over == []
    trace.executed(1, 2, (1, 1, 1))
    assert sink.over == [trace]
    failed = Trace(sink, 2, None)
    failed.for_stub()
    failed.failed(1, 2)
    failed.end()
    assert sink.over == [trace, failed]
    assert [name for name, _ in failed.stamps] == ["QUEUE_START", "COMPUTE_START", "COMPUTE_END"]
