"""What all tests share. See also: ``serving`` (a real server process to test against).

A test that covers rows of the Python backend's checklist carries ``@pytest.mark.spec("python_backend:C123")``, once for
each; ``pytest -k row_123`` runs those of row C123. ``-k`` looks for parts of names, so that ``row_12`` would find row
C123 too: the keywords therefore have three digits (``row_012``, ``row_123``), and ``row_12`` on the command line is
read as ``row_012``.
"""

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # helpers such as ``serving``, imported by their plain name


def pytest_configure(config: pytest.Config) -> None:
    config.option.keyword = re.sub(r"\brow_(\d+)\b", _row_keyword, config.option.keyword)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before pytest itself deselects what ``-k`` does not name."""
    for item in items:
        for mark in item.iter_markers("spec"):
            for name in mark.args:
                row = re.fullmatch(r"python_backend:C(\d+)", name)
                if row is not None:
                    item.extra_keyword_matches.add(_row_keyword(row))


def _row_keyword(row: re.Match[str]) -> str:
    return f"row_{int(row[1]):03}"


@pytest.fixture(autouse=True)
def leak_guard() -> Iterator[None]:
    """No test leaves a child process or shared memory behind; a server of the whole module was there before."""
    shm_before = set(os.listdir("/dev/shm"))
    children_before = set(psutil.Process().children())
    yield
    left = set(os.listdir("/dev/shm")) - shm_before
    deadline = time.monotonic() + 2
    while left and time.monotonic() < deadline:  # a server of others may be between making a chunk and unlinking it
        left = {name for name in left if os.path.exists(f"/dev/shm/{name}")}
    assert not left
    assert set(psutil.Process().children()) <= children_before
