"""The account of blocks that are out at a stub, kept by its channel. The stub's end is a socket in the test."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from atoll.inference import Tensor
from atoll.instances.channel import Channel
from atoll_ipc.memory import PAGE, Arena, ArenaSettings, Slice
from atoll_ipc.wire import FrameReader, Kind, pack, receive_chunk, send_chunk

SETTINGS = ArenaSettings(default_nbytes=16 * PAGE, growth_nbytes=16 * PAGE)
STUB_CHUNKS = 1 << 20


class StubTwin:
    """The other end: what a stub would receive, and an arena of its own."""

    def __init__(self) -> None:
        self.connection, self.connection_theirs = socket.socketpair()
        self.lane, self.lane_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection.setblocking(False)
        self.lane.setblocking(False)
        self.arena = Arena(STUB_CHUNKS, SETTINGS)
        self._frames = FrameReader()
        self._announced: set[int] = set()
        self._mine: list[Any] = []

    async def send(self, message: list[Any]) -> None:
        await asyncio.get_running_loop().sock_sendall(self.connection, pack(message))

    async def receive(self) -> list[Any]:
        while True:
            messages = self._frames.feed(await asyncio.get_running_loop().sock_recv(self.connection, 65536))
            if messages:
                (message,) = messages
                return message

    def chunks(self) -> list[int]:
        """The ids of the chunks that came over the lane since the last call."""
        received = []
        while True:
            try:
                chunk_id, _, fd = receive_chunk(self.lane)
            except BlockingIOError:
                return received
            os.close(fd)
            received.append(chunk_id)

    def place(self, data: bytes) -> list[int]:
        block = self.arena.allocate(len(data))
        self._mine.append(block)
        block.chunk.map[block.start : block.start + len(data)] = data
        if block.chunk.id not in self._announced:
            self._announced.add(block.chunk.id)
            send_chunk(self.lane, block.chunk.id, block.chunk.nbytes, block.chunk.fd)
        return [block.chunk.id, block.start, block.nbytes, block.start, len(data)]

    def close(self) -> None:
        self.connection.close()
        self.lane.close()


class Setup:
    """A channel between the test's supervisor, with its arena, and a stub's twin."""

    def __init__(self) -> None:
        self.stub = StubTwin()
        self.arena = Arena(0, SETTINGS)
        self.messages: asyncio.Queue[list[Any]] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.channel = Channel(self.stub.lane_theirs, self.on_message, self.closed.set)

    def on_message(self, message: list[Any]) -> None:
        self.messages.put_nowait(message)

    def tensor(self, data: bytes, name: str = "A") -> Tensor:
        block = self.arena.allocate(len(data))
        block.chunk.map[block.start : block.start + len(data)] = data
        return Tensor(name, "UINT8", [len(data)], Slice(block, block.start, len(data)))

    def received(self, reference: Any, name: str = "OUT") -> Tensor:
        (tensor,) = self.channel.tensors([[name, 2, [1], reference]])
        return tensor


Test = Callable[[Setup], Coroutine[Any, Any, None]]


def on_channel(test: Test) -> Callable[[], None]:
    """Run a test on an event loop with a channel that is open; the channel's end closes everything."""

    async def run() -> None:
        setup = Setup()
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: setup.channel, sock=setup.stub.connection_theirs)
        try:
            await test(setup)
        finally:
            setup.stub.close()
            setup.channel.abort()
            await setup.closed.wait()

    def run_test() -> None:
        asyncio.run(asyncio.wait_for(run(), 10))
        gc.collect()

    run_test.__name__ = test.__name__
    return run_test


# -- what goes to the stub


@on_channel
async def test_a_tensor_in_a_message_is_described_with_its_bytes(on: Setup) -> None:
    assert on.channel.describe(Tensor("A", "INT32", [1, 2], b"12345678")) == ["A", 8, [1, 2], b"12345678"]
    assert on.channel.held_blocks == 0


@on_channel
async def test_a_block_is_held_until_the_stub_releases_it(on: Setup) -> None:
    tensor = on.tensor(b"hello")
    assert isinstance(tensor.data, Slice)
    block = tensor.data.block
    key = list(block.key)
    assert on.channel.describe(tensor) == ["A", 2, [5], [block.chunk.id, block.start, PAGE, block.start, 5]]
    del tensor, block
    assert on.channel.held_blocks == 1
    assert on.arena.stats().blocks == 1
    on.channel.release([key])
    assert on.channel.held_blocks == 0
    assert on.arena.stats().blocks == 0


@on_channel
async def test_a_block_sent_twice_is_released_twice(on: Setup) -> None:
    tensor = on.tensor(b"hello")
    reference = on.channel.describe(tensor)[3]
    assert on.channel.describe(tensor)[3] == reference
    del tensor
    on.channel.release([reference[:2]])
    assert on.arena.stats().blocks == 1
    on.channel.release([reference[:2]])
    assert on.arena.stats().blocks == 0


@on_channel
async def test_a_release_of_what_is_not_held_is_ignored(on: Setup) -> None:
    on.channel.release([[0, 0], [77, 4096]])
    assert on.channel.held_blocks == 0


@on_channel
async def test_a_chunk_is_shared_before_the_first_message_that_names_it_and_once(on: Setup) -> None:
    tensors = [on.tensor(b"a" * 16 * PAGE), on.tensor(b"b"), on.tensor(b"c")]
    for tensor in tensors:
        on.channel.describe(tensor)
    assert on.stub.chunks() == [0, 1]


@on_channel
async def test_the_stubs_death_gives_back_what_it_held(on: Setup) -> None:
    on.channel.describe(on.tensor(b"hello"))
    assert on.arena.stats().blocks == 1
    on.stub.close()
    await on.closed.wait()
    assert (on.channel.held_blocks, on.arena.stats().blocks) == (0, 0)
    assert not on.channel.is_open


@on_channel
async def test_nothing_is_sent_after_the_end(on: Setup) -> None:
    on.stub.close()
    await on.closed.wait()
    on.channel.send([Kind.TRIM])
    on.channel.close()
    on.channel.abort()


# -- what comes from the stub


@on_channel
async def test_a_tensor_of_the_stubs_own_is_read_in_place(on: Setup) -> None:
    tensor = on.received(on.stub.place(b"hello" * 2000))
    assert tensor.nbytes == 10000
    assert bytes(tensor.buffer()) == b"hello" * 2000
    assert on.channel.chunk_ids == [STUB_CHUNKS]


@on_channel
async def test_a_tensor_in_a_message_has_its_bytes(on: Setup) -> None:
    (tensor,) = on.channel.tensors([["A", 13, [1], b"\1\0\0\0x"]])
    assert (tensor.name, tensor.datatype, tensor.shape, tensor.data) == ("A", "BYTES", [1], b"\1\0\0\0x")


@on_channel
async def test_the_stub_is_told_when_its_block_is_read_no_more(on: Setup) -> None:
    reference = on.stub.place(b"hello")
    tensor = on.received(reference)
    view = tensor.buffer()
    del tensor
    assert on.channel.take_freed() == []
    del view
    assert await on.stub.receive() == [Kind.FREE, [reference[:2]]]


@on_channel
async def test_freed_blocks_go_with_the_next_message_when_there_is_one(on: Setup) -> None:
    references = [on.stub.place(b"hello") for _ in range(2)]
    for reference in references:
        on.received(reference)
    assert [list(key) for key in on.channel.take_freed()] == [reference[:2] for reference in references]
    assert on.channel.take_freed() == []


@on_channel
async def test_a_block_received_twice_is_freed_twice(on: Setup) -> None:
    reference = on.stub.place(b"hello")
    tensors = [on.received(reference), on.received(reference)]
    tensors.clear()
    assert [list(key) for key in on.channel.take_freed()] == [reference[:2]] * 2


@on_channel
async def test_a_block_that_the_stub_passes_on_stays_its_owners(on: Setup) -> None:
    given = on.tensor(b"hello")
    reference = on.channel.describe(given)[3]
    del given
    passed = on.received(reference)
    on.channel.release([reference[:2]])
    assert bytes(passed.buffer()) == b"hello"
    assert on.arena.stats().blocks == 1
    del passed
    assert on.arena.stats().blocks == 0
    assert on.channel.take_freed() == []


@on_channel
async def test_a_block_of_the_stub_may_come_back_to_it(on: Setup) -> None:
    """As when it calls a model that answers with the tensor it was given."""
    reference = on.stub.place(b"hello")
    tensor = on.received(reference)
    assert on.channel.describe(tensor)[3] == reference
    del tensor
    assert on.channel.take_freed() == []
    again = on.received(reference)
    on.channel.release([reference[:2]])
    assert bytes(again.buffer()) == b"hello"
    del again
    assert [list(key) for key in on.channel.take_freed()] == [reference[:2]]


@on_channel
async def test_chunks_that_the_stub_gave_back_are_unmapped(on: Setup) -> None:
    on.received(on.stub.place(b"hello"))
    on.channel.gone([STUB_CHUNKS, 99])
    assert on.channel.chunk_ids == []


@on_channel
async def test_references_outside_their_block_are_refused(on: Setup) -> None:
    chunk_id, start, length, offset, _ = on.stub.place(b"hello")
    on.received([chunk_id, start, length, offset, length])
    for wrong in (
        [chunk_id, start, length, offset, length + 1],
        [chunk_id, start, length, offset - 1, 5],
        [chunk_id, start, length, offset + length, 1],
        [chunk_id, start, length, offset, -1],
        [chunk_id, -PAGE, 2 * PAGE, -PAGE, 5],
        [chunk_id, 0, 17 * PAGE, 0, 5],
        [chunk_id, 16 * PAGE, PAGE, 16 * PAGE, 5],
    ):
        with pytest.raises(ValueError, match="a block reference outside its block"):
            on.received(wrong)


@on_channel
async def test_a_reference_outside_a_held_block_is_refused(on: Setup) -> None:
    chunk_id, start, _, offset, _ = on.channel.describe(on.tensor(b"hello"))[3]
    with pytest.raises(ValueError, match="a block reference outside its block"):
        on.received([chunk_id, start, 16 * PAGE, offset, 2 * PAGE])


@on_channel
async def test_a_chunk_that_never_came_over_the_lane_is_refused_without_waiting(on: Setup) -> None:
    with pytest.raises(BlockingIOError):
        on.received([STUB_CHUNKS, 0, PAGE, 0, 5])


@pytest.mark.parametrize("nonsense", [b"\x01\x00\x00\x00\xc1", b"\xff\xff\xff\xff"])
def test_a_stub_that_sends_nonsense_is_cut_off(nonsense: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def run(on: Setup) -> None:
        await asyncio.get_running_loop().sock_sendall(on.stub.connection, nonsense)
        await on.closed.wait()

    on_channel(run)()
    assert "a stub sent a message that makes no sense" in caplog.text


@on_channel
async def test_messages_arrive_in_order(on: Setup) -> None:
    for number in range(3):
        await on.stub.send([Kind.RELEASE, [[number, 0]]])
    assert [await on.messages.get() for _ in range(3)] == [[Kind.RELEASE, [[number, 0]]] for number in range(3)]


# -- chunks that go


@on_channel
async def test_the_stub_hears_of_chunks_it_knows_that_are_gone(on: Setup) -> None:
    reference = on.channel.describe(on.tensor(b"hello"))[3]
    on.channel.release([reference[:2]])
    on.channel.forget([0, 99])
    assert await on.stub.receive() == [Kind.FORGET, [0]]
    on.channel.forget([0])
    on.channel.describe(on.tensor(b"hello"))
    assert on.stub.chunks() == [0, 0]  # known no more, so it is shared again


@on_channel
async def test_a_chunk_is_forgotten_only_when_the_stub_reads_nothing_there(on: Setup) -> None:
    """A message that names it may still wait in the stub, and would wait for the lane forever."""
    first, second = (on.channel.describe(on.tensor(b"hello"))[3] for _ in range(2))
    on.channel.forget([0])
    on.channel.release([first[:2]])
    on.channel.send([Kind.TRIM])
    assert await on.stub.receive() == [Kind.TRIM]  # and no FORGET before it
    on.channel.release([second[:2]])
    assert await on.stub.receive() == [Kind.FORGET, [0]]
    on.channel.release([second[:2]])
    on.channel.send([Kind.TRIM])
    assert await on.stub.receive() == [Kind.TRIM]


# -- placements


def placements(on: Setup) -> dict[str, Slice]:
    """As with clients' regions: any block will do."""
    block = on.arena.allocate(100)
    return {"A": Slice(block, block.start + 10, 50), "B": Slice(block, block.start + 60, 8)}


@on_channel
async def test_placements_are_held_until_the_stub_releases_them(on: Setup) -> None:
    places = placements(on)
    block = places["A"].block
    described = on.channel.describe_placements(3, places)
    start = block.start
    assert described == [[3, "A", 0, start, start + 10, 50], [3, "B", 0, start, start + 60, 8]]
    assert on.stub.chunks() == [0]
    assert on.channel.held_blocks == 2
    on.channel.release([list(block.key)] * 2)
    assert on.channel.held_blocks == 0


@on_channel
async def test_an_output_in_its_place_is_that_part_of_it(on: Setup) -> None:
    places = placements(on)
    reference = on.stub.place(b"own")
    tensors = on.channel.placed(
        [["B", 2, [8], 8], ["C", 2, [2], b"hi"], ["A", 2, [7], 7], ["D", 2, [3], reference]], places
    )
    parts = [(tensor.name, tensor.data) for tensor in tensors if isinstance(tensor.data, Slice)]
    assert [(name, part.offset, part.nbytes) for name, part in parts[:2]] == [
        ("B", places["B"].offset, 8),
        ("A", places["A"].offset, 7),
    ]
    assert [bytes(tensor.buffer()) for tensor in (tensors[1], tensors[3])] == [b"hi", b"own"]
    assert all(part.block is places["A"].block for _, part in parts[:2])


@pytest.mark.parametrize(("name", "nbytes"), [("A", 51), ("A", -1), ("C", 1)])
def test_an_output_in_no_place_makes_no_sense(name: str, nbytes: int) -> None:
    @on_channel
    async def run(on: Setup) -> None:
        with pytest.raises((ValueError, LookupError)):
            on.channel.placed([[name, 2, [1], nbytes]], placements(on))
        with pytest.raises(TypeError):
            on.channel.tensors([[name, 2, [1], nbytes]])
        on.channel.discard([[name, 2, [1], nbytes]])

    run()
