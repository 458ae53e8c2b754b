"""The channel between supervisor and stub: its frames, its messages, and the lane that carries descriptors.

A channel is one stream socketpair. Each frame::

    +----------------+---------------------------------+
    | length: u32 LE | body: one msgpack array         |
    +----------------+---------------------------------+

and a body is ``[kind, ...]`` with the fields listed at each kind. Tensor bytes do not cross, except that data of up
to ``INLINE_NBYTES`` travels in the message, where a copy costs less than a block (allocation, page faults, release).

A tensor is ``[name, dtype code, shape, data]``; ``data`` is its bytes, or a block reference
``[chunk id, block start, block length, offset, nbytes]`` where offsets are within the chunk. In a response ``data`` may
also be a number: so many bytes were written where the request's *placement* of that output says.

Chunks from ``FIRST_REGION_ID`` on are no arena's but regions of clients': one block each, whose bytes the client may
change as soon as a request is answered. A placement is ``[index of the request, output name, chunk id, block start,
offset, nbytes]``.

Chunk descriptors travel on a second socketpair, the *lane*, one datagram ``(chunk id u64, nbytes u64)`` with the
descriptor as ancillary data. A lane datagram is sent before the first message that names its chunk.
"""

import array
import codecs
import socket
import struct
from typing import Any, List, Tuple

try:
    import msgpack

    if msgpack.version < (1, 0):
        raise ImportError("its defaults were others")
except ImportError:
    from atoll_ipc import plain_msgpack as msgpack

__all__ = [
    "FIRST_REGION_ID",
    "FrameReader",
    "INLINE_NBYTES",
    "Kind",
    "MAX_FRAME_NBYTES",
    "pack",
    "receive_chunk",
    "response_nbytes",
    "send_chunk",
]

INLINE_NBYTES = 8192
FIRST_REGION_ID = 1 << 62
MAX_FRAME_NBYTES = 1 << 30

_ANY_TEXT = "atoll.any_text"
"""Error handler of the packer: text that came from bytes becomes those bytes again, what is no text a question mark."""

_LENGTH = struct.Struct("<I")
_RESPONSE_NBYTES = 512  # what a response without tensors takes, about
_CHUNK = struct.Struct("<QQ")


def _encode_any_text(error: UnicodeError) -> Tuple[bytes, int]:
    """A name or a message may hold any bytes a client sent, or half a surrogate pair that a model made."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return bytes(ord(char) & 0xFF if "\udc80" <= char <= "\udcff" else 0x3F for char in text), error.end


codecs.register_error(_ANY_TEXT, _encode_any_text)
_packer = msgpack.Packer(unicode_errors=_ANY_TEXT)


class Kind:
    """First element of every message, and the fields after it."""

    # supervisor to stub
    LOAD = 1  # {settings}: what to load; answered by LOADED
    EXECUTE = 2  # execution id, [request], [freed block], whether nothing else is at the stub, [placement]
    REPLY = 3  # call id, response or None, [freed block], final: an answer to INFER
    FREE = 4  # [freed block]: [chunk id, block start] of the stub's own, no longer read by anybody
    FORGET = 5  # [chunk id]: another owner's chunks that are gone; unmap them
    TRIM = 6  # nothing: give back idle chunks; answered by GONE when there were any
    FINALIZE = 7  # nothing: run finalize() and exit
    CANCEL = 8  # execution id, index, and whether to pass over the execution if it has not begun: the client is gone
    ANSWER = 9  # call id, value, error text or None: the answer to ASK
    CHECK = 10  # check id: call is_ready(); answered by CHECKED
    TAKEN = 11  # [[execution id, index, bytes]], [freed block]: so much of what RESPONSE brought was read meanwhile

    # stub to supervisor
    LOADED = 32  # error text or None, {what the supervisor should know of the model}
    RESULT = 33  # execution id, [response or None], [released block], [input, infer, output ns], [rescheduled index],
    # when it began (monotonic ns)
    FAILED = 34  # execution id, error text, [released block]
    INFER = 35  # call id, request with target, [released block]: BLS
    RELEASE = 36  # [released block]: [chunk id, block start] of others', no longer read by this stub
    GONE = 37  # [chunk id]: own chunks given back
    RESPONSE = 38  # execution id, index, response or None, final, [released block], output ns: from a response sender
    CANCEL_CALL = 39  # call id, dropped: nobody wants the rest of what INFER asked for; if dropped, nor will read it
    LOG = 40  # level, "file:line", text
    ASK = 41  # call id, topic, [argument]: metrics and model control; call id 0 wants no answer
    CHECKED = 42  # check id, True or False or error text
    READ = 43  # call id, bytes: so much of what REPLY brought was read meanwhile


# A request in EXECUTE: [id, correlation id, flags, timeout us, parameters or None, requested outputs, [tensor],
# trace], where trace is None, or its number and the context to pass on, as text or None.
# A request in INFER: the same up to [tensor], then model name, model version, decoupled, blocking, number of the trace.
# A response: [[tensor], None or [code, message], parameters or None]. In RESULT and RESPONSE, None stands for one that
# was not given: the request is answered by RESPONSE messages, before or after RESULT.


def response_nbytes(tensors: List[List[Any]]) -> int:
    """What a response with these tensors counts for where unread ones are held back: both sides must agree."""
    nbytes = _RESPONSE_NBYTES
    for *_, data in tensors:
        if type(data) is not int:  # what lies in a client's memory takes none of the server's
            nbytes += len(data) if type(data) is bytes else data[4]
    return nbytes


def pack(message: List[Any]) -> bytes:
    """One frame."""
    body = _packer.pack(message)
    return _LENGTH.pack(len(body)) + body  # type: ignore[no-any-return]


class FrameReader:
    """Turns the bytes of a stream into messages. Keeps what is incomplete."""

    def __init__(self) -> None:
        self._rest: List[bytes] = []  # joined once there is enough, or a large frame would be copied at every read
        self._rest_nbytes = 0
        self._wanted_nbytes = 0

    def feed(self, data: bytes) -> List[List[Any]]:
        """The messages that ``data`` completes. Raises ValueError on a frame that cannot be one of ours."""
        if self._rest:
            self._rest.append(data)
            self._rest_nbytes += len(data)
            if self._rest_nbytes < self._wanted_nbytes:
                return []
            data = b"".join(self._rest)
            self._rest = []
        messages = []
        start, end, stop = 0, len(data), 4
        while end - start >= 4:
            (length,) = _LENGTH.unpack_from(data, start)
            if length > MAX_FRAME_NBYTES:
                raise ValueError(f"frame of {length} bytes is larger than {MAX_FRAME_NBYTES}")
            stop = start + 4 + length
            if stop > end:
                break
            messages.append(
                msgpack.unpackb(data[start + 4 : stop], strict_map_key=False, unicode_errors="surrogateescape")
            )
            start = stop
            stop += 4
        if start < end:
            self._rest = [data[start:] if start else data]
            self._rest_nbytes = end - start
            self._wanted_nbytes = stop - start
        return messages


def send_chunk(lane: socket.socket, chunk_id: int, nbytes: int, fd: int) -> None:
    """Give the other side a descriptor of one of our chunks."""
    lane.sendmsg([_CHUNK.pack(chunk_id, nbytes)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])


def receive_chunk(lane: socket.socket) -> Tuple[int, int, int]:
    """``(chunk id, nbytes, fd)`` of the next chunk the other side gave us. Raises EOFError when it is gone."""
    data, ancillary, _, _ = lane.recvmsg(_CHUNK.size, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    if len(data) != _CHUNK.size or not ancillary:
        raise EOFError("the lane ended")
    chunk_id, nbytes = _CHUNK.unpack(data)
    return chunk_id, nbytes, array.array("i", ancillary[0][2])[0]
