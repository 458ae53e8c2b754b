"""Python-based backends: one ``model.py`` in the backend directory serves every model that names the backend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from calling import call
from controlling import answering, control, entries, load, reason, unload, wait_until_unloaded, word_of
from rendezvous import Rendezvous, config, identity
from serving import Served, serve, write_model

BACKEND = """
import json
import os
import sys

import companion
import numpy as np
import triton_python_backend_utils as pb_utils

IMPORTED_AS = (__name__, __package__)


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        with open(os.path.join(pb_utils.get_model_dir(), "word.txt")) as file:
            words = file.read().split()
        config.set_max_batch_size(len(words))
        strings = {"data_type": "TYPE_STRING", "dims": [1]}
        config.add_input({"name": "IN", **strings})
        config.add_output({"name": "OUT", **strings})
        return config

    def initialize(self, args):
        self.args = args
        with open(os.path.join(pb_utils.get_model_dir(), "word.txt")) as file:
            self.word = file.read().split()[0]

    def execute(self, requests):
        return [pb_utils.InferenceResponse([self.tell(request.inputs()[0].as_numpy())]) for request in requests]

    def tell(self, asked):
        what = asked.ravel()[0].decode()
        facts = {
            "word": self.word,
            "companion": companion.WORD,
            "imported as": IMPORTED_AS,
            "model dir": pb_utils.get_model_dir(),
            "repository": self.args["model_repository"],
            "path": sys.path,
        }
        out = np.array([[facts[what] if isinstance(facts[what], str) else json.dumps(facts[what])]], dtype=object)
        return pb_utils.Tensor("OUT", out)
"""
NO_TENSORS = 'backend: "words"\n'


def write_words(repository: Path, name: str, word: str, text: str = NO_TENSORS, version: int = 1) -> Path:
    """A model of the backend: no code, a file with a word. Its folder."""
    folder = repository / name
    (folder / str(version)).mkdir(parents=True, exist_ok=True)
    (folder / str(version) / "word.txt").write_text(word)
    (folder / "config.pbtxt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backends")
    for name in ("words", "dotted.name"):
        (folder / name).mkdir()
        (folder / name / "model.py").write_text(BACKEND)
        (folder / name / "companion.py").write_text(f"WORD = {name!r}\n")
    return folder


@pytest.fixture(scope="module")
def served(repository: Path, backends: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    for version in (1, 2, 3):
        write_words(repository, "versions", f"version{version} more", version=version)
    write_words(repository, "other", "another")
    write_words(repository, "explicit", "explicit", NO_TENSORS + 'runtime: "model.py"\n')
    write_words(repository, "dotted", "dotted", 'backend: "dotted.name"\n')
    write_words(repository, "missing", "missing", 'backend: "nowhere"\n')
    write_words(repository, "named", "named", 'backend: "nowhere" runtime: "model.py"\n')
    write_words(repository, "native", "native", 'backend: "words" runtime: "libtriton_words.so"\n')
    write_words(repository, "outside", "outside", 'backend: ".."\n')
    identity(repository)
    names = [f"--load-model={name}" for name in ("versions", "other", "explicit", "dotted", "identity")]
    flags = (f"--backend-directory={backends}", "--model-control-mode=explicit", *names)
    with serve(repository, *flags) as served:
        yield served


def tell(served: Served, model: str, what: str) -> str:
    """A fact about the process of a model."""
    tensor = {"name": "IN", "datatype": "BYTES", "shape": [1, 1], "data": [what]}
    status, answer = served.post(f"/v2/models/{model}/infer", {"inputs": [tensor]})
    assert status == 200, answer
    return str(answer["outputs"][0]["data"][0])


@pytest.mark.spec("python_backend:C236")
@pytest.mark.spec("python_backend:Q101")
def test_one_backend_serves_several_models_and_python_models_beside_them(served: Served) -> None:
    assert [tell(served, name, "word") for name in ("versions", "other", "dotted")] == ["version3", "another", "dotted"]
    assert [tell(served, name, "companion") for name in ("other", "dotted")] == ["words", "dotted.name"]
    assert call(served, "identity", {"IN": np.arange(3, dtype=np.uint8)})["OUT"].tolist() == [0, 1, 2]


@pytest.mark.spec("python_backend:C236")
def test_its_configuration_is_completed_and_names_its_runtime(served: Served) -> None:
    config = served.get("/v2/models/versions/config")[1]
    assert (config["backend"], config["runtime"], config["max_batch_size"]) == ("words", "model.py", 2)
    assert [tensor["name"] for tensor in config["input"] + config["output"]] == ["IN", "OUT"]
    assert served.get("/v2/models/explicit/config")[1]["runtime"] == "model.py"
    assert served.get("/v2/models/identity/config")[1]["runtime"] == ""


@pytest.mark.spec("python_backend:C236")
def test_the_file_is_imported_at_the_top_and_finds_only_what_is_beside_it(served: Served, backends: Path) -> None:
    assert tell(served, "other", "imported as") == '["model", ""]'
    path = tell(served, "other", "path")
    assert str(backends / "words") in path
    assert "/other" not in path


@pytest.mark.spec("python_backend:C236")
def test_it_is_told_where_the_model_is(served: Served, repository: Path) -> None:
    assert tell(served, "versions", "model dir") == str(repository / "versions" / "3")
    assert tell(served, "versions", "repository") == str(repository / "versions")


@pytest.mark.spec("python_backend:Q101")
def test_a_request_selects_versions_and_makes_other_models_of_the_backend(served: Served) -> None:
    policy = '{"backend": "words", "version_policy": {"specific": {"versions": [1, 2]}}}'
    load(served, "versions", policy)
    assert [tell(served, f"versions/versions/{version}", "word") for version in (1, 2)] == ["version1", "version2"]
    unload(served, "versions")
    load(served, "versions")
    assert tell(served, "versions", "word") == "version3"
    load(served, "made", '{"backend": "words"}', {"file:1/word.txt": "made"})
    assert tell(served, "made", "word") == "made"
    unload(served, "made")
    wait_until_unloaded(served, "made")


@pytest.mark.spec("python_backend:C236")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "missing",
            "Invalid argument: unable to find backend library for backend 'nowhere', try specifying runtime on the "
            "model configuration.",
        ),
        (
            "native",
            "Invalid argument: unable to find backend library for backend 'words', try specifying runtime on the model "
            "configuration.",
        ),
        (
            "outside",
            "Invalid argument: unable to find backend library for backend '..', try specifying runtime on the model "
            "configuration.",
        ),
        (
            "named",
            "Invalid argument: unable to find Python backend based backend library 'model.py' for model 'named', "
            "searched: '{}/nowhere/model.py'",
        ),
    ],
)
def test_a_backend_that_is_not_there(served: Served, backends: Path, name: str, text: str) -> None:
    text = text.format(backends)
    assert control(served, name, "load") == (
        400,
        {"error": f"load failed for model '{name}': version 1 is at UNAVAILABLE state: {text};\n"},
    )
    assert reason(served, name) == text
    unload(served, name)


def test_an_environment_beside_the_backend_is_not_passed_over_in_silence(served: Served, backends: Path) -> None:
    folder = backends / "packed"
    folder.mkdir()
    (folder / "model.py").write_text(BACKEND)
    (folder / "pb_exec_env_model.py.tar.gz").touch()
    status, body = control(served, "m", "load", {"config": '{"backend": "packed"}', "file:1/word.txt": ""})
    assert status == 400
    assert "packed/pb_exec_env_model.py.tar.gz cannot be unpacked: it is no archive that can be read" in body["error"]
    unload(served, "m")


def test_a_fault_in_the_backend_is_told_with_its_line(served: Served, backends: Path) -> None:
    (backends / "broken").mkdir()
    (backends / "broken" / "model.py").write_text("import no_such_module\n")
    status, body = control(served, "m", "load", {"config": '{"backend": "broken"}', "file:1/word.txt": ""})
    assert status == 400
    assert f"{backends}/broken/model.py(1): <module>" in body["error"]
    unload(served, "m")


def test_a_model_file_of_its_own_does_not_count(tmp_path: Path, backends: Path) -> None:
    folder = write_words(tmp_path, "m", "from the backend")
    (folder / "1" / "model.py").write_text("raise Exception('not this one')")
    with serve(tmp_path, f"--backend-directory={backends}") as served:
        assert tell(served, "m", "word") == "from"
        assert [entry["state"] for entry in entries(served, "m")] == ["READY"]


@pytest.mark.spec("python_backend:Q13")
@pytest.mark.spec("python_backend:C220")
def test_a_python_model_may_name_its_file(tmp_path: Path) -> None:
    text = config("IN:STRING", "OUT:STRING", more='default_model_filename: "other_name.py"')
    path = write_model(tmp_path, "m", answering("by another name"), text) / "1" / "model.py"
    path.rename(path.with_name("other_name.py"))
    with serve(tmp_path) as served:
        assert word_of(served, "m") == "by another name"
        assert served.get("/v2/models/m/config")[1]["default_model_filename"] == "other_name.py"
