"""Arenas: where blocks lie, when they are freed, and what happens when there is no room."""

import errno
import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import psutil
import pytest
from atoll_ipc import memory
from atoll_ipc.memory import PAGE, Arena, ArenaSettings, ArenaStats, OutOfSharedMemory, Slice

SMALL = ArenaSettings(default_nbytes=16 * PAGE, growth_nbytes=8 * PAGE)


@pytest.fixture(params=["posix", "memfd"])
def backing(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def arena() -> Arena:
    return Arena(0, SMALL)


@pytest.fixture
def no_descriptor_stays() -> Iterator[None]:
    process = psutil.Process()
    gc.collect()
    before = process.num_fds()
    yield
    gc.collect()
    assert process.num_fds() == before


def test_nothing_is_taken_before_the_first_block(arena: Arena) -> None:
    assert arena.stats() == ArenaStats(chunks=0, nbytes=0, reserved_nbytes=0, used_nbytes=0, blocks=0)


def test_blocks_are_whole_pages(arena: Arena) -> None:
    blocks = [arena.allocate(nbytes) for nbytes in (1, PAGE, PAGE + 1)]
    assert [block.nbytes for block in blocks] == [PAGE, PAGE, 2 * PAGE]
    assert [block.start % PAGE for block in blocks] == [0, 0, 0]
    assert len({block.key for block in blocks}) == 3
    assert arena.stats() == ArenaStats(
        chunks=1, nbytes=16 * PAGE, reserved_nbytes=4 * PAGE, used_nbytes=4 * PAGE, blocks=3
    )


def test_a_block_of_no_bytes_has_a_page_of_its_own(arena: Arena) -> None:
    assert arena.allocate(0).nbytes == PAGE


@pytest.mark.spec("python_backend:C240")
@pytest.mark.spec("python_backend:Q19")
def test_the_first_chunk_has_the_default_size_and_later_ones_the_growth_size(arena: Arena) -> None:
    first = arena.allocate(16 * PAGE)
    second = arena.allocate(PAGE)
    assert first.chunk.nbytes == 16 * PAGE
    assert second.chunk.nbytes == 8 * PAGE
    assert (first.chunk.id, second.chunk.id) == (0, 1)


@pytest.mark.spec("python_backend:C241")
def test_a_large_block_gets_a_chunk_of_its_own_rounded_up_to_the_growth_size(arena: Arena) -> None:
    small = arena.allocate(PAGE)
    large = arena.allocate(17 * PAGE)
    assert large.chunk is not small.chunk
    assert large.chunk.nbytes == 24 * PAGE


def test_the_first_block_of_all_may_be_larger_than_the_default_size(arena: Arena) -> None:
    assert arena.allocate(17 * PAGE).chunk.nbytes == 24 * PAGE


def test_chunk_ids_count_from_the_given_one() -> None:
    arena = Arena(7 << 20, SMALL)
    blocks = [arena.allocate(16 * PAGE), arena.allocate(16 * PAGE)]
    assert [block.chunk.id for block in blocks] == [7 << 20, (7 << 20) + 1]


def test_the_last_reference_frees_a_block_at_once(arena: Arena) -> None:
    block = arena.allocate(PAGE)
    also = block
    del block
    assert arena.stats().used_nbytes == PAGE
    del also
    assert arena.stats() == ArenaStats(1, 16 * PAGE, PAGE, 0, 0)


def test_freed_space_is_used_again(arena: Arena) -> None:
    for _ in range(100):
        block = arena.allocate(16 * PAGE)
        assert block.start == 0
        del block
    assert arena.stats().chunks == 1


def test_blocks_may_be_freed_by_any_thread(arena: Arena) -> None:
    blocks = [arena.allocate(PAGE) for _ in range(16)]
    threads = [threading.Thread(target=blocks.pop) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert arena.stats().used_nbytes == 0
    assert arena.stats().blocks == 0


def test_threads_get_blocks_of_their_own(arena: Arena) -> None:
    blocks = []

    def work() -> None:
        for _ in range(50):
            blocks.append(arena.allocate(PAGE))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({block.key for block in blocks}) == 200
    assert arena.stats().used_nbytes == 200 * PAGE


def test_a_view_of_a_slice_keeps_its_block(arena: Arena) -> None:
    block = arena.allocate(2 * PAGE)
    block.chunk.map[block.start + 8 : block.start + 13] = b"hello"
    view = Slice(block, block.start + 8, 5).view()
    assert bytes(view) == b"hello"
    part = np.frombuffer(view, np.uint8)[1:]
    del block, view
    assert arena.stats().used_nbytes == 2 * PAGE
    assert part.tobytes() == b"ello"
    del part
    assert arena.stats().used_nbytes == 0


def test_a_slice_of_no_bytes_has_an_empty_view(arena: Arena) -> None:
    block = arena.allocate(PAGE)
    assert bytes(Slice(block, block.start, 0).view()) == b""


def test_a_block_outlives_its_arena(arena: Arena) -> None:
    block = arena.allocate(PAGE)
    block.chunk.map[:5] = b"hello"
    del arena
    gc.collect()
    assert bytes(Slice(block, block.start, 5).view()) == b"hello"


def test_idle_grown_chunks_are_given_back_at_the_second_trim(arena: Arena) -> None:
    first = arena.allocate(16 * PAGE)
    grown = arena.allocate(PAGE)
    grown_id = grown.chunk.id
    assert arena.trim() == []
    del first, grown
    assert arena.trim() == [grown_id]
    assert arena.stats().chunks == 1


def test_a_chunk_that_was_used_since_the_last_trim_stays(arena: Arena) -> None:
    first = arena.allocate(16 * PAGE)
    for _ in range(3):
        arena.allocate(PAGE)  # taken and freed between two trims
        assert arena.trim() == []
    assert arena.trim() == [1]
    assert first.chunk.id == 0


def test_the_first_chunk_is_never_given_back(arena: Arena) -> None:
    arena.allocate(PAGE)
    assert [arena.trim() for _ in range(3)] == [[], [], []]
    assert arena.stats().chunks == 1


def test_a_chunk_with_a_block_in_it_is_not_given_back(arena: Arena) -> None:
    blocks = [arena.allocate(16 * PAGE), arena.allocate(PAGE)]
    assert [arena.trim() for _ in range(3)] == [[], [], []]
    assert len(blocks) == 2


@pytest.mark.usefixtures("no_descriptor_stays")
def test_memory_and_descriptors_go_with_the_arena(backing: str) -> None:
    arena = Arena(0, SMALL._replace(backing=backing))
    block = arena.allocate(PAGE)
    link = os.readlink(f"/proc/self/fd/{block.chunk.fd}")
    assert SMALL.prefix in link
    assert link.startswith("/dev/shm/" if backing == "posix" else "/memfd:")
    assert not any(name.startswith(SMALL.prefix) for name in os.listdir("/dev/shm"))  # unlinked while in use


def test_descriptors_are_not_inherited_by_programs(backing: str) -> None:
    block = Arena(0, SMALL._replace(backing=backing)).allocate(PAGE)
    assert not os.get_inheritable(block.chunk.fd)


def test_auto_backing_takes_memfd_where_shm_cannot_hold_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    room = os.statvfs("/dev/shm")

    def full(path: str) -> Any:
        return os.statvfs_result([*room[:4], 1, *room[5:]])  # one free block

    monkeypatch.setattr(os, "statvfs", full)
    block = Arena(0, SMALL).allocate(PAGE)
    assert os.readlink(f"/proc/self/fd/{block.chunk.fd}").startswith("/memfd:")


def test_auto_backing_takes_memfd_where_there_is_no_shm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_SHM_FOLDER", str(tmp_path / "none"))
    block = Arena(0, SMALL).allocate(PAGE)
    assert os.readlink(f"/proc/self/fd/{block.chunk.fd}").startswith("/memfd:")


def _no_space(fd: int, offset: int, nbytes: int) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.spec("python_backend:Q1")
def test_space_that_cannot_be_reserved_is_an_error_that_says_what_to_do(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = arena.allocate(3 * PAGE)
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", _no_space)
        with pytest.raises(OutOfSharedMemory) as caught:
            arena.allocate(5 * PAGE)
    assert str(caught.value) == (
        f"Failed to increase the shared memory pool size to {8 * PAGE} bytes. If you are running inside docker, use "
        "the '--shm-size' flag to control the shared memory size, or set "
        "'--backend-config=python,shm-backing=memfd'. Error: No space left on device"
    )
    assert arena.stats().used_nbytes == 3 * PAGE
    after = arena.allocate(5 * PAGE)
    assert after.start == before.start + before.nbytes  # nothing of the refused block stayed


def test_a_chunk_that_cannot_reserve_leaves_it_to_the_others(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    held = [arena.allocate(12 * PAGE)]
    arena.allocate(6 * PAGE)  # too many for the first chunk; the second one keeps them reserved
    monkeypatch.setattr(os, "posix_fallocate", _no_space)
    held.append(arena.allocate(3 * PAGE))
    assert held[1].chunk is not held[0].chunk


def test_where_shm_is_full_what_chunks_cannot_reserve_comes_from_memfd(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = arena.allocate(PAGE)

    def full(fd: int, offset: int, nbytes: int) -> None:
        if fd == first.chunk.fd:
            _no_space(fd, offset, nbytes)

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(memory, "_posix_has_room", lambda nbytes: False)
    second = arena.allocate(PAGE)
    assert os.readlink(f"/proc/self/fd/{second.chunk.fd}").startswith("/memfd:")
    assert arena.stats().chunks == 2


@pytest.mark.usefixtures("no_descriptor_stays")
def test_a_new_chunk_that_cannot_reserve_is_given_up(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", _no_space)
    for _ in range(2):
        with pytest.raises(OutOfSharedMemory):
            arena.allocate(PAGE)
    assert arena.stats().chunks == 0


def test_what_was_reserved_before_needs_no_space(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    arena.allocate(4 * PAGE)
    monkeypatch.setattr(os, "posix_fallocate", _no_space)
    assert arena.allocate(4 * PAGE).start == 0


@pytest.mark.usefixtures("no_descriptor_stays")
def test_a_chunk_that_cannot_be_made_is_an_error_and_leaves_nothing(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(fd: int, nbytes: int) -> NoReturn:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    with monkeypatch.context() as patched:
        patched.setattr(os, "ftruncate", too_large)
        with pytest.raises(OutOfSharedMemory, match=r"shared memory pool size .*File too large"):
            arena.allocate(PAGE)
    assert arena.stats().chunks == 0


@pytest.mark.spec("python_backend:C249")
def test_without_shm_and_memfd_the_error_says_so(arena: Arena, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_SHM_FOLDER", str(tmp_path / "none"))
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(OutOfSharedMemory, match="Error: No space left on device"):
        arena.allocate(PAGE)
