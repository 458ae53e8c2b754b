"""What the tests of ``pb_utils`` share."""

from pathlib import Path

import pytest
from model_files import Write


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return Write(tmp_path)
