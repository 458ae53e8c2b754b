"""The repository extension through the real clients: the same over HTTP and gRPC, but for how errors are told apart."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from atoll_protos import messages
from calling import wait_until
from controlling import answering, json_config, write_answering
from grpc_wire import RpcClient
from rendezvous import write
from serving import Served, serve
from tritonclient.utils import InferenceServerException

ALL = "version_policy: { all: { } }"
BROKEN = "class TritonPythonModel:\n    def initialize(self, args):\n        raise Exception('no')"
STATUS = {"http": {"500": "INTERNAL", "400": "INVALID_ARGUMENT", "404": "NOT_FOUND", "503": "UNAVAILABLE"}}
POLL_FAILED = "failed to load '{}', failed to poll from model repository"


class Client:
    """``tritonclient`` of one protocol; what it says of the repository in the words of the HTTP protocol."""

    def __init__(self, protocol: str, served: Served) -> None:
        self.protocol = protocol
        self.module: Any = {"http": tritonclient.http, "grpc": tritonclient.grpc}[protocol]
        self.raw = self.module.InferenceServerClient(served.http_url if protocol == "http" else served.grpc_url)
        self.load = self.raw.load_model
        self.unload = self.raw.unload_model
        self.is_ready = self.raw.is_model_ready

    def index(self, name: str = "") -> list[dict[str, str]]:
        if self.protocol == "http":
            rows = self.raw.get_model_repository_index()
        else:
            rows = self.raw.get_model_repository_index(as_json=True).get("models", [])
        return [row for row in rows if not name or row["name"] == name]

    def config(self, name: str) -> dict[str, Any]:
        if self.protocol == "http":
            return dict(self.raw.get_model_config(name))
        return dict(self.raw.get_model_config(name, as_json=True)["config"])

    def word_of(self, model: str, version: str = "") -> str:
        tensor = self.module.InferInput("IN", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([b"?"], object))
        return str(self.raw.infer(model, [tensor], model_version=version).as_numpy("OUT")[0].decode())

    def refusal(self, call: Any, *arguments: Any, **options: Any) -> tuple[str, str]:
        """gRPC's name of the status, and the text."""
        with pytest.raises(InferenceServerException) as caught:
            call(*arguments, **options)
        status = str(caught.value.status())
        return STATUS.get(self.protocol, {}).get(status, status.removeprefix("StatusCode.")), caught.value.message()

    def wait_until_unloaded(self, name: str) -> None:
        wait_until(lambda: {row["state"] for row in self.index(name)} == {"UNAVAILABLE"}, f"{name} is unloaded")


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second repository, which has a model of the first."""
    folder = tmp_path_factory.mktemp("twins")
    write_answering(folder, "twin", "two")
    return folder


@pytest.fixture(scope="module")
def served(repository: Path, twins: Path) -> Iterator[Served]:
    write_answering(repository, "twin", "one")
    write_answering(repository, "m", "word")
    write_answering(repository, "never", "never")
    for version in (1, 2):
        write_answering(repository, "two", f"two {version}", ALL, version)
        write_answering(repository, "half", "half", ALL, version)
    (repository / "half" / "2" / "model.py").write_text(BROKEN)
    write(repository, "broken", BROKEN)
    (repository / "unnamed").mkdir()
    with serve(repository, f"--model-repository={twins}", "--model-control-mode=explicit") as served:
        yield served
        assert "Traceback" not in served.log


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest, served: Served) -> Iterator[Client]:
    client = Client(request.param, served)
    yield client
    for row in client.index():
        if "version" in row or row.get("reason", "").startswith("I"):
            client.unload(row["name"])
    for name in {row["name"] for row in client.index() if "version" in row}:
        client.wait_until_unloaded(name)
    client.raw.close()


# -- index


@pytest.mark.spec("server:98")
@pytest.mark.spec("server:100")
@pytest.mark.spec("server:193")
def test_the_index(client: Client) -> None:
    client.load("two")
    client.refusal(client.load, "broken")
    rows = client.index()
    assert [row["name"] for row in rows] == sorted(row["name"] for row in rows)
    assert client.index("never") == [{"name": "never"}]
    assert client.index("two") == [
        {"name": "two", "version": "1", "state": "READY"},
        {"name": "two", "version": "2", "state": "READY"},
    ]
    [broken] = client.index("broken")
    assert broken["state"] == "UNAVAILABLE"
    assert broken["reason"].startswith("Internal: Exception: no\n\nAt:\n")
    assert client.index("twin") == [
        {"name": "twin", "state": "UNAVAILABLE", "reason": "model appears in two or more repositories"}
    ]


@pytest.mark.spec("server:99")
def test_the_index_of_what_is_ready(served: Served) -> None:
    served.post("/v2/repository/models/m/load", {})
    assert served.post("/v2/repository/index", {"ready": True}) == (
        200,
        [{"name": "m", "version": "1", "state": "READY"}],
    )
    for value in ("x", 1, None, []):
        assert served.post("/v2/repository/index", {"ready": value}) == (
            400,
            {"error": "Invalid value for 'ready': expected a boolean"},
        )
    with RpcClient(served.grpc_url) as rpc:
        [row] = rpc.call("RepositoryIndex", ready=True).models
        assert (row.name, row.version, row.state, row.reason) == ("m", "1", "READY", "")
    served.post("/v2/repository/models/m/unload", {})


# -- load


@pytest.mark.spec("server:101")
@pytest.mark.spec("server:177")
@pytest.mark.spec("server:192")
def test_loads_that_fail(client: Client, repository: Path) -> None:
    code, text = client.refusal(client.load, "broken")
    path = f"{repository}/broken/1/model.py"
    assert (code, text) == (
        "INVALID_ARGUMENT",
        "load failed for model 'broken': version 1 is at UNAVAILABLE state: "
        f"Internal: Exception: no\n\nAt:\n  {path}(3): initialize\n;\n",
    )
    code, text = client.refusal(client.load, "half")
    assert code == "INVALID_ARGUMENT"
    assert text.startswith("load failed for model 'half': version 2 is at UNAVAILABLE state: Internal: Exception: no")
    assert "version 1" not in text
    client.wait_until_unloaded("half")
    assert client.index("half")[0] == {"name": "half", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
    absent = json_config(version_policy={"specific": {"versions": [3]}})
    assert client.refusal(client.load, "m", config=absent) == (
        "INVALID_ARGUMENT",
        "load failed for model 'm': at least one version must be available under the version policy of model 'm'\n",
    )


@pytest.mark.spec("server:102")
@pytest.mark.spec("server:112")
@pytest.mark.spec("server:283")
@pytest.mark.parametrize("name", ["nope", "twin", "unnamed", ".", ".."])
def test_names_that_cannot_be_loaded(client: Client, name: str) -> None:
    if name in ("nope", "twin", "unnamed"):
        assert client.refusal(client.load, name) == ("INTERNAL", POLL_FAILED.format(name))
    else:
        assert client.refusal(client.load, name) == (
            "INVALID_ARGUMENT",
            f"invalid model name '{name}', model name must not contain path traversal characters",
        )


@pytest.mark.spec("server:112")
@pytest.mark.spec("server:283")
def test_names_that_only_grpc_can_carry(served: Served) -> None:
    client = Client("grpc", served)
    assert client.refusal(client.load, "") == (
        "INVALID_ARGUMENT",
        "Model name cannot be empty. Please enter a valid name to deploy.",
    )
    for name in ("../m", "m/1", "/etc", "a\0b"):
        code, text = client.refusal(client.load, name)
        assert (code, text) == (
            "INVALID_ARGUMENT",
            f"invalid model name '{name}', model name must not contain path traversal characters",
        )
        client.unload(name)  # nobody has it
        assert not client.is_ready(name)
    client.raw.close()


@pytest.mark.spec("server:103")
@pytest.mark.spec("server:106")
def test_a_configuration_of_the_request_stays_until_the_files_change(client: Client, repository: Path) -> None:
    client.load("m", config=json_config(parameters={"k": {"string_value": "v"}}))
    assert client.config("m")["parameters"] == {"k": {"string_value": "v"}}
    client.load("m")
    assert client.config("m")["parameters"] == {"k": {"string_value": "v"}}
    (repository / "m" / f"notes {client.protocol}").touch()
    client.load("m")
    assert not client.config("m").get("parameters")
    client.load("m", config=json_config(parameters={"k": {"string_value": "v"}}))
    client.unload("m")
    client.wait_until_unloaded("m")
    client.load("m")
    assert not client.config("m").get("parameters")
    for bad in ("{", json.dumps({"nope": 1}), json_config(name="other")):
        assert client.refusal(client.load, "m", config=bad) == ("INTERNAL", POLL_FAILED.format("m"))
    assert client.word_of("m") == "word"


@pytest.mark.spec("server:104")
@pytest.mark.spec("server:105")
@pytest.mark.spec("server:106")
@pytest.mark.spec("server:283")
def test_files_of_the_request(client: Client) -> None:
    client.load("m", config=json_config(), files={"file:1/model.py": answering("sent").encode()})
    assert client.word_of("m") == "sent"
    client.load("m")
    assert client.word_of("m") == "word"
    client.load("made", config=json_config(), files={"file:3/model.py": answering("made").encode()})
    assert client.index("made") == [{"name": "made", "version": "3", "state": "READY"}]
    assert client.word_of("made", "3") == "made"
    failure = ("INTERNAL", POLL_FAILED.format("m"))
    for key in ("file:../evil.py", "file:/../../evil.py", "file:1/../../evil.py", "file:.."):
        assert client.refusal(client.load, "m", config=json_config(), files={key: b""}) == failure
    assert client.word_of("m") == "word"


@pytest.mark.spec("server:113")
@pytest.mark.spec("server:181")
@pytest.mark.spec("server:184")
def test_a_reload_that_fails_keeps_the_former(client: Client, served: Served, repository: Path) -> None:
    folder = write_answering(repository, f"kept_{client.protocol}", "former")
    name, path = folder.name, folder / "1" / "model.py"
    client.load(name)
    pid = served.stubs()[f"{name}_0_0"]
    client.load(name)
    assert served.stubs()[f"{name}_0_0"] == pid
    path.write_text("def broken(:")
    for _ in range(2):  # a failure is no excuse not to try again
        code, text = client.refusal(client.load, name)
        assert code == "INVALID_ARGUMENT"
        assert "SyntaxError" in text
    assert client.word_of(name) == "former"
    assert client.index(name) == [{"name": name, "version": "1", "state": "READY"}]
    path.write_text(answering("later"))
    client.load(name)
    assert client.word_of(name) == "later"


# -- unload


@pytest.mark.spec("server:107")
def test_unloading(client: Client) -> None:
    client.unload("nope")
    client.unload("never")
    client.load("m")
    client.unload("m")
    assert not client.is_ready("m")
    assert client.index("m")[0]["state"] in ("UNLOADING", "UNAVAILABLE")
    client.wait_until_unloaded("m")
    assert client.index("m") == [{"name": "m", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}]
    assert client.refusal(client.word_of, "m") == (
        "NOT_FOUND",
        "Request for unknown model: 'm' has no available versions",
    )
    assert client.refusal(client.word_of, "m", "1")[0] == "UNAVAILABLE"


@pytest.mark.spec("server:185")
def test_many_changes_at_once_come_to_an_end(client: Client, served: Served) -> None:
    names = ["m", "two", "never", "broken", "half"]

    def change(turn: int) -> str | None:
        """The model whose change was refused."""
        other = Client(client.protocol, served)  # in this thread: one of HTTP cannot be shared
        name = names[turn % len(names)]
        try:
            (other.load if turn % 3 else other.unload)(name)
        except InferenceServerException:
            return name
        finally:
            other.raw.close()
        return None

    with ThreadPoolExecutor(20) as pool:
        refused = set(pool.map(change, range(40)))
    assert refused == {"broken", "half", None}
    for name in ("m", "two", "never"):
        client.load(name)
        assert client.word_of(name).startswith({"m": "word"}.get(name, name))


# -- what the clients do not send


def rpc_refusal(rpc: RpcClient, method: str, **fields: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        rpc.call(method, **fields)
    return caught.value.code().name, caught.value.details()


@pytest.mark.spec("server:111")
def test_a_repository_cannot_be_named(served: Served) -> None:
    text = "'repository_name' specification is not supported"
    for action in ("load", "unload"):
        assert served.post(f"/v2/repository/r/models/m/{action}", {}) == (501, {"error": text})
    with RpcClient(served.grpc_url) as rpc:
        for method in ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"):
            assert rpc_refusal(rpc, method, repository_name="r") == ("UNIMPLEMENTED", text)


@pytest.mark.spec("server:154")
@pytest.mark.parametrize(
    ("method", "key", "value", "text"),
    [
        ("Load", "foo", {"string_param": "x"}, "unrecognized load parameter 'foo'."),
        (
            "Load",
            "config",
            {"bytes_param": b"{}"},
            "invalid value type for load parameter 'config', expected string_param.",
        ),
        (
            "Load",
            "config",
            {"bool_param": True},
            "invalid value type for load parameter 'config', expected string_param.",
        ),
        (
            "Load",
            "file:1/model.py",
            {"string_param": "x"},
            "invalid value type for load parameter 'file:1/model.py', expected bytes_param.",
        ),
        (
            "Unload",
            "unload_dependents",
            {"string_param": "true"},
            "invalid value type for 'unload_dependents' parameter, expected bool_param.",
        ),
    ],
)
def test_parameters_over_grpc(served: Served, method: str, key: str, value: dict[str, Any], text: str) -> None:
    parameter = messages.ModelRepositoryParameter(**value)
    with RpcClient(served.grpc_url) as rpc:
        refusal = rpc_refusal(rpc, f"RepositoryModel{method}", model_name="m", parameters={key: parameter})
        assert refusal == ("INVALID_ARGUMENT", text)


@pytest.mark.spec("server:154")
def test_other_parameters_of_an_unload_are_passed_over(served: Served) -> None:
    with RpcClient(served.grpc_url) as rpc:
        parameters = {"foo": messages.ModelRepositoryParameter(int64_param=1)}
        rpc.call("RepositoryModelUnload", model_name="m", parameters=parameters)


@pytest.mark.spec("server:104")
@pytest.mark.spec("server:105")
def test_files_without_a_configuration(served: Served) -> None:
    code = answering("x").encode()
    text = POLL_FAILED.format("m")
    document = {"parameters": {"file:1/model.py": base64.b64encode(code).decode()}}
    assert served.post("/v2/repository/models/m/load", document) == (500, {"error": text})
    with RpcClient(served.grpc_url) as rpc:
        parameters = {"file:1/model.py": messages.ModelRepositoryParameter(bytes_param=code)}
        assert rpc_refusal(rpc, "RepositoryModelLoad", model_name="m", parameters=parameters) == ("INTERNAL", text)


@pytest.mark.spec("server:283")
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"default_model_filename": "../../never/1/model.py"},
            "Invalid argument: default_model_filename '../../never/1/model.py' of model 'm' is outside its version "
            "directory",
        ),
        (
            {"default_model_filename": "/etc/model.py"},
            "Invalid argument: default_model_filename '/etc/model.py' of model 'm' is outside its version directory",
        ),
        (
            {"backend": "../python"},
            "Invalid argument: unable to find backend library for backend '../python', try specifying runtime on the "
            "model configuration.",
        ),
        (
            {"output": [{"name": "OUT", "data_type": "TYPE_STRING", "dims": [-1], "label_filename": "../never/x"}]},
            "Unsupported: label file path '../never/x' for output 'OUT' in model 'm' is outside model directory",
        ),
    ],
)
def test_paths_that_lead_out_of_the_model(client: Client, fields: dict[str, Any], text: str) -> None:
    assert client.refusal(client.load, "m", config=json_config(**fields)) == (
        "INVALID_ARGUMENT",
        f"load failed for model 'm': version 1 is at UNAVAILABLE state: {text};\n",
    )


@pytest.mark.spec("server:283")
def test_a_label_file_behind_a_link_that_leads_out(client: Client, repository: Path) -> None:
    secret = repository.parent / "secret"
    secret.write_text("a")
    link = repository / "m" / "labels.txt"
    link.unlink(missing_ok=True)
    link.symlink_to(secret)
    labels = {"name": "OUT", "data_type": "TYPE_STRING", "dims": [-1], "label_filename": "labels.txt"}
    _, text = client.refusal(client.load, "m", config=json_config(output=[labels]))
    assert "label file path 'labels.txt' for output 'OUT' in model 'm' is outside model directory" in text
    link.unlink()
