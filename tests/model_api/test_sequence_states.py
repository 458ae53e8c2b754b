"""States that the server keeps for a sequence: what models get and set, and configurations that are wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calling import leased_blocks, wait_until
from controlling import reason
from rendezvous import Rendezvous, write
from serving import Served, serve
from telling import END, START

ADDING = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        given = {tensor.name(): tensor for tensor in request.inputs()}
        state = given["BEFORE"].as_numpy()
        seen = pb_utils.Tensor("OUT", np.array([str((state.shape, state.ravel()[:3].tolist()))], dtype=object))
        step = given["IN"].as_numpy()
        if step[0] == 0:
            return pb_utils.InferenceResponse([seen])
        if step[0] < 0:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("no"))
        if state.dtype == object:
            state[...] = [text + b"x" * int(step[0]) for text in state.ravel()]
        else:
            state += step[0].astype(state.dtype)  # in place: what the server keeps is not touched by that
        names = ", ".join(sorted(request.requested_output_names()))
        return pb_utils.InferenceResponse(
            [seen, pb_utils.Tensor("AFTER", state), pb_utils.Tensor("NAMES", np.array([names], dtype=object))]
        )
"""
"""Adds its input to its state and tells the state it was given; 0 sets no state, a negative one is an error."""

PLAIN = 'input_name: "BEFORE" output_name: "AFTER" data_type: TYPE_INT32 dims: [ 2 ]'


def initial(name: str = "start", data_type: str = "TYPE_INT32", dims: str = "2", data: str = "zero_data: true") -> str:
    return f'initial_state: {{ name: "{name}" data_type: {data_type} dims: [ {dims} ] {data} }}'


def from_file(name: str, data_type: str = "TYPE_INT32", dims: str = "2") -> str:
    return initial(data_type=data_type, dims=dims, data=f'data_file: "{name}"')


def state(data_type: str, dims: str, more: str = "") -> str:
    return f'input_name: "BEFORE" output_name: "AFTER" data_type: {data_type} dims: [ {dims} ] {more}'


def write_adding(repository: Path, name: str, *states: str, listed: bool = False, max_batch_size: int = 0) -> Path:
    """``listed``: the state is an output of the model, too."""
    outputs = 'name: "OUT" data_type: TYPE_STRING dims: [ 1 ] }, { name: "NAMES" data_type: TYPE_STRING dims: [ 1 ]'
    if listed:
        outputs += ' }, { name: "AFTER" data_type: TYPE_INT32 dims: [ 2 ]'
    config = f"""
backend: "python"
max_batch_size: {max_batch_size}
input [ {{ name: "IN" data_type: TYPE_INT32 dims: [ 1 ] }} ]
output [ {{ {outputs} }} ]
instance_group [ {{ kind: KIND_CPU }} ]
sequence_batching {{ {" ".join(f"state {{ {text} }}" for text in states)} }}
"""
    folder = write(repository, name, ADDING, config)
    files = folder / "initial_state"
    files.mkdir()
    (files / "numbers").write_bytes(np.array([5, 6, 7], "<i4").tobytes())
    (files / "texts").write_bytes(b"\2\0\0\0ab\0\0\0\0")
    (files / "large").write_bytes(np.arange(5000, dtype="<i4").tobytes())
    return folder


REFUSED = {
    "two": (
        [f"{PLAIN} {initial()} {initial()}"],
        "initial_state field for state input 'BEFORE' must contain exactly one or zero element. Found '2' elements.",
    ),
    "type": (
        [f"{PLAIN} {initial(data_type='TYPE_INT64')}"],
        "The data type used for 'initial_state' field of state 'BEFORE' does not match the state data type.",
    ),
    "nameless": (
        [f"{PLAIN} {initial(name='')}"],
        "Field 'name' must be set when using initial_state for state input 'BEFORE'.",
    ),
    "twice": ([PLAIN, PLAIN], "State input name 'BEFORE' specified more than once."),
    "rank": (
        [f"{PLAIN} {initial(dims='2, 1')}"],
        "Number of dimensions in 'initial_state' doesn't match the size of 'state' dimensions for state input "
        "'BEFORE'. 2 != 1",
    ),
    "unknown": (
        [state("TYPE_INT32", "-1", initial(dims="-1"))],
        "'initial_state' field for state input name 'BEFORE' contains variable dimensions.",
    ),
    "size": (
        [f"{PLAIN} {initial(dims='3')}"],
        "'initial_state' dim for input name 'BEFORE' doesn't match 'state' dim description. 3 != 2",
    ),
    "short": (
        [state("TYPE_INT32", "4", from_file("numbers", dims="4"))],
        "initial_state setting expects 16 bytes, but the data provided from {folder}/initial_state/numbersonly has 12 "
        "bytes.",
    ),
    "dataless": (
        [f"{PLAIN} {initial(data='')}"],
        "initial_state setting expects state'BEFORE' to have state_data set",
    ),
    "typeless": (
        ['input_name: "BEFORE" output_name: "AFTER" dims: [ 1 ]'],
        "state input 'BEFORE' must specify 'data_type' for typeless",
    ),
    "outside": (
        [f"{PLAIN} {from_file('../config.pbtxt')}"],
        "initial_state data file '../config.pbtxt' is outside the directory {folder}/initial_state",
    ),
}


@pytest.fixture(scope="module")
def served(repository: Path, rendezvous: Rendezvous) -> Iterator[Served]:
    write_adding(repository, "numbers", PLAIN)
    write_adding(repository, "batching", PLAIN, max_batch_size=2)
    write_adding(repository, "listed", PLAIN, listed=True)
    write_adding(repository, "variable", state("TYPE_FP64", "-1, 3"))
    write_adding(repository, "texts", state("TYPE_STRING", "2"))
    write_adding(repository, "zero", state("TYPE_INT32", "-1", initial()))
    write_adding(repository, "filled", state("TYPE_INT32", "-1", from_file("numbers", dims="3")))
    write_adding(repository, "filled_texts", state("TYPE_STRING", "2", from_file("texts", "TYPE_STRING")))
    write_adding(repository, "large", state("TYPE_INT32", "5000", from_file("large", dims="5000")))
    for name, (states, _) in REFUSED.items():
        write_adding(repository, name, *states)
    write_adding(repository, "missing", f"{PLAIN} {from_file('nothing')}")
    with serve(repository, "--exit-on-error=false") as served:
        yield served


def step(
    served: Served, model: str, value: int, flags: int = 0, *, id: int = 1, batching: bool = False, outputs: Any = ()
) -> dict[str, Any]:
    """The answer to one request of a sequence: outputs by name, or the error."""
    document: dict[str, Any] = {
        "inputs": [{"name": "IN", "datatype": "INT32", "shape": [1, 1] if batching else [1], "data": [value]}],
        "parameters": {"sequence_id": id, "sequence_start": bool(flags & START), "sequence_end": bool(flags & END)},
    }
    if outputs:
        document["outputs"] = [{"name": name} for name in outputs]
    status, answer = served.post(f"/v2/models/{model}/infer", document)
    if status != 200:
        return {"status": status, "error": answer["error"]}
    return {tensor["name"]: tensor["data"] for tensor in answer["outputs"]}


def given(served: Served, model: str, values: list[int], **options: Any) -> list[str]:
    """What state the model was given at each step of one sequence."""
    flags = [START, *[0] * (len(values) - 2), END]
    return [step(served, model, value, flag, **options)["OUT"][0] for value, flag in zip(values, flags, strict=True)]


# -- what models are given


@pytest.mark.spec("server:223")
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("numbers", ["((2,), [0, 0])", "((2,), [3, 3])", "((2,), [7, 7])"]),
        ("batching", ["((1, 2), [0, 0])", "((1, 2), [3, 3])", "((1, 2), [7, 7])"]),
        ("listed", ["((2,), [0, 0])", "((2,), [3, 3])", "((2,), [7, 7])"]),
        ("variable", ["((1, 3), [0.0, 0.0, 0.0])", "((1, 3), [3.0, 3.0, 3.0])", "((1, 3), [7.0, 7.0, 7.0])"]),
        ("texts", ["((2,), [b'', b''])", "((2,), [b'xxx', b'xxx'])", "((2,), [b'xxxxxxx', b'xxxxxxx'])"]),
        ("zero", ["((2,), [0, 0])", "((2,), [3, 3])", "((2,), [7, 7])"]),
        ("filled", ["((3,), [5, 6, 7])", "((3,), [8, 9, 10])", "((3,), [12, 13, 14])"]),
        ("filled_texts", ["((2,), [b'ab', b''])", "((2,), [b'abxxx', b'xxx'])", "((2,), [b'abxxxxxxx', b'xxxxxxx'])"]),
        ("large", ["((5000,), [0, 1, 2])", "((5000,), [3, 4, 5])", "((5000,), [7, 8, 9])"]),
    ],
)
def test_a_state_goes_from_one_request_to_the_next_and_begins_anew(
    served: Served, model: str, expected: list[str]
) -> None:
    for _ in range(2):
        assert given(served, model, [3, 4, 1], batching=model == "batching") == expected


@pytest.mark.spec("server:223")
@pytest.mark.parametrize("model", ["numbers", "large"])
def test_a_state_that_was_not_set_is_given_again(served: Served, model: str) -> None:
    first, *others = given(served, model, [0, 2, 0, 0])
    assert others == [first, others[1], others[1]]
    assert others[1] != first


def test_a_response_with_an_error_sets_no_state(served: Served) -> None:
    assert step(served, "numbers", 4, START, id=7)["OUT"] == ["((2,), [0, 0])"]
    assert step(served, "numbers", -1, id=7) == {"status": 500, "error": "no"}
    assert step(served, "numbers", 0, END, id=7)["OUT"] == ["((2,), [4, 4])"]


def test_each_sequence_has_a_state_of_its_own(served: Served) -> None:
    for id in (1, 2):
        step(served, "batching", 10 * id, START, id=id, batching=True)
    for id in (1, 2):
        told = step(served, "batching", 0, END, id=id, batching=True)["OUT"]
        assert told == [f"((1, 2), [{10 * id}, {10 * id}])"]


@pytest.mark.spec("server:220")
@pytest.mark.spec("server:223")
def test_a_start_in_the_middle_begins_with_a_new_state(served: Served) -> None:
    step(served, "numbers", 4, START, id=9)
    assert step(served, "numbers", 1, START | END, id=9)["OUT"] == ["((2,), [0, 0])"]


def test_the_memory_of_states_is_given_back(served: Served) -> None:
    for id in range(20, 30):
        given(served, "large", [1, 2, 3], id=id)
    wait_until(lambda: leased_blocks(served, "large") == 0, "the model holds no block")


# -- what clients see


@pytest.mark.spec("server:223")
def test_clients_do_not_see_a_state_that_is_no_output(served: Served) -> None:
    answer = step(served, "numbers", 1, START | END)
    assert sorted(answer) == ["NAMES", "OUT"]
    assert answer["NAMES"] == ["AFTER, NAMES, OUT"]  # as the model sees it, it is asked for
    assert sorted(step(served, "numbers", 1, START | END, outputs=["OUT"])) == ["OUT"]


@pytest.mark.spec("server:223")
def test_a_state_that_is_an_output_too_is_answered_where_it_is_asked_for(served: Served) -> None:
    assert step(served, "listed", 3, START)["AFTER"] == [3, 3]
    assert sorted(step(served, "listed", 4, outputs=["OUT"])) == ["OUT"]
    assert step(served, "listed", 1, END, outputs=["AFTER"]) == {"AFTER": [8, 8]}


@pytest.mark.spec("server:223")
def test_a_state_that_is_no_output_cannot_be_asked_for(served: Served) -> None:
    assert step(served, "numbers", 1, START | END, outputs=["AFTER"]) == {
        "status": 400,
        "error": "unexpected inference output 'AFTER' for model 'numbers'",
    }


def test_states_are_not_in_the_metadata(served: Served) -> None:
    _, metadata = served.get("/v2/models/numbers")
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["IN"]
    assert [tensor["name"] for tensor in metadata["outputs"]] == ["OUT", "NAMES"]


# -- configurations


@pytest.mark.spec("server:223")
@pytest.mark.parametrize("name", REFUSED)
def test_a_configuration_that_is_refused(served: Served, repository: Path, name: str) -> None:
    text = REFUSED[name][1].format(folder=repository / name)
    assert reason(served, name) == f"Invalid argument: {text}"


@pytest.mark.spec("server:223")
def test_an_initial_state_whose_file_is_not_there(served: Served, repository: Path) -> None:
    path = repository / "missing" / "initial_state" / "nothing"
    expected = f"Internal: failed to open text file for read {path}: No such file or directory"
    assert reason(served, "missing") == expected
