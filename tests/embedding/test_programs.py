"""Whole programs that embed a server: the examples, a notebook, default ports, ends without a stop."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from embedded import EXAMPLE_MODELS

EXAMPLE = EXAMPLE_MODELS.parent
ISOLATED = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
"""A network of its own, in which the default ports are free."""

START = """
import tritonserver
server = tritonserver.Server(
    tritonserver.Options(
        server_id="ExampleServer", model_repository="models", log_error=True, log_warn=True, log_info=True
    )
).start(wait_until_ready=True)
"""
CLIENT_FIRST = "import tritonclient.http, tritonclient.grpc\n"
ASK = """
import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
def ask(shape):
    for module, url in ((httpclient, "localhost:8000"), (grpcclient, "localhost:8001")):
        with module.InferenceServerClient(url) as client:
            data = np.full(shape, "Roger Roger", dtype=object)
            tensor = module.InferInput("INPUT0", data.shape, "BYTES")
            tensor.set_data_from_numpy(data)
            print(client.infer("identity", [tensor]).as_numpy("OUTPUT0").tolist(), flush=True)
"""
SERVE = """
from tritonfrontend import KServeGrpc, KServeHttp, Metrics
http = KServeHttp(server, KServeHttp.Options(thread_count=5))
http.start()
grpc = KServeGrpc(server)
grpc.start()
metrics = Metrics(server)
metrics.start()
ask([1, 1])
metrics.stop()
http.stop()
grpc.stop()
server.stop()
server.start()
with KServeHttp(server), KServeGrpc(server):
    ask([1])
server.stop()
print("end")
"""
SERVE_IN_THE_OLD_SPELLING = """
from tritonfrontend import KServeHttp, KServeGrpc
http = KServeHttp.Server(server, KServeHttp.Options(thread_count=5))
http.start()
grpc = KServeGrpc.Server(server)
grpc.start()
ask([1, 1])
http.stop()
print("end")
"""
PREVIEW = """
import tritonserver
server = tritonserver.Server(model_repository="models")
server.start()
print(server.models())
for response in server.model("test").infer(inputs={"string_input": [["hello world!"]]}):
    print(response.outputs["string_output"].to_string_array())
"""


def run(folder: Path, *arguments: str, within: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [*(within or []), sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(EXAMPLE_MODELS, tmp_path / "models")
    return tmp_path


@pytest.fixture(scope="module")
def isolated() -> list[str]:
    if shutil.which("unshare") is None or subprocess.run([*ISOLATED, "true"], check=False).returncode:
        pytest.skip("no network namespaces here")
    return ISOLATED


@pytest.mark.spec("inprocess:60")
@pytest.mark.spec("inprocess:58")
@pytest.mark.parametrize("first", ["", CLIENT_FIRST], ids=["server_first", "client_first"])
def test_the_released_spelling_on_default_ports(folder: Path, isolated: list[str], first: str) -> None:
    ended = run(folder, "-c", first + START + ASK + SERVE, within=isolated)
    assert (ended.returncode, ended.stderr) == (0, "")
    printed = [line for line in ended.stdout.splitlines() if not line.startswith("I")]
    assert printed == ["[[b'Roger Roger']]"] * 2 + ["[b'Roger Roger']"] * 2 + ["end"]


@pytest.mark.spec("inprocess:52")
@pytest.mark.spec("inprocess:60")
def test_the_older_spelling_and_no_stop(folder: Path, isolated: list[str]) -> None:
    ended = run(folder, "-c", START + ASK + SERVE_IN_THE_OLD_SPELLING, within=isolated)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines().count("end") == 1


@pytest.mark.spec("inprocess:42")
@pytest.mark.spec("inprocess:60")
def test_the_preview(folder: Path) -> None:
    shutil.rmtree(folder / "models" / "identity")
    ended = run(folder, "-c", PREVIEW)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "{('test', 1): {'name': 'test', 'version': 1, 'state': 'READY'}}\n[['hello world!']]\n"


@pytest.mark.parametrize("name", ["hello.py", "with_asyncio.py"])
def test_examples(name: str) -> None:
    ended = run(EXAMPLE, name)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.endswith("PASS: embedding\n")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_notebook() -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(EXAMPLE / "notebook.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(EXAMPLE)}}).execute()
    printed = str([cell.get("outputs") for cell in notebook.cells])
    assert "hello world!" in printed
    assert "('test', 1): {'name': 'test', 'version': 1, 'state': 'READY'}" in printed
