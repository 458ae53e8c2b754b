"""Variables, threads, processors and limits of instances, in real stubs."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from calling import in_background
from evaluating import TENSORS, evaluate, write
from serving import Served, serve

BLAS = (
    "[getattr(library, name)() for library in [__import__('ctypes').CDLL(path) for path in "
    "{line.split()[-1] for line in open('/proc/self/maps') if 'openblas' in line}] for name in "
    "('openblas_get_num_threads', 'scipy_openblas_get_num_threads64_', 'openblas_get_num_threads64_') "
    "if hasattr(library, name)]"
)
CORE = str(min(os.sched_getaffinity(0)))
TWO = TENSORS.replace("{ kind: KIND_CPU }", '{ name: "main" kind: KIND_CPU count: 1 }, { name: "side" count: 1 }')


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("surroundings") / "models"
    write(repository, "plain")
    said = {
        "ENV:WORDS": "a = b",
        "ENV:PATH": "/only/here",
        "INSTANCE_OPEN_FILES": "321",
        "INSTANCE_ADDRESS_SPACE": "64G",
    }
    write(repository, "said", **said, INSTANCE_CPU_CORES=CORE, INSTANCE_THREADS="3")
    code = "import os\nWORDS = os.environ['WORDS']\n" + (repository / "plain" / "1" / "model.py").read_text()
    write(repository, "early", code=code, **{"ENV:WORDS": "there before the import"})
    write(repository, "two", config=TWO, **{"ENV:WHO": "all", "ENV:WHO@side": "the side"})
    return repository


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[Served]:
    names = [f"-u{name}_NUM_THREADS" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")]
    flags = ["--model-control-mode=explicit", *(f"--load-model={name}" for name in ("plain", "said", "early", "two"))]
    with serve(repository, *flags, within=["env", *names]) as served:
        yield served


def test_variables(served: Served) -> None:
    assert evaluate(served, "said", "os.environ['WORDS']") == "a = b"
    assert evaluate(served, "said", "os.environ['PATH']") == "/only/here"
    assert evaluate(served, "plain", "'WORDS' in os.environ") == "False"
    assert evaluate(served, "early", "WORDS") == "there before the import"  # also as it completes its configuration


def test_variables_of_one_group(served: Served, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "meet")  # who opens it waits for the other, so that each instance has one of the calls
    who = "(open('{}', '{}').close(), args['model_instance_name'], os.environ['WHO'])[1:]"
    with in_background(evaluate, served, "two", who.format(tmp_path / "meet", "w")) as writer:
        reader = evaluate(served, "two", who.format(tmp_path / "meet", "r"))
    assert {reader, writer.result()} == {"('main_0', 'all')", "('side_0', 'the side')"}


def test_threads_of_numeric_libraries(served: Served) -> None:
    for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR"):
        assert evaluate(served, "said", f"os.environ['{name}_NUM_THREADS']") == "3"
        assert evaluate(served, "plain", f"'{name}_NUM_THREADS' in os.environ") == "False"
    if evaluate(served, "plain", BLAS) == "[]":
        pytest.skip("this numpy has no OpenBLAS")
    assert evaluate(served, "said", BLAS) == "[3]"
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert evaluate(served, "two", BLAS) == f"[{share}]"


def test_processors_and_limits(served: Served) -> None:
    assert evaluate(served, "said", "os.sched_getaffinity(0)") == f"{{{CORE}}}"
    limit = "__import__('resource').getrlimit({})[0]"
    assert evaluate(served, "said", limit.format(int(resource.RLIMIT_NOFILE))) == "321"
    assert evaluate(served, "said", limit.format(int(resource.RLIMIT_AS))) == str(64 << 30)
    plain = limit.format(int(resource.RLIMIT_NOFILE))
    assert evaluate(served, "plain", plain) == str(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def test_memory_that_the_limit_does_not_leave_is_an_error_of_the_request(served: Served) -> None:
    with pytest.raises(AssertionError, match="Unable to allocate"):
        evaluate(served, "said", "np.empty(65 << 30, np.uint8)")
    assert evaluate(served, "said", "1 + 1") == "2"


def test_a_stub_that_starts_again_has_the_same(served: Served) -> None:
    with pytest.raises(AssertionError, match="signal 9"):
        evaluate(served, "said", "os.kill(os.getpid(), 9)")
    served.wait_for_log("instance 'said_0_0' serves again")
    assert evaluate(served, "said", "os.environ['WORDS'], os.sched_getaffinity(0)") == f"('a = b', {{{CORE}}})"


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("INSTANCE_THREADS", "none", "parameter 'INSTANCE_THREADS' of model 'bad': 'none' is no number of threads"),
        ("ENV:A@other", "1", "parameter 'ENV:A@other': model 'bad' has no instance and no instance group 'other'"),
        ("INSTANCE_ADDRESS_SPACE", "1M", "an address space of 1048576 bytes: the stub by itself takes "),
        ("INSTANCE_OPEN_FILES", "4T", "The stub process cannot be what the model's parameters say: "),
    ],
)
def test_what_cannot_be_fails_the_load(served: Served, repository: Path, key: str, value: str, complaint: str) -> None:
    write(repository, "bad", **{key: value})
    status, answer = served.post("/v2/repository/models/bad/load", {})
    assert status == 400
    assert complaint in answer["error"]
    assert evaluate(served, "plain", "1 + 1") == "2"
