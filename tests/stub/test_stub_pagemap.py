"""Which pages of a private mapping were written, as the kernel tells."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import numpy as np
import pytest
from atoll_ipc.memory import PAGE
from atoll_stub.pagemap import PageMap

PAGES = 4


class Mapping:
    """A file's pages, mapped as a stub maps what it receives."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("pages")
        os.write(self.fd, b"a" * PAGES * PAGE)
        self.map = mmap.mmap(self.fd, PAGES * PAGE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        self.address: int = np.frombuffer(self.map, np.uint8).__array_interface__["data"][0]

    def read(self) -> None:
        assert bytes(self.map) == b"a" * PAGES * PAGE

    def close(self) -> None:
        self.map.close()
        os.close(self.fd)


@pytest.fixture
def mapping() -> Iterator[Mapping]:
    mapping = Mapping()
    yield mapping
    mapping.close()


def written(mapping: Mapping, offset: int = 0, nbytes: int = PAGES * PAGE) -> bool:
    return PageMap().written(mapping.address + offset, nbytes)


def test_untouched_and_read_pages_are_not_written(mapping: Mapping) -> None:
    assert not written(mapping)
    mapping.read()
    assert not written(mapping)


def test_one_byte_makes_its_page_written_and_no_other(mapping: Mapping) -> None:
    mapping.read()
    mapping.map[2 * PAGE + 7] = ord("a")  # the same content, and yet a page of its own
    assert written(mapping)
    assert [written(mapping, page * PAGE, PAGE) for page in range(PAGES)] == [False, False, True, False]


def test_a_range_touches_every_page_that_it_overlaps(mapping: Mapping) -> None:
    mapping.map[2 * PAGE] = 0
    assert written(mapping, 2 * PAGE - 1, 2)
    assert not written(mapping, 2 * PAGE - 1, 1)
    assert written(mapping, 3 * PAGE - 1, 1)
    assert not written(mapping, 3 * PAGE, 1)


def test_what_the_owner_writes_is_no_write(mapping: Mapping) -> None:
    mapping.read()
    os.pwrite(mapping.fd, b"b", 0)
    assert not written(mapping)


def test_dropped_pages_are_the_files_again(mapping: Mapping) -> None:
    mapping.map[0] = 0
    mapping.map.madvise(mmap.MADV_DONTNEED, 0, PAGE)
    assert not written(mapping)


def test_what_cannot_be_told_counts_as_written(mapping: Mapping, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        pages = PageMap()
    assert pages.written(mapping.address, PAGE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", lambda *arguments: b"")
        assert written(mapping)


def refuse(*arguments: object) -> int:
    raise OSError("there is no /proc")
