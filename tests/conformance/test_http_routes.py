"""Appendix A.1: routes, methods, metadata. Each row on a connection that then answers another request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from atoll import __version__
from http_wire import Wire
from serving import Served, serve, write_model

MODEL = "/v2/models/two_in"
NOT_ALLOWED = "Method Not Allowed"
EXTENSIONS = [
    "classification",
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "cuda_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
]
SERVER_METADATA = {"name": "triton", "version": __version__, "extensions": EXTENSIONS}
MODEL_METADATA = {
    "name": "two_in",
    "versions": ["1"],
    "platform": "python",
    "inputs": [
        {"name": "INPUT0", "datatype": "FP32", "shape": [-1, 2, 2]},
        {"name": "INPUT1", "datatype": "INT32", "shape": [-1, -1]},
    ],
    "outputs": [
        {"name": "OUTPUT0", "datatype": "FP32", "shape": [-1, 2, 2]},
        {"name": "OUTPUT1", "datatype": "INT32", "shape": [-1, -1]},
    ],
}
TOO_LONG = "99999999999999999999"
UNREADABLE = (
    f"failed to get model version from specified version string '{TOO_LONG}' (details: stol), version should be an "
    "integral value > 0"
)


def check(wire: Wire, method: str, target: str, status: int, letter: str, answer: Any) -> None:
    """``answer``: None for an empty body, an error's text, or a document."""
    reply = wire.request(method, target)
    assert (reply.status, reply.letter) == (status, letter)
    if answer is None:
        assert reply.body == b""
    elif isinstance(answer, str):
        assert reply.error == answer
    else:
        assert list(reply.json.items()) == list(answer.items())
    assert wire.request("GET", "/v2/health/live").status == 200


ROWS = [
    ("A1", "GET", "/v2", 200, "J", SERVER_METADATA),
    ("A2", "GET", "/v2/", 404, "T", "Not Found"),
    ("A3", "POST", "/v2", 405, "J", NOT_ALLOWED),
    ("A4", "HEAD", "/v2", 405, "J", NOT_ALLOWED),
    ("A5", "PUT", "/v2", 405, "J", NOT_ALLOWED),
    ("A6", "OPTIONS", "/v2", 405, "J", NOT_ALLOWED),
    ("A7", "GET", "/", 404, "T", "Not Found"),
    ("A8", "GET", "/v2/health/live", 200, "T", None),
    ("A9", "GET", "/v2/health/ready", 200, "T", None),
    ("A10", "POST", "/v2/health/live", 405, "T", NOT_ALLOWED),
    ("A11", "GET", "/v2/health/foo", 404, "T", "Not Found"),
    ("A12", "GET", "/v2/models", 404, "T", "Not Found"),
    ("A13", "GET", MODEL, 200, "J", MODEL_METADATA),
    ("A14", "GET", f"{MODEL}/", 404, "T", "Not Found"),
    ("A15", "GET", f"{MODEL}?x=1", 200, "J", MODEL_METADATA),
    ("A16", "GET", "/v2/models/two%5Fin", 404, "J", "Request for unknown model: 'two%5Fin' is not found"),
    ("A17", "GET", f"{MODEL}/versions/9", 404, "J", "Request for unknown model: 'two_in' version 9 is not found"),
    ("A18", "GET", f"{MODEL}/versions/0", 404, "J", "Request for unknown model: 'two_in' version 0 is not found"),
    ("A19", "GET", f"{MODEL}/versions/abc", 404, "T", "Not Found"),
    ("A20", "GET", f"{MODEL}/versions/{TOO_LONG}", 400, "J", UNREADABLE),
    ("A21", "POST", MODEL, 405, "J", NOT_ALLOWED),
    ("A22", "GET", "/v2/models/nope", 404, "J", "Request for unknown model: 'nope' is not found"),
    ("A24", "GET", f"{MODEL}/ready", 200, "T", None),
    ("A26", "POST", f"{MODEL}/ready", 405, "T", NOT_ALLOWED),
    ("A27", "GET", "/v2/models/nope/config", 404, "J", "Request for unknown model: 'nope' is not found"),
    ("A28", "POST", f"{MODEL}/config", 405, "J", NOT_ALLOWED),
    ("A30", "GET", "/v2/models/nope/stats", 400, "J", "requested model 'nope' is not available"),
    (
        "A31",
        "GET",
        f"{MODEL}/versions/9/stats",
        400,
        "J",
        "requested model version is not available for model 'two_in'",
    ),
    ("A33", "POST", "/v2/models/stats", 405, "J", NOT_ALLOWED),
    ("A34", "GET", f"{MODEL}/foo", 404, "T", "Not Found"),
    ("A35", "GET", f"{MODEL}/versions/1/trace/setting", 404, "T", "Not Found"),
    ("A42", "GET", f"{MODEL}/infer", 405, "T", NOT_ALLOWED),
    ("A203", "GET", "/v2/repository/index", 405, "J", NOT_ALLOWED),
    ("A357", "GET", "//v2/health/live", 404, "T", "Not Found"),
    ("A358", "GET", "/v2/health/live#x", 404, "T", "Not Found"),
    ("A359", "GET", "/V2/health/live", 404, "T", "Not Found"),
]


@pytest.mark.spec("server:2")
@pytest.mark.spec("server:3")
@pytest.mark.spec("server:4")
@pytest.mark.spec("server:14")
@pytest.mark.spec("server:15")
@pytest.mark.spec("server:16")
@pytest.mark.spec("server:17")
@pytest.mark.spec("server:20")
@pytest.mark.parametrize(
    ("method", "target", "status", "letter", "answer"),
    [
        pytest.param(*row[1:], id=f"{row[0]} {row[1]} {row[2]}", marks=pytest.mark.spec(f"server:{row[0]}"))
        for row in ROWS
    ],
)
def test_route(wire: Wire, method: str, target: str, status: int, letter: str, answer: Any) -> None:
    check(wire, method, target, status, letter, answer)


@pytest.mark.spec("server:A23")
@pytest.mark.spec("server:A25")
@pytest.mark.parametrize(
    ("path", "texts"),
    [
        ("nope", "Request for unknown model: 'nope' is not found"),
        ("two_in/versions/2", "Request for unknown model: 'two_in' version 2 is not found"),
    ],
)
def test_unknown_model_is_not_ready_and_the_answer_says_why(wire: Wire, path: str, texts: str) -> None:
    """As later releases of the original answer; the older one said 400 ``Model version not ready``."""
    check(wire, "GET", f"/v2/models/{path}/ready", 404, "T", texts)


@pytest.mark.spec("server:12")
def test_reason_phrases(wire: Wire) -> None:
    assert wire.request("GET", "/v2").reason == "OK"
    assert wire.request("POST", "/v2").reason == "Not Allowed"
    assert wire.request("GET", "/").reason == "Not Found"
    assert wire.request("GET", "/v2/models/nope/stats").reason == "Bad Request"


def test_responses_carry_no_headers_but_the_needed(wire: Wire) -> None:
    assert set(wire.request("GET", "/v2").headers) == {"Content-Type", "Content-Length"}


@pytest.mark.spec("server:A29")
def test_statistics_of_a_model_without_requests(wire: Wire) -> None:
    none = {"count": 0, "ns": 0}
    phases = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
    reply = wire.request("GET", "/v2/models/fresh/stats")
    assert (reply.status, reply.letter) == (200, "J")
    [entry] = reply.json["model_stats"]
    assert list(entry.items()) == [
        ("name", "fresh"),
        ("version", "1"),
        ("last_inference", 0),
        ("inference_count", 0),
        ("execution_count", 0),
        ("inference_stats", dict.fromkeys(phases, none)),
        ("response_stats", {}),
        ("batch_stats", []),
        ("memory_usage", []),
    ]


def test_statistics_of_all_models_are_sorted(wire: Wire) -> None:
    entries = wire.request("GET", "/v2/models/stats").json["model_stats"]
    keys = [(entry["name"], int(entry["version"])) for entry in entries]
    assert keys == sorted(keys)
    assert {("versions", 1), ("versions", 2), ("versions", 11), ("two_in", 1)} <= set(keys)


@pytest.mark.spec("server:18")
@pytest.mark.spec("server:19")
def test_metadata_list_all_versions_or_the_one_asked_for(wire: Wire) -> None:
    assert wire.request("GET", "/v2/models/versions").json["versions"] == ["1", "2", "11"]
    assert wire.request("GET", "/v2/models/versions/versions/2").json["versions"] == ["2"]
    assert wire.request("GET", "/v2/models/versions/versions/02").json["versions"] == ["2"]


@pytest.mark.spec("server:24")
@pytest.mark.spec("server:25")
def test_configuration_prints_every_default_in_order(wire: Wire) -> None:
    reply = wire.request("GET", f"{MODEL}/config")
    assert (reply.status, reply.letter) == (200, "J")
    config = reply.json
    assert list(config) == [
        "name",
        "platform",
        "backend",
        "runtime",
        "version_policy",
        "max_batch_size",
        "input",
        "output",
        "batch_input",
        "batch_output",
        "optimization",
        "instance_group",
        "default_model_filename",
        "cc_model_filenames",
        "metric_tags",
        "parameters",
        "model_warmup",
    ]
    assert list(config["input"][0].items()) == [
        ("name", "INPUT0"),
        ("data_type", "TYPE_FP32"),
        ("format", "FORMAT_NONE"),
        ("dims", [2, 2]),
        ("is_shape_tensor", False),
        ("allow_ragged_batch", False),
        ("optional", False),
        ("is_non_linear_format_io", False),
    ]
    assert config["version_policy"] == {"latest": {"num_versions": 1}}


@pytest.mark.spec("server:A37")
@pytest.mark.spec("server:A38")
def test_metrics_port_answers_anything_but_post(server: Served) -> None:
    with Wire(server.metrics_port) as wire:
        reply = wire.request("POST", "/metrics")
        assert (reply.status, reply.error) == (405, NOT_ALLOWED)
        assert reply.headers["Content-Type"].startswith("text/plain")
    with Wire(server.metrics_port) as wire:
        reply = wire.request("GET", "/foo")
        assert (reply.status, reply.body) == (200, b"")
    with Wire(server.metrics_port) as wire:
        reply = wire.request("GET", "/metrics/")
        assert reply.status == 200
        assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("target", ["/v2/repository/index", "/v2/repository/any/index"])
def test_index_lists_every_version_with_its_state(wire: Wire, target: str) -> None:
    reply = wire.request("POST", target)
    assert (reply.status, reply.letter) == (200, "J")
    names = [row["name"] for row in reply.json]
    assert names == sorted(names)
    assert {"name": "two_in", "version": "1", "state": "READY"} in reply.json
    assert [row["version"] for row in reply.json if row["name"] == "versions"] == ["1", "2", "11"]


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        pytest.param(
            b'{"ready":"x"}',
            400,
            "Invalid value for 'ready': expected a boolean",
            marks=pytest.mark.spec("server:A204"),
        ),
        pytest.param(
            b"{",
            400,
            "failed to parse the request JSON buffer: Missing a name for object member. at 1",
            marks=pytest.mark.spec("server:A205"),
        ),
        pytest.param(b"[]", 200, None, marks=pytest.mark.spec("server:A206")),
        (b'{"ready":true}', 200, None),
    ],
)
def test_index_options(wire: Wire, body: bytes, status: int, error: str | None) -> None:
    reply = wire.request("POST", "/v2/repository/index", body)
    assert (reply.status, reply.letter) == (status, "J")
    if error is not None:
        assert reply.error == error


@pytest.fixture(scope="module")
def half_loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server one of whose models fails to load."""
    folder: Path = tmp_path_factory.mktemp("half_loaded")
    tensors = "".join(f'{kind} [ {{ name: "X" data_type: TYPE_FP32 dims: [1] }} ]' for kind in ("input", "output"))
    code = """
        import triton_python_backend_utils as pb_utils

        class TritonPythonModel:
            def initialize(self, args):
                if args["model_name"] == "bad_init":
                    raise Exception("init bad")

            def execute(self, requests):
                return [pb_utils.InferenceResponse(request.inputs()) for request in requests]
    """
    write_model(folder, "good", code, f'backend: "python" {tensors}')
    write_model(folder, "bad_init", code, f'backend: "python" {tensors}')
    with serve(folder, "--exit-on-error=false") as served:
        yield served


@pytest.mark.spec("server:21")
@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("bad_init", 404, "Request for unknown model: 'bad_init' has no available versions"),
        ("bad_init/versions/1", 503, "Request for unknown model: 'bad_init' version 1 is not at ready state"),
        ("bad_init/versions/2", 404, "Request for unknown model: 'bad_init' version 2 is not found"),
    ],
)
def test_model_that_failed_to_load(half_loaded: Served, path: str, status: int, error: str) -> None:
    with Wire(half_loaded.http_port) as wire:
        check(wire, "GET", f"/v2/models/{path}", status, "J", error)
        check(wire, "GET", f"/v2/models/{path}/config", status, "J", error)
        check(wire, "GET", f"/v2/models/{path}/ready", status, "T", error)
        reply = wire.request("POST", f"/v2/models/{path}/infer", b"{}")
        assert (reply.status, reply.letter, reply.error) == (status, "T", error)


@pytest.mark.spec("server:16")
def test_server_whose_model_failed_is_live_but_not_ready(half_loaded: Served) -> None:
    with Wire(half_loaded.http_port) as wire:
        check(wire, "GET", "/v2/health/live", 200, "T", None)
        check(wire, "GET", "/v2/health/ready", 400, "T", None)
        check(wire, "GET", "/v2/models/good/ready", 200, "T", None)


@pytest.mark.spec("server:A32")
def test_model_that_failed_to_load_has_no_statistics(half_loaded: Served) -> None:
    with Wire(half_loaded.http_port) as wire:
        check(wire, "GET", "/v2/models/bad_init/stats", 400, "J", "requested model 'bad_init' is not available")


def test_index_tells_why_a_model_is_not_there(half_loaded: Served) -> None:
    with Wire(half_loaded.http_port) as wire:
        rows = {row["name"]: row for row in wire.request("POST", "/v2/repository/index").json}
        ready = wire.request("POST", "/v2/repository/index", b'{"ready":true}').json
    assert [row["name"] for row in ready] == ["good"]
    assert rows["bad_init"]["state"] == "UNAVAILABLE"
    assert rows["bad_init"]["reason"].startswith("Internal: Exception: init bad\n\nAt:\n  ")
    assert rows["bad_init"]["reason"].endswith("bad_init/1/model.py(7): initialize\n")
