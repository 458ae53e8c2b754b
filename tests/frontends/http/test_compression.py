"""Which coding a response gets, and bodies that are inflated within bounds."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib

import pytest
from atoll.errors import Code, ServerError
from atoll.frontends.http.compression import chosen_coding, deflated, inflated

LIMIT = 1 << 20


def inflate(body: bytes, limit: int = LIMIT) -> bytes:
    return asyncio.run(inflated(body, limit))


@pytest.mark.spec("server:79")
@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (b"", b""),
        (b"gzip", b"gzip"),
        (b"deflate", b"deflate"),
        (b"identity", b""),
        (b"gzip, deflate", b"gzip"),
        (b"deflate,gzip", b"deflate"),
        (b"gzip;q=0.5, deflate;q=0.6", b"deflate"),
        (b"gzip;q=0.5,deflate;q=0.6,identity", b""),
        (b"identity;q=0.1, gzip;q=.2", b"gzip"),
        (b"gzip;q=0", b""),
        (b"gzip;q=0.000, deflate; q=1.", b"deflate"),
        (b" gzip\t; q=1 ", b"gzip"),
        (b"*", b""),
        (b"br, zstd", b""),
        (b"br, gzip;q=0.1", b"gzip"),
        (b"GZIP", b""),
        (b"gzip;q=x, deflate;q=0.1", b"deflate"),
        (b"gzip;q=nan", b""),
        (b"gzip;q=-1", b""),
        (b"gzip;q=", b""),
        (b"gzip;", b""),
        (b"gzip;v=1", b""),
        (b",,gzip,", b"gzip"),
    ],
)
def test_chosen_coding(accepted: bytes, coding: bytes) -> None:
    assert chosen_coding(accepted) == coding


@pytest.mark.parametrize("nbytes", [1, 100, 100_000, LIMIT])
@pytest.mark.parametrize("coding", [b"gzip", b"deflate"])
def test_what_is_deflated_can_be_inflated(coding: bytes, nbytes: int) -> None:
    data = bytes(range(256)) * (nbytes // 256) + bytes(nbytes % 256)
    body = asyncio.run(deflated(coding, [data[:1000], memoryview(data)[1000:]], nbytes))
    assert (body[:2] == b"\x1f\x8b") == (coding == b"gzip")
    assert inflate(body) == data


@pytest.mark.spec("server:82")
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"nonsense", "incorrect header check"),
        (zlib.compress(b"data", wbits=-15), "incorrect header check"),  # raw deflate
        (gzip.compress(b"data" * 1000)[:-1], "it ends too early"),
        (gzip.compress(b"data" * 1000)[:20], "it ends too early"),
        (zlib.compress(b"data")[:-1] + b"\0", "incorrect data check"),
        (zlib.compress(b"data") + b"more", "something follows its end"),
        (b"\x1f\x8b" + b"x" * 5000, "unknown compression method"),
    ],
)
def test_what_cannot_be_inflated(body: bytes, reason: str) -> None:
    with pytest.raises(ServerError) as caught:
        inflate(body)
    assert caught.value.code is Code.INVALID_ARG
    assert caught.value.message == f"failed to decompress the request body: {reason}"


def test_nothing_cannot_be_inflated() -> None:
    with pytest.raises(ServerError, match="nothing to be decompressed"):
        inflate(b"")


@pytest.mark.spec("server:83")
@pytest.mark.parametrize("nbytes", [LIMIT + 1, 1 << 26])
def test_bomb_is_not_inflated_beyond_the_limit(nbytes: int) -> None:
    body = zlib.compress(bytes(nbytes), 1)
    tracemalloc.start()
    try:
        with pytest.raises(ServerError) as caught:
            inflate(body)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.message == (
        f"Decompressed data size exceeds the maximum allowed value of {LIMIT} bytes. Use --http-max-input-size to "
        "increase the limit."
    )
    assert most < 4 * LIMIT
    assert inflate(zlib.compress(bytes(LIMIT))) == bytes(LIMIT)


def test_body_above_the_limit_is_not_even_begun() -> None:
    with pytest.raises(ServerError, match="Decompressed data size exceeds the maximum allowed value of 5000 bytes"):
        inflate(bytes(5001), 5000)
