"""What a model says reaches the server's log: through ``Logger``, Python's own logging, warnings, print."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from calling import call
from rendezvous import write
from serving import Served, serve

LEVELS = """
import triton_python_backend_utils as pb_utils
from triton_python_backend_utils import Logger

Logger.log_info("import")

class TritonPythonModel:
    def __init__(self):
        Logger.log_warn("__init__")
        Logger.log_error("__init__")
        Logger.log_verbose("detail of __init__")

    @staticmethod
    def auto_complete_config(model_config):
        Logger.log_error("auto-complete")
        return model_config

    def say(self, when):
        Logger.log(when)
        Logger.log("of a level " + when, Logger.WARNING)
        Logger.log("of another " + when, level=Logger.LogLevel.ERROR)
        Logger.log_info(when)
        Logger.log_warn(when)
        Logger.log_error(when)
        Logger.log_verbose(when)
        Logger.log("detail " + when, Logger.VERBOSE)

    def initialize(self, args):
        self.say("initialize")

    def execute(self, requests):
        self.say("execute")
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", r.inputs()[0].as_numpy())]) for r in requests]

    def finalize(self):
        self.say("finalize")
"""

PYTHON = """
import faulthandler
import logging
import os
import subprocess
import sys
import threading
import warnings
import triton_python_backend_utils as pb_utils

log = logging.getLogger("mine")

class TritonPythonModel:
    def execute(self, requests):
        (request,) = requests
        print("printed", "twice")
        print("to stderr", file=sys.stderr)
        log.debug("not by default")
        log.warning("of %s", "logging")
        warnings.warn("of warnings")
        os.write(1, b"by descriptor\\n")
        subprocess.run(["echo", "of a child process"], check=True)
        thread = threading.Thread(target=lambda: 1 / 0, name="dividing")
        thread.start()
        thread.join()
        print("without an end", end="")
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", request.inputs()[0].as_numpy())])]
"""

TEXTS = {
    "lines": "two\nlines",
    "quotes": 'a "quoted" \\ text',
    "letters": "äöü € 😀",
    "half a surrogate": "\ud800",
    "empty": "",
    "percent": "100 % %s {}",
    "long": "x" * 200_000,
}

SAYS = f"""
import triton_python_backend_utils as pb_utils

TEXTS = {TEXTS!r}

class TritonPythonModel:
    def execute(self, requests):
        for name, text in TEXTS.items():
            pb_utils.Logger.log_info(name)
            pb_utils.Logger.log_info(text)
        pb_utils.Logger.log_info(b"bytes are text here")
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", r.inputs()[0].as_numpy())]) for r in requests]
"""

WRONG = """
import triton_python_backend_utils as pb_utils
from triton_python_backend_utils import Logger

def refusal(call, *arguments, **named):
    try:
        call(*arguments, **named)
    except TypeError as error:
        return str(error)

class TritonPythonModel:
    def execute(self, requests):
        refused = [
            refusal(Logger.log, "text", None), refusal(Logger.log, "text", 1), refusal(Logger.log, "text", "INFO"),
            refusal(Logger.log), refusal(Logger.log, None), refusal(Logger.log_info, 5), refusal(Logger.log_warn),
            refusal(Logger.log_error, None), refusal(Logger.log_verbose, "text", Logger.INFO),
        ]
        assert all(refused), refused
        assert Logger().log_info("of an object") is None
        assert int(Logger.VERBOSE) == Logger.LogLevel.VERBOSE and Logger.INFO.name == "INFO"
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", r.inputs()[0].as_numpy())]) for r in requests]
"""

BUSY = """
import threading
import triton_python_backend_utils as pb_utils

THREADS, TIMES = 16, 25

class TritonPythonModel:
    def initialize(self, args):
        self.family = pb_utils.MetricFamily("busy_total", "help", pb_utils.MetricFamily.COUNTER)
        self.metric = self.family.Metric()

    def work(self, number, tensor):
        for time in range(TIMES):
            pb_utils.Logger.log_info(f"thread {number} time {time}")
            self.metric.increment(1)
            request = pb_utils.InferenceRequest(model_name="said", requested_output_names=["OUT"], inputs=[tensor])
            response = request.exec()
            assert not response.has_error(), response.error().message()
            assert response.output_tensors()[0].as_numpy().tolist() == [7]
        self.done += 1

    def execute(self, requests):
        self.done = 0
        tensor = requests[0].inputs()[0]
        threads = [threading.Thread(target=self.work, args=(number, tensor)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert self.done == THREADS
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", tensor.as_numpy())])]
"""

SEVEN = np.array([7], np.uint8)
LINE = re.compile(r"(?P<level>[IWE])\d{4} \d\d:\d\d:\d\d\.\d{6} \d+ (?P<origin>[^]]+)\] (?P<text>.*)")
DIRECT = re.compile(r"(?P<level>[IWE])\d{4} \d\d:\d\d:\d\d\.\d{6} \d+ (?P<origin>[^]]+)\]  (?P<text>.*)")


@pytest.fixture(scope="module")
def models(repository: Path) -> Path:
    write(repository, "levels", LEVELS)
    write(repository, "python", PYTHON)
    write(repository, "said", SAYS)
    write(repository, "wrong", WRONG)
    write(repository, "busy", BUSY)
    return repository


@pytest.fixture(scope="module")
def served(models: Path) -> Iterator[Served]:
    with serve(models, "--model-control-mode=explicit", "--load-model=*") as served:
        yield served


def lines(served: Served, instance: str) -> list[tuple[str, str, str]]:
    """Level, origin and text of each line of an instance; of what it printed, the stream is the origin."""
    found = []
    for match in LINE.finditer(served.log):
        before, _, after = match["origin"].rpartition(" ")
        if instance in (before, after):
            text = match["text"]
            found.append((match["level"], after if before == instance else before, json.loads(text)))
    return found


def direct(served: Served, instance: str) -> list[tuple[str, str, str]]:
    """The same of what came over stderr in the form of the log's lines."""
    matches = [DIRECT.fullmatch(text) for _, origin, text in lines(served, instance) if origin == "stderr"]
    return [(match["level"], match["origin"], match["text"]) for match in matches if match]


def line_of(code: str, text: str, nth: int = 0) -> str:
    """Where in the model's file this text stands."""
    numbers = [number for number, line in enumerate(code.splitlines(), 1) if text in line]
    return f"model.py:{numbers[nth]}"


def infer(served: Served, model: str) -> None:
    assert call(served, model, {"IN": SEVEN})["OUT"].tolist() == [7]


def unload(served: Served, model: str) -> None:
    assert served.post(f"/v2/repository/models/{model}/unload", {})[0] == 200
    served.wait_for_log(f"successfully unloaded '{model}' version 1")


def said(served: Served, instance: str) -> dict[str, list[str]]:
    """The texts of ``Logger`` by level."""
    texts: dict[str, list[str]] = {"I": [], "W": [], "E": []}
    for level, origin, text in lines(served, instance):
        if origin.startswith("model.py"):
            texts[level].append(text)
    return texts


WHEN = ["initialize", "execute", "execute", "finalize"]


@pytest.mark.spec("python_backend:C194")
@pytest.mark.spec("python_backend:C99")
@pytest.mark.spec("python_backend:Q89")
def test_each_level_is_logged_with_file_and_line_from_initialize_to_finalize(served: Served) -> None:
    infer(served, "levels")
    infer(served, "levels")
    unload(served, "levels")
    assert said(served, "levels_0_0") == {
        "I": [when for when in WHEN for _ in range(2)],
        "W": [text for when in WHEN for text in (f"of a level {when}", when)],
        "E": [text for when in WHEN for text in (f"of another {when}", when)],
    }
    origins = [(level, origin) for level, origin, _ in lines(served, "levels_0_0") if origin.startswith("model.py")]
    says = ["Logger.log(when)", '"of a level', '"of another', "log_info(when)", "log_warn(when)", "log_error(when)"]
    assert origins == list(zip("IWEIWE", [line_of(LEVELS, text) for text in says], strict=True)) * 4


@pytest.mark.spec("python_backend:C195")
def test_what_is_said_before_initialize_goes_to_stderr_in_the_form_of_the_log(served: Served) -> None:
    served.wait_for_log(r"model\.py:\d+\]  __init__", times=2)
    said = {instance: direct(served, instance) for instance in ("levels_0_0", "levels auto-complete")}
    assert said["levels_0_0"] == [
        ("I", line_of(LEVELS, '"import"'), "import"),
        *((level, line_of(LEVELS, "__init__", nth), "__init__") for nth, level in enumerate("WE", 1)),
    ]
    assert said["levels auto-complete"] == [
        ("I", line_of(LEVELS, '"import"'), "import"),
        ("E", line_of(LEVELS, '"auto-complete"'), "auto-complete"),
    ]


def test_verbose_lines_show_only_where_the_server_is_verbose(models: Path, served: Served) -> None:
    flags = ["--log-verbose=1", "--log-warning=0", "--log-error=0"]
    with serve(models, "--model-control-mode=explicit", "--load-model=levels", *flags) as verbose:
        infer(verbose, "levels")
        unload(verbose, "levels")
    texts = said(verbose, "levels_0_0")
    when = ["initialize", "execute", "finalize"]
    details = [text for step in when for text in (step, step, step, f"detail {step}")]
    assert texts["I"] == ["detail of __init__", *details]
    assert texts["W"] == texts["E"] == []
    assert "detail" not in served.log


@pytest.mark.spec("python_backend:Q89")
def test_any_text_is_one_line(served: Served) -> None:
    infer(served, "said")
    served.wait_for_log("bytes are text here")
    texts = said(served, "said_0_0")["I"]
    assert texts.pop() == "bytes are text here"
    got = dict(zip(texts[::2], texts[1::2], strict=True))
    assert got == {**TEXTS, "half a surrogate": "?"}


@pytest.mark.spec("python_backend:Q35")
@pytest.mark.spec("python_backend:Q89")
def test_wrong_arguments_are_type_errors(served: Served) -> None:
    infer(served, "wrong")
    served.wait_for_log("of an object")
    assert said(served, "wrong_0_0")["I"] == ["of an object"]


def test_what_python_prints_logs_and_warns_is_tagged_with_the_instance(served: Served) -> None:
    infer(served, "python")
    unload(served, "python")
    for last in ("without an end", "ZeroDivisionError: division by zero"):
        served.wait_for_log(last)
    output = [text for _, origin, text in lines(served, "python_0_0") if origin == "stdout"]
    assert output == ["printed twice", "by descriptor", "of a child process", "without an end"]
    errors = [text for _, origin, text in lines(served, "python_0_0") if origin == "stderr"]
    assert errors[:2] == ["to stderr", "of logging"]
    assert errors[2].endswith(f"/{line_of(PYTHON, 'warnings.warn')}: UserWarning: of warnings")
    assert errors[3] == '  warnings.warn("of warnings")'
    assert errors[4].startswith("Exception in thread dividing")
    assert errors[-1] == "ZeroDivisionError: division by zero"
    assert "not by default" not in served.log


@pytest.mark.spec("python_backend:C196")
def test_lines_metrics_and_calls_of_many_threads_do_not_disturb_each_other(served: Served) -> None:
    before = served.log.count("bytes are text here")
    infer(served, "busy")
    served.wait_for_log(r"busy_0_0\] \"thread \d+ time \d+\"", times=400)
    served.wait_for_log("bytes are text here", times=before + 400)
    threads: dict[int, list[int]] = {}
    for text in said(served, "busy_0_0")["I"]:
        _, number, _, time = text.split()
        threads.setdefault(int(number), []).append(int(time))
    assert threads == {number: list(range(25)) for number in range(16)}
    assert "busy_total 400" in served.metrics().splitlines()
    assert served.log.count("bytes are text here") == before + 400
