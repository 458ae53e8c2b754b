"""A request body of known length on its way in: where its bytes go, and how many have come.

The body of a large infer request goes into a block of the model's arena, where the model will read it, placed so that
the first tensor behind the JSON lies on a 64-byte boundary. Everything else goes into ordinary memory, and so does what
is compressed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from atoll_ipc.memory import Block, Slice

from atoll.frontends.http.compression import inflated_too_large
from atoll.frontends.http.head import Head
from atoll.frontends.http.plan import too_large
from atoll.frontends.http.routes import Route, Task
from atoll.inference import TensorData

if TYPE_CHECKING:
    from atoll.core.server import Server

__all__ = ["BLOCK_NBYTES", "IncomingBody", "make_room"]

BLOCK_NBYTES = 32 << 10
"""A smaller body is copied; a larger one is received into shared memory."""
_ALIGNMENT = 64


class IncomingBody:
    """The bytes of one body. ``view`` is all of them, the first ``filled`` are there."""

    __slots__ = ("_block", "_offset", "filled", "view")

    def __init__(self, view: memoryview, block: Block | None = None, offset: int = 0) -> None:
        self.view = view
        self.filled = 0
        self._block = block
        self._offset = offset  # of the body within the chunk

    def write(self, data: memoryview) -> int:
        """Take what belongs to the body from the start of ``data``; how many bytes that were."""
        taken = min(len(self.view) - self.filled, len(data))
        self.view[self.filled : self.filled + taken] = data[:taken]
        self.filled += taken
        return taken

    @property
    def is_complete(self) -> bool:
        return self.filled == len(self.view)

    def taker(self) -> Callable[[int, int], TensorData] | None:
        """What gives part of the body as tensor data, by reference; None where a copy will do."""
        block, start = self._block, self._offset
        if block is None:
            return None
        return lambda offset, nbytes: Slice(block, start + offset, nbytes)


def make_room(server: Server, route: Route, head: Head, max_input_nbytes: int) -> IncomingBody:
    """Raises ServerError: no such model, no memory, or more than anything but an infer request may have."""
    length = head.content_length
    if isinstance(route.answer, Task):
        model = server.model(route.model, route.version)
    if route.answer is not Task.INFER:
        if length > max_input_nbytes:
            raise too_large(f"request size of {length} bytes exceeds the maximum allowed input size", max_input_nbytes)
        return IncomingBody(memoryview(bytearray(length)))
    if head.content_encoding and length > max_input_nbytes:
        raise inflated_too_large(max_input_nbytes)
    if length <= BLOCK_NBYTES or head.content_encoding:
        return IncomingBody(memoryview(bytearray(length)))
    pad = -(head.json_nbytes or 0) % _ALIGNMENT
    block = model.allocate(pad + length)
    offset = block.start + pad
    return IncomingBody(Slice(block, offset, length).view(), block, offset)
