"""What the tests of ensembles share: a place to meet the models, a repository per module."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from rendezvous import Rendezvous, meeting_place


@pytest.fixture(scope="module")
def rendezvous() -> Iterator[Rendezvous]:
    yield from meeting_place()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")
