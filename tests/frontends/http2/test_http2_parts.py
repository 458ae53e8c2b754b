"""The parts that need no socket: windows, allowances, pings, header blocks, messages, and what may be sent when."""

from __future__ import annotations

import struct
from typing import Any

import hpack
import pytest
from atoll.errors import ServerError
from atoll.frontends.grpc.http2.frames import HEAD, MAX_WINDOW, ConnectionFailure, FrameType, Setting, StreamFailure
from atoll.frontends.grpc.http2.header_blocks import MAX_LIST_NBYTES, BlockReader, literal, percent_encoded
from atoll.frontends.grpc.http2.limits import Allowance
from atoll.frontends.grpc.http2.messages import Message, MessageReader, prefix
from atoll.frontends.grpc.http2.pings import Pings, Step
from atoll.frontends.grpc.http2.sending import Sender
from atoll.frontends.grpc.http2.statuses import from_base64, timeout_s
from atoll.frontends.grpc.http2.streams import Stream
from atoll.frontends.grpc.http2.windows import ReceiveWindow, SendWindow
from atoll.frontends.grpc.options import GrpcOptions
from atoll_ipc.memory import Arena, ArenaSettings, Block
from hypothesis import given
from hypothesis import strategies as st

SECOND = 1_000_000_000


def test_a_send_window_has_a_largest_size() -> None:
    window = SendWindow(1)
    assert window.widen(MAX_WINDOW - 1)
    assert not window.widen(1)


@given(st.lists(st.integers(0, 50)))
def test_credit_comes_in_steps_and_none_is_lost(sizes: list[int]) -> None:
    window, told = ReceiveWindow(100), 100
    for size in sizes:
        assert window.receive(size)
        told += window.take(size) - size
        assert told == window.left > 50 - 1
    assert not window.receive(window.left + 1)


def test_an_allowance_refills() -> None:
    allowance = Allowance(burst=3, per_s=2)
    now = 10 * SECOND
    assert [allowance.take(now) for _ in range(4)] == [True, True, True, False]
    assert not allowance.take(now + SECOND // 4)
    assert [allowance.take(now + 5 * SECOND) for _ in range(4)] == [True, True, True, False]


def pings(**options: Any) -> Pings:
    return Pings(GrpcOptions(keepalive_time_ms=60_000, keepalive_timeout_ms=5_000, **options))


def test_pings_that_come_too_early() -> None:
    policy = pings(http2_min_recv_ping_interval_without_data_ms=1000)
    assert [policy.receive(time * SECOND // 2, True) for time in range(4)] == [True, True, True, False]
    policy.sent_data()
    assert [policy.receive(time * SECOND, True) for time in range(10)] == [True] * 10
    policy = pings(http2_min_recv_ping_interval_without_data_ms=1000)
    assert [policy.receive(time * SECOND, False) for time in range(4)] == [True, True, True, False]
    lenient = pings(http2_max_ping_strikes=0)
    assert all(lenient.receive(time, False) for time in range(100))
    permitted = pings(http2_min_recv_ping_interval_without_data_ms=1000, keepalive_permit_without_calls=True)
    assert all(permitted.receive(time * SECOND, False) for time in range(10))


def test_asking_a_silent_client() -> None:
    policy = pings()
    assert policy.tick(heard=True, has_calls=True) == (Step.WAIT, 60)
    assert policy.tick(heard=False, has_calls=False) == (Step.WAIT, 60)
    assert policy.tick(heard=False, has_calls=True) == (Step.ASK, 5)
    assert policy.tick(heard=True, has_calls=True) == (Step.WAIT, 60)
    assert policy.tick(heard=False, has_calls=True) == (Step.ASK, 5)
    assert policy.tick(heard=False, has_calls=True)[0] is Step.END


def test_asking_only_so_often_without_data() -> None:
    policy = pings(http2_max_pings_without_data=1, keepalive_permit_without_calls=True)
    assert policy.tick(False, False)[0] is Step.ASK
    assert policy.tick(True, False)[0] is Step.WAIT
    assert policy.tick(False, False)[0] is Step.WAIT
    policy.sent_data()
    assert policy.tick(False, False)[0] is Step.ASK
    unlimited = pings(http2_max_pings_without_data=0)
    assert [unlimited.tick(heard, True)[0] for heard in (False, True) * 3] == [Step.ASK, Step.WAIT] * 3


FIELDS = st.lists(st.tuples(st.sampled_from(["x-a", "x-b", "x-c"]), st.text("abc", max_size=40)), max_size=4)
STATIC = [(":method", "POST"), (":scheme", "http"), (":path", "/")]
TABLE_SIZES = st.sampled_from([None, None, None, 0, 60, 200, 4096])


@given(st.lists(st.tuples(FIELDS, TABLE_SIZES, st.booleans()), max_size=30))
def test_what_is_kept_for_a_block_is_what_it_says(requests: list[tuple[Any, int | None, bool]]) -> None:
    """Whatever happens to the table: entries, evictions, resizing, malformed requests between."""
    encoder, reader = hpack.Encoder(), BlockReader()
    for fields, size, malformed in requests:
        if size is not None:
            encoder.header_table_size = size
        malformed_field = [("Upper", "x")] if malformed else []
        for _ in range(2):  # the second time mostly by indices, which mean something else after the next entry
            block = encoder.encode([*STATIC, *fields, *malformed_field])
            if malformed:
                with pytest.raises(StreamFailure):
                    reader.request(block, 1)
                continue
            head = reader.request(block, 1)
            assert head.metadata == [(name.encode(), value.encode()) for name, value in fields]


def test_header_bombs() -> None:
    encoder = hpack.Encoder()
    block = encoder.encode([("x", "y" * 4000)])
    reader = BlockReader()
    reader.skip(block)
    with pytest.raises(ConnectionFailure, match="ENHANCE_YOUR_CALM"):
        reader.skip(b"\xbe" * (MAX_LIST_NBYTES // 4000 + 1))


@given(st.binary(max_size=200))
def test_a_block_of_anything_is_a_head_or_a_failure(block: bytes) -> None:
    reader = BlockReader()
    for _ in range(2):
        try:
            reader.request(block, 1)
        except (StreamFailure, ConnectionFailure):
            pass


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.binary(max_size=300)), max_size=3))
def test_literals_are_read_by_any_decoder(fields: list[tuple[bytes, bytes]]) -> None:
    assert [tuple(field) for field in hpack.Decoder().decode(literal(fields), raw=True)] == fields


@pytest.mark.parametrize(
    ("text", "encoded"), [("a b~", b"a b~"), ("%", b"%25"), ("\n", b"%0A"), ("é", b"%C3%A9"), ("\ud800", b"\\ud800")]
)
def test_percent_encoding(text: str, encoded: bytes) -> None:
    assert percent_encoded(text) == encoded


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"4m", 0.004), (b"5u", 5e-6), (b"6n", 6e-9), (b"99999999H", None)]
    + [(text, None) for text in (b"", b"S", b"1", b"-1S", b"1s", b"123456789S", b"1S ", "٣S".encode())],
)
def test_timeouts(text: bytes, seconds: float | None) -> None:
    assert timeout_s(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(("text", "data"), [(b"YWI=", b"ab"), (b"YWI", b"ab"), (b"", b""), (b"!!!!", b""), (b"A", b"")])
def test_binary_metadata(text: bytes, data: bytes) -> None:
    assert from_base64(text) == data


class Room:
    """Gives a block to every large message, or to none."""

    def __init__(self, gives: bool) -> None:
        self.arena = Arena(0, ArenaSettings()) if gives else None

    def __call__(self, first: memoryview, nbytes: int, is_compressed: bool) -> tuple[Block, int] | None:
        if self.arena is None:
            return None
        block = self.arena.allocate(nbytes)
        return block, block.start


@given(
    st.lists(st.sampled_from([0, 1, 5, 1000, 70_000]), max_size=6),
    st.lists(st.integers(1, 40_000), min_size=1, max_size=30),
    st.booleans(),
    st.sets(st.integers(0, 6)),
)
def test_messages_do_not_depend_on_how_they_are_cut(
    sizes: list[int], cuts: list[int], in_blocks: bool, holds: set[int]
) -> None:
    """Nor on when their user holds the reader back."""
    room = Room(in_blocks)
    bodies = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    wire = memoryview(b"".join(prefix(len(body)) + body for body in bodies))
    reader = MessageReader()
    got: list[bytes] = []

    def take(messages: Any) -> None:
        for message in messages:
            assert not reader.is_held
            got.append(bytes(message.body))
            if len(got) in holds:
                reader.is_held = True

    for cut in cuts + [len(wire)]:
        take(reader.feed(wire[:cut], room))
        wire = wire[cut:]
    while reader.is_held:
        take(reader.release(room))
    assert got == bodies
    assert reader.is_empty


def test_a_message_cut_short_is_known() -> None:
    reader = MessageReader()
    for data in (b"\0", b"\0\0\0\2", b"x"):
        assert list(reader.feed(memoryview(data), Room(False))) == []
        assert not reader.is_empty
    assert [bytes(message.body) for message in reader.feed(memoryview(b"y"), Room(False))] == [b"xy"]
    assert reader.is_empty


def test_no_memory_for_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("atoll.frontends.grpc.http2.messages.np.empty", empty)
    with pytest.raises(ServerError, match="no memory for a request of 1000 bytes"):
        list(MessageReader().feed(memoryview(prefix(1000)), Room(False)))
    assert Message(b"", False).block is None


class Wire:
    """A transport that counts what it is given as a client would, and is full when it is told so."""

    def __init__(self) -> None:
        self.sent: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.windows: dict[int, int] = {}
        self.largest = 1 << 14
        self.is_full = False

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while len(view):
            upper, lower, kind, flags, stream_id = HEAD.unpack(view[: HEAD.size])
            length = upper << 8 | lower
            payload, view = view[HEAD.size : HEAD.size + length], view[HEAD.size + length :]
            assert stream_id not in self.ended
            if kind == FrameType.DATA:
                assert not self.is_full
                assert length <= self.largest
                for window in (0, stream_id):
                    self.windows[window] -= length
                    assert self.windows[window] >= 0
                self.sent.setdefault(stream_id, bytearray()).extend(payload)
            if flags & 1:
                self.ended.add(stream_id)

    def write_large(self, parts: list[bytes]) -> None:
        self.write(b"".join(parts))


STEPS = st.one_of(
    st.tuples(st.just("answer"), st.sampled_from([1, 3, 5, 7]), st.integers(1, 40_000)),
    st.tuples(st.just("data"), st.sampled_from([9, 11]), st.integers(0, 20_000)),
    st.tuples(st.just("end"), st.sampled_from([9, 11]), st.just(0)),
    st.tuples(st.just("widen"), st.sampled_from([0, 1, 3, 5, 7, 9, 11]), st.integers(1, 30_000)),
    st.tuples(st.just("initial"), st.just(0), st.integers(0, 70_000)),
    st.tuples(st.just("frames"), st.just(0), st.integers(1 << 14, 1 << 17)),
    st.tuples(st.just("full"), st.just(0), st.integers(0, 1)),
)


@given(st.lists(STEPS, max_size=40))
def test_nothing_is_sent_beyond_a_window_and_everything_in_the_end(steps: list[tuple[str, int, int]]) -> None:
    wire = Wire()
    sender = Sender(lambda: None, lambda stream: streams.pop(stream.id, None) and None)
    sender.outlet = wire  # type: ignore[assignment]
    streams = {number: Stream(number, 65535, 1) for number in (1, 3, 5, 7, 9, 11)}
    wire.windows = dict.fromkeys((0, *streams), 65535)
    given_data: dict[int, bytes] = {}

    def apply(setting: Setting, value: int) -> None:
        if sender.apply([(setting, value)], streams.values()):
            for stream in list(streams.values()):
                sender.pump(stream)

    for what, number, value in steps:
        stream = streams.get(number)
        data = bytes([number]) * value
        if what == "answer" and stream is not None and number not in given_data:
            given_data[number] = data
            sender.answer(stream, literal([]), [data[:7], data[7:]], literal([]))
        elif what == "data" and stream is not None and stream.trailers is None:
            given_data[number] = given_data.get(number, b"") + data
            sender.data(stream, [data])
        elif what == "end" and stream is not None and stream.trailers is None:
            sender.trailers(stream, literal([]))
        elif what == "widen":
            wire.windows[number] += value
            if stream is not None:
                stream.send_window.widen(value)
                sender.pump(stream)
            elif not number:
                sender.window.widen(value)
                sender.pump_ready()
        elif what == "initial":
            change = value - sender.initial_window
            for other in streams:
                wire.windows[other] += change
            apply(Setting.INITIAL_WINDOW_SIZE, value)
        elif what == "frames":
            wire.largest = value
            apply(Setting.MAX_FRAME_SIZE, value)
        elif what == "full":
            wire.is_full = sender.is_paused = bool(value)
            sender.pump_ready()
        for left in streams.values():
            assert left.waiting_nbytes == sum(len(waiting) for waiting, _ in left.outbox)

    wire.is_full = sender.is_paused = False
    for number in wire.windows:
        wire.windows[number] += 1 << 24
    sender.window.widen(1 << 24)
    for stream in list(streams.values()):
        stream.send_window.widen(1 << 24)
        sender.pump(stream)
    sender.pump_ready()
    assert {number: bytes(data) for number, data in wire.sent.items()} == {n: d for n, d in given_data.items() if d}


def test_streams_take_turns() -> None:
    wire = Wire()
    sender = Sender(lambda: None, lambda stream: None)
    sender.outlet = wire  # type: ignore[assignment]
    streams = [Stream(number, 1 << 20, 1) for number in (1, 3, 5)]
    wire.windows = {0: 65535, 1: 1 << 20, 3: 1 << 20, 5: 1 << 20}
    for stream in streams:
        sender.data(stream, [bytes(100_000)])
    assert {number: len(data) for number, data in wire.sent.items()} == {1: 65535}
    for _ in range(3):
        wire.windows[0] += 1000
        sender.window.widen(1000)
        sender.pump_ready()
    assert {number: len(data) for number, data in wire.sent.items()} == {1: 66535, 3: 1000, 5: 1000}


def test_a_frame_head() -> None:
    assert struct.calcsize(HEAD.format) == 9
