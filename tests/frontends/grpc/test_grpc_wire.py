"""Raw contents on the wire agree with protobuf, and whatever is unusual is left to it."""

from __future__ import annotations

import pytest
from atoll.frontends.grpc.wire import cut_request, field_header
from atoll_protos import messages
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.spec("server:138")
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5), st.text(max_size=200))
def test_raw_inputs_are_cut_out(contents: list[bytes], name: str) -> None:
    message = messages.ModelInferRequest(model_name=name, id="x", raw_input_contents=contents)
    message.inputs.add(name="IN", shape=[1, 2])
    cut = cut_request(message.SerializeToString())
    assert cut is not None
    head, request_id, raw = cut
    assert ([bytes(view) for view in raw], request_id) == (contents, b"x")
    del message.raw_input_contents[:]
    message.ClearField("id")
    assert messages.ModelInferRequest.FromString(bytes(head)) == message


def test_fields_behind_raw_inputs_are_kept() -> None:
    before = messages.ModelInferRequest(model_name="a", raw_input_contents=[b"1"])
    behind = messages.ModelInferRequest(id="b", model_version="3", raw_input_contents=[b"2"])
    cut = cut_request(before.SerializeToString() + behind.SerializeToString())
    assert cut is not None
    head, request_id, raw = cut
    assert ([bytes(view) for view in raw], request_id) == ([b"1", b"2"], b"b")
    assert messages.ModelInferRequest.FromString(head) == messages.ModelInferRequest(model_name="a", model_version="3")


@given(st.binary(max_size=64))
def test_arbitrary_bytes_do_no_harm(body: bytes) -> None:
    cut = cut_request(body)
    assert cut is None or len(cut[0]) + len(cut[1]) + sum(len(view) for view in cut[2]) <= len(body)


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
    assert cut_request(body) is None


@pytest.mark.spec("server:139")
@pytest.mark.parametrize("size", [0, 1, 127, 128, 300, 1 << 21])
def test_field_header(size: int) -> None:
    body = field_header(6 << 3 | 2, size) + bytes(size)
    assert messages.ModelInferResponse.FromString(body).raw_output_contents == [bytes(size)]


@given(st.text(min_size=1), st.text(min_size=1))
def test_requests_that_differ_in_id_and_data_have_the_same_rest(one: str, other: str) -> None:
    rests = []
    for request_id, data in ((one, b"1"), (other, b"2")):
        message = messages.ModelInferRequest(model_name="m", id=request_id, raw_input_contents=[data])
        message.inputs.add(name="IN", shape=[1])
        cut = cut_request(message.SerializeToString())
        assert cut is not None
        rests.append(cut[0])
    assert rests[0] == rests[1]
