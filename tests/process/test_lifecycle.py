"""A stub's life, seen from outside and from within the model: start, import rules, output, finalize, signals."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from calling import call, in_background
from rendezvous import Rendezvous, config, identity, write
from serving import Served, serve

X = {"IN": np.arange(16, dtype=np.uint8)}

FACTS = """
import json, os, random, sys, threading
import numpy
import triton_python_backend_utils as pb_utils
import sibling
import beside_config
if __package__:
    from . import relative_sibling

MARK = object()

class TritonPythonModel:
    def initialize(self, args):
        import model
        print(json.dumps({
            "args": args, "argv": sys.argv, "path": sys.path, "cwd": os.getcwd(), "pid": os.getpid(),
            "name": __name__, "package": __package__,
            "main_thread": threading.current_thread() is threading.main_thread(),
            "words": [sibling.WORD, relative_sibling.WORD, beside_config.WORD, os.environ["ATOLL_TEST_WORD"]],
            "copy": [model.__name__, model.MARK is not MARK],
            "draws": [numpy.random.rand(), random.random()],
            "model_dir": pb_utils.get_model_dir(),
        }))
        print("said in initialize", file=sys.stderr)

    def execute(self, requests):
        facts = {
            "main_thread": threading.current_thread() is threading.main_thread(),
            "requests": type(requests).__name__,
        }
        print("said in execute")
        sys.stdout.write("an unfinished line")
        output = pb_utils.Tensor("OUT", numpy.array([json.dumps(facts)], dtype=object))
        return [pb_utils.InferenceResponse([output]) for _ in requests]

    def finalize(self):
        main = threading.current_thread() is threading.main_thread()
        print("finalized, main thread:", main)
        sys.stdout.write("unfinished at the end")
"""


# -- one healthy server


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a folder that is called like a version and has a model in it."""
    folder = tmp_path_factory.mktemp("cwd")
    (folder / "1").mkdir()
    (folder / "1" / "model.py").write_text("raise Exception('hijacked')\n")
    (folder / "1" / "sibling.py").write_text("raise Exception('hijacked')\n")
    return folder


@pytest.fixture(scope="module")
def server(repository: Path, elsewhere: Path) -> Iterator[Served]:
    folder = write(
        repository,
        "facts",
        FACTS,
        config(outputs="OUT:STRING", count=3),
        sibling="WORD = 'sibling'",
        relative_sibling="WORD = 'relative'",
    )
    (folder / "beside_config.py").write_text("WORD = 'beside config'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATOLL_TEST_WORD", "from the environment")
        with serve(repository, cwd=elsewhere) as served:
            yield served


@pytest.fixture(scope="module")
def facts(server: Served) -> dict[str, dict[str, Any]]:
    """What each instance of the model told in initialize, by instance name."""
    found = re.findall(r'(facts_0_\d) stdout\] ("\{.*\}")$', server.log, re.M)
    return {instance: json.loads(json.loads(text)) for instance, text in found}


@pytest.mark.spec("python_backend:C1")
def test_each_instance_is_one_process_that_ps_shows_by_name(server: Served, facts: dict[str, dict[str, Any]]) -> None:
    stubs = server.stubs()
    assert stubs == {f"facts_0_{index}": facts[f"facts_0_{index}"]["pid"] for index in range(3)}
    for instance, pid in stubs.items():
        assert " ".join(psutil.Process(pid).cmdline()).strip("\0 ") == f"triton_python_backend_stub facts {instance}"


@pytest.mark.spec("python_backend:C30")
@pytest.mark.spec("python_backend:Q8")
def test_initialize_gets_seven_texts(facts: dict[str, dict[str, Any]], repository: Path) -> None:
    for instance, fact in facts.items():
        args = dict(fact["args"])
        assert json.loads(args.pop("model_config"))["name"] == "facts"
        assert args == {
            "model_instance_kind": "CPU",
            "model_instance_name": instance,
            "model_instance_device_id": "0",
            "model_repository": str(repository / "facts"),
            "model_version": "1",
            "model_name": "facts",
        }


@pytest.mark.spec("python_backend:C31")
def test_model_config_argument_is_the_served_config(server: Served, facts: dict[str, dict[str, Any]]) -> None:
    text = facts["facts_0_0"]["args"]["model_config"]
    loaded = json.loads(text)
    assert loaded == server.get("/v2/models/facts/config")[1]
    assert type(loaded["input"][0]["dims"][0]) is int
    assert loaded["instance_group"][0]["count"] == 3


@pytest.mark.spec("python_backend:C7")
@pytest.mark.spec("python_backend:C8")
@pytest.mark.spec("python_backend:C9")
def test_interpreter_looks_as_models_expect(facts: dict[str, dict[str, Any]], repository: Path) -> None:
    fact = facts["facts_0_0"]
    assert fact["argv"] == [""]
    assert fact["path"][0] == ""
    assert fact["path"][-3:-1] == [str(repository / "facts" / "1"), str(repository / "facts")]
    assert (Path(fact["path"][-1]) / "triton_python_backend_utils").is_dir()
    assert (fact["name"], fact["package"]) == ("1.model", "1")
    assert fact["main_thread"] is True
    assert fact["model_dir"] == str(repository / "facts" / "1")


@pytest.mark.spec("python_backend:Q18")
@pytest.mark.spec("python_backend:C13")
def test_working_directory_and_environment_are_the_servers(facts: dict[str, dict[str, Any]], elsewhere: Path) -> None:
    assert facts["facts_0_0"]["cwd"] == str(elsewhere)
    assert facts["facts_0_0"]["words"][3] == "from the environment"


@pytest.mark.spec("python_backend:C10")
@pytest.mark.spec("python_backend:C12")
@pytest.mark.spec("python_backend:Q17")
def test_siblings_import_although_the_working_directory_has_a_namesake(facts: dict[str, dict[str, Any]]) -> None:
    assert facts["facts_0_0"]["words"][:3] == ["sibling", "relative", "beside config"]


@pytest.mark.spec("python_backend:C11")
def test_importing_the_model_by_its_stem_makes_a_second_copy(facts: dict[str, dict[str, Any]]) -> None:
    assert facts["facts_0_0"]["copy"] == ["model", True]


def test_forked_twins_draw_different_random_numbers(facts: dict[str, dict[str, Any]]) -> None:
    draws = [draw for fact in facts.values() for draw in fact["draws"]]
    assert len(set(draws)) == 6


@pytest.mark.spec("python_backend:C5")
@pytest.mark.spec("python_backend:C42")
def test_execute_runs_on_the_main_thread_with_a_list(server: Served) -> None:
    assert json.loads(call(server, "facts", X)["OUT"][0]) == {"main_thread": True, "requests": "list"}


@pytest.mark.spec("python_backend:C13")
def test_printed_lines_reach_the_log_with_their_instance(server: Served) -> None:
    for index in range(3):
        server.wait_for_log(rf'facts_0_{index} stderr\] "said in initialize"')
    assert call(server, "facts", X).status == 200
    server.wait_for_log(r'facts_0_\d stdout\] ".*said in execute"')


@pytest.mark.spec("python_backend:C14")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stub_ignores_signals_that_are_the_servers_business(server: Served, number: int) -> None:
    before = server.stubs()
    for pid in before.values():
        os.kill(pid, number)
    for _ in range(6):
        assert call(server, "facts", X).status == 200
    assert server.stubs() == before


# -- the end of a server


@pytest.mark.spec("python_backend:Q14")
def test_sigterm_finalizes_every_instance_and_keeps_what_it_printed(tmp_path: Path) -> None:
    word = "WORD = 'anything'"
    folder = write(tmp_path, "facts", FACTS, config(outputs="OUT:STRING", count=2), sibling=word, relative_sibling=word)
    (folder / "beside_config.py").write_text(word)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATOLL_TEST_WORD", "")
        with serve(tmp_path) as served:
            assert served.stop() == 0
    for index in range(2):
        assert f'facts_0_{index} stdout] "finalized, main thread: True"' in served.log
        assert f'facts_0_{index} stdout] "unfinished at the end"' in served.log


LAST_WORDS = """
import sys, threading
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return []

    def finalize(self):
        print("last words", threading.current_thread() is threading.main_thread())
        undefined_variable
"""


@pytest.mark.spec("python_backend:Q23")
@pytest.mark.spec("python_backend:C15")
def test_ctrl_c_on_the_whole_process_group_still_finalizes(tmp_path: Path) -> None:
    write(tmp_path, "last_words", LAST_WORDS)
    write(tmp_path, "leaves", LAST_WORDS.replace("undefined_variable", "sys.exit(3)"))
    with serve(tmp_path) as served:
        os.killpg(served.process.pid, signal.SIGINT)
        assert served.process.wait(20) == 0
        served.stop()
    assert 'last_words_0_0 stdout] "last words True"' in served.log
    assert "name 'undefined_variable' is not defined" in served.log
    assert 'leaves_0_0 stdout] "last words True"' in served.log


# -- instances start together


@pytest.mark.spec("python_backend:C2")
def test_twenty_instances_initialize_at_the_same_time(tmp_path: Path, rendezvous: Rendezvous) -> None:
    code = """
        from rendezvous import at

        class TritonPythonModel:
            def initialize(self, args):
                at(args["model_instance_name"])

            def execute(self, requests):
                return []
    """
    write(tmp_path, "many", code, config(count=20))

    def meet_all() -> set[str]:
        visits = [rendezvous.next() for _ in range(20)]  # none of them goes on before all are here
        for visit in visits:
            visit.let_go()
        return {visit.place for visit in visits}

    with in_background(meet_all) as met, serve(tmp_path) as served:
        assert met.result(20) == set(served.stubs()) == {f"many_0_{index}" for index in range(20)}


# -- models that fail to load, beside one that serves

FAILURES = {
    "raises": """
        def inner():
            lorem_ipsum

        class TritonPythonModel:
            def initialize(self, args):
                inner()
    """,
    "raises_nothing": """
        class TritonPythonModel:
            def initialize(self, args):
                raise ValueError
    """,
    "leaves": """
        import sys

        class TritonPythonModel:
            def initialize(self, args):
                sys.exit(0)
    """,
    "drops_dead": """
        import os, sys

        class TritonPythonModel:
            def initialize(self, args):
                print("the last straw", file=sys.stderr)
                os._exit(7)
    """,
    "killed": """
        import os, signal

        class TritonPythonModel:
            def initialize(self, args):
                os.kill(os.getpid(), signal.SIGKILL)
    """,
    "no_class": "NOTHING = 1",
    "bad_import": """
        import no_such_module

        class TritonPythonModel:
            pass
    """,
}


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    repository = tmp_path_factory.mktemp("failing")
    identity(repository)
    write(repository, "spawns", SPAWNS, config(inputs="IN:INT32", outputs="OUT:INT32"), task=TASK)
    for name, code in FAILURES.items():
        write(repository, name, code)
    no_file = write(repository, "no_file", "")
    (no_file / "1" / "model.py").unlink()
    write(repository, "text_file", "", config(more='default_model_filename: "model.txt"'))
    (repository / "text_file" / "1" / "model.txt").write_text("")
    with serve(repository, "--exit-on-error=false") as served:
        yield served


def reason(served: Served, model: str) -> str:
    """Why a model is not available, as the repository index has it."""
    status, rows = served.post("/v2/repository/index", {})
    assert status == 200
    (row,) = [row for row in rows if row["name"] == model]
    assert row["state"] == "UNAVAILABLE"
    assert row["reason"].startswith("Internal: ")
    return str(row["reason"].removeprefix("Internal: "))


@pytest.mark.spec("python_backend:C34")
@pytest.mark.spec("python_backend:Q22")
def test_an_exception_in_initialize_is_the_load_error_with_frames_innermost_first(failing: Served) -> None:
    path = re.escape(os.path.join("raises", "1", "model.py"))
    assert re.fullmatch(
        r"NameError: name 'lorem_ipsum' is not defined\n\nAt:\n"
        rf"  \S+{path}\(3\): inner\n  \S+{path}\(7\): initialize\n",
        reason(failing, "raises"),
    )
    failing.wait_for_log("failed to load 'raises'")
    assert "name 'lorem_ipsum' is not defined" in failing.log


def test_an_exception_without_a_message_says_so(failing: Served) -> None:
    assert reason(failing, "raises_nothing").startswith("ValueError: <EMPTY MESSAGE>\n\nAt:\n")


@pytest.mark.spec("python_backend:C35")
def test_sys_exit_in_initialize_is_a_load_error(failing: Served) -> None:
    assert reason(failing, "leaves").startswith("SystemExit: 0\n\nAt:\n")


@pytest.mark.spec("python_backend:C36")
def test_a_process_that_ends_in_initialize_is_a_load_error_with_its_last_words(failing: Served) -> None:
    text = reason(failing, "drops_dead")
    assert "Stub process 'drops_dead_0_0' is not healthy." in text
    assert "It exited with code 7." in text
    assert "the last straw" in text


@pytest.mark.spec("python_backend:Q20")
def test_a_process_killed_in_initialize_is_a_load_error_that_names_the_signal(failing: Served) -> None:
    text = reason(failing, "killed")
    assert "Stub process 'killed_0_0' is not healthy." in text
    assert "signal 9 (SIGKILL)" in text


@pytest.mark.spec("python_backend:C20")
@pytest.mark.spec("python_backend:Q21")
def test_a_missing_model_file_is_named(failing: Served) -> None:
    sentence = r"Failed to preinitialize Python stub: Python model file not found in '\S+no_file/1/model\.py'"
    assert re.search(sentence, reason(failing, "no_file"))
    assert "failed to load 'no_file'" in failing.log


@pytest.mark.spec("python_backend:C21")
def test_a_model_file_must_be_python(failing: Served) -> None:
    assert "Model name must end with '.py'. Model name is \"model.txt\"." in reason(failing, "text_file")


@pytest.mark.spec("python_backend:C22")
def test_a_missing_class_is_an_attribute_error(failing: Served) -> None:
    text = reason(failing, "no_class")
    assert text == "AttributeError: module '1.model' has no attribute 'TritonPythonModel'"


@pytest.mark.spec("python_backend:C23")
def test_an_import_that_fails_is_told_with_the_line(failing: Served) -> None:
    text = reason(failing, "bad_import")
    assert text.startswith("ModuleNotFoundError: No module named 'no_such_module'\n\nAt:\n")
    assert re.search(r"bad_import/1/model\.py\(2\): <module>\n", text)


def test_the_models_that_do_load_are_served(failing: Served) -> None:
    assert set(failing.stubs()) == {"identity_0_0", "spawns_0_0"}
    assert np.array_equal(call(failing, "identity", X)["OUT"], X["IN"])
    assert failing.get("/v2/health/live")[0] == 200
    assert failing.get("/v2/models/raises/ready")[0] != 200


def test_without_that_flag_a_model_that_fails_ends_the_server(tmp_path: Path) -> None:
    identity(tmp_path)
    write(tmp_path, "raises", FAILURES["raises"])
    with serve(tmp_path, expect_start=False) as served:
        assert served.process.wait(30) == 1
        served.stop()
    assert "error: creating server: Internal - failed to load all models" in served.log


# -- what models do with processes

TASK = """
def square(number):
    return number * number
"""

SPAWNS = """
import multiprocessing
import numpy
import triton_python_backend_utils as pb_utils
from task import square

def cube(number):
    return number ** 3

class TritonPythonModel:
    def initialize(self, args):
        self.pool = multiprocessing.get_context("spawn").Pool(2)

    def execute(self, requests):
        numbers = requests[0].inputs()[0].as_numpy().tolist()
        results = self.pool.map(square, numbers) + self.pool.map(cube, numbers)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", numpy.array(results, dtype=numpy.int32))])]

    def finalize(self):
        self.pool.close()
        self.pool.join()
"""


@pytest.mark.spec("python_backend:C17")
def test_a_model_computes_in_a_pool_of_spawned_processes(failing: Served) -> None:
    answer = call(failing, "spawns", {"IN": np.array([1, 2, 3], dtype=np.int32)})
    assert answer["OUT"].tolist() == [1, 4, 9, 1, 8, 27]
