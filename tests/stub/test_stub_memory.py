"""What a stub receives is private and leased; what it sends is lent until nobody reads it."""

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atoll_ipc.memory import PAGE, Block, OutOfSharedMemory
from stub_twin import STUB_CHUNKS, SupervisorTwin
from triton_python_backend_utils import Tensor


def private_mappings(block: Block) -> int:
    """How often this process, as a stub, has mapped the chunk of a block."""
    inode = str(os.fstat(block.chunk.fd).st_ino)
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sum(" rw-p " in line and line.split()[4] == inode for line in lines)


def test_a_received_block_is_read_in_place_and_written_in_private(twin: SupervisorTwin) -> None:
    block, reference = twin.place(b"hello" * 2000)
    received = twin.store.open({}, reference)
    assert not isinstance(received, bytes)
    array = received.array()
    assert array.tobytes() == b"hello" * 2000
    array[:] = 0
    assert not array.any()
    assert block.chunk.map[block.start : block.start + 5] == b"hello"


def test_a_lease_ends_when_the_last_view_dies(twin: SupervisorTwin) -> None:
    block, reference = twin.place(b"hello")
    leases: dict[Any, Any] = {}
    received = twin.store.open(leases, reference)
    assert not isinstance(received, bytes)
    array = received.array()
    part = array[1:3].view(np.int16)
    del received, array
    leases.clear()
    assert twin.store.take_released() == []
    assert not twin.store.has_released
    del part
    assert twin.store.has_released
    assert twin.store.take_released() == [block.key]
    assert twin.store.take_released() == []


def test_tensors_of_one_request_share_a_lease(twin: SupervisorTwin) -> None:
    block, reference = twin.place(b"hello world")
    chunk_id, start, length, offset, _ = reference
    leases: dict[Any, Any] = {}
    parts = [
        twin.store.open(leases, [chunk_id, start, length, offset, 5]),
        twin.store.open(leases, [chunk_id, start, length, offset + 6, 5]),
    ]
    assert len(leases) == 1
    assert twin.store.take_released() == [block.key]  # one of the two references: the lease answers for the other
    assert [part.array().tobytes() for part in parts if not isinstance(part, bytes)] == [b"hello", b"world"]
    leases.clear()
    parts.pop()
    assert twin.store.take_released() == []
    parts.pop()
    assert twin.store.take_released() == [block.key]


def test_tensors_of_one_request_that_overlap_are_apart(twin: SupervisorTwin) -> None:
    _, reference = twin.place(b"hello world")
    chunk_id, start, length, offset, _ = reference
    leases: dict[Any, Any] = {}
    first = twin.store.open(leases, [chunk_id, start, length, offset, 7])
    assert not isinstance(first, bytes)
    first.array()[:] = 0
    assert twin.store.open(leases, [chunk_id, start, length, offset + 6, 5]) == b"world"


def test_written_pages_are_dropped_so_that_the_next_content_shows(twin: SupervisorTwin) -> None:
    block, reference = twin.place(b"first" * PAGE)
    received = twin.store.open({}, reference)
    assert not isinstance(received, bytes)
    received.array()[:] = 0
    del received
    assert twin.store.take_released() == [block.key]
    block.chunk.map[block.start : block.start + 5 * PAGE] = b"other" * PAGE
    again = twin.store.open({}, reference)
    assert not isinstance(again, bytes)
    assert again.array().tobytes() == b"other" * PAGE


def test_dropping_one_block_leaves_what_was_written_into_its_neighbour(twin: SupervisorTwin) -> None:
    _, first = twin.place(b"a" * PAGE)
    _, second = twin.place(b"b" * PAGE)
    kept, dropped = twin.store.open({}, first), twin.store.open({}, second)
    assert not isinstance(kept, bytes)
    assert not isinstance(dropped, bytes)
    array = kept.array()
    array[:] = ord("x")
    dropped.array()[:] = ord("y")
    del dropped
    assert array.tobytes() == b"x" * PAGE


def test_a_block_sent_again_while_leased_is_copied_and_released_at_once(twin: SupervisorTwin) -> None:
    block, reference = twin.place(b"hello")
    first = twin.store.open({}, reference)
    assert not isinstance(first, bytes)
    first.array()[:] = 0
    second = twin.store.open({}, reference)
    assert second == b"hello"
    assert twin.store.take_released() == [block.key]
    del first
    assert twin.store.take_released() == [block.key]


def test_what_is_declined_is_released_unread(twin: SupervisorTwin) -> None:
    block, reference = twin.place(b"hello")
    twin.store.decline([["A", 2, [5], reference], ["B", 2, [5], b"bytes"], ["C", 2, [3], reference]])
    assert twin.store.take_released() == [block.key] * 2  # once for each reference
    assert private_mappings(block) == 0


def test_a_lease_may_end_in_any_thread(twin: SupervisorTwin) -> None:
    _, reference = twin.place(b"hello")
    kept = [twin.store.open({}, reference)]
    thread = threading.Thread(target=kept.clear)
    thread.start()
    thread.join()
    assert len(twin.store.take_released()) == 1


def test_forgotten_chunks_are_unmapped_when_the_last_view_is_gone(twin: SupervisorTwin) -> None:
    block, reference = twin.place(b"hello")
    received = twin.store.open({}, reference)
    assert not isinstance(received, bytes)
    array = received.array()
    twin.store.forget([reference[0], 77])
    del received
    assert array.tobytes() == b"hello"
    assert private_mappings(block) == 1
    del array
    assert private_mappings(block) == 0


def test_chunks_are_taken_from_the_lane_in_whatever_order_they_are_named(twin: SupervisorTwin) -> None:
    _first, one = twin.place(b"a" * 64 * PAGE)
    _second, two = twin.place(b"b" * PAGE)
    assert one[0] != two[0]
    for reference, letter in ((two, b"b"), (one, b"a")):
        received = twin.store.open({}, reference)
        assert not isinstance(received, bytes)
        assert received.array().tobytes() == letter * reference[4]


def test_what_is_placed_is_a_copy_that_the_supervisor_can_read(twin: SupervisorTwin) -> None:
    array = np.arange(5000, dtype=np.float64)
    own = twin.store.place(array)
    array[:] = 0
    reference = own.reference()
    assert reference[0] == STUB_CHUNKS
    assert np.frombuffer(twin.read(reference)).tolist() == list(range(5000))


def test_a_lent_block_stays_until_every_holder_returned_it(twin: SupervisorTwin) -> None:
    own = twin.store.place(b"hello" * 1000)
    key = own.reference()[:2]
    assert own.reference()[:2] == key
    del own
    twin.store.returned([key])
    assert twin.store.arena.stats().blocks == 1
    twin.store.returned([key])
    assert twin.store.arena.stats().blocks == 0


def test_a_block_that_was_never_lent_goes_with_its_tensor(twin: SupervisorTwin) -> None:
    own = twin.store.place(b"hello")
    assert twin.store.arena.stats().blocks == 1
    del own
    assert twin.store.arena.stats().blocks == 0


def test_a_description_that_is_not_sent_is_taken_back(twin: SupervisorTwin) -> None:
    _, reference = twin.place(b"a" * 10000)
    received = Tensor._received("R", 2, [10000], twin.store.open({}, reference))
    made = Tensor("A", np.zeros(10000, np.uint8))
    small = Tensor("S", np.zeros(1, np.uint8))
    described = [tensor._transmit(twin.store) for tensor in (made, small, received)]
    del made
    assert twin.store.arena.stats().blocks == 1
    twin.store.take_back(described)
    assert twin.store.arena.stats().blocks == 0


def test_a_new_chunk_is_announced_once(twin: SupervisorTwin) -> None:
    references = [twin.store.place(b"hello").reference() for _ in range(3)]
    assert [twin.read(reference) for reference in references] == [b"hello"] * 3
    twin.lane.setblocking(False)
    with pytest.raises(BlockingIOError):
        twin.lane.recv(1)


def test_threads_that_place_at_once_announce_before_they_refer(twin: SupervisorTwin) -> None:
    """Whatever reference is there, its chunk is on the lane already: the supervisor does not wait for one."""
    twin.lane.setblocking(False)
    references = []

    def work() -> None:
        for _ in range(20):
            references.append(twin.store.place(b"x" * 9 * PAGE).reference())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {twin.read(reference) for reference in references} == {b"x" * 9 * PAGE}


def test_a_chunk_given_back_is_told(twin: SupervisorTwin) -> None:
    first = twin.store.place(b"a" * 64 * PAGE)
    grown = twin.store.place(b"b")
    assert grown.reference()[0] == STUB_CHUNKS + 1
    twin.store.returned([grown.reference()[:2]] * 2)
    del grown
    assert twin.store.trim() == []
    assert twin.store.trim() == [STUB_CHUNKS + 1]
    assert first.reference()[0] == STUB_CHUNKS


def test_no_room_is_an_error_and_nothing_is_announced(twin: SupervisorTwin, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("os.posix_fallocate", lambda fd, offset, nbytes: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OutOfSharedMemory):
            twin.store.place(b"hello")
    assert twin.read(twin.store.place(b"hello").reference()) == b"hello"


# -- tensors in shared memory


def test_a_received_tensor_goes_on_by_reference_unmodified(twin: SupervisorTwin) -> None:
    block, reference = twin.place(np.arange(5000.0).tobytes())
    tensor = Tensor._received("A", 12, [5000], twin.store.open({}, reference))
    tensor.as_numpy()[:] = 0
    assert tensor._transmit(twin.store) == ["A", 12, [5000], reference]
    del tensor
    assert twin.store.take_released() == [block.key]


def test_an_unaligned_tensor_is_copied(twin: SupervisorTwin) -> None:
    block, reference = twin.place(np.arange(5000.0).tobytes(), offset=3)
    tensor = Tensor._received("A", 12, [5000], twin.store.open({}, reference))
    array = tensor.as_numpy()
    assert array.flags.aligned
    assert array.tolist() == list(range(5000))
    assert block.nbytes == 10 * PAGE


def test_a_tensor_that_was_copied_and_sent_on_stays_private(twin: SupervisorTwin) -> None:
    """Its bytes came as a copy (the block was leased), then went into a block that others read."""
    _, reference = twin.place(b"a" * 10000)
    first = twin.store.open({}, reference)
    tensor = Tensor._received("A", 2, [10000], twin.store.open({}, reference))
    _, _, _, sent = tensor._transmit(twin.store)
    array = tensor.as_numpy()
    array[:] = 0
    assert twin.read(sent) == b"a" * 10000
    del first


def test_an_unwritten_array_under_another_name_goes_by_reference(twin: SupervisorTwin) -> None:
    _, reference = twin.place(np.arange(5000.0).tobytes())
    tensor = Tensor._received("A", 12, [5000], twin.store.open({}, reference))
    renamed = Tensor("B", tensor.as_numpy().reshape(50, 100))
    assert renamed._transmit(twin.store) == ["B", 12, [50, 100], reference]


def test_a_part_of_an_unwritten_array_refers_to_that_part(twin: SupervisorTwin) -> None:
    _, reference = twin.place(np.arange(5000.0).tobytes())
    tensor = Tensor._received("A", 12, [5000], twin.store.open({}, reference))
    _, _, _, sent = Tensor("B", tensor.as_numpy()[1000:])._transmit(twin.store)
    assert sent == [*reference[:3], reference[3] + 8000, 32000]


def test_a_written_array_under_another_name_is_copied(twin: SupervisorTwin) -> None:
    _, reference = twin.place(np.arange(5000.0).tobytes())
    tensor = Tensor._received("A", 12, [5000], twin.store.open({}, reference))
    array = tensor.as_numpy()
    array[4999] = -1
    _, _, _, sent = Tensor("B", array)._transmit(twin.store)
    assert sent[0] == STUB_CHUNKS
    assert np.frombuffer(twin.read(sent)).tolist() == [*range(4999), -1]


def test_an_array_written_after_it_was_sent_by_reference_stays_as_sent(twin: SupervisorTwin) -> None:
    block, reference = twin.place(np.arange(5000.0).tobytes())
    array = Tensor._received("A", 12, [5000], twin.store.open({}, reference)).as_numpy()
    renamed = Tensor("B", array)
    renamed._transmit(twin.store)
    array[:] = 0
    assert renamed._transmit(twin.store)[3] == reference
    assert block.chunk.map[block.start : block.start + 40000] == np.arange(5000.0).tobytes()
