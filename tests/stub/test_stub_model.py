"""Importing a model's file and calling it: the original's rules and its texts."""

import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import triton_python_backend_utils as pb_utils
from atoll_stub.rendering import render_exception
from triton_python_backend_utils._model import Model, WrongReturn, check_returned

pytestmark = pytest.mark.usefixtures("fresh_imports")


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    (tmp_path / "m" / "1").mkdir(parents=True)
    return tmp_path / "m"


def load(model_dir: Path, code: str, filename: str = "model.py", version: str = "1") -> Model:
    """Import the file and make the model's object, as a stub does before ``initialize``."""
    path = model_dir / version / filename
    path.write_text(textwrap.dedent(code))
    model = Model(str(path), str(path.parent), str(model_dir), version)
    model.instantiate()
    return model


MODEL = """
class TritonPythonModel:
    pass
"""


@pytest.mark.spec("python_backend:C8")
def test_version_model_and_utils_folders_are_appended_to_the_path_in_order(model_dir: Path) -> None:
    before = list(sys.path)
    load(model_dir, MODEL)
    utils = os.path.dirname(os.path.dirname(str(pb_utils.__file__)))
    assert sys.path == [*before, str(model_dir / "1"), str(model_dir), utils]


@pytest.mark.spec("python_backend:C9")
def test_the_module_is_called_after_version_and_file(model_dir: Path) -> None:
    model = load(model_dir, "class TritonPythonModel:\n    names = __name__, __package__")
    assert model.instance.names == ("1.model", "1")
    assert sys.modules["1.model"].__file__ == str(model_dir / "1" / "model.py")


@pytest.mark.spec("python_backend:C10")
def test_files_beside_the_model_can_be_imported_absolutely_and_relatively(model_dir: Path) -> None:
    (model_dir / "1" / "beside_the_model.py").write_text("VALUE = 7")
    model = load(
        model_dir,
        """
        import beside_the_model
        from . import beside_the_model as relative
        from .beside_the_model import VALUE

        class TritonPythonModel:
            values = beside_the_model.VALUE, relative.VALUE, VALUE
        """,
    )
    assert model.instance.values == (7, 7, 7)


def test_files_in_the_model_folder_can_be_imported(model_dir: Path) -> None:
    (model_dir / "shared_by_versions.py").write_text("VALUE = 7")
    model = load(model_dir, "import shared_by_versions\nclass TritonPythonModel:\n    value = shared_by_versions.VALUE")
    assert model.instance.value == 7


@pytest.mark.spec("python_backend:C11")
def test_importing_the_model_by_its_stem_gives_a_second_module(model_dir: Path) -> None:
    name = "model_under_test"
    code = f"""
    class TritonPythonModel:
        def initialize(self, args):
            import {name}
            self.second = {name}.TritonPythonModel
    """
    model = load(model_dir, code, f"{name}.py")
    model.initialize({})
    assert model.instance.second is not type(model.instance)
    assert model.instance.second.__module__ == name


@pytest.mark.spec("python_backend:C12")
def test_a_folder_called_like_the_version_in_the_working_directory_is_not_taken(
    model_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "cwd" / "1").mkdir(parents=True)
    (tmp_path / "cwd" / "1" / "model.py").write_text("raise RuntimeError('hijacked')")
    os.chdir(tmp_path / "cwd")
    sys.path.insert(0, "")
    assert load(model_dir, MODEL).instance is not None


@pytest.mark.spec("python_backend:C21")
def test_a_file_name_must_end_in_py(model_dir: Path) -> None:
    with pytest.raises(pb_utils.TritonModelException) as caught:
        load(model_dir, MODEL, "model.pt")
    assert str(caught.value) == "Model name must end with '.py'. Model name is \"model.pt\"."


@pytest.mark.spec("python_backend:C22")
def test_a_file_without_the_class_is_an_attribute_error(model_dir: Path) -> None:
    with pytest.raises(AttributeError, match="TritonPythonModel"):
        load(model_dir, "class Other: pass")


def test_every_method_but_execute_is_optional(model_dir: Path) -> None:
    model = load(model_dir, MODEL)
    model.initialize({})
    model.finalize()


# -- exceptions


def raised(code: str, filename: str = "<model>") -> BaseException:
    try:
        exec(compile(textwrap.dedent(code), filename, "exec"), {})
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def test_an_exception_is_rendered_with_its_frames_innermost_first() -> None:
    error = raised(
        "def inner():\n    raise ValueError('no')\ndef outer():\n    inner()\nouter()", "/models/m/1/model.py"
    )
    lines = render_exception(error).split("\n")
    assert lines[:6] == [
        "ValueError: no",
        "",
        "At:",
        "  /models/m/1/model.py(2): inner",
        "  /models/m/1/model.py(4): outer",
        "  /models/m/1/model.py(5): <module>",
    ]
    assert lines[-1] == ""


@pytest.mark.spec("python_backend:C121")
def test_an_exception_without_text_says_so() -> None:
    assert render_exception(raised("raise RuntimeError")).startswith("RuntimeError: <EMPTY MESSAGE>\n\nAt:\n")


@pytest.mark.spec("python_backend:C122")
def test_only_the_outer_of_chained_exceptions_is_shown() -> None:
    text = render_exception(raised("try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError('k') from e"))
    assert text.startswith("KeyError: 'k'\n")
    assert "Zero" not in text


def test_frames_of_the_stub_are_not_shown(model_dir: Path) -> None:
    model = load(
        model_dir, "class TritonPythonModel:\n    def execute(self, requests):\n        raise ValueError('no')"
    )
    with pytest.raises(ValueError, match="no") as caught:
        model.execute([])
    text = render_exception(caught.value)
    assert f"  {model_dir}/1/model.py(3): execute\n" in text
    assert "atoll_stub" not in text


# -- what execute returns

REQUESTS = [
    pb_utils.InferenceRequest(model_name="m", requested_output_names=[], inputs=[], request_id=name) for name in "ab"
]


def check(returned: Any, decoupled: bool = False) -> list[pb_utils.InferenceResponse | None]:
    return check_returned(returned, REQUESTS, "m_0_0", decoupled)


def refused(returned: Any, decoupled: bool = False) -> str:
    with pytest.raises(WrongReturn) as caught:
        check(returned, decoupled)
    return str(caught.value)


@pytest.mark.spec("python_backend:C41")
def test_a_model_without_execute_fails_per_call(model_dir: Path) -> None:
    model = load(model_dir, MODEL)
    with pytest.raises(WrongReturn) as caught:
        model.execute(REQUESTS)
    assert str(caught.value) == f"Python model {model_dir}/1/model.py does not implement `execute` method."


def test_execute_gets_the_requests_and_its_result_is_not_touched(model_dir: Path) -> None:
    model = load(model_dir, "class TritonPythonModel:\n    def execute(self, requests):\n        return requests, 1")
    assert model.execute(REQUESTS) == (REQUESTS, 1)


@pytest.mark.spec("python_backend:C45")
@pytest.mark.parametrize(
    ("returned", "kind"),
    [
        ((pb_utils.InferenceResponse(), pb_utils.InferenceResponse()), "tuple"),
        ("two", "str"),
        ({}, "dict"),
        ((request for request in REQUESTS), "generator"),
    ],
)
def test_anything_but_a_list_is_refused(returned: Any, kind: str) -> None:
    assert refused(returned) == f"Expected a list in the execute return, found type '<class '{kind}'>'."


@pytest.mark.spec("python_backend:C46")
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_list_of_another_length_is_refused(count: int) -> None:
    assert refused([pb_utils.InferenceResponse()] * count) == (
        "Number of InferenceResponse objects do not match the number of InferenceRequest objects. InferenceRequest(s) "
        f"size is:2, and InferenceResponse(s) size is:{count}\n"
    )


@pytest.mark.spec("python_backend:C47")
@pytest.mark.parametrize(("element", "kind"), [("no", "str"), (7, "int")])
def test_an_element_that_is_no_response_is_refused(element: Any, kind: str) -> None:
    assert refused([pb_utils.InferenceResponse(), element]) == (
        f"Expected an 'InferenceResponse' object in the execute function return list, found type '<class '{kind}'>'."
    )


def test_responses_come_back_as_they_were_returned() -> None:
    responses = [pb_utils.InferenceResponse(), None]
    assert check(responses) is responses


@pytest.mark.parametrize("decoupled", [False, True])
def test_to_return_nothing_is_to_answer_no_request_yet(decoupled: bool) -> None:
    assert check(None, decoupled) == [None, None]


@pytest.mark.parametrize("returned", [[], [None, None], ()])
def test_a_decoupled_model_must_return_nothing(returned: Any) -> None:
    assert refused(returned, decoupled=True) == (
        "Python model 'm_0_0' is using the decoupled mode and the execute function must return None."
    )
