"""``initialize`` and what a model finds when it begins: time, locale, coroutines where none are awaited."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from calling import call
from rendezvous import config, write
from serving import serve

TELLS_LOCALE = """
import json, locale
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answer = np.array([json.dumps(locale.getlocale())], object)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", answer)]) for _ in requests]
"""
COROUTINES = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    awaited = False

    async def initialize(self, args):
        self.awaited = True

    def execute(self, requests):
        answer = np.array([str(self.awaited)], object)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", answer)]) for _ in requests]

    async def finalize(self):
        print("finalize was awaited")
"""
HOLDS_THE_LOCK = """
import ctypes
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        ctypes.PyDLL(None).usleep(1_200_000)  # C code that never lets another thread of Python run

    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", r.inputs()[0].as_numpy())]) for r in requests]
"""
STRINGS = config("IN:STRING", "OUT:STRING")


@pytest.mark.spec("python_backend:C19")
@pytest.mark.spec("python_backend:Q81")
@pytest.mark.parametrize("value", ["INVALID", "C.UTF-8"])
def test_the_locale_is_that_of_any_interpreter_in_the_servers_environment(tmp_path: Path, value: str) -> None:
    write(tmp_path, "tells", TELLS_LOCALE, STRINGS)
    ordinary = subprocess.run(
        [sys.executable, "-c", "import json, locale; print(json.dumps(locale.getlocale()))"],
        env={**os.environ, "LC_ALL": value},
        capture_output=True,
        check=True,
    )
    with serve(tmp_path, within=("env", f"LC_ALL={value}")) as served:
        told = json.loads(call(served, "tells", {"IN": ["?"]})["OUT"][0])
    assert told == json.loads(ordinary.stdout)
    assert (told == [None, None]) == (value == "INVALID")


@pytest.mark.spec("python_backend:C39")
def test_coroutines_that_begin_and_end_a_model_are_not_awaited(tmp_path: Path) -> None:
    write(tmp_path, "coroutines", COROUTINES, STRINGS)
    with serve(tmp_path) as served:
        assert call(served, "coroutines", {"IN": ["?"]})["OUT"] == [b"False"]
        assert served.stop() == 0
    assert "finalize was awaited" not in served.log


@pytest.mark.spec("python_backend:C33")
def test_initialize_may_hold_the_interpreter_lock_longer_than_the_stub_timeout(tmp_path: Path) -> None:
    write(tmp_path, "holds", HOLDS_THE_LOCK, STRINGS)
    with serve(tmp_path, "--backend-config=python,stub-timeout-seconds=1") as served:
        assert call(served, "holds", {"IN": ["served"]})["OUT"] == [b"served"]
