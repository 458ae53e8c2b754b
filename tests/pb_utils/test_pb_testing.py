"""``load_model``: a model in a plain test sees what it would see in a server."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from atoll_ipc.wire import INLINE_NBYTES
from model_files import Write, ask
from triton_python_backend_utils import InferenceRequest, InferenceResponse, Tensor, TritonModelException
from triton_python_backend_utils.testing import WrongReturn, load_model

ECHO = """
def execute(self, requests):
    return [
        pb_utils.InferenceResponse([pb_utils.Tensor(tensor.name(), tensor.as_numpy()) for tensor in request.inputs()])
        for request in requests
    ]
"""


def test_a_model_executes(write: Write) -> None:
    with load_model(write(ECHO)) as model:
        first, second = model.execute([ask(np.arange(4)), ask(np.ones((2, 2)), np.zeros(1, bool))])
    assert [tensor.as_numpy().tolist() for tensor in first.output_tensors()] == [[0, 1, 2, 3]]
    assert [tensor.as_numpy().tolist() for tensor in second.output_tensors()] == [[[1, 1], [1, 1]], [False]]


def test_initialize_gets_the_arguments_of_a_server(write: Write) -> None:
    path = write("def initialize(self, args):\n    self.args = args")
    config = {"max_batch_size": 8, "output": []}
    for given in (config, json.dumps(config)):
        with load_model(path, config=given, model_instance_kind="GPU") as model:
            args = model.instance.args
            assert json.loads(args.pop("model_config")) == {**config, "name": "m"}
            assert args == {
                "model_instance_kind": "GPU",
                "model_instance_name": "m_0_0",
                "model_instance_device_id": "0",
                "model_repository": str(path),
                "model_version": "1",
                "model_name": "m",
            }
    with pytest.raises(TypeError, match="initialize gets no argument 'kind'"):
        load_model(path, kind="GPU")


def test_the_highest_version_is_loaded_unless_one_is_named(write: Write) -> None:
    write("number = 9", version="9")
    path = write("number = 10", version="10")
    (path / "notes").mkdir()
    assert load_model(path).instance.number == 10
    assert load_model(path, 9).instance.number == 9
    assert load_model(path, "9").args["model_version"] == "9"
    with pytest.raises(FileNotFoundError, match=r"Python model file not found in '.*/m/3/model\.py'"):
        load_model(path, 3)
    with pytest.raises(FileNotFoundError, match="no version of a model"):
        load_model(path / "notes")


def test_a_folder_of_one_model_needs_no_version(write: Write) -> None:
    path = write(ECHO) / "1"
    (path / "model.py").rename(path.parent / "model.py")
    path.rmdir()
    with load_model(path.parent) as model:
        assert model.args["model_version"] == "1"
        assert len(model.execute([ask(np.zeros(1))])) == 1


def test_the_models_file_may_be_called_differently(write: Write) -> None:
    path = write(ECHO)
    (path / "1" / "model.py").rename(path / "1" / "mine.py")
    assert type(load_model(path, config={"default_model_filename": "mine.py"}).instance).__module__ == "1.mine"


def test_a_model_imports_its_siblings_and_two_models_do_not_meet(write: Write) -> None:
    head = "import helper\nfrom . import helper as same\n\nclass TritonPythonModel:\n"
    late = """
    def execute(self, requests):
        import late
        from . import helper as again
        raise ValueError(late.NAME + again.NAME)
    """
    paths = [write(late, name, head=head, helper=f"NAME = '{name}'", late=f"NAME = 'late {name} '") for name in "ab"]
    path, modules = list(sys.path), set(sys.modules)
    models = [load_model(path) for path in paths]
    for _ in range(2):
        for model, name in zip(models, "ab", strict=True):
            with pytest.raises(ValueError, match=f"late {name} {name}"):
                model.execute([ask()])
    assert sys.path == path
    assert not {"1", "1.model", "helper", "late"} & (set(sys.modules) - modules)


def test_get_model_dir_is_that_of_the_model(write: Write) -> None:
    path = write("def initialize(self, args):\n    self.model_dir = pb_utils.get_model_dir()")
    assert load_model(path).instance.model_dir == str(path / "1")
    with pytest.raises(TritonModelException, match="needs a running server"):
        pb_utils.get_model_dir()


@pytest.mark.parametrize("count", [4, INLINE_NBYTES])
def test_tensors_are_received_as_from_a_client(write: Write, count: int) -> None:
    body = """
    def execute(self, requests):
        numbers, texts = (tensor.as_numpy() for tensor in requests[0].inputs())
        self.kinds = {type(element) for element in texts}
        numbers += 1
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", texts.astype(str).astype(object))])]
    """
    numbers = np.zeros(count)
    with load_model(write(body)) as model:
        (response,) = model.execute([ask(numbers, np.array(["a"] * count, object))])
        assert model.instance.kinds == {bytes}
    assert not numbers.any()
    assert response.output_tensors()[0].as_numpy().tolist() == [b"a"] * count


def test_a_request_keeps_its_fields(write: Write) -> None:
    body = """
    def execute(self, requests):
        (request,) = requests
        self.seen = (request.request_id(), request.correlation_id(), request.flags(), request.timeout(),
                     request.parameters(), request.requested_output_names())
        return [pb_utils.InferenceResponse(parameters={"b": 1})]
    """
    with load_model(write(body), config={"output": [{"name": "X"}, {"name": "Y"}]}) as model:
        (response,) = model.execute(
            [ask(request_id="r", correlation_id="c", flags=3, timeout=5, parameters={"a": "x"}, outputs=["Y"])]
        )
        assert model.instance.seen == ("r", "c", 3, 5, '{"a": "x"}', {"Y"})
        assert response.parameters() == '{"b": 1}'
        model.execute([ask()])
        assert model.instance.seen[-1] == {"X", "Y"}


@pytest.mark.parametrize(("outputs", "got"), [([], ["X", "Y"]), (["Y"], ["Y"])])
def test_a_client_gets_the_outputs_it_asked_for(write: Write, outputs: list[str], got: list[str]) -> None:
    body = """
    def execute(self, requests):
        tensors = [pb_utils.Tensor(name, np.zeros(1)) for name in "XYZ"]
        return [pb_utils.InferenceResponse(tensors) for request in requests]
    """
    with load_model(write(body), config={"output": [{"name": "X"}, {"name": "Y"}]}) as model:
        (response,) = model.execute([ask(outputs=outputs)])
    assert [tensor.name() for tensor in response.output_tensors()] == got


def test_an_error_comes_without_outputs(write: Write) -> None:
    body = """
    def execute(self, requests):
        error = pb_utils.TritonError("no", pb_utils.TritonError.NOT_FOUND)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("X", np.zeros(1))], error) for request in requests]
    """
    with load_model(write(body)) as model:
        (response,) = model.execute([ask()])
    error = response.error()
    assert error is not None
    assert (error.message(), error.code(), response.output_tensors()) == ("no", pb_utils.TritonError.NOT_FOUND, [])


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("return tuple(requests)", "Expected a list in the execute return, found type '<class 'tuple'>'."),
        (
            "return []",
            "Number of InferenceResponse objects do not match the number of InferenceRequest objects. "
            "InferenceRequest(s) size is:1, and InferenceResponse(s) size is:0\n",
        ),
        (
            "return ['x']",
            "Expected an 'InferenceResponse' object in the execute function return list, found type '<class 'str'>'.",
        ),
    ],
)
def test_what_execute_returns_is_checked(write: Write, body: str, text: str) -> None:
    path = write(f"def execute(self, requests):\n    {body}")
    with load_model(path) as model, pytest.raises(WrongReturn) as caught:
        model.execute([ask()])
    assert str(caught.value) == text


def test_a_model_without_execute_loads(write: Write) -> None:
    path = write("pass")
    with load_model(path) as model, pytest.raises(WrongReturn) as caught:
        model.execute([ask()])
    assert str(caught.value) == f"Python model {path}/1/model.py does not implement `execute` method."


def test_exceptions_reach_the_test(write: Write) -> None:
    path = write("def execute(self, requests):\n    raise KeyError('k')")
    with load_model(path) as model, pytest.raises(KeyError, match="k"):
        model.execute([ask()])
    with pytest.raises(ZeroDivisionError):
        load_model(write("def initialize(self, args):\n    1 / 0"))


def test_a_model_is_finalized_once(write: Write) -> None:
    model = load_model(write("count = 0\ndef finalize(self):\n    self.count += 1"))
    with model:
        assert model.instance.count == 0
    model.finalize()
    assert model.instance.count == 1


CALLER = """
def initialize(self, args):
    try:
        self.call([])
    except pb_utils.TritonModelException as error:
        self.error = str(error)

def finalize(self):
    self.error = None
    self.initialize({})

def call(self, inputs):
    request = pb_utils.InferenceRequest(model_name="other", requested_output_names=["IN0"], inputs=inputs)
    return request.exec()

def execute(self, requests):
    return [self.call(request.inputs()) for request in requests]
"""
ONLY_IN_EXECUTE = "BLS is only supported during the 'execute' function."


def test_a_call_of_the_model_is_answered_by_the_test(write: Write) -> None:
    asked = []

    def other(request: InferenceRequest) -> InferenceResponse:
        asked.append(request)
        return InferenceResponse([Tensor("IN0", request.inputs()[0].as_numpy() * 2), Tensor("MORE", np.zeros(1))])

    for bls in (other, {"other": other}):
        with load_model(write(CALLER), bls=bls) as model:
            assert model.instance.error == ONLY_IN_EXECUTE
            (response,) = model.execute([ask(np.arange(3))])
            assert [(tensor.name(), tensor.as_numpy().tolist()) for tensor in response.output_tensors()] == [
                ("IN0", [0, 2, 4])
            ]
        assert model.instance.error == ONLY_IN_EXECUTE
    assert [request.requested_output_names() for request in asked] == [{"IN0"}] * 2


@pytest.mark.parametrize("bls", [None, {"another": lambda request: request}])
def test_a_call_that_nothing_answers_is_told(write: Write, bls: Any) -> None:
    expected = pytest.raises(TritonModelException, match="Nothing answers requests to model 'other'")
    with load_model(write(CALLER), bls=bls) as model, expected:
        model.execute([ask(np.arange(3))])


def test_models_answer_each_other(write: Write) -> None:
    other = load_model(write(ECHO, "other"))
    with other, load_model(write(CALLER), bls=lambda request: other.execute([request])[0]) as model:
        (response,) = model.execute([ask(np.arange(3))])
    assert response.output_tensors()[0].as_numpy().tolist() == [0, 1, 2]
