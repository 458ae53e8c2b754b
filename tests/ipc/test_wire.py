"""Frames on a stream that is cut anywhere, and descriptors on the lane."""

import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from atoll_ipc import wire
from atoll_ipc.memory import PAGE, Arena, ArenaSettings
from atoll_ipc.wire import FrameReader, Kind, pack, receive_chunk, send_chunk
from hypothesis import given, settings
from hypothesis import strategies as st

_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text("ab\udcff"), children, max_size=3),
    max_leaves=10,
)
_messages = st.lists(_values, max_size=5)


@settings(deadline=None)
@given(st.lists(_messages, max_size=6), st.data())
def test_a_stream_cut_anywhere_gives_the_same_messages(messages: list[list[Any]], data: st.DataObject) -> None:
    stream = b"".join(map(pack, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader = FrameReader()
    received = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += reader.feed(stream[start:stop])
    assert received == messages
    assert reader.feed(b"") == []


def test_a_stream_may_come_byte_by_byte() -> None:
    reader = FrameReader()
    received = [message for byte in pack([1]) + pack([2]) for message in reader.feed(bytes([byte]))]
    assert received == [[1], [2]]


def test_the_parts_of_a_large_frame_are_joined_once() -> None:
    frame = pack([bytes(1 << 20)])
    parts = [frame[start : start + 65536] for start in range(0, len(frame), 65536)]
    reader = FrameReader()
    for part in parts[:-1]:
        assert reader.feed(part) == []
    assert all(kept is part for kept, part in zip(reader._rest, parts[:-1], strict=True))
    assert reader.feed(parts[-1] + pack([2])) == [[bytes(1 << 20)], [2]]


def test_a_frame_is_its_length_and_a_msgpack_array() -> None:
    assert pack([Kind.TRIM]) == b"\x02\x00\x00\x00" + b"\x91\x06"


@settings(deadline=None)
@given(st.binary())
def test_names_pass_whatever_bytes_a_client_sent(raw: bytes) -> None:
    name = raw.decode(errors="surrogateescape")
    assert FrameReader().feed(pack([name])) == [[name]]


@pytest.mark.parametrize(
    ("text", "arrives"),
    [
        ("a\ud800b", "a?b"),  # half a surrogate pair, which json.loads makes of "\\ud800"
        ("\udfff", "?"),
        ("\ud83d\ude00", "??"),
        ("x\udc41y", "x?y"),  # what no undecodable byte becomes
        ("\udc80\udcff", "\udc80\udcff"),
        ("\ud800\udcff\ud800", "?\udcff?"),
        ("ä\ud800€\U0001f600", "ä?€\U0001f600"),
        ("\udcc3\udca4", "ä"),  # bytes that were text after all
    ],
)
def test_text_that_cannot_be_encoded_passes_with_question_marks(text: str, arrives: str) -> None:
    assert FrameReader().feed(pack([text, {text: 1}])) == [[arrives, {arrives: 1}]]


def test_a_message_that_cannot_be_packed_spoils_no_other() -> None:
    with pytest.raises(TypeError):
        pack(["begun", object()])
    assert FrameReader().feed(pack([1])) == [[1]]


def test_a_frame_that_is_too_large_is_refused_by_its_length_alone() -> None:
    length = wire.MAX_FRAME_NBYTES + 1
    with pytest.raises(ValueError, match=f"frame of {length} bytes is larger than {wire.MAX_FRAME_NBYTES}"):
        FrameReader().feed(struct.pack("<I", length))


def test_a_frame_that_is_no_msgpack_is_a_value_error() -> None:
    with pytest.raises(msgpack.FormatError) as caught:
        FrameReader().feed(b"\x01\x00\x00\x00\xc1")
    assert isinstance(caught.value, ValueError)


def test_kinds_have_numbers_of_their_own() -> None:
    numbers = [value for name, value in vars(Kind).items() if name.isupper()]
    assert len(numbers) == len(set(numbers)) > 10


@pytest.fixture
def lane() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def test_a_chunk_crosses_the_lane_as_a_descriptor_of_the_same_memory(lane: tuple[socket.socket, socket.socket]) -> None:
    block = Arena(5, ArenaSettings(default_nbytes=PAGE)).allocate(PAGE)
    block.chunk.map[:5] = b"hello"
    send_chunk(lane[0], block.chunk.id, block.chunk.nbytes, block.chunk.fd)
    chunk_id, nbytes, fd = receive_chunk(lane[1])
    try:
        assert (chunk_id, nbytes) == (5, PAGE)
        assert not os.get_inheritable(fd)
        assert os.pread(fd, 5, 0) == b"hello"
    finally:
        os.close(fd)


def test_chunks_cross_the_lane_in_order(lane: tuple[socket.socket, socket.socket]) -> None:
    for chunk_id in range(3):
        send_chunk(lane[0], chunk_id, PAGE, lane[0].fileno())
    received = [receive_chunk(lane[1]) for _ in range(3)]
    for _, _, fd in received:
        os.close(fd)
    assert [chunk_id for chunk_id, _, _ in received] == [0, 1, 2]


def test_a_lane_without_another_end_is_an_end_of_file(lane: tuple[socket.socket, socket.socket]) -> None:
    lane[0].close()
    with pytest.raises(EOFError):
        receive_chunk(lane[1])


def test_a_datagram_without_a_descriptor_is_refused(lane: tuple[socket.socket, socket.socket]) -> None:
    lane[0].send(bytes(16))
    with pytest.raises(EOFError):
        receive_chunk(lane[1])
