"""What all tests share. See also: ``serving`` (a real server process to test against)."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # helpers such as ``serving``, imported by their plain name


@pytest.fixture(autouse=True)
def leak_guard() -> Iterator[None]:
    """No test leaves a child process or shared memory behind; a server of the whole module was there before."""
    shm_before = set(os.listdir("/dev/shm"))
    children_before = set(psutil.Process().children())
    yield
    assert set(os.listdir("/dev/shm")) <= shm_before
    assert set(psutil.Process().children()) <= children_before
