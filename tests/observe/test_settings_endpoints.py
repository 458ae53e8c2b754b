"""The trace and logging extensions of a running server, over HTTP and gRPC."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from calling import call
from grpc_wire import RpcClient
from serving import Served, serve, write_model

MODEL = """
    import triton_python_backend_utils as pb_utils

    class TritonPythonModel:
        def execute(self, requests):
            pb_utils.Logger.log_info("executing")
            return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", r.inputs()[0].as_numpy())]) for r in requests]
"""
CONFIG = """
    backend: "python"
    input { name: "X" data_type: TYPE_INT32 dims: 2 }
    output { name: "Y" data_type: TYPE_INT32 dims: 2 }
"""
TRACE = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}
LOG = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}
ALL, ONE, LOGGING = "/v2/trace/setting", "/v2/models/m/trace/setting", "/v2/logging"
CLEAR = {"trace_level": None, "trace_rate": None, "trace_count": None, "log_frequency": None}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    repository = tmp_path_factory.mktemp("settings")
    write_model(repository, "m", MODEL, CONFIG)
    with serve(repository) as served:
        yield served


@pytest.fixture
def rpc(server: Served) -> Iterator[RpcClient]:
    with RpcClient(server.grpc_url) as client:
        yield client


@pytest.fixture(autouse=True)
def as_at_start_up(server: Served) -> Iterator[None]:
    yield
    for path in (ALL, ONE):
        assert server.post(path, CLEAR) == (200, TRACE)
    assert server.post(LOGGING, {name: value for name, value in LOG.items() if name != "log_file"}) == (200, LOG)


def post(server: Served, path: str, body: bytes) -> tuple[int, Any]:
    """Status, and the error's text or the document."""
    request = urllib.request.Request(f"http://{server.http_url}{path}", body)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            status, data = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, data = error.code, error.read()
    document = json.loads(data)
    return status, document.get("error", document)


EMPTY = "failed to parse the request JSON buffer: The document is empty. at 0"


@pytest.mark.spec("server:124", "server:125")
@pytest.mark.parametrize(
    ("path", "body", "status", "answer"),
    [
        pytest.param(*row[1:], id=row[0], marks=pytest.mark.spec(f"server:{row[0]}"))
        for row in [
            ("A282", ALL, "", 400, EMPTY),
            (
                "A283",
                ALL,
                '{"trace_level":["TIMESTAMPS"]}',
                400,
                "Attempting to set invalid trace setting :trace file name is not given",
            ),
            ("A284", ALL, '{"trace_level":"TIMESTAMPS"}', 400, "attempt to access JSON non-array as array"),
            ("A285", ALL, '{"trace_level":["OFF","TENSORS"]}', 400, "Expect only one trace level 'OFF' is specified"),
            ("A286", ALL, '{"trace_level":["BOGUS"]}', 200, TRACE),
            ("A287", ALL, '{"trace_rate":5}', 400, "attempt to access JSON non-string as string"),
            ("A288", ALL, '{"trace_rate":"x"}', 400, "Unable to parse 'trace_rate', got: x"),
            (
                "A289",
                ALL,
                '{"trace_rate":"99999999999"}',
                400,
                "Unable to parse 'trace_rate', value is out of range [ 0, 4294967295 ], got: 99999999999",
            ),
            ("A290", ALL, '{"trace_rate":"-5"}', 200, {**TRACE, "trace_rate": "4294967291"}),
            (
                "A291",
                ALL,
                '{"trace_count":"-2"}',
                400,
                "Unable to parse 'trace_count'. Expecting value >= -1, got:-2",
            ),
            (
                "A292",
                ALL,
                '{"trace_count":"99999999999"}',
                400,
                "Unable to parse 'trace_count', value is out of range [ -1, 2147483647 ], got: 99999999999",
            ),
            (
                "A293",
                ALL,
                '{"trace_file":"/tmp/t"}',
                501,
                "trace file location can not be updated through network protocol",
            ),
            ("A294", ALL, json.dumps({**CLEAR, "trace_file": None, "trace_mode": None}), 200, TRACE),
            ("A295", ALL, '{"what":"ever","trace_mode":"opentelemetry"}', 200, TRACE),
            ("A296", ALL, "{", 400, "failed to parse the request JSON buffer: Missing a name for object member. at 1"),
            ("A298", ONE, '{"trace_rate":"7"}', 200, {**TRACE, "trace_rate": "7"}),
            ("A301", LOGGING, "", 400, EMPTY),
            ("A302", LOGGING, '{"log_info":"x"}', 400, "attempt to access JSON non-boolean as boolean"),
            ("A303", LOGGING, '{"log_info":null}', 200, LOG),
            (
                "A304",
                LOGGING,
                '{"log_verbose_level":-1}',
                400,
                "attempt to access JSON non-unsigned-integer as unsigned-integer",
            ),
            (
                "A305",
                LOGGING,
                '{"log_verbose_level":"1"}',
                400,
                "attempt to access JSON non-unsigned-integer as unsigned-integer",
            ),
            ("A306", LOGGING, '{"log_format":"zzz"}', 503, "invalid argument for --log_format, got: zzz"),
            ("A307", LOGGING, '{"log_format":1}', 400, "attempt to access JSON non-string as string"),
            (
                "A308",
                LOGGING,
                '{"log_file":"/tmp/l"}',
                501,
                "log file location can not be updated through network protocol",
            ),
            ("A309", LOGGING, '{"what":"ever"}', 200, LOG),
            ("A310", LOGGING, "[]", 200, LOG),
        ]
    ],
)
def test_post(server: Served, path: str, body: str, status: int, answer: Any) -> None:
    assert post(server, path, body.encode()) == (status, answer)


@pytest.mark.spec("server:125")
@pytest.mark.parametrize("body", ['{"trace_level":[5]}', '{"trace_count":[]}'])
def test_other_types_are_refused_too(server: Served, body: str) -> None:
    assert post(server, ALL, body.encode()) == (400, "attempt to access JSON non-string as string")


@pytest.mark.spec("server:A281", "server:A297", "server:A299", "server:A300")
def test_get_and_other_methods(server: Served) -> None:
    assert server.get(ALL) == (200, TRACE)
    assert server.get(ONE) == (200, TRACE)
    assert server.get(LOGGING) == (200, LOG)
    assert server.get("/v2/models/nope/trace/setting") == (400, {"error": "Request for unknown model : nope"})
    assert server.post("/v2/models/nope/trace/setting", {}) == (400, {"error": "Request for unknown model : nope"})
    for path in (ALL, ONE, LOGGING):
        request = urllib.request.Request(f"http://{server.http_url}{path}", method="DELETE")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=20)
        with caught.value as error:
            assert (error.code, error.headers["Content-Type"]) == (405, "application/json")
            assert json.loads(error.read()) == {"error": "Method Not Allowed"}


@pytest.mark.spec("server:124")
def test_a_refused_change_changes_nothing(server: Served) -> None:
    assert server.post(ALL, {"trace_rate": "5", "trace_count": "x"})[0] == 400
    assert server.get(ALL) == (200, TRACE)


@pytest.mark.spec("server:124")
def test_a_models_settings_follow_the_others_until_set(server: Served) -> None:
    server.post(ALL, {"trace_rate": "5", "log_frequency": "2"})
    server.post(ONE, {"trace_rate": "7"})
    server.post(ALL, {"trace_rate": "6", "log_frequency": "3"})
    assert server.get(ONE)[1] == {**TRACE, "trace_rate": "7", "log_frequency": "3"}
    server.post(ONE, {"trace_rate": None})
    assert server.get(ONE)[1] == server.get(ALL)[1] == {**TRACE, "trace_rate": "6", "log_frequency": "3"}


def refused(rpc: RpcClient, name: str, **fields: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        rpc.call(name, **fields)
    return caught.value.code().name, caught.value.details()


@pytest.mark.spec("server:125")
@pytest.mark.parametrize(
    ("model", "settings", "status", "details"),
    [
        pytest.param(*row[1:], id=row[0], marks=pytest.mark.spec(f"server:{row[0]}"))
        for row in [
            ("B24", "", {"trace_rate": ["x"]}, "INVALID_ARGUMENT", "Unable to parse 'trace_rate', got: x"),
            ("B25", "", {"trace_rate": ["1", "2"]}, "INVALID_ARGUMENT", "expect only 1 value for 'trace_rate'"),
            (
                "B26",
                "",
                {"trace_file": ["/tmp/t"]},
                "UNIMPLEMENTED",
                "trace file location can not be updated through network protocol",
            ),
            ("B27", "nope", {}, "INVALID_ARGUMENT", "Request for unknown model : nope"),
            (
                "125",
                "",
                {"trace_count": ["-2"]},
                "INVALID_ARGUMENT",
                "Unable to parse 'trace_count'. Expecting value >= -1, got: -2",
            ),
        ]
    ],
)
def test_trace_settings_that_grpc_refuses(
    rpc: RpcClient, model: str, settings: dict[str, list[str]], status: str, details: str
) -> None:
    values = {name: {"value": texts} for name, texts in settings.items()}
    assert refused(rpc, "TraceSetting", model_name=model, settings=values) == (status, details)


@pytest.mark.spec("server:130")
@pytest.mark.parametrize(
    ("name", "value", "status", "details"),
    [
        pytest.param(*row[1:], id=row[0], marks=pytest.mark.spec(f"server:{row[0]}"))
        for row in [
            ("B28", "log_info", {"string_param": "x"}, "INVALID_ARGUMENT", "expect boolean for 'log_info'"),
            (
                "B29",
                "log_verbose_level",
                {"string_param": "1"},
                "INVALID_ARGUMENT",
                "expect int32 for 'log_verbose_level'",
            ),
            ("B30", "log_format", {"bool_param": True}, "INVALID_ARGUMENT", "expect string for 'log_format'"),
            (
                "B31",
                "log_format",
                {"string_param": "zz"},
                "INVALID_ARGUMENT",
                "invalid argument for log_format, got: zz",
            ),
            (
                "B32",
                "log_file",
                {"string_param": "/tmp/l"},
                "UNIMPLEMENTED",
                "log file location can not be updated through network protocol",
            ),
        ]
    ],
)
def test_log_settings_that_grpc_refuses(
    rpc: RpcClient, name: str, value: dict[str, Any], status: str, details: str
) -> None:
    assert refused(rpc, "LogSettings", settings={name: value}) == (status, details)


@pytest.mark.spec("server:124", "server:129")
def test_the_clients_of_the_original(server: Served) -> None:
    with tritonclient.http.InferenceServerClient(server.http_url) as client:
        assert client.update_trace_settings("m", {"trace_rate": "7"})["trace_rate"] == "7"
        assert client.get_trace_settings("m")["trace_rate"] == "7"
        assert client.update_trace_settings("m", {"trace_rate": None}) == TRACE
        assert client.update_log_settings({"log_verbose_level": 2})["log_verbose_level"] == 2
        assert client.get_log_settings() == {**LOG, "log_verbose_level": 2}
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        assert client.get_log_settings(as_json=True)["settings"]["log_verbose_level"] == {"uint32_param": 2}
        settings = {"log_verbose_level": 0, "log_format": "ISO8601", "log_error": False}
        changed = client.update_log_settings(settings, as_json=True)["settings"]
        assert changed["log_format"] == {"string_param": "ISO8601"}
        assert changed["log_error"] == {"bool_param": False}
        traced = client.update_trace_settings("m", {"trace_rate": "9", "trace_count": "4"}, as_json=True)["settings"]
        assert (traced["trace_rate"], traced["trace_count"]) == ({"value": ["9"]}, {"value": ["4"]})
        assert traced["trace_level"] == {"value": ["OFF"]}
        cleared = client.update_trace_settings("m", {"trace_rate": None}, as_json=True)["settings"]
        assert cleared["trace_rate"] == {"value": ["1000"]}


@pytest.mark.spec("server:129")
def test_earlier_log_settings_stay_when_a_later_one_is_refused(server: Served, rpc: RpcClient) -> None:
    assert server.post(LOGGING, {"log_format": "zzz", "log_warning": False})[0] == 503
    assert server.get(LOGGING)[1] == {**LOG, "log_warning": False}
    refused(rpc, "LogSettings", settings={"log_format": {"bool_param": True}, "log_error": {"bool_param": False}})
    assert server.get(LOGGING)[1] == {**LOG, "log_warning": False, "log_error": False}


@pytest.mark.spec("server:129", "server:269")
def test_log_settings_take_effect_at_once(server: Served) -> None:
    for wanted in (True, False, True):
        server.post(LOGGING, {"log_info": wanted, "log_format": "json"})
        call(server, "m", {"X": np.zeros(2, np.int32)})
    server.wait_for_log('"message":"executing"', times=2)
    server.post(LOGGING, {"log_format": "ISO8601"})
    call(server, "m", {"X": np.zeros(2, np.int32)})
    server.wait_for_log(r'T\d\d:\d\d:\d\dZ I \d+ model.py:6 m_0\] "executing"')
    assert server.log.count("executing") == 3


@pytest.mark.spec("server:268")
def test_a_server_that_logs_json_from_the_start(tmp_path: Path) -> None:
    write_model(tmp_path, "m", MODEL, CONFIG)
    with serve(tmp_path, "--log-format=json", expect_start=False) as served:
        served.wait_for_log("Started Metrics Service")
        served.stop()
        lines = [json.loads(line) for line in served.log.splitlines() if line and not line.startswith("Signal")]
    messages = [line["message"] for line in lines]
    assert any(message.startswith("successfully loaded") for message in messages)
    assert any(message.startswith("+---") for message in messages)
    assert all({"time", "level", "pid", "message"} <= line.keys() for line in lines)
