"""Raw contents on the wire agree with protobuf, and whatever is unusual is left to it."""

from __future__ import annotations

import pytest
from atoll.frontends.grpc.wire import cut_raw_inputs, field_header
from atoll_protos import messages
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.spec("server:138")
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5), st.text(max_size=200))
def test_raw_inputs_are_cut_out(contents: list[bytes], name: str) -> None:
    message = messages.ModelInferRequest(model_name=name, id="x", raw_input_contents=contents)
    message.inputs.add(name="IN", shape=[1, 2])
    head, raw = cut_raw_inputs(message.SerializeToString())
    assert [bytes(view) for view in raw] == contents
    del message.raw_input_contents[:]
    assert messages.ModelInferRequest.FromString(bytes(head)) == message


def test_fields_behind_raw_inputs_are_kept() -> None:
    before = messages.ModelInferRequest(model_name="a", raw_input_contents=[b"1"])
    behind = messages.ModelInferRequest(id="b", raw_input_contents=[b"2"])
    head, raw = cut_raw_inputs(before.SerializeToString() + behind.SerializeToString())
    assert [bytes(view) for view in raw] == [b"1", b"2"]
    assert messages.ModelInferRequest.FromString(bytes(head)) == messages.ModelInferRequest(model_name="a", id="b")


@given(st.binary(max_size=64))
def test_arbitrary_bytes_do_no_harm(body: bytes) -> None:
    head, raw = cut_raw_inputs(body)
    assert len(head) + sum(len(view) for view in raw) <= len(body)


@pytest.mark.parametrize(
    "body",
    [
        b"\x3a",  # cut before the length
        b"\x3a\x05ab",  # cut within the content
        b"\x3a\xff\xff\xff\xff\xff\xff\x01",  # a length beyond 32 bits
        b"\x3a\x80",  # cut within the length
        b"\x08\x01\x3a\x01a",  # an unknown field
        b"\x3a\x00" * 5000,  # views would weigh more than the bytes
    ],
)
def test_the_unusual_is_left_whole(body: bytes) -> None:
    assert cut_raw_inputs(body) == (body, ())


@pytest.mark.spec("server:139")
@pytest.mark.parametrize("size", [0, 1, 127, 128, 300, 1 << 21])
def test_field_header(size: int) -> None:
    body = field_header(6 << 3 | 2, size) + bytes(size)
    assert messages.ModelInferResponse.FromString(body).raw_output_contents == [bytes(size)]
