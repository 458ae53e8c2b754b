"""What all tests share. See also: ``serving`` (a real server process to test against)."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # helpers such as ``serving``, imported by their plain name


@pytest.fixture(autouse=True)
def leak_guard() -> Iterator[None]:
    """No test leaves a child process or a shared-memory file behind."""
    shm_before = set(os.listdir("/dev/shm"))
    yield
    assert set(os.listdir("/dev/shm")) <= shm_before
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return
    pytest.fail(f"a child process is left behind (waitpid: pid {pid}, status {status})")
