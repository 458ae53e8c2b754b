"""The two servers under measurement, and the model repositories they serve."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import peer
from server_process import RunningServer, serving

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MODELS = Path(__file__).resolve().parent / "repository"


@dataclass(frozen=True)
class Contender:
    name: str
    version: str
    numpy_version: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(repr=False)

    @contextmanager
    def serve(self, repository: Path) -> Iterator[RunningServer]:
        with serving(self.command, repository, repository.with_name("server.log"), self.environment) as server:
            yield server


def atoll() -> Contender:
    command = (str(Path(sys.executable).with_name("tritonserver")),)
    return Contender("Atoll", version("atoll"), version("numpy"), command, dict(os.environ))


def original() -> Contender:
    peer.set_up()
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, peer.server_libraries())),
        # The stub finds its home, and numpy, through the first python on the path.
        "PATH": f"{peer.VENV / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    return Contender("the original", peer.SERVER_VERSION, peer.numpy_version(), peer.server_command(), environment)


def bench_repository(folder: Path) -> Path:
    """The benchmarks' own models, and the example add_sub."""
    repository = folder / "models"
    shutil.copytree(MODELS, repository)
    (repository / "identity_ensemble" / "1").mkdir()  # git keeps no empty folder
    _add_example(repository / "add_sub")
    return repository


def repository_of_many(folder: Path, count: int) -> Path:
    """The example add_sub under ``count`` names."""
    repository = folder / "models"
    for index in range(count):
        model = repository / f"add_sub_{index}"
        _add_example(model)
        config = model / "config.pbtxt"
        config.write_text(config.read_text().replace('name: "add_sub"', f'name: "{model.name}"'))
    return repository


def _add_example(model: Path) -> None:
    (model / "1").mkdir(parents=True)
    shutil.copy(EXAMPLES / "add_sub/model.py", model / "1")
    shutil.copy(EXAMPLES / "add_sub/config.pbtxt", model)
