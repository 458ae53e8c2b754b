"""What a user's editor and type checker make of the API: a model that uses all of it is right, mistakes are found."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import c_python_backend_utils
import pytest
import triton_python_backend_utils as pb_utils

FOLDER = Path(__file__).parent / "typing_check"
REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "model-api.md"
CHECKERS = {
    "mypy": ("mypy", "--strict", "--config-file="),
    "pyright": ("pyright", "--pythonpath", sys.executable),
}


def errors(checker: str, name: str, cwd: Path) -> dict[int, str]:
    """What is wrong, by line; run elsewhere, so that no settings of ours are found."""
    command = [sys.executable, "-m", *CHECKERS[checker], str(FOLDER / name)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    found = re.findall(rf"{name}:(\d+)(?::\d+)?(?: -|:) error: (.*)", done.stdout)
    assert (done.returncode != 0) == bool(found), done.stdout + done.stderr
    return {int(line): text for line, text in found}


@pytest.mark.parametrize("checker", CHECKERS)
def test_a_model_that_uses_all_of_the_api_has_no_type_errors(checker: str, tmp_path: Path) -> None:
    assert errors(checker, "model.py", tmp_path) == {}


@pytest.mark.parametrize("checker", CHECKERS)
def test_mistakes_are_found_where_they_are(checker: str, tmp_path: Path) -> None:
    lines = (FOLDER / "mistakes.py").read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert len(wrong) == 10
    assert errors(checker, "mistakes.py", tmp_path).keys() == wrong


def public() -> Iterator[tuple[str, Any]]:
    """Every name that models may use, and the methods of the classes, with their full names."""
    for module in (pb_utils, c_python_backend_utils):
        for name in module.__all__:
            value = getattr(module, name)
            if not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            yield name, value
            if inspect.isclass(value) and not issubclass(value, (int, Exception)):
                for member, method in vars(value).items():
                    if not member.startswith("_") and inspect.isroutine(getattr(value, member)):
                        yield f"{name}.{member}", method


@pytest.mark.parametrize("name", sorted({name for name, _ in public()}))
def test_every_public_name_is_documented(name: str) -> None:
    assert inspect.getdoc(dict(public())[name]), f"{name} has no docstring"
    assert re.search(rf"\b{re.escape(name.rpartition('.')[2])}\b", REFERENCE.read_text()), (
        f"{name} is not in the reference"
    )
