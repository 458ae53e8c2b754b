"""What a stub does with regions of clients when memory is short, or a file is; see tests/process for all else."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
from atoll_ipc.memory import PAGE
from atoll_ipc.wire import FIRST_REGION_ID, send_chunk
from atoll_stub.memory import Store
from atoll_stub.regions import RegionFile, RegionInput, RegionShortened, Visit
from stub_twin import SupervisorTwin

SIZE = 4 * PAGE
KEY = (FIRST_REGION_ID, 0)


@pytest.fixture
def twin() -> Iterator[SupervisorTwin]:
    twin = SupervisorTwin()
    yield twin
    twin.close()


@pytest.fixture
def fd(twin: SupervisorTwin) -> Iterator[int]:
    """Of a region that the stub is told of with the next message."""
    fd = os.memfd_create("region")
    os.write(fd, bytes(range(256)) * (SIZE // 256))
    send_chunk(twin.lane, FIRST_REGION_ID, SIZE, fd)
    yield fd
    os.close(fd)


def opened(store: Store, offset: int = 0, nbytes: int = 2 * PAGE) -> RegionInput:
    data = store.open({}, [*KEY, SIZE, offset, nbytes])
    assert isinstance(data, RegionInput)
    return data


def test_pages_of_outputs_are_reserved_once(twin: SupervisorTwin, fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write to a page that cannot be had would be a SIGBUS."""
    reserved = []
    monkeypatch.setattr(os, "posix_fallocate", lambda fd, offset, nbytes: reserved.append((offset, nbytes)))
    places = twin.store.regions.expect([[0, "OUT", *KEY, 5, 100], [2, "OUT", *KEY, 1000, 3000]])
    source = np.arange(100, dtype=np.uint8)
    assert places[0]["OUT"].write(source)
    assert places[0]["OUT"].write(source)
    assert places[2]["OUT"].write(source[:0])
    assert reserved == [(5, 100)]
    assert os.pread(fd, 101, 5) == bytes(range(100)) + bytes([105])
    places.clear()
    assert twin.store.take_released() == [KEY] * 2


def test_an_output_that_does_not_fit_is_not_written(
    twin: SupervisorTwin, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: int) -> None:
        raise OSError(28, "No space left on device")

    place = twin.store.regions.expect([[0, "OUT", *KEY, 0, 100]])[0]["OUT"]
    assert not place.write(np.zeros(101, np.uint8))
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert not place.write(np.zeros(100, np.uint8))
    monkeypatch.undo()
    os.truncate(fd, 99)
    assert not place.write(np.zeros(100, np.uint8))
    assert os.fstat(fd).st_size == 99
    assert os.pread(fd, 4, 0) == b"\0\1\2\3"


def test_an_input_that_overlaps_an_output_of_its_batch_is_copied(twin: SupervisorTwin, fd: int) -> None:
    regions = twin.store.regions
    regions.expect([[1, "OUT", *KEY, PAGE, PAGE]])
    for offset, nbytes, by_copy in [
        (0, PAGE, False),
        (0, PAGE + 1, True),
        (2 * PAGE - 1, PAGE, True),
        (2 * PAGE, PAGE, False),
        (0, SIZE, True),
    ]:
        data = twin.store.open({}, [*KEY, SIZE, offset, nbytes])
        assert isinstance(data, bytes) is by_copy
    assert regions.visits([], {}) == {}
    opened(twin.store, PAGE, PAGE)


@pytest.mark.parametrize("looked", [False, True])
def test_what_is_kept_is_released_and_stays(twin: SupervisorTwin, fd: int, looked: bool) -> None:
    store = twin.store
    data = opened(store, 3)
    visit = Visit({}, [data])
    view = data.array() if looked else None
    if view is not None:
        view[0] = 200
    assert data.pass_on() == [*KEY, SIZE, 3, 2 * PAGE]
    assert store.take_released() == []
    visit.end()
    assert store.take_released() == [KEY]
    os.truncate(fd, 0)
    assert data.pristine()[:3].tolist() == [3, 4, 5]
    if view is not None:
        assert view[:3].tolist() == [200, 4, 5]
        assert view[-1] == (3 + 2 * PAGE - 1) % 256
    assert data.pass_on()[0] != FIRST_REGION_ID  # a copy in the stub's own arena
    assert data.pass_on() == data.reference()
    visit.end()
    del data, visit, view
    assert store.take_released() == []


def test_an_input_that_is_gone_says_so(twin: SupervisorTwin, fd: int) -> None:
    data = opened(twin.store)
    os.truncate(fd, 1)
    visit = Visit({}, [data])
    for _ in range(2):
        for look in (data.array, data.pristine, data.reference):
            with pytest.raises(RegionShortened, match="is shorter than when it was registered"):
                look()
        visit.end()
    assert twin.store.take_released() == [KEY]


def test_a_region_is_forgotten_with_its_file(twin: SupervisorTwin, fd: int) -> None:
    data = opened(twin.store)
    [file] = twin.store.regions.files.values()
    assert isinstance(file, RegionFile)
    inner = file.fd
    del file
    twin.store.forget([FIRST_REGION_ID])
    os.fstat(inner)  # the input is still there to be read
    del data
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(inner)
