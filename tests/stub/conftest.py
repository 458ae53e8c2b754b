"""A stub's surroundings, and an interpreter that forgets the models a test imported."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from stub_twin import LoadedModel, SupervisorTwin
from triton_python_backend_utils._host import set_host


@pytest.fixture
def twin() -> Iterator[SupervisorTwin]:
    twin = SupervisorTwin()
    yield twin
    twin.close()


@pytest.fixture
def fresh_imports() -> Iterator[None]:
    """Undo what loading a model does to the interpreter."""
    path, modules, cwd = list(sys.path), set(sys.modules), os.getcwd()
    yield
    set_host(None)
    os.chdir(cwd)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def model(twin: SupervisorTwin, tmp_path: Path) -> Iterator[LoadedModel]:
    """For a model that runs in an instance of its own, in a thread; it ends with the test."""
    loaded = LoadedModel(twin, tmp_path)
    yield loaded
    if loaded.thread is not None:
        twin.hang_up()
        loaded.thread.join()
