"""HTTP/2 frames (RFC 9113 sections 4, 6 and 7) as bytes, and what can be wrong with them.

::

    +-----------------------------------------------+
    |                 Length (24)                   |
    +---------------+---------------+---------------+
    |   Type (8)    |   Flags (8)   |
    +-+-------------+---------------+-------------------------------+
    |R|                 Stream Identifier (31)                      |
    +=+=============================================================+
    |                   Payload (Length bytes)                    …
    +---------------------------------------------------------------+
"""

from __future__ import annotations

import enum
import struct

__all__ = [
    "ACK",
    "ConnectionFailure",
    "END_HEADERS",
    "END_STREAM",
    "ErrorCode",
    "FrameType",
    "HEAD",
    "HEAD_NBYTES",
    "MAX_WINDOW",
    "PADDED",
    "PREFACE",
    "PRIORITY",
    "PRIORITY_NBYTES",
    "SETTINGS_ACK",
    "Setting",
    "StreamFailure",
    "goaway",
    "head",
    "ping",
    "read_settings",
    "read_uint32",
    "rst_stream",
    "settings",
    "unpadded",
    "window_update",
]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_WINDOW = (1 << 31) - 1

HEAD = struct.Struct(">HBBBI")
"""Length's upper 16 and lower 8 bits, type, flags, stream."""
HEAD_NBYTES = HEAD.size

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY = 0x20

PRIORITY_NBYTES = 5
"""Dependency and weight, which RFC 9113 (5.3.2) has a server ignore."""

_SETTING = struct.Struct(">HI")
_UINT32 = struct.Struct(">I")


class FrameType(enum.IntEnum):
    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Setting(enum.IntEnum):
    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(enum.IntEnum):
    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class ConnectionFailure(Exception):
    """The connection cannot go on: GOAWAY with this code, then the end."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(f"{code.name}: {reason}")
        self.code = code
        self.reason = reason


class StreamFailure(Exception):
    """One stream cannot go on: RST_STREAM with this code; the others do."""

    def __init__(self, code: ErrorCode, stream_id: int, reason: str) -> None:
        super().__init__(f"{code.name} on stream {stream_id}: {reason}")
        self.code = code
        self.stream_id = stream_id
        self.reason = reason


def head(nbytes: int, kind: FrameType, flags: int, stream_id: int) -> bytes:
    return HEAD.pack(nbytes >> 8, nbytes & 0xFF, kind, flags, stream_id)


def settings(values: dict[Setting, int]) -> bytes:
    payload = b"".join(_SETTING.pack(name, value) for name, value in values.items())
    return head(len(payload), FrameType.SETTINGS, 0, 0) + payload


SETTINGS_ACK = head(0, FrameType.SETTINGS, ACK, 0)


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Identifiers, known and unknown, and values. Raises ConnectionFailure."""
    if len(payload) % _SETTING.size:
        raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a length that is no multiple of six")
    return list(_SETTING.iter_unpack(payload))


def window_update(stream_id: int, increment: int) -> bytes:
    return head(4, FrameType.WINDOW_UPDATE, 0, stream_id) + _UINT32.pack(increment)


def rst_stream(stream_id: int, code: ErrorCode) -> bytes:
    return head(4, FrameType.RST_STREAM, 0, stream_id) + _UINT32.pack(code)


def ping(payload: bytes, ack: bool) -> bytes:
    return head(8, FrameType.PING, ACK if ack else 0, 0) + payload


def goaway(last_stream_id: int, code: ErrorCode, reason: str = "") -> bytes:
    debug = reason.encode()[:256]
    return head(8 + len(debug), FrameType.GOAWAY, 0, 0) + struct.pack(">II", last_stream_id, code) + debug


def read_uint32(payload: bytes, what: str) -> int:
    """The one number of a WINDOW_UPDATE or RST_STREAM. Raises ConnectionFailure."""
    if len(payload) != 4:
        raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, f"{what} of {len(payload)} bytes")
    return int(_UINT32.unpack(payload)[0])


def unpadded(payload: memoryview, flags: int) -> memoryview:
    """The content of a HEADERS payload that may be padded. Raises ConnectionFailure."""
    if not flags & PADDED:
        return payload
    if not payload:
        raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its padding")
    if payload[0] >= len(payload):
        raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "padding as long as the frame, or longer")
    return payload[1 : len(payload) - payload[0]]
