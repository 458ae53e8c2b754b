"""Requests without JSON: the shape that follows from the size."""

from types import SimpleNamespace

import pytest
from atoll.errors import Code, ServerError
from atoll.frontends.http.plan import OutputForm, PlannedInput
from atoll.frontends.http.raw_input import plan_raw
from atoll.repository.config import TensorSpec

LIMIT = 1 << 20
RID = "[request id: <id_unknown>] "


def model(*specs: TensorSpec, max_batch_size: int = 0, name: str = "M") -> SimpleNamespace:
    inputs = {spec.name: spec for spec in specs}
    return SimpleNamespace(name=name, version=1, max_batch_size=max_batch_size, inputs=inputs)


def fp32(*dims: int) -> TensorSpec:
    return TensorSpec("INPUT0", "FP32", dims)


def refusal(served: SimpleNamespace, body: bytes, limit: int = LIMIT) -> str:
    with pytest.raises(ServerError) as raised:
        plan_raw(served, body, limit)
    assert raised.value.code is Code.INVALID_ARG
    return raised.value.message


@pytest.mark.spec("server:35", "server:36")
@pytest.mark.parametrize(
    ("served", "nbytes", "shape"),
    [
        (model(fp32(-1), max_batch_size=8), 12, (1, 3)),
        (model(fp32(4)), 16, (4,)),
        (model(fp32(-1), max_batch_size=8), 0, (1, 0)),
        (model(fp32(2, -1, 2)), 32, (2, 2, 2)),
        (model(fp32(0, -1)), 0, (0, 0)),
    ],
)
def test_deduced_shape(served: SimpleNamespace, nbytes: int, shape: tuple[int, ...]) -> None:
    plan = plan_raw(served, bytes(nbytes), LIMIT)
    assert plan.inputs == (PlannedInput("INPUT0", "FP32", shape, None, 0, nbytes),)
    assert plan.default_form == OutputForm(binary=True)
    assert plan.outputs == ()


@pytest.mark.spec("server:37")
def test_bytes_get_their_length() -> None:
    served = model(TensorSpec("TEXT", "BYTES", (1,)), max_batch_size=8)
    [tensor] = plan_raw(served, memoryview(b"hello"), LIMIT).inputs
    assert tensor == PlannedInput("TEXT", "BYTES", (1, 1), b"\x05\0\0\0hello")
    text = f"{RID}For BYTE datatype raw input 'INPUT0', the model must have input shape [1]"
    assert refusal(model(TensorSpec("INPUT0", "BYTES", (-1,))), b"x") == text


@pytest.mark.spec("server:53", "server:58")
def test_refused() -> None:
    two = model(fp32(4), TensorSpec("INPUT1", "FP32", (4,)), name="two_in")
    assert refusal(two, b"") == (
        f"{RID}Raw request must only have 1 input (found 1) to be deduced but got 2 inputs in 'two_in' "
        "model configuration"
    )
    assert refusal(model(fp32(-1, -1)), bytes(16)) == (
        f"{RID}The shape of the raw input 'INPUT0' can not be deduced because there are more than one variable-sized "
        "dimension"
    )
    size = RID + "input byte size mismatch for input 'raw_input' for model 'M'. Expected {}, got {}"
    assert refusal(model(fp32(4)), bytes(12)) == size.format(16, 12)
    assert refusal(model(fp32(-1), max_batch_size=8), bytes(5)) == size.format(4, 5)
    assert refusal(model(fp32(4)), bytes(16), limit=12) == (
        "Raw input has a byte_size (16 bytes) that exceeds the maximum allowed value of 12 bytes. "
        "Use --http-max-input-size to increase the limit."
    )
