"""The stub's view of shared memory: its own arena for what it sends, private mappings of what it receives.

Rules:

1. What others own is mapped ``MAP_PRIVATE``: a model reads in place, and what it writes stays its own, because the
   kernel copies the page at the first write.
2. A received block is *leased*. The lease ends when the last view of the block dies; its pages are then dropped
   (``MADV_DONTNEED``), or the next request in that block would show through the pages written now; only then is the
   block released to the supervisor.
3. One lease per block at a time, and one tensor per part of it. What is sent again while leased is copied instead,
   since both would share the private pages.
4. A block of ours that was sent is *lent* until the supervisor says that nobody reads it any more.
5. An array that is part of a leased block and that nobody has written into goes out by reference: renaming a tensor,
   ``Tensor("B", a.as_numpy())``, copies nothing. The kernel knows what was written (see ``pagemap``).
"""

import collections
import mmap
import os
import socket
import threading
from typing import Any, Callable, Deque, Dict, Iterable, List, Optional, Set, Tuple, Union

import numpy as np
from atoll_ipc.memory import Arena, ArenaSettings, Block, view_bytes
from atoll_ipc.wire import FIRST_REGION_ID, receive_chunk, send_chunk

from atoll_stub.pagemap import PageMap
from atoll_stub.regions import RegionFile, RegionInput, RegionLease, Regions

__all__ = ["Store"]

Key = Tuple[int, int]
Array = Any


class PeerChunk:
    """Another owner's chunk, mapped privately."""

    def __init__(self, chunk_id: int, nbytes: int, fd: int) -> None:
        self.id = chunk_id
        self.fd = fd
        self.map = mmap.mmap(fd, nbytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        self.bytes = np.frombuffer(self.map, dtype=np.uint8)
        self.address: int = self.bytes.__array_interface__["data"][0]

    def __del__(self) -> None:
        fd = getattr(self, "fd", -1)
        if fd >= 0:
            os.close(fd)


class Lease:
    """The right to read one received block. Ends when nothing refers to it any more."""

    __slots__ = ("__weakref__", "chunk", "key", "length", "mapped", "ranges", "store")

    def __init__(self, store: "Store", chunk: PeerChunk, start: int, length: int) -> None:
        self.chunk = chunk
        self.key = (chunk.id, start)
        self.length = length
        self.mapped = False
        self.ranges: List[Tuple[int, int]] = []
        self.store = store

    def overlaps(self, offset: int, nbytes: int) -> bool:
        """Whether a tensor shows some of these bytes of the chunk already."""
        return any(start < offset + nbytes and offset < end for start, end in self.ranges)

    def __del__(self) -> None:
        if self.mapped:
            self.chunk.map.madvise(mmap.MADV_DONTNEED, self.key[1], self.length)
        self.store.end(self.key)


class Received:
    """A tensor's bytes in a block that somebody else owns."""

    __slots__ = ("_lease", "_nbytes", "_offset")

    def __init__(self, lease: Lease, offset: int, nbytes: int) -> None:
        self._lease = lease
        self._offset = offset
        self._nbytes = nbytes

    @property
    def store(self) -> "Store":
        """Whose channel answers for the block."""
        return self._lease.store

    def array(self) -> Array:
        lease = self._lease
        lease.mapped = True
        return view_bytes(lease.chunk.bytes, self._offset, self._nbytes, lease)

    def pristine(self) -> Array:
        lease = self._lease
        return np.frombuffer(bytearray(_read(lease.chunk.fd, self._nbytes, self._offset)), np.uint8)

    def source(self) -> Array:
        """The bytes as they were placed, for reading now."""
        array = self.array()
        written = self.store.pages.written(array.__array_interface__["data"][0], array.nbytes)
        return self.pristine() if written else array

    def reference(self) -> List[int]:
        lease = self._lease
        return [lease.key[0], lease.key[1], lease.length, self._offset, self._nbytes]


class Own:
    """A tensor's bytes in a block of this stub's arena."""

    __slots__ = ("_block", "_nbytes", "store")

    def __init__(self, store: "Store", block: Block, nbytes: int) -> None:
        self.store = store
        self._block = block
        self._nbytes = nbytes

    def array(self) -> Array:
        return self.source().copy()  # the block's readers see its content fixed

    pristine = array

    def source(self) -> Array:
        """The bytes as they were placed, for reading now."""
        start = self._block.start
        return self._block.chunk.bytes[start : start + self._nbytes]

    def reference(self) -> List[int]:
        block = self._block
        self.store.lend(block)
        return [block.chunk.id, block.start, block.nbytes, block.start, self._nbytes]


def _flat(data: Union[bytes, Array]) -> Array:
    """The bytes of a contiguous array, or bytes, as a uint8 array in the same memory."""
    return np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data.reshape(-1).view(np.uint8)


def _kept_by(array: Array) -> Any:
    """The lease that an array is a view by, if it is a view by one."""
    base = array.base
    while isinstance(base, np.ndarray):
        base = base.base
    return getattr(base, "keep", None)


def _read(fd: int, nbytes: int, offset: int) -> bytes:
    """Bytes of a chunk as its owner wrote them, whatever this process wrote into its own mapping."""
    data = os.pread(fd, nbytes, offset)
    while len(data) < nbytes:  # one call reads 2 GiB at most
        data += os.pread(fd, nbytes - len(data), offset + len(data))
    return data


class Store:
    """All the shared memory one stub deals with."""

    def __init__(self, lane: socket.socket, first_chunk_id: int, settings: ArenaSettings) -> None:
        self.arena = Arena(first_chunk_id, settings)
        self.on_released_by_thread: Callable[[], None] = lambda: None
        self.executing_thread = threading.get_ident()  # tells of what was released before it waits
        self._lane = lane
        self._lock = threading.Lock()
        self._announced: Set[int] = set()  # own chunks whose descriptor the supervisor has
        self._peers: Dict[int, PeerChunk] = {}
        self._leased: Set[Key] = set()
        self._released: Deque[Key] = collections.deque()
        self._lent: Dict[Key, List[Block]] = {}
        self.pages = PageMap()
        self.regions = Regions(self)

    # -- what we receive

    def open(self, leases: Dict[Key, Lease], reference: List[int]) -> Union[bytes, Received, RegionInput]:
        """The data a block reference stands for. ``leases`` collects the leases of one request.

        The supervisor holds a block for us once per reference; a lease answers for one of them, the rest is released.
        """
        chunk_id, start, length, offset, nbytes = reference
        key = (chunk_id, start)
        lease = leases.get(key)
        chunk = self.peer(chunk_id)
        if chunk_id >= FIRST_REGION_ID:
            return self.regions.open(chunk, reference)
        if lease is None and key not in self._leased:
            self._leased.add(key)
            lease = leases[key] = Lease(self, chunk, start, length)
        elif lease is None or lease.overlaps(offset, nbytes):
            data = _read(chunk.fd, nbytes, offset)
            self._released.append(key)
            return data
        else:
            self._released.append(key)
        lease.ranges.append((offset, offset + nbytes))
        return Received(lease, offset, nbytes)

    def decline(self, wire_tensors: List[List[Any]]) -> None:
        """Release what was received and will not be read."""
        self._released.extend((data[0], data[1]) for *_, data in wire_tensors if not isinstance(data, bytes))

    def end(self, key: Key) -> None:
        """Called by a lease's finalizer, in any thread."""
        self._leased.discard(key)
        self._released.append(key)
        if threading.get_ident() != self.executing_thread:
            self.on_released_by_thread()

    def take_released(self) -> List[Key]:
        """The blocks whose leases ended since the last call; they go into the next message."""
        released: List[Key] = []
        while self._released:
            try:
                released.append(self._released.popleft())
            except IndexError:
                break  # another thread took the last one
        return released

    @property
    def has_released(self) -> bool:
        return bool(self._released)

    def forget(self, chunk_ids: Iterable[int]) -> None:
        """Their owners gave these chunks back."""
        for chunk_id in chunk_ids:
            (self.regions.files if chunk_id >= FIRST_REGION_ID else self._peers).pop(chunk_id, None)

    def peer(self, chunk_id: int) -> Any:
        """A chunk, or a region's file, that the supervisor sends or has sent over the lane."""
        known: Dict[int, Any] = self.regions.files if chunk_id >= FIRST_REGION_ID else self._peers
        with self._lock:
            while chunk_id not in known:
                received_id, nbytes, fd = receive_chunk(self._lane)
                if received_id >= FIRST_REGION_ID:
                    self.regions.files[received_id] = RegionFile(nbytes, fd)
                else:
                    self._peers[received_id] = PeerChunk(received_id, nbytes, fd)
            return known[chunk_id]

    # -- what we send

    def place(self, data: Union[bytes, Array]) -> Union[Own, Received]:
        """Get an array (or bytes) into shared memory. Raises ``OutOfSharedMemory``."""
        if not isinstance(data, bytes):
            received = self._unwritten(data)
            if received is not None:
                return received
        return self.copy(_flat(data))

    def copy(self, source: Array) -> Own:
        """Get bytes (a uint8 array) into the arena. Raises ``OutOfSharedMemory``."""
        block = self.arena.allocate(source.nbytes)
        chunk = block.chunk
        with self._lock:  # another thread's message must not name the chunk before the lane has it
            if chunk.id not in self._announced:
                send_chunk(self._lane, chunk.id, chunk.nbytes, chunk.fd)
                self._announced.add(chunk.id)
        chunk.bytes[block.start : block.start + source.nbytes] = source
        return Own(self, block, source.nbytes)

    def _unwritten(self, array: Array) -> Optional[Received]:
        """The block that a contiguous array is part of, if that is leased and still what its owner wrote."""
        lease = _kept_by(array)
        if not isinstance(lease, Lease) or lease.store is not self:
            return None
        address = array.__array_interface__["data"][0]
        if self.pages.written(address, array.nbytes):
            return None
        return Received(lease, address - lease.chunk.address, array.nbytes)

    def source(self, data: Union[bytes, Array, Own, Received, RegionInput]) -> Array:
        """A tensor's data as a uint8 array to copy from at once; where its bytes lie, if they may be read there."""
        if isinstance(data, (Own, Received, RegionInput)):
            return data.source()
        if not isinstance(data, bytes):
            lease = _kept_by(data)
            if isinstance(lease, RegionLease) and lease.store is self:
                original = lease.original(data)
                if original is not None:
                    return original  # already mapped; the model's view may not be
        return _flat(data)

    def lend(self, block: Block) -> None:
        with self._lock:
            self._lent.setdefault(block.key, []).append(block)

    def returned(self, keys: Iterable[List[int]]) -> None:
        """The supervisor says that each of these is read by one holder less."""
        with self._lock:
            for chunk_id, start in keys:
                blocks = self._lent[(chunk_id, start)]
                blocks.pop()
                if not blocks:
                    del self._lent[(chunk_id, start)]

    def take_back(self, tensors: Iterable[List[Any]]) -> None:
        """Tensors were described for a message that is not sent after all."""
        keys = [data[:2] for _, _, _, data in tensors if isinstance(data, list)]
        self.returned(key for key in keys if tuple(key) in self._lent)

    def trim(self) -> List[int]:
        gone = self.arena.trim()
        self._announced.difference_update(gone)
        return gone
