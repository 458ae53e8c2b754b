"""Arenas: all the shared memory of one owner, and how the others read it.

An *arena* is a list of *chunks* (one shared-memory object each); a *block* is one allocation in a chunk. Only the
owner of an arena allocates in it, so no lock crosses a process and a crash can corrupt no allocator but its own.
Others are told ``(chunk id, offset, length)`` over the channel and get the chunk's file descriptor over the lane.

Facts the code rests on:

* A chunk has no name by the time anybody knows of it (it is unlinked as soon as it is open), so nothing stays in
  /dev/shm whatever dies.
* tmpfs hands out pages lazily, and a write to a page that cannot be had is a SIGBUS. ``posix_fallocate`` turns that
  into ENOSPC at allocation. Only the part of a chunk that was ever used is reserved: a chunk's size is a promise
  of addresses, its reservation is memory.
* A block is a whole number of pages. A reader maps chunks ``MAP_PRIVATE`` and drops the pages it has written with
  ``MADV_DONTNEED`` when it is done, which works by the page.
* A block is freed when the last Python reference to it goes: :class:`Block` has a finalizer and is never freed by
  hand. Finalizers may run in any thread, at any allocation, so they only append to a deque.
"""

import collections
import errno
import mmap
import os
import sys
import threading
import uuid
from typing import Any, Deque, Dict, List, NamedTuple, Optional, Protocol, Tuple

import numpy as np

__all__ = [
    "Arena",
    "ArenaSettings",
    "ArenaStats",
    "Block",
    "Chunk",
    "Extents",
    "OutOfSharedMemory",
    "PAGE",
    "Slice",
    "round_up",
    "view_bytes",
    "view_memory",
]

PAGE = mmap.PAGESIZE
_SHM_FOLDER = "/dev/shm"


def round_up(nbytes: int, unit: int) -> int:
    """The smallest multiple of ``unit`` that holds ``nbytes`` (and at least one unit)."""
    return max(1, -(-nbytes // unit)) * unit


class OutOfSharedMemory(Exception):
    """Space could not be reserved; the message says how much was asked for and what to do."""


class ArenaSettings(NamedTuple):
    """How an arena is laid out; sizes in bytes. ``backing`` is ``auto``, ``posix`` or ``memfd``."""

    default_nbytes: int = 64 << 20
    growth_nbytes: int = 64 << 20
    prefix: str = "triton_python_backend_shm_region_"
    backing: str = "auto"


class ArenaStats(NamedTuple):
    """What an arena holds at this moment; sizes in bytes."""

    chunks: int
    nbytes: int
    reserved_nbytes: int
    used_nbytes: int
    blocks: int


class Extents:
    """First-fit allocation of ranges of ``nbytes`` bytes. Bookkeeping only: no memory, no lock."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.used = 0
        self._free: List[Tuple[int, int]] = [(0, nbytes)]  # (start, length), sorted, never adjacent

    def take(self, nbytes: int) -> Optional[int]:
        """Start of a range of ``nbytes``, or None when no free range is long enough."""
        for index, (start, length) in enumerate(self._free):
            if length >= nbytes:
                if length == nbytes:
                    del self._free[index]
                else:
                    self._free[index] = (start + nbytes, length - nbytes)
                self.used += nbytes
                return start
        return None

    def give(self, start: int, nbytes: int) -> None:
        """Return a range that :meth:`take` handed out."""
        free = self._free
        index = 0
        while index < len(free) and free[index][0] < start:
            index += 1
        end = start + nbytes
        if index < len(free) and free[index][0] == end:
            end += free[index][1]
            del free[index]
        if index and free[index - 1][0] + free[index - 1][1] == start:
            start = free[index - 1][0]
            index -= 1
            del free[index]
        free.insert(index, (start, end - start))
        self.used -= nbytes


class Chunk:
    """One shared-memory object, mapped shared and writable by its owner."""

    def __init__(self, chunk_id: int, nbytes: int, settings: ArenaSettings) -> None:
        self.id = chunk_id
        self.nbytes = nbytes
        self.extents = Extents(nbytes)
        self.reserved_nbytes = 0
        self.used_lately = True  # since the last trim
        self.fd = _open_backing(nbytes, settings)
        os.ftruncate(self.fd, nbytes)
        self.map = mmap.mmap(self.fd, nbytes)
        self.bytes = np.frombuffer(self.map, dtype=np.uint8)

    def take(self, nbytes: int) -> Optional[int]:
        """Allocate and reserve ``nbytes`` (a whole number of pages); None when there is no room. Raises OSError."""
        start = self.extents.take(nbytes)
        if start is not None and start + nbytes > self.reserved_nbytes:
            try:
                os.posix_fallocate(self.fd, self.reserved_nbytes, start + nbytes - self.reserved_nbytes)
            except OSError:
                self.extents.give(start, nbytes)
                raise
            self.reserved_nbytes = start + nbytes
        self.used_lately = True
        return start

    def view(self, offset: int, nbytes: int, keep: object) -> memoryview:
        """Bytes of the chunk; ``keep`` lives as long as the view."""
        return view_bytes(self.bytes, offset, nbytes, keep).data

    def __del__(self) -> None:
        # The mapping goes with its last view; nothing may close it earlier.
        fd = getattr(self, "fd", -1)
        if fd >= 0:
            os.close(fd)


class _Owner(Protocol):
    """Whatever a block is given back to: its arena, or the channel to the process that owns it."""

    def give_back(self, block: "Block") -> None: ...


class Block:
    """One allocation. Whoever holds the object holds the memory; the last reference gives it back."""

    __slots__ = ("__weakref__", "_owner", "chunk", "nbytes", "start")

    def __init__(self, chunk: Any, start: int, nbytes: int, owner: _Owner) -> None:
        self.chunk = chunk  # a Chunk here, or how another's is known: .id, and .view() in the supervisor
        self.start = start
        self.nbytes = nbytes
        self._owner = owner

    @property
    def key(self) -> Tuple[int, int]:
        return (self.chunk.id, self.start)

    def __del__(self) -> None:
        self._owner.give_back(self)


class _View:
    """Exposes part of a block to numpy and keeps the block (or the lease on it) alive as ``array.base``."""

    __slots__ = ("__array_interface__", "keep")

    def __init__(self, address: int, nbytes: int, keep: object) -> None:
        self.__array_interface__ = {"data": (address, False), "shape": (nbytes,), "typestr": "|u1", "version": 3}
        self.keep = keep


def view_bytes(chunk_bytes: "np.ndarray[Any, Any]", offset: int, nbytes: int, keep: object) -> "np.ndarray[Any, Any]":
    """``nbytes`` bytes of a mapped chunk as uint8 ``[nbytes]``; ``keep`` lives as long as any view of the result."""
    return view_memory(chunk_bytes.__array_interface__["data"][0] + offset, nbytes, keep)


def view_memory(address: int, nbytes: int, keep: object) -> "np.ndarray[Any, Any]":
    """The same for memory that is known by its address."""
    return np.asarray(_View(address, nbytes, keep))


class Slice:
    """Some bytes of a block: what a large tensor's data is in the supervisor. ``offset`` is within the chunk."""

    __slots__ = ("block", "nbytes", "offset")

    def __init__(self, block: Block, offset: int, nbytes: int) -> None:
        self.block = block
        self.offset = offset
        self.nbytes = nbytes

    def view(self) -> memoryview:
        """The bytes, without a copy; the block stays allocated while the view exists."""
        view: memoryview = self.block.chunk.view(self.offset, self.nbytes, self.block)
        return view


class Arena:
    """The chunks one process allocates in. ``first_chunk_id`` and up are the ids of its chunks."""

    def __init__(self, first_chunk_id: int, settings: ArenaSettings) -> None:
        self.settings = settings
        self._next_chunk_id = first_chunk_id
        self._chunks: Dict[int, Chunk] = {}
        self._returned: Deque[Tuple[int, int, int]] = collections.deque()
        self._blocks = 0
        self._lock = threading.Lock()

    def allocate(self, nbytes: int) -> Block:
        """A block of at least ``nbytes`` bytes, starting on a page. Raises :class:`OutOfSharedMemory`."""
        nbytes = round_up(nbytes, PAGE)
        with self._lock:
            self._collect()
            try:
                chunk, start = self._take(nbytes)
            except OSError as error:
                raise OutOfSharedMemory(self._explain(nbytes, error)) from error
            self._blocks += 1
        return Block(chunk, start, nbytes, self)

    def give_back(self, block: Block) -> None:
        """Called by a block's finalizer, in any thread."""
        self._returned.append((block.chunk.id, block.start, block.nbytes))

    def trim(self) -> List[int]:
        """Give back the chunks beyond the first that held no block since the last call; returns their ids."""
        idle = []
        with self._lock:
            self._collect()
            for chunk in list(self._chunks.values())[1:]:
                if chunk.extents.used == 0 and not chunk.used_lately:
                    idle.append(chunk.id)
                    del self._chunks[chunk.id]
                chunk.used_lately = False
        return idle

    def stats(self) -> ArenaStats:
        with self._lock:
            self._collect()
            chunks = list(self._chunks.values())
            return ArenaStats(
                chunks=len(chunks),
                nbytes=sum(chunk.nbytes for chunk in chunks),
                reserved_nbytes=sum(chunk.reserved_nbytes for chunk in chunks),
                used_nbytes=sum(chunk.extents.used for chunk in chunks),
                blocks=self._blocks,
            )

    def _take(self, nbytes: int) -> Tuple[Chunk, int]:
        """Room in some chunk. Raises OSError."""
        for chunk in self._chunks.values():
            try:
                start = chunk.take(nbytes)
            except OSError:
                continue  # another chunk may have reserved as much already, and a new one may be backed otherwise
            if start is not None:
                return chunk, start
        chunk = self._grow(nbytes)
        start = chunk.take(nbytes)
        assert start is not None
        self._chunks[chunk.id] = chunk
        return chunk, start

    def _collect(self) -> None:
        while self._returned:
            chunk_id, start, nbytes = self._returned.popleft()
            self._chunks[chunk_id].extents.give(start, nbytes)
            self._blocks -= 1

    def _grow(self, nbytes: int) -> Chunk:
        settings = self.settings
        if not self._chunks and nbytes <= settings.default_nbytes:
            chunk_nbytes = round_up(settings.default_nbytes, PAGE)
        else:
            chunk_nbytes = round_up(nbytes, round_up(settings.growth_nbytes, PAGE))
            if nbytes > settings.growth_nbytes and nbytes > _available_nbytes():
                # Asked to reserve it, the kernel would first kill whom it thinks large.
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        chunk = Chunk(self._next_chunk_id, chunk_nbytes, settings)
        self._next_chunk_id += 1
        return chunk

    def _explain(self, nbytes: int, error: OSError) -> str:
        total = sum(chunk.reserved_nbytes for chunk in self._chunks.values()) + nbytes
        return (
            f"Failed to increase the shared memory pool size to {total} bytes. If you are running inside docker, use "
            f"the '--shm-size' flag to control the shared memory size, or set "
            f"'--backend-config=python,shm-backing=memfd'. Error: {os.strerror(error.errno or 0)}"
        )


def _open_backing(nbytes: int, settings: ArenaSettings) -> int:
    if settings.backing == "posix" or (settings.backing == "auto" and _posix_has_room(nbytes)):
        path = os.path.join(_SHM_FOLDER, settings.prefix + str(uuid.uuid4()))
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.unlink(path)
        return fd
    if not hasattr(os, "memfd_create"):
        raise OSError(errno.ENOSPC, "no room in /dev/shm and no memfd on this system")
    return os.memfd_create(settings.prefix + str(uuid.uuid4()), os.MFD_CLOEXEC)


def _available_nbytes() -> int:
    """Memory that the system could still hand out; a file in memory is held to no other limit."""
    with open("/proc/meminfo", "rb") as lines:
        for line in lines:
            if line.startswith(b"MemAvailable:"):
                return int(line.split()[1]) << 10
    return sys.maxsize


def _posix_has_room(nbytes: int) -> bool:
    """Whether /dev/shm could hold a whole chunk: a container's default of 64 MB cannot, and memfd has no such limit."""
    try:
        room = os.statvfs(_SHM_FOLDER)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize >= nbytes
