"""Each example as its README tells it: the files it says to copy, a real server, the example's client."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from python_prefixes import conda_archive, conda_prefix, prefixes_folder, pyenv_python
from serving import Served, serve

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@dataclass(frozen=True)
class Example:
    folder: str
    passes: str
    """What the client's last line names."""
    models: tuple[str, ...]
    """The models that its README installs, those of other examples included."""
    grpc: bool = False
    with_torch: bool = False
    """Install also what the README has for those who have PyTorch."""

    @property
    def path(self) -> Path:
        return EXAMPLES / self.folder

    def installation(self) -> list[str]:
        """The commands of the README that make the model repository."""
        lines = (self.path / "README.md").read_text().splitlines()
        commands = [line for line in lines if line.startswith(("mkdir ", "cp "))]
        return [line for line in commands if self.with_torch or "pytorch" not in line]

    def client(self, server: Served) -> list[str]:
        port = server.grpc_port if self.grpc else server.http_port
        command = [sys.executable, str(self.path / "client.py"), "--url", f"localhost:{port}"]
        if self.folder == "custom_metrics":
            command += ["--metrics-url", f"localhost:{server.metrics_port}"]
        return command


ADD_SUB = Example("add_sub", "add_sub", ("add_sub",))
BLS = Example("bls", "bls_sync", ("add_sub", "bls_sync"))
BLS_TORCH = Example("bls", "bls_sync", ("add_sub", "pytorch", "bls_sync"), with_torch=True)
ASYNC = Example("async", "bls_async", ("add_sub", "bls_async"))
ASYNC_TORCH = Example("async", "bls_async", ("add_sub", "pytorch", "bls_async"), with_torch=True)
PYTORCH = Example("pytorch", "pytorch", ("pytorch",), with_torch=True)
DECOUPLED = Example("decoupled", "decoupled", ("repeat_int32", "square_int32"), grpc=True)
BLS_DECOUPLED = Example("bls_decoupled", "bls_decoupled_sync", ("square_int32", "bls_decoupled_sync"))
AUTO_COMPLETE = Example("auto_complete", "auto_complete", ("auto_complete",))
CUSTOM_METRICS = Example("custom_metrics", "custom_metrics", ("custom_metrics",))
RESCHEDULING = Example("rescheduling", "rescheduling", ("rescheduling",), grpc=True)
ENSEMBLE = Example("ensemble", "ensemble", ("word_counts", "sentiment", "review"))
SEQUENCE = Example("sequence", "sequence", ("sequence",))
ENVIRONMENTS = Example("environments", "environments", ("packed", "required"))
PREPROCESSING = Example("preprocessing", "preprocessing", ("preprocessing",))

PLAIN = [
    ADD_SUB,
    BLS,
    ASYNC,
    DECOUPLED,
    BLS_DECOUPLED,
    AUTO_COMPLETE,
    CUSTOM_METRICS,
    RESCHEDULING,
    SEQUENCE,
    ENSEMBLE,
    PREPROCESSING,
]

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="torch is not installed; only the pytorch example needs it",
)


def install(example: Example, root: Path) -> Path:
    """Run the README's commands as if in the root of a checkout; the model repository they make."""
    (root / "examples").symlink_to(EXAMPLES)
    subprocess.run(["sh", "-e", "-c", "\n".join(example.installation())], cwd=root, check=True, timeout=20)
    return root / "models"


def run_client(example: Example, server: Served) -> None:
    done = subprocess.run(example.client(server), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + server.log
    assert done.stdout.splitlines()[-1] == f"PASS: {example.passes}"


@pytest.mark.spec("python_backend:Q7")
@pytest.mark.spec("python_backend:Q121")
@pytest.mark.parametrize(
    "example",
    [
        *(pytest.param(example, id=example.folder) for example in PLAIN),
        pytest.param(PYTORCH, marks=needs_torch, id="pytorch"),
        pytest.param(BLS_TORCH, marks=needs_torch, id="bls-pytorch"),
        pytest.param(ASYNC_TORCH, marks=needs_torch, id="async-pytorch"),
    ],
)
def test_client_passes_when_the_readme_is_followed(tmp_path: Path, example: Example) -> None:
    repository = install(example, tmp_path)
    assert {path.name for path in repository.iterdir()} == set(example.models)
    with serve(repository) as server:
        run_client(example, server)


def test_models_in_two_pythons_answer_side_by_side(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The packed environment comes from pyenv's Python instead of conda's."""
    prefix = conda_prefix("3.8", prefixes_folder(request, tmp_path))
    pyenv_python("3.13")
    repository = install(ENVIRONMENTS, tmp_path)
    conda_archive(prefix, repository / "packed" / "python38.tar.gz")
    cache = f"--backend-config=python,env-cache-directory={tmp_path / 'cache'}"
    with serve(repository, cache) as server:
        run_client(ENVIRONMENTS, server)


def test_examples_are_served_together_without_copying() -> None:
    first, *others = [example.path for example in PLAIN]
    with serve(first, *(f"--model-repository={path}" for path in others)) as server:
        for example in (DECOUPLED, BLS_DECOUPLED, ASYNC, ENSEMBLE):
            run_client(example, server)


def test_auto_complete_needs_no_configuration_file(tmp_path: Path) -> None:
    repository = install(AUTO_COMPLETE, tmp_path)
    (repository / "auto_complete" / "config.pbtxt").unlink()
    with serve(repository) as server:
        run_client(AUTO_COMPLETE, server)


def test_preprocessing_takes_files_of_the_user(tmp_path: Path) -> None:
    from PIL import Image

    picture = tmp_path / "picture.png"
    Image.new("LA", (30, 20)).save(picture)  # neither the size nor the channels that the model returns
    with serve(PREPROCESSING.path) as server:
        command = [*PREPROCESSING.client(server), str(picture)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{picture}: float32 (3, 224, 224)" in done.stdout


def test_every_example_is_listed() -> None:
    folders = {path.parent.name for path in EXAMPLES.glob("*/README.md")}
    embedding = "embedding"  # has no client; its programs have tests of their own
    assert folders == {embedding, *(example.folder for example in (*PLAIN, PYTORCH, ENVIRONMENTS))}
    readme = (EXAMPLES.parent / "README.md").read_text()
    assert [folder for folder in sorted(folders) if f"(examples/{folder}/README.md)" not in readme] == []
