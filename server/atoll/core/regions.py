"""Clients' shared memory: the regions that clients registered, and what requests refer to in them.

A region is a part of a file in /dev/shm that a client made. It crosses to the stubs like a chunk of an arena, as a
descriptor over the lane, and its one :class:`~atoll_ipc.memory.Block` is counted like any other: the registry holds
it, and so does whatever uses it. An unregistered region is gone, here and in the stubs, when the last use ends.

The supervisor never maps a region: a client may shorten its file at any time, and who then touches a mapping dies. What
must be looked at here (strings, and what travels in messages) is read by system calls, and so are outputs written that
no stub has written in place.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import stat
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from atoll_ipc.memory import Block, Slice
from atoll_ipc.wire import FIRST_REGION_ID, INLINE_NBYTES

from atoll.errors import Code, ServerError
from atoll.inference import Request, Response, Tensor, TensorData

__all__ = ["Region", "RegionSpan", "Regions"]

_FOLDER = "/dev/shm"
_RESERVED = "triton_python_backend_shm_region_"
_MAX_UINT64 = (1 << 64) - 1


class RegionSpan(NamedTuple):
    """A part of a region, as a request names it. ``nbytes`` is None where the client left it out."""

    region: str
    offset: int
    nbytes: int | None


class Region:
    """One registered region, and its file as far as the region's end: what a chunk is to an arena's blocks."""

    def __init__(self, name: str, key: str, fd: int, id: int, nbytes: int, on_gone: Callable[[int], None]) -> None:
        self.name = name
        self.key = key
        self.fd = fd
        self.id = id
        self.nbytes = nbytes
        self._on_gone = on_gone

    def read(self, offset: int, nbytes: int) -> bytes:
        """Raises ServerError when the file has become shorter."""
        data = os.pread(self.fd, nbytes, offset)
        while len(data) < nbytes:  # one call reads 2 GiB at most
            more = os.pread(self.fd, nbytes - len(data), offset + len(data))
            if not more:
                raise self._shortened()
            data += more
        return data

    def view(self, offset: int, nbytes: int, keep: object) -> memoryview:
        """As :meth:`atoll_ipc.memory.Chunk.view`, but for a copy."""
        return memoryview(self.read(offset, nbytes))

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Raises ServerError when the file has become shorter or cannot be written."""
        view = memoryview(data)
        if os.fstat(self.fd).st_size < offset + len(view):
            raise self._shortened()
        try:
            while view:
                written = os.pwrite(self.fd, view, offset)
                view, offset = view[written:], offset + written
        except OSError as error:
            text = f"failed to write to shared memory region '{self.name}': {os.strerror(error.errno or 0)}"
            raise ServerError(Code.INTERNAL, text) from None

    def _shortened(self) -> ServerError:
        return ServerError(
            Code.INVALID_ARG, f"shared memory region '{self.name}' is shorter than when it was registered"
        )

    def give_back(self, block: Block) -> None:
        """Called by its block's finalizer: nobody uses the region any more."""
        self._on_gone(self.id)

    def __del__(self) -> None:
        os.close(self.fd)


class Regions:
    """The registry; system and CUDA regions share its names. ``on_gone`` is told the ids of regions that are gone."""

    def __init__(self, *, enabled: bool = True, on_gone: Callable[[list[int]], None] = lambda ids: None) -> None:
        self._enabled = enabled
        self._on_gone = on_gone
        self._blocks: dict[str, Block] = {}
        self._ids = itertools.count(FIRST_REGION_ID)

    # -- what clients manage

    def register_system(self, name: str, key: str, offset: int, nbytes: int) -> None:
        """Take a part of the file ``key`` as region ``name``. Raises ServerError."""
        self._check_enabled()
        if key == "/":
            raise _refused(f"cannot register shared memory region '{name}' - invalid shm key '{key}'")
        if _RESERVED in key:
            raise _refused(
                f"cannot register shared memory region '{name}' with key '{key}' as the key contains the reserved "
                f"prefix '{_RESERVED}'"
            )
        with contextlib.ExitStack() as opened:
            fd = _open(key)
            opened.callback(os.close, fd)
            if name in self._blocks:
                raise ServerError(Code.ALREADY_EXISTS, f"shared memory region '{name}' already in manager")
            if offset + nbytes > os.fstat(fd).st_size:
                raise _refused(f"failed to register shared memory region '{name}': invalid args")
            if not nbytes:
                raise _refused(
                    f"failed to register shared memory region '{name}': unable to process address spaceInvalid argument"
                )
            loop = asyncio.get_running_loop()
            region = Region(name, key, fd, next(self._ids), offset + nbytes, partial(_tell, loop, self._on_gone))
            opened.pop_all()
        self._blocks[name] = Block(region, offset, nbytes, region)

    def register_cuda(self, name: str, device_id: int, nbytes: int) -> None:
        """As a server without GPUs answers. Raises ServerError."""
        self._check_enabled()
        raise _refused(f"failed to register CUDA shared memory region: '{name}', GPUs not supported")

    def unregister_system(self, name: str = "") -> None:
        """Forget a region, or all; no error when there is none. Raises ServerError."""
        self._check_enabled()
        if name:
            self._blocks.pop(name, None)
        else:
            self._blocks.clear()

    def unregister_cuda(self, name: str = "") -> None:
        """The same for CUDA regions, of which there can be none. Raises ServerError."""
        self._check_enabled()

    def system_status(self, name: str = "") -> list[dict[str, Any]]:
        """The region of this name, or all, sorted by name. Raises ServerError."""
        if name and name not in self._blocks:
            raise ServerError(Code.NOT_FOUND, f"Unable to find system shared memory region: '{name}'")
        return [
            {"name": known, "key": block.chunk.key, "offset": block.start, "byte_size": block.nbytes}
            for known, block in sorted(self._blocks.items())
            if not name or known == name
        ]

    def cuda_status(self, name: str = "") -> list[dict[str, Any]]:
        """Raises ServerError."""
        if name in self._blocks:
            raise ServerError(
                Code.NOT_FOUND,
                f"The region named '{name}' is registered as system shared memory, not CUDA shared memory",
            )
        if name:
            raise ServerError(Code.NOT_FOUND, f"Unable to find cuda shared memory region: '{name}'")
        return []

    def _check_enabled(self) -> None:
        if not self._enabled:
            raise ServerError(
                Code.UNSUPPORTED,
                "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable.",
            )

    # -- what requests refer to

    def data(self, span: RegionSpan, datatype: str) -> TensorData:
        """An input in a region: by reference, or its bytes where they are looked at. Raises ServerError."""
        part = self._locate(span)
        if part.nbytes <= INLINE_NBYTES or datatype == "BYTES":
            region: Region = part.block.chunk
            return region.read(part.offset, part.nbytes)
        return part

    def redirect(self, request: Request, spans: Mapping[str, RegionSpan]) -> None:
        """Have the outputs named here written into regions. Raises ServerError."""
        request.placements = {name: self._locate(span) for name, span in spans.items()}
        request.respond = partial(_deliver, request.respond)

    def _locate(self, span: RegionSpan) -> Slice:
        name, offset, nbytes = span
        block = self._blocks.get(name)
        if block is None:
            raise ServerError(Code.NOT_FOUND, f"Unable to find shared memory region: '{name}'")
        if offset >= block.nbytes:
            raise _refused(f"Invalid offset for shared memory region: '{name}'")
        if nbytes is not None and offset + nbytes > _MAX_UINT64:
            raise _refused(
                f"Integer overflow detected: byte_size ({nbytes}) + offset ({offset}) exceeds maximum value "
                f"({_MAX_UINT64}) for region '{name}'"
            )
        if nbytes is None or offset + nbytes > block.nbytes:
            raise _refused(f"Invalid offset + byte size for shared memory region: '{name}'")
        return Slice(block, block.start + offset, nbytes)


def _open(key: str) -> int:
    """The file that ``shm_open`` would open for this key, and nothing outside of /dev/shm. Raises ServerError."""
    name = key.lstrip("/")
    if name and "/" not in name and "\0" not in name:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with contextlib.suppress(OSError, UnicodeError):
            fd = os.open(os.path.join(_FOLDER, name), flags)
            if stat.S_ISREG(os.fstat(fd).st_mode):
                return fd
            os.close(fd)
    raise ServerError(Code.INTERNAL, f"Unable to open shared memory region: '{key}'")


def _tell(loop: asyncio.AbstractEventLoop, on_gone: Callable[[list[int]], None], id: int) -> None:
    """From a finalizer, which may run in any thread and in the midst of anything."""
    with contextlib.suppress(RuntimeError):  # the loop is closed: there is nobody to tell
        loop.call_soon_threadsafe(on_gone, [id])


def _deliver(respond: Callable[[Response], None], response: Response) -> None:
    """See to it that outputs are where the client wants them, and hand the response on."""
    placements = response.request.placements
    assert placements is not None
    try:
        response.outputs = [
            tensor if tensor.name not in placements else _placed(tensor, placements[tensor.name])
            for tensor in response.outputs
        ]
    except ServerError as error:
        # As data: its traceback would keep this frame, and so the regions, in a cycle.
        failure = error.with_traceback(None)
        response = Response(response.request, response.model_version, [], error=failure, final=response.final)
    respond(response)


def _placed(tensor: Tensor, place: Slice) -> Tensor:
    """The tensor in its place. The stub has written it there, unless it came another way or is too large."""
    data, nbytes = tensor.data, tensor.nbytes
    if type(data) is Slice and data.block is place.block and data.offset == place.offset:
        return tensor
    if nbytes > place.nbytes:
        raise ServerError(
            Code.INTERNAL,
            f"shared memory size specified with the request for output '{tensor.name}' ({place.nbytes} bytes) should "
            f"be at least {nbytes} bytes to hold the results",
        )
    region: Region = place.block.chunk
    region.write(place.offset, tensor.buffer())
    return Tensor(tensor.name, tensor.datatype, tensor.shape, Slice(place.block, place.offset, nbytes))


def _refused(message: str) -> ServerError:
    return ServerError(Code.INVALID_ARG, message)
