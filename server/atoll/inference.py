"""An inference request and its responses, as every layer of the supervisor sees them.

The thin seam above the core: a frontend turns bytes of its protocol into a :class:`Request`, hands it to
``Server.infer`` and is called back with each :class:`Response`. No socket, no JSON and no protobuf passes here.
See also: ``atoll_ipc.memory`` for :class:`Slice`, the reference to tensor bytes in shared memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from atoll_ipc.memory import Slice

from atoll.errors import ServerError
from atoll.trace import Trace

__all__ = [
    "Form",
    "Parameter",
    "Request",
    "Response",
    "SEQUENCE_END",
    "SEQUENCE_START",
    "Tensor",
    "TensorData",
    "well_formed",
]

Parameter = str | int | bool | float
TensorData = bytes | bytearray | memoryview | Slice

SEQUENCE_START = 1
SEQUENCE_END = 2


class Tensor:
    """One named tensor: its description and its bytes, or where they lie.

    ``data`` holds the elements little-endian, row-major and tightly packed; a BYTES element is a 4-byte
    little-endian length and then the bytes.
    """

    __slots__ = ("data", "datatype", "name", "shape")

    def __init__(self, name: str, datatype: str, shape: Sequence[int], data: TensorData) -> None:
        self.name = name
        self.datatype = datatype
        self.shape = shape
        self.data = data

    @property
    def nbytes(self) -> int:
        data = self.data
        if type(data) is bytes:  # mostly
            return len(data)
        return data.nbytes if isinstance(data, (Slice, memoryview)) else len(data)

    def buffer(self) -> bytes | bytearray | memoryview:
        """The tensor's bytes; a view that keeps a shared-memory block alive while it exists."""
        data = self.data
        return data.view() if isinstance(data, Slice) else data

    def __repr__(self) -> str:
        return f"Tensor({self.name!r}, {self.datatype}, {list(self.shape)}, {self.nbytes} bytes)"


class Form:
    """Shared by requests that are known to be alike in all but the tensors' bytes.

    A frontend that sees the same description again hands the same object to each such request (names, types, shapes,
    sizes in bytes and requested outputs are equal then); the core notes here what it found when it checked the first.
    """

    __slots__ = ("batch_size",)

    def __init__(self) -> None:
        self.batch_size = -1
        """Of each request of this form; -1 until one was checked."""


class Request:
    """One inference request on its way through the core.

    ``outputs`` names the requested outputs; empty means all that the model's configuration lists. ``model_version``
    -1 means the highest version that is ready. ``timeout_us`` and ``priority`` are 0 when the client gave none.
    ``respond`` is called on the event loop, once per response, the last one with ``final`` set.
    """

    __slots__ = (
        "accepted_by",
        "answered",
        "batch_size",
        "began_ns",
        "callers",
        "cancelled",
        "correlation_id",
        "flags",
        "form",
        "id",
        "inputs",
        "model_name",
        "model_version",
        "on_executed",
        "outputs",
        "parameters",
        "placements",
        "priority",
        "queued_ns",
        "received_ns",
        "respond",
        "response_count",
        "timeout_us",
        "trace",
    )

    def __init__(
        self,
        model_name: str,
        inputs: list[Tensor],
        respond: Callable[[Response], None],
        *,
        model_version: int = -1,
        id: str = "",
        outputs: Sequence[str] = (),
        parameters: dict[str, Parameter] | None = None,
        correlation_id: int | str = 0,
        flags: int = 0,
        priority: int = 0,
        timeout_us: int = 0,
        form: Form | None = None,
    ) -> None:
        self.model_name = model_name
        self.inputs = inputs
        self.respond = respond
        self.model_version = model_version
        self.id = id
        self.outputs = outputs
        self.parameters = parameters
        self.correlation_id = correlation_id
        self.flags = flags
        self.priority = priority
        self.timeout_us = timeout_us
        self.form = form
        self.placements: Mapping[str, Slice] | None = None
        """Where the client wants outputs written, in regions of its own (``atoll.core.regions``)."""
        self.cancelled = False
        self.accepted_by: object = None  # the model that has queued it
        self.answered = False  # a final response was given
        # Told of each execution how long the request was queued, and of its times for input, compute and output.
        self.on_executed: Callable[[int, tuple[int, int, int]], None] | None = None
        self.callers: tuple[str, ...] = ()  # instances that wait for this request, the nearest first
        self.trace: Trace | None = None
        self.batch_size = 1
        self.received_ns = 0
        self.queued_ns = 0
        self.began_ns = 0  # when its execution began, or after a response of a stream the work for the next
        self.response_count = 0  # of a decoupled model's

    @property
    def rid(self) -> str:
        """What error texts that tell which request is meant begin with."""
        return f"[request id: {self.id or '<id_unknown>'}] "


class Response:
    """One response to a request: outputs in the order the model gave them, or an error.

    A response with neither outputs nor an error may carry only the final flag (``empty``). Who makes a response wait
    for its reader keeps its ``receipt`` until then: it holds back whoever sends the next one.
    """

    __slots__ = (
        "empty",
        "error",
        "final",
        "model_name",
        "model_version",
        "outputs",
        "parameters",
        "receipt",
        "request",
    )

    def __init__(
        self,
        request: Request,
        model_version: int,
        outputs: list[Tensor],
        *,
        parameters: dict[str, Parameter] | None = None,
        error: ServerError | None = None,
        final: bool = True,
        empty: bool = False,
    ) -> None:
        self.request = request
        self.model_name = request.model_name
        self.model_version = model_version
        self.outputs = outputs
        self.parameters = parameters
        self.error = error
        self.final = final
        self.empty = empty
        self.receipt: object = None


def well_formed(text: str) -> str:
    """``text`` with what was no UTF-8 where it came from (surrogates by now) replaced."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
