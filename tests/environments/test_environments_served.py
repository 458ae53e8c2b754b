"""Models in environments of every kind, side by side in one server that runs none of their Pythons."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from calling import call, wait_until
from evaluating import MODEL, evaluate, write
from python_prefixes import PACKAGE, Prefix
from serving import Served, serve

VERSION = "'%d.%d' % sys.version_info[:2]"
REQUIREMENTS = "# nothing but what every environment gets: numpy\n"
BLOCK = '# /// script\n# requires-python = ">=3.13,<3.14"\n# dependencies = []\n# ///\n'
EXPECTED = {
    "packed": "3.8",
    "packed_too": "3.8",
    "of_backend": "3.8",
    "completed": "3.8",
    "venv": "3.8",
    "directory": "3.13",
    "required": "3.13",
    "block": "3.13",
    "plain": f"{sys.version_info.major}.{sys.version_info.minor}",
}


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, python38: Prefix, python313: Prefix, archive38: Path
) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("environments")
    repository = root / "models"
    write(repository, "plain")
    write(repository, "packed", archive38)
    link = write(repository, "packed_too", "environment.tar.gz") / "environment.tar.gz"
    link.symlink_to(archive38)
    write(repository, "directory", python313.path)
    write(repository, "completed", "../packed_too/environment.tar.gz", config="")
    venv = [str(python38.python), "-m", "venv", "--without-pip", "--system-site-packages"]
    subprocess.run([*venv, str(root / "venv")], check=True)
    write(repository, "venv", "../../venv")
    required = write(repository, "required", "$$TRITON_MODEL_DIRECTORY/requirements.txt")
    (required / "requirements.txt").write_text(REQUIREMENTS)
    (required / ".python-version").write_text("3.13\n")
    write(repository, "block", code=BLOCK + MODEL)
    backend = root / "backends" / "brings_one"
    backend.mkdir(parents=True)
    (backend / "model.py").write_text(MODEL)
    (backend / "pb_exec_env_model.py.tar.gz").symlink_to(archive38)
    folder = write(repository, "of_backend", backend="brings_one")
    (folder / "1" / "model.py").unlink()
    flags = [
        "--model-control-mode=explicit",
        "--load-model=*",
        f"--backend-directory={root / 'backends'}",
        f"--backend-config=python,env-cache-directory={root / 'cache'}",
    ]
    with serve(repository, *flags, within=["env", "LD_LIBRARY_PATH=/of/the/server"]) as served:
        yield served


@pytest.mark.spec("python_backend:C224")
@pytest.mark.spec("python_backend:C230")
@pytest.mark.spec("python_backend:C236")
@pytest.mark.spec("python_backend:Q80")
@pytest.mark.parametrize("model", EXPECTED)
def test_each_model_has_the_python_of_its_environment(served: Served, model: str) -> None:
    assert evaluate(served, model, VERSION) == EXPECTED[model]


@pytest.mark.parametrize("model", ["packed", "directory", "venv", "of_backend"])
def test_models_import_what_the_server_does_not_have(served: Served, model: str) -> None:
    assert evaluate(served, model, f"__import__('{PACKAGE}').WORDS") == "only here"
    with pytest.raises(ImportError):
        __import__(PACKAGE)


@pytest.mark.parametrize("package", ["atoll", "orjson", "msgpack"])
def test_models_do_not_see_what_the_server_has(served: Served, package: str) -> None:
    for model in ("packed", "directory", "required", "venv"):
        expression = f"__import__('importlib.util').util.find_spec('{package}')"
        assert evaluate(served, model, expression) == "None"
    assert evaluate(served, "plain", "__import__('orjson').__name__") == "orjson"


def test_numpy_is_that_of_the_environment(served: Served, python313: Prefix) -> None:
    assert evaluate(served, "directory", "np.__file__").startswith(f"{python313.path}/")
    prefix = evaluate(served, "required", "sys.prefix")
    assert evaluate(served, "required", "np.__file__").startswith(f"{prefix}/")


@pytest.mark.spec("python_backend:C228")
def test_the_environment_is_active(served: Served, python313: Prefix) -> None:
    prefix = str(python313.path)
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        assert evaluate(served, "directory", f"os.environ['{name}']") == prefix
    assert evaluate(served, "directory", "os.environ['VIRTUAL_ENV_PROMPT']") == f"({prefix})"
    assert evaluate(served, "directory", "os.environ['PATH']").startswith(f"{prefix}/bin:")
    assert evaluate(served, "directory", "os.environ['PYTHONNOUSERSITE']") == "1"
    assert evaluate(served, "plain", "'VIRTUAL_ENV_PROMPT' in os.environ") == "False"


@pytest.mark.spec("python_backend:C229")
def test_programs_do_not_get_the_libraries_of_the_environment(served: Served) -> None:
    assert evaluate(served, "packed", "os.environ['LD_LIBRARY_PATH']") == "/of/the/server"
    assert evaluate(served, "packed", "subprocess.call(['/bin/bash', '--help'], stdout=subprocess.DEVNULL)") == "0"
    echo = "subprocess.check_output(['/bin/bash', '-c', 'echo $LD_LIBRARY_PATH'], text=True).strip()"
    assert evaluate(served, "packed", echo) == "/of/the/server"


def test_programs_of_the_environment_know_its_new_place(served: Served, python38: Prefix) -> None:
    prefix = evaluate(served, "packed", "sys.prefix")
    assert prefix != str(python38.path)
    tool = "subprocess.check_output(['tool-of-the-environment'], text=True).strip()"
    assert evaluate(served, "packed", tool) == "only here"
    sysconfig = f"{prefix}/bin/tool-of-the-environment"
    assert str(python38.path) not in evaluate(served, "packed", f"open('{sysconfig}').read()")


@pytest.mark.spec("python_backend:C225")
def test_an_archive_is_extracted_once(served: Served) -> None:
    assert served.log.count("Extracting Python execution env") == 1
    prefixes = {evaluate(served, model, "sys.prefix") for model in ("packed", "packed_too", "completed", "of_backend")}
    assert len(prefixes) == 1
    assert served.log.count("Installing Python execution env") == 2


def test_large_tensors_and_calls_pass_between_environments(served: Served) -> None:
    letters = "x" * 300_000
    assert evaluate(served, "packed", f"'{letters}'.upper()") == letters.upper()
    inner = f"'%d.%d' % sys.version_info[:2] + '{letters}'"
    call_of = (
        "(lambda r: r.error().message() if r.has_error() else "
        "pb_utils.get_output_tensor_by_name(r, 'OUT').as_numpy()[0].decode())("
        "pb_utils.InferenceRequest(model_name='directory', requested_output_names=['OUT'], "
        f'inputs=[pb_utils.Tensor(\'IN\', np.array(["""{inner}"""], dtype=object))]).exec())'
    )
    assert evaluate(served, "packed", call_of) == f"3.13{letters}"


@pytest.mark.parametrize("model", ["packed", "required"])
def test_a_stub_that_dies_starts_again_in_its_environment(served: Served, model: str) -> None:
    pid = evaluate(served, model, "os.getpid()")
    answer = call(served, model, {"IN": ["os.kill(os.getpid(), 9)"]})
    assert "signal 9" in answer.error
    served.wait_for_log(f"instance '{model}_0_0' serves again")
    assert evaluate(served, model, VERSION) == EXPECTED[model]
    assert evaluate(served, model, "os.getpid()") != pid


def parents(served: Served) -> set[str]:
    """The interpreters of the warm parents."""
    found = set()
    for child in psutil.Process(served.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            found.add(child.exe())
    return found


def test_a_warm_parent_ends_with_its_last_model(served: Served, python313: Prefix) -> None:
    python = str(python313.python.resolve())
    assert python in parents(served)
    assert served.post("/v2/repository/models/directory/unload", {})[0] == 200
    wait_until(lambda: python not in parents(served), "the warm parent of the unloaded model is gone")
    assert served.post("/v2/repository/models/directory/load", {})[0] == 200
    assert evaluate(served, "directory", VERSION) == "3.13"
    assert served.post("/v2/repository/models/packed/unload", {})[0] == 200
    served.wait_for_log("successfully unloaded 'packed' version 1")
    assert evaluate(served, "packed_too", VERSION) == "3.8"  # which has the same
    assert served.post("/v2/repository/models/packed/load", {})[0] == 200
    assert evaluate(served, "packed", VERSION) == "3.8"
    assert served.log.count("Extracting Python execution env") == 1
