"""Tensor bytes past protobuf: the raw contents of requests and responses, read and written on the wire itself.

The protobuf runtime copies each ``bytes`` field into its own memory and once more when it is read or written:
for 16 MB this takes 16 ms, while finding the bytes takes one microsecond. So the raw contents of a
request are cut out of the body as views before the rest is parsed, and those of a response are appended as
they are behind the serialized rest, which the encoding allows: fields may come in any order.

A field on the wire (of the one type that matters here, length-delimited)::

    tag = number << 3 | 2   one byte for numbers below 16
    length                  varint: seven bits a byte, lowest first, the high bit set on all but the last
    content                 length bytes

See also: ``codec`` and ``reply``, the users of this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from atoll.inference import TensorData

__all__ = [
    "Buffer",
    "Parts",
    "RAW_OUTPUT_TAG",
    "STREAMED_RESPONSE_TAG",
    "Take",
    "cut_request",
    "first_raw_input",
    "field_header",
    "total_bytes",
]

Buffer = bytes | bytearray | memoryview

Parts = list[Buffer]
"""A serialized message in pieces, for the transport to write one after the other."""

Take = Callable[[int, int], TensorData]
"""Gives the bytes at an offset of a message as tensor data, by reference; for a message in shared memory."""

_LENGTH_DELIMITED = 2
_ID_TAG = 3 << 3 | _LENGTH_DELIMITED  # ModelInferRequest.id
_RAW_INPUT_TAG = 7 << 3 | _LENGTH_DELIMITED  # ModelInferRequest.raw_input_contents
RAW_OUTPUT_TAG = 6 << 3 | _LENGTH_DELIMITED  # ModelInferResponse.raw_output_contents
STREAMED_RESPONSE_TAG = 2 << 3 | _LENGTH_DELIMITED  # ModelStreamInferResponse.infer_response

_MAX_RAW_INPUTS = 4096


def cut_request(body: Buffer, take: Take | None = None) -> tuple[bytes, bytes, Sequence[TensorData]] | None:
    """Split a serialized ModelInferRequest: what protobuf shall parse, the id, and the raw input contents.

    The first is the same for requests that differ in nothing but id and data. The contents are views of ``body``, or
    what ``take`` gives for their offsets and lengths.

    None for a body without raw contents, and for one that holds anything unusual, which is for protobuf to read or
    refuse: unknown fields, lengths beyond its end, or so many raw contents that the views would weigh more than they.
    """
    whole = memoryview(body)
    end = len(body)
    raw: list[TensorData] = []
    rest: list[memoryview] = []
    request_id = b""
    position = kept = 0
    while position < end:
        start = position
        tag = body[start]
        position += 1
        if tag > 0x7F or tag & 7 != _LENGTH_DELIMITED or position == end:
            return None
        length = body[position]
        position += 1
        if length > 0x7F:
            length &= 0x7F
            for shift in (7, 14, 21, 28):
                if position == end:
                    return None
                byte = body[position]
                position += 1
                length |= (byte & 0x7F) << shift
                if byte <= 0x7F:
                    break
            else:
                return None
        content = position
        position += length
        if position > end or len(raw) == _MAX_RAW_INPUTS:
            return None
        if tag in (_RAW_INPUT_TAG, _ID_TAG):
            if tag == _ID_TAG:
                request_id = bytes(whole[content:position])
            else:
                raw.append(whole[content:position] if take is None else take(content, length))
            if kept < start:
                rest.append(whole[kept:start])
            kept = position
    if not raw:
        return None
    if kept < end:
        rest.append(whole[kept:])
    return b"".join(rest), request_id, raw


def first_raw_input(beginning: Buffer) -> tuple[str, str, int] | None:
    """Model, version and the offset of the first raw input content, where the beginning of a request tells them."""
    texts = {1: b"", 2: b""}  # ModelInferRequest.model_name and .model_version
    position, end = 0, len(beginning)
    while position < end:
        tag = beginning[position]
        length = shift = 0
        while True:
            position += 1
            if position == end or shift > 28:
                return None
            byte = beginning[position]
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte <= 0x7F:
                break
        position += 1
        if tag == _RAW_INPUT_TAG:
            return texts[1].decode("utf-8", "replace"), texts[2].decode("utf-8", "replace"), position
        if tag > 0x7F or tag & 7 != _LENGTH_DELIMITED:
            return None
        if tag >> 3 in texts:
            texts[tag >> 3] = bytes(beginning[position : position + length])
        position += length
    return None


def field_header(tag: int, length: int) -> bytes:
    """What precedes the content of a length-delimited field."""
    header = bytearray((tag,))
    while length > 0x7F:
        header.append(length & 0x7F | 0x80)
        length >>= 7
    header.append(length)
    return bytes(header)


def total_bytes(parts: Iterable[Buffer]) -> int:
    return sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in parts)
