"""Clients' shared memory in the stub: inputs are read in place, outputs are written in place.

Rules:

1. A region is known by its file, from the first message that refers to it until FORGET.
2. An input is mapped ``MAP_PRIVATE`` when the model looks at it, by a mapping of its own: requests may refer to the
   same bytes, and what one writes must not be lost when another is done.
3. An output is copied into the one shared mapping of its region, which stays: its page tables are worth more than half
   of a copy. The pages are reserved first, since a write to one that cannot be had is a SIGBUS.
4. The client may change an input as soon as its request is answered. What the model has kept until then gets memory of
   its own, before the answer is sent.
5. So no response refers to a region; it gets a copy. A request to another model may, while the execution waits for it.
6. An input that overlaps an output of its batch is copied before the model runs: outputs are written one by one.

Whoever shortens a file that is in use here ends this process (SIGBUS), unless it is seen before.
"""

import contextlib
import mmap
import os
import weakref
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Optional, Set, Tuple, Union

import numpy as np
from atoll_ipc.memory import OutOfSharedMemory, view_memory

from atoll_stub.private_map import PrivateMap

if TYPE_CHECKING:
    from triton_python_backend_utils import InferenceRequest

    from atoll_stub.memory import Own, Store

__all__ = ["Place", "RegionFile", "RegionInput", "RegionLease", "RegionShortened", "Regions", "Visit"]

Array = Any
Key = Tuple[int, int]

_MOST_RESERVED = 1024


class RegionShortened(OutOfSharedMemory):
    """A client's file ends before what a request refers to."""

    def __init__(self) -> None:
        super().__init__("a shared memory region of the client is shorter than when it was registered")


class RegionFile:
    """The file of one region, as far as the region's end."""

    def __init__(self, nbytes: int, fd: int) -> None:
        self.fd = fd
        self._nbytes = nbytes
        self._shared: Optional[Array] = None
        self._reserved: Set[Tuple[int, int]] = set()

    def __del__(self) -> None:
        os.close(self.fd)

    def bytes(self, offset: int, nbytes: int) -> Array:
        """Part of the region itself, as a uint8 array. Raises :class:`RegionShortened`."""
        if os.fstat(self.fd).st_size < offset + nbytes:
            raise RegionShortened
        if self._shared is None:
            self._shared = np.frombuffer(mmap.mmap(self.fd, self._nbytes), np.uint8)
        return self._shared[offset : offset + nbytes]

    def reserved_bytes(self, offset: int, nbytes: int) -> Array:
        """The same, to write to. Raises OSError when there is no memory for its pages."""
        array = self.bytes(offset, nbytes)
        if nbytes and (offset, nbytes) not in self._reserved:
            os.posix_fallocate(self.fd, offset, nbytes)
            if len(self._reserved) >= _MOST_RESERVED:
                self._reserved.clear()
            self._reserved.add((offset, nbytes))
        return array


class RegionLease:
    """The right to read one input in its region: until the request ends, or nobody refers to it any more."""

    __slots__ = ("__weakref__", "_map", "file", "input", "nbytes", "offset", "reference", "store")

    def __init__(self, store: "Store", file: RegionFile, reference: List[int]) -> None:
        self.store = store
        self.file: Optional[RegionFile] = file  # None when it has ended
        self.reference = reference
        self.offset, self.nbytes = reference[3:]
        self.input: weakref.ReferenceType[RegionInput]
        self._map: Optional[PrivateMap] = None

    def array(self) -> Array:
        """The private view, which the model may write to. Raises :class:`RegionShortened`."""
        if self._map is None:
            self.bytes()
            assert self.file is not None
            self._map = PrivateMap(self.file.fd, self.offset, self.nbytes)
        return view_memory(self._map.address, self.nbytes, self)

    def bytes(self) -> Array:
        """The region's own bytes. Raises :class:`RegionShortened`."""
        if self.file is None:
            raise RegionShortened  # or somebody would have kept them
        return self.file.bytes(self.offset, self.nbytes)

    def original(self, array: Array) -> Optional[Array]:
        """The region's own bytes for part of the view, if they are still the same."""
        address = array.__array_interface__["data"][0]
        if self.file is None or self.store.pages.written(address, array.nbytes):
            return None
        assert self._map is not None
        return self.file.bytes(self.offset + address - self._map.address, array.nbytes)

    def end(self) -> None:
        """The request is about to be answered: what the model keeps shall stay as it is."""
        if self.file is None:
            return
        with contextlib.suppress(RegionShortened):
            content = self.bytes()
            kept = self.input()
            if kept is not None:
                kept.keep(content.tobytes())
            if self._map is not None:
                self._map.make_anonymous()
        self.file = None
        self._release()

    def _release(self) -> None:
        self.store.end((self.reference[0], self.reference[1]))

    def __del__(self) -> None:
        if self.file is not None:
            self._release()


class RegionInput:
    """An input tensor's bytes in a client's region."""

    __slots__ = ("__weakref__", "_kept", "_lease", "_own")

    def __init__(self, lease: RegionLease) -> None:
        self._lease = lease
        self._kept: Optional[bytes] = None  # since the request has ended
        self._own: Optional[Own] = None
        lease.input = weakref.ref(self)

    @property
    def store(self) -> "Store":
        return self._lease.store

    @property
    def lease(self) -> RegionLease:
        return self._lease

    def keep(self, data: bytes) -> None:
        self._kept = data

    def array(self) -> Array:
        return self._lease.array() if self._kept is None else self.pristine()

    def pristine(self) -> Array:
        return np.frombuffer(bytearray(self.source()), np.uint8)

    def source(self) -> Array:
        """The bytes as they came, for reading now."""
        if self._kept is not None:
            return np.frombuffer(self._kept, np.uint8)
        return self._lease.bytes()

    def reference(self) -> List[int]:
        """To a copy in the stub's own arena."""
        if self._own is None:
            self._own = self.store.copy(self.source())
        return self._own.reference()

    def pass_on(self) -> List[int]:
        """To the region itself, as long as the request has not ended."""
        return self.reference() if self._lease.file is None else self._lease.reference


class Place:
    """Where a client wants an output. Held by the supervisor until this object is gone."""

    __slots__ = ("_file", "_key", "_nbytes", "_offset", "_store")

    def __init__(self, store: "Store", file: RegionFile, key: Key, offset: int, nbytes: int) -> None:
        self._store = store
        self._file = file
        self._key = key
        self._offset = offset
        self._nbytes = nbytes

    def write(self, source: Array) -> bool:
        """Whether it could be written; if not, the output goes the usual way and the supervisor tells the client."""
        if source.nbytes > self._nbytes:
            return False
        try:
            self._file.reserved_bytes(self._offset, source.nbytes)[:] = source
        except (OSError, RegionShortened):
            return False
        return True

    def __del__(self) -> None:
        self._store.end(self._key)


class Visit:
    """What one request has to do with regions: the places of its outputs, and the leases on its inputs."""

    __slots__ = ("_leases", "places")

    def __init__(self, places: Dict[str, Place], inputs: Iterable[RegionInput]) -> None:
        self.places = places
        self._leases = [weakref.ref(data.lease) for data in inputs]

    def end(self) -> None:
        """The request is about to be answered for the last time."""
        self.places = {}
        for reference in self._leases:
            lease = reference()
            if lease is not None:
                lease.end()


class Regions:
    """The regions that one stub knows."""

    def __init__(self, store: "Store") -> None:
        self.files: Dict[int, RegionFile] = {}
        self._store = store
        self._outputs: List[Tuple[int, int, int]] = []  # of the batch that is being opened: region, start, end

    def expect(self, wire_placements: List[List[Any]]) -> Dict[int, Dict[str, Place]]:
        """Places of outputs, by the indexes of their requests. Called before the batch's inputs are opened."""
        places: Dict[int, Dict[str, Place]] = {}
        for index, name, region_id, start, offset, nbytes in wire_placements:
            file = self._store.peer(region_id)
            places.setdefault(index, {})[name] = Place(self._store, file, (region_id, start), offset, nbytes)
            self._outputs.append((region_id, offset, offset + nbytes))
        return places

    def open(self, file: RegionFile, reference: List[int]) -> Union[bytes, RegionInput]:
        """The data that a reference to an input stands for."""
        region_id, start, _, offset, nbytes = reference
        if any(region_id == known and offset < to and begin < offset + nbytes for known, begin, to in self._outputs):
            with contextlib.suppress(RegionShortened):  # which the model gets to hear when it looks at the input
                data: bytes = file.bytes(offset, nbytes).tobytes()
                self._store.end((region_id, start))
                return data
        return RegionInput(RegionLease(self._store, file, reference))

    def visits(self, requests: List["InferenceRequest"], places: Dict[int, Dict[str, Place]]) -> Dict[int, Visit]:
        """The visits of a batch's requests, as far as there are any. Called when its inputs are open."""
        self._outputs.clear()
        visits = {}
        for index, request in enumerate(requests):
            inputs = [tensor._data for tensor in request._inputs if isinstance(tensor._data, RegionInput)]
            if inputs or index in places:
                visits[index] = Visit(places.get(index, {}), inputs)
        return visits
