"""The supervisor's end of the channel to one stub, and the account of blocks that are out there.

What is counted, all by Python references (a block is given back when its last reference goes):

* ``_held``: blocks this stub may be reading (it was sent a reference and has not released it). They live until the
  stub's release or death.
* a block that this stub owns is a :class:`~atoll_ipc.memory.Block` whose owner is the channel: when its last reference
  here goes, the stub is told with the next message, or soon after when there is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mmap
import os
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from atoll_ipc.dtypes import BY_CODE, BY_NAME
from atoll_ipc.memory import Block, Slice, view_bytes
from atoll_ipc.wire import FrameReader, Kind, pack, receive_chunk, send_chunk

from atoll.inference import Tensor

__all__ = ["Channel", "StubChunk"]

_log = logging.getLogger(__name__)

_FREE_DELAY_S = 0.02
_READ_NBYTES = 65536

Message = list[Any]
Key = tuple[int, int]


class StubChunk:
    """A chunk that a stub owns, mapped for reading. Those who know it are told when it is gone."""

    def __init__(self, chunk_id: int, nbytes: int, fd: int) -> None:
        self.id = chunk_id
        self.nbytes = nbytes
        self.fd = fd
        self.map = mmap.mmap(fd, nbytes, prot=mmap.PROT_READ)
        self.bytes = np.frombuffer(self.map, dtype=np.uint8)

    def view(self, offset: int, nbytes: int, keep: object) -> memoryview:
        """As :meth:`atoll_ipc.memory.Chunk.view`."""
        return view_bytes(self.bytes, offset, nbytes, keep).data

    def __del__(self) -> None:
        fd = getattr(self, "fd", -1)
        if fd >= 0:
            os.close(fd)


class Channel(asyncio.Protocol):
    """Messages to and from one stub.

    Both functions are called on the event loop: ``on_closed`` once, then ``on_message`` with what had still been sent.
    """

    def __init__(
        self, lane: socket.socket, on_message: Callable[[Message], None], on_closed: Callable[[], None]
    ) -> None:
        lane.setblocking(False)  # a chunk comes over the lane before the message that names it
        self._lane = lane
        self._on_message = on_message
        self._on_closed = on_closed
        self._frames = FrameReader()
        self._transport: asyncio.WriteTransport | None = None
        self._socket: socket.socket | None = None
        self._unsent: list[bytes] = []
        self._aborted = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._known_chunks: set[int] = set()
        self._chunks: dict[int, StubChunk] = {}
        self._held: dict[Key, list[Block]] = {}
        self._doomed: set[int] = set()  # chunks that are gone, but for what this stub may still read there
        self._freed: list[Key] = []
        self._free_timer: asyncio.TimerHandle | None = None
        self.branches: set[Channel] = set()  # to processes that the model in this stub forked

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._frames.feed(data):
                self._on_message(message)
        except (ValueError, LookupError, TypeError, OSError, EOFError) as error:
            _log.exception(f"a stub sent a message that makes no sense ({error}); it is ended")
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_closed()
        self._read_last_words()
        self._held.clear()
        if self._free_timer is not None:
            self._free_timer.cancel()
        self._lane.close()

    def _read_last_words(self) -> None:
        """What the stub had sent before it died: a write that fails ends the transport, whatever there was to read."""
        assert self._socket is not None
        with self._socket as rest:
            rest.setblocking(False)
            while not self._aborted:
                try:
                    data = rest.recv(_READ_NBYTES)
                except OSError:
                    return
                if not data:
                    return
                self.data_received(data)

    # -- sending

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def send(self, message: Message) -> None:
        if self._transport is None:
            return
        if self._unsent:
            self._unsent.append(pack(message))
            self._flush()
        else:
            self._transport.write(pack(message))

    def send_soon(self, message: Message) -> None:
        """For a stub that is busy: together with what else is sent in this turn of the loop, in one system call."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(pack(message))

    def _flush(self) -> None:
        if self._unsent and self._transport is not None:
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        self._aborted = True
        if self._transport is not None:
            self._transport.abort()

    def take_freed(self) -> list[Key]:
        """Blocks of the stub's own that nobody reads any more; they go into the next message."""
        freed = self._freed
        if freed:
            self._freed = []
        return freed

    # -- tensors

    def describe(self, tensor: Tensor) -> list[Any]:
        """A tensor as it goes to this stub; a block it refers to is held for the stub from now on."""
        data = tensor.data
        if type(data) is Slice:
            block = data.block
            self._lend(block)
            data = [block.chunk.id, block.start, block.nbytes, data.offset, data.nbytes]  # type: ignore[assignment]
        return [tensor.name, BY_NAME[tensor.datatype].code, tensor.shape, data]

    def describe_placements(self, index: int, placements: Mapping[str, Slice]) -> list[list[Any]]:
        """Where this stub shall write outputs of a request; the blocks are held for it as those it reads."""
        described = []
        for name, place in placements.items():
            block = place.block
            self._lend(block)
            described.append([index, name, block.chunk.id, block.start, place.offset, place.nbytes])
        return described

    def placed(self, wire_tensors: list[list[Any]], placements: Mapping[str, Slice]) -> list[Tensor]:
        """Tensors as the stub described them, some of which it may have written where it was told."""
        tensors = []
        for wire_tensor in wire_tensors:
            name, code, shape, data = wire_tensor
            if type(data) is int:
                place = placements[name]
                if not 0 <= data <= place.nbytes:
                    raise ValueError(f"{data} bytes in a place for {place.nbytes}")
                tensors.append(Tensor(name, BY_CODE[code].name, shape, Slice(place.block, place.offset, data)))
            else:
                tensors += self.tensors([wire_tensor])
        return tensors

    def tensors(self, wire_tensors: list[list[Any]]) -> list[Tensor]:
        """Tensors as the stub described them."""
        return [
            Tensor(name, BY_CODE[code].name, shape, data if type(data) is bytes else self._slice(data))
            for name, code, shape, data in wire_tensors
        ]

    def discard(self, wire_tensors: list[list[Any]]) -> None:
        """Give back what a response refers to that nobody waits for."""
        self.tensors([wire_tensor for wire_tensor in wire_tensors if type(wire_tensor[3]) is not int])

    def release(self, keys: list[list[int]]) -> None:
        """The stub no longer reads these blocks of others."""
        for chunk_id, start in keys:
            blocks = self._held.get((chunk_id, start))
            if blocks:
                blocks.pop()
                if not blocks:
                    del self._held[(chunk_id, start)]
        if self._doomed:
            self._forget(list(self._doomed))

    def gone(self, chunk_ids: list[int]) -> None:
        """The stub gave these chunks of its own back."""
        for chunk_id in chunk_ids:
            self._chunks.pop(chunk_id, None)

    @property
    def chunk_ids(self) -> list[int]:
        """The stub's own chunks, as far as they were seen here."""
        return list(self._chunks)

    def forget(self, chunk_ids: list[int]) -> None:
        """Chunks that this stub may have mapped are gone.

        It hears of that when it reads nothing there any more: a message that refers to one may still wait in the stub,
        and a chunk that is forgotten does not come over the lane again.
        """
        self._forget(chunk_ids)
        for branch in self.branches:
            branch.forget(chunk_ids)

    def _forget(self, chunk_ids: list[int]) -> None:
        known = self._known_chunks.intersection(chunk_ids)
        self._doomed = (self._doomed | known).intersection(chunk_id for chunk_id, _ in self._held)
        forgotten = known - self._doomed
        if forgotten:
            self._known_chunks -= forgotten
            self.send([Kind.FORGET, sorted(forgotten)])

    @property
    def held_blocks(self) -> int:
        """How many blocks of others this stub may read, with the processes that its model forked."""
        return sum(map(len, self._held.values())) + sum(branch.held_blocks for branch in self.branches)

    def _slice(self, reference: list[int]) -> Slice:
        chunk_id, start, length, offset, nbytes = reference
        blocks = self._held.get((chunk_id, start))
        if blocks is not None:
            # Passed on by reference: the bytes of somebody else's block, which this stub was given to read.
            block = blocks[-1]
        else:
            chunk = self._chunks.get(chunk_id)
            while chunk is None:
                received = StubChunk(*receive_chunk(self._lane))
                self._chunks[received.id] = received
                chunk = self._chunks.get(chunk_id)
            block = Block(chunk, start, length, self)
        if not 0 <= block.start <= offset <= offset + nbytes <= block.start + block.nbytes <= block.chunk.nbytes:
            raise ValueError(f"a block reference outside its block: {reference}")
        return Slice(block, offset, nbytes)

    def _lend(self, block: Block) -> None:
        """The stub will be told of a block: it has its chunk then, and the block is there until it is released."""
        chunk = block.chunk
        if chunk.id not in self._known_chunks:
            self._known_chunks.add(chunk.id)
            send_chunk(self._lane, chunk.id, chunk.nbytes, chunk.fd)
        self._held.setdefault(block.key, []).append(block)

    # -- blocks of the stub's own, as their owner

    def give_back(self, block: Block) -> None:
        """Called by a block's finalizer, in any thread: who embeds the server holds outputs in threads of its own."""
        if self._transport is None:
            return
        if threading.get_ident() == self._thread:
            self._free(block.key)
        else:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the stub with it
                self._loop.call_soon_threadsafe(self._free, block.key)

    def _free(self, key: Key) -> None:
        self._freed.append(key)
        if self._free_timer is None:
            self._free_timer = self._loop.call_later(_FREE_DELAY_S, self._send_freed)

    def _send_freed(self) -> None:
        self._free_timer = None
        if self._freed:
            self.send([Kind.FREE, self.take_freed()])
