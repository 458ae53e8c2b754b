"""Each example as its README tells it: files copied into a model repository, a real server, the example's client."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from serving import serve

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FOLDERS = {"add_sub": "add_sub", "bls_sync": "bls", "pytorch": "pytorch"}
"""The folder of each example, by the name of its model."""

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="torch is not installed; only the pytorch example needs it",
)


@pytest.mark.parametrize(
    ("model", "served"),
    [
        ("add_sub", ["add_sub"]),
        ("bls_sync", ["add_sub", "bls_sync"]),
        pytest.param("pytorch", ["pytorch"], marks=needs_torch),
        pytest.param("bls_sync", ["add_sub", "pytorch", "bls_sync"], marks=needs_torch),
    ],
    ids=["add_sub", "bls", "pytorch", "bls-pytorch"],
)
def test_client_passes(tmp_path: Path, model: str, served: list[str]) -> None:
    for name in served:
        (tmp_path / name / "1").mkdir(parents=True)
        shutil.copy(EXAMPLES / FOLDERS[name] / "model.py", tmp_path / name / "1")
        shutil.copy(EXAMPLES / FOLDERS[name] / "config.pbtxt", tmp_path / name)

    with serve(tmp_path) as server:
        client = [
            sys.executable,
            str(EXAMPLES / FOLDERS[model] / "client.py"),
            "--url",
            f"localhost:{server.http_port}",
        ]
        done = subprocess.run(client, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"PASS: {model}"


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_readme_copies_what_is_there(folder: str) -> None:
    lines = (EXAMPLES / folder / "README.md").read_text().splitlines()
    copied = [line.split()[1] for line in lines if line.startswith("cp ")]
    assert copied
    assert [path for path in copied if not (EXAMPLES.parent / path).is_file()] == []
