"""Prefixes of other Pythons, and archives of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from python_prefixes import Prefix, conda_archive, conda_prefix, prefixes_folder


@pytest.fixture(scope="session")
def prefixes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prefixes_folder(request, tmp_path_factory.mktemp("prefixes"))


@pytest.fixture(scope="session")
def python38(prefixes: Path) -> Prefix:
    return conda_prefix("3.8", prefixes)


@pytest.fixture(scope="session")
def python313(prefixes: Path) -> Prefix:
    return conda_prefix("3.13", prefixes)


@pytest.fixture(scope="session")
def archive38(prefixes: Path, python38: Prefix) -> Path:
    return conda_archive(python38, prefixes / "3.8.tar.gz")
