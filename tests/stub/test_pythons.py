"""The stub under other Pythons than ours: it compiles on each, and runs on the oldest and the newest.

What an interpreter needs (numpy and msgpack) is installed once into pytest's cache, for that interpreter alone.
"""

from __future__ import annotations

import array
import functools
import json
import os
import shutil
import socket
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atoll_ipc.wire import Kind
from stub_twin import SETTINGS, STUB_CHUNKS, TIMEOUT_S, SupervisorTwin, execute, inline, load_settings, reply, request

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [ROOT / "stub", ROOT / "backend_utils"]
VERSIONS = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13"]
INSTALL_TIMEOUT_S = 50


@functools.lru_cache(None)
def interpreter(version: str) -> str | None:
    """The path of a Python of this version: pyenv's newest, or one on the PATH."""
    root = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    candidates = sorted(Path(root, "versions").glob(f"{version}.*/bin/python"), key=lambda path: len(str(path)))
    on_path = shutil.which(f"python{version}")
    for candidate in [*map(str, reversed(candidates)), on_path]:
        if candidate is None:
            continue
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        ran = subprocess.run([candidate, "-I", "-c", code], capture_output=True, text=True)
        if ran.stdout.strip() == version:
            return candidate
    return None


def needed(version: str) -> str:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} under pyenv or on the PATH")
    return python


@pytest.mark.parametrize("version", VERSIONS)
def test_every_file_of_the_stub_compiles(version: str) -> None:
    files = [str(path) for source in SOURCES for path in source.rglob("*.py")]
    assert len(files) > 10
    code = "import sys, pathlib\nfor path in sys.argv[1:]: compile(pathlib.Path(path).read_bytes(), path, 'exec')"
    ran = subprocess.run(
        [needed(version), "-I", "-W", "error", "-c", code, *files], capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def ends() -> list[str]:
    """The oldest and the newest version that is here."""
    found = [version for version in VERSIONS if interpreter(version)]
    return found[:1] + found[1:][-1:]


@pytest.fixture(params=ends())
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """An interpreter, and the folder that holds numpy and msgpack for it."""
    version = request.param
    interpreter = needed(version)
    cache = getattr(request.config, "cache", None)  # none with -p no:cacheprovider
    folder = (cache.mkdir("pythons") if cache is not None else tmp_path_factory.mktemp("pythons")) / version
    done = folder / "installed"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
        try:
            ran = subprocess.run(
                [interpreter, *install, f"--target={folder}", "numpy", "msgpack"],
                capture_output=True,
                text=True,
                timeout=INSTALL_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"numpy and msgpack for Python {version} took longer than {INSTALL_TIMEOUT_S} s to install")
        if ran.returncode:
            reason = ran.stderr.strip().splitlines()[-1:]
            pytest.skip(f"numpy and msgpack cannot be installed for Python {version}: {reason}")
        done.touch()
    return interpreter, folder


class WarmParent:
    """The warm parent of one interpreter, spoken to as the supervisor does."""

    def __init__(self, interpreter: str, packages: Path) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(TIMEOUT_S)
        path = os.pathsep.join(map(str, [*SOURCES, packages]))
        with theirs:
            self.process = subprocess.Popen(
                [interpreter, "-m", "atoll_stub.warm_parent", str(theirs.fileno()), str(os.getpid()), "x" * 200],
                pass_fds=[theirs.fileno()],
                env={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "PATH": os.environ["PATH"]},
            )

    def fork(self, twin: SupervisorTwin, title: str) -> tuple[int, int]:
        """The pid of a stub on the other ends of ``twin``, and the pipe it prints to."""
        read, write = os.pipe()
        descriptors = array.array("i", [*(end.fileno() for end in twin.theirs), write, write])
        spawn = {"spawn": 1, "title": title, "first_chunk_id": STUB_CHUNKS, "arena": list(SETTINGS)}
        self._control.sendmsg([json.dumps(spawn).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        os.close(write)
        for end in twin.theirs:
            end.close()
        report = self.report()
        assert report["spawned"] == 1
        return report["pid"], read

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self._control.recv(65536))
        return report

    def stop(self) -> int:
        self._control.close()
        try:
            return self.process.wait(TIMEOUT_S)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()


@pytest.fixture
def warm_parent(python: tuple[str, Path]) -> Iterator[WarmParent]:
    warm_parent = WarmParent(*python)
    yield warm_parent
    assert warm_parent.stop() == 0


MODEL = """
import sys
import numpy as np
import triton_python_backend_utils as pb_utils
from . import beside

class TritonPythonModel:
    def initialize(self, args):
        print("initialized on %d.%d" % sys.version_info[:2])

    def execute(self, requests):
        (request,) = requests
        return [self.answer(request)]

    def answer(self, request):
        mode = request.request_id()
        if mode == "raise":
            raise ValueError(beside.TEXT)
        if mode == "call":
            call = pb_utils.InferenceRequest(
                model_name="other", requested_output_names=["OUT"], inputs=request.inputs()
            )
            return call.exec()
        array = request.inputs()[0].as_numpy()
        if mode == "strings":
            array = np.array([element.upper() for element in array], dtype=object)
        else:
            array *= 2
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array)], parameters={"mode": mode})

    def finalize(self):
        print("finalized")
"""


def test_a_stub_runs_a_model(warm_parent: WarmParent, twin: SupervisorTwin, tmp_path: Path) -> None:
    version_dir = tmp_path / "m" / "1"
    version_dir.mkdir(parents=True)
    (version_dir / "model.py").write_text(textwrap.dedent(MODEL))
    (version_dir / "beside.py").write_text("TEXT = 'as asked'")
    title = "triton_python_backend_stub m m_0_0"
    pid, output = warm_parent.fork(twin, title)
    twin.send([Kind.LOAD, load_settings(version_dir)])
    assert twin.receive(Kind.LOADED) == [Kind.LOADED, None, {"is_ready": False}]
    assert Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0") == title.encode()

    small = np.arange(4, dtype=np.float32)
    twin.send(execute(1, request(inline("IN", small, "FP32"))))
    assert twin.receive(Kind.RESULT)[2] == [[[inline("OUT", small * 2, "FP32")], None, {"mode": ""}]]

    large = np.arange(5000, dtype=np.float32)
    block, reference = twin.place(large.tobytes())
    twin.send(execute(2, request(["IN", 11, [5000], reference])))
    _, _, [[[output_tensor], _, _]], released, *_ = twin.receive(Kind.RESULT)
    assert twin.read(output_tensor[3]) == (large * 2).tobytes()
    assert block.chunk.map[block.start : block.start + 20000] == large.tobytes()
    assert released == [list(block.key)]

    twin.send(execute(3, request(["IN", 13, [2], b"\1\0\0\0a\2\0\0\0bc"], id="strings")))
    assert twin.receive(Kind.RESULT)[2][0][0] == [["OUT", 13, [2], b"\1\0\0\0A\2\0\0\0BC"]]

    twin.send(execute(4, request(inline("IN", small, "FP32"), id="call")))
    _, call_id, fields, _ = twin.receive(Kind.INFER)
    assert fields[6:] == [[inline("IN", small, "FP32")], "other", -1, False, True, 0]
    twin.send(reply(call_id, [[inline("OUT", small, "FP32")], None, None]))
    assert twin.receive(Kind.RESULT)[2] == [[[inline("OUT", small, "FP32")], None, None]]

    twin.send(execute(5, request(id="raise")))
    path = version_dir / "model.py"
    assert twin.receive(Kind.FAILED)[2] == (
        f"ValueError: as asked\n\nAt:\n  {path}(18): answer\n  {path}(13): execute\n"
    )

    twin.send([Kind.FINALIZE])
    assert warm_parent.report() == {"exited": pid, "status": 0}
    with open(output) as lines:
        first, *rest = lines.read().splitlines()
    assert first.startswith("initialized on 3.")
    assert rest == ["finalized"]


def test_a_stub_ends_with_its_channel(warm_parent: WarmParent, twin: SupervisorTwin) -> None:
    pid, output = warm_parent.fork(twin, "triton_python_backend_stub m m_0_0")
    twin.hang_up()
    report = warm_parent.report()
    assert report["exited"] == pid
    assert os.WEXITSTATUS(report["status"]) == 1
    with open(output) as lines:
        assert lines.read() == "Non-graceful termination detected. \n"
