"""An embedded server of the whole module, and the process's log as it was before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from atoll.embedding.log import process_log
from embedded import EXAMPLE_MODELS
from shared_regions import start_tracker
from tritonserver import ModelControlMode, Server


@pytest.fixture(scope="module", autouse=True)
def _process() -> Iterator[None]:
    """Other tests of this process look at the logger of the supervisor themselves."""
    start_tracker()
    yield
    process_log.remove()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The example's models, loaded by name."""
    with Server(
        model_repository=str(EXAMPLE_MODELS),
        model_control_mode=ModelControlMode.EXPLICIT,
        startup_models=["test", "identity"],
    ) as started:
        yield started
