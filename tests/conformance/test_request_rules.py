"""The rules of a request's tensors, and classification: the same over both protocols, with ``tritonclient``."""

from __future__ import annotations

import numpy as np
import pytest
from clients import Client, Given, inputs_of
from infer_rows import NOTE, PROVIDE, RID
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.usefixtures("nothing_stays")

FIRST = np.ones((1, 2, 2), np.float32)
SECOND = np.ones((1, 2), np.int32)


def refused(client: Client, model: str, given: dict[str, Given], outputs: list[str] | None = None) -> str:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, given, outputs)
    assert caught.value.status() == ("400" if client.protocol == "http" else "StatusCode.INVALID_ARGUMENT")
    return str(caught.value.message())


@pytest.mark.spec("server:257")
def test_names_and_counts(client: Client) -> None:
    both: dict[str, Given] = {"INPUT0": FIRST, "INPUT1": SECOND}
    unknown: dict[str, Given] = {"INPUT0": FIRST, "MORE": SECOND}
    assert refused(client, "two_in", unknown) == "unexpected inference input 'MORE' for model 'two_in'"
    assert refused(client, "two_in", both, ["MORE"]) == "unexpected inference output 'MORE' for model 'two_in'"
    assert refused(client, "two_in", {"INPUT0": FIRST}) == (
        f"{RID}expected 2 inputs but got 1 inputs for model 'two_in'. Got input(s) ['INPUT0'], but missing required "
        f"input(s) ['INPUT1']. {PROVIDE}"
    )


@pytest.mark.spec("server:258")
def test_batch_dimension(client: Client) -> None:
    assert refused(client, "two_in", {"INPUT0": FIRST, "INPUT1": np.ones((2, 2), np.int32)}) in [
        f"{RID}input '{name}' batch size does not match other inputs for 'two_in'" for name in ("INPUT0", "INPUT1")
    ]
    large: dict[str, Given] = {"INPUT0": np.ones((5, 2, 2), np.float32), "INPUT1": np.ones((5, 2), np.int32)}
    assert refused(client, "two_in", large) == f"{RID}inference request batch-size must be <= 4 for 'two_in'"


@pytest.mark.spec("server:259")
def test_data_type_and_shape(client: Client) -> None:
    assert refused(client, "two_in", {"INPUT0": FIRST.astype(np.float64), "INPUT1": SECOND}) == (
        f"{RID}inference input 'INPUT0' data-type is 'FP64', but model 'two_in' expects 'FP32'"
    )
    assert refused(client, "two_in", {"INPUT0": FIRST.reshape(1, 4), "INPUT1": SECOND}) == (
        f"{RID}unexpected shape for input 'INPUT0' for model 'two_in'. Expected [-1,2,2], got [1,4]. {NOTE}"
    )
    assert refused(client, "nobatch", {"INPUT0": np.ones(3, np.float32)}) == (
        f"{RID}unexpected shape for input 'INPUT0' for model 'nobatch'. Expected [4], got [3]. "
    )


@pytest.mark.spec("server:261")
@pytest.mark.parametrize("dtype", [np.float32, np.object_])
def test_tensors_without_elements(client: Client, dtype: type) -> None:
    model = "ident_fp32" if dtype is np.float32 else "ident_string"
    result = client.infer(model, {"INPUT0": np.empty((2, 0), dtype)}).as_numpy("OUTPUT0")
    assert (result.shape, result.dtype) == ((2, 0), np.dtype(dtype))


@pytest.mark.spec("server:264")
def test_a_required_input_is_missed_though_the_count_fits(client: Client) -> None:
    assert refused(client, "opt", {"INPUT1": np.ones((1, 1), np.int32)}) == (
        f"{RID}expected number of inputs between 1 and 3 but got 1 inputs for model 'opt'. Got input(s) ['INPUT1'], "
        f"but missing required input(s) ['INPUT0']. {PROVIDE}"
    )


@pytest.mark.spec("server:75")
@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (2, [b"0.900000:1:dog", b"0.700000:3"]),
        (9, [b"0.900000:1:dog", b"0.700000:3", b"0.500000:2:bird", b"0.100000:0:cat"]),
    ],
)
def test_classes_have_the_labels_of_the_file(client: Client, count: int, expected: list[bytes]) -> None:
    assert classes(client, "nobatch", np.array([0.1, 0.9, 0.5, 0.7], np.float32), count) == expected


@pytest.mark.spec("server:76")
@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [[b"3.000000:1"], [b"6.000000:0"]]),
        (5, [[b"3.000000:1", b"2.000000:2", b"1.000000:0"], [b"6.000000:0", b"5.000000:1", b"4.000000:2"]]),
    ],
)
def test_each_row_of_a_batch_has_its_own_classes(client: Client, count: int, expected: list[list[bytes]]) -> None:
    assert classes(client, "ident_fp32", np.array([[1, 3, 2], [6, 5, 4]], np.float32), count) == expected


def classes(client: Client, model: str, scores: Given, count: int) -> object:
    requested = client.module.InferRequestedOutput("OUTPUT0", class_count=count)
    result = client.raw.infer(model, inputs_of(client.module, {"INPUT0": scores}), outputs=[requested])
    return result.as_numpy("OUTPUT0").tolist()
