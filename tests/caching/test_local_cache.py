"""The local response cache and the keys of all caches, without a server."""

from __future__ import annotations

import asyncio
import logging

import pytest
from atoll.caching.key import request_key
from atoll.caching.local import LocalCache
from atoll.caching.response_cache import CachedResponse
from atoll.caching.settings import make_cache
from atoll.errors import Code, ServerError
from atoll.inference import Request, Tensor
from atoll_ipc.memory import Arena, ArenaSettings, Slice


def arena() -> Arena:
    return Arena(0, ArenaSettings(default_nbytes=1 << 20, growth_nbytes=1 << 20))


def response(data: bytes) -> CachedResponse:
    return CachedResponse([Tensor("OUT", "UINT8", [len(data)], data)], None)


def insert(cache: LocalCache, key: str, data: bytes) -> None:
    asyncio.run(cache.insert(key.encode(), response(data)))


def look_up(cache: LocalCache, key: str) -> bytes | None:
    found = asyncio.run(cache.look_up(key.encode()))
    return None if found is None else bytes(found.outputs[0].buffer())


def request(*inputs: Tensor, **fields: object) -> Request:
    return Request("m", list(inputs), lambda response: None, **fields)  # type: ignore[arg-type]


OUTPUTS = ("X", "Y", "Z")
A = Tensor("A", "INT32", [1], b"\1\0\0\0")
B = Tensor("B", "BYTES", [1], b"\1\0\0\0b")


@pytest.mark.spec("server:232")
def test_the_least_recently_used_response_goes_first() -> None:
    cache = LocalCache(30, arena())
    insert(cache, "one", b"1" * 10)
    insert(cache, "two", b"2" * 10)
    insert(cache, "three", b"3" * 10)
    assert look_up(cache, "one") == b"1" * 10
    insert(cache, "four", b"4" * 10)
    assert look_up(cache, "two") is None
    assert [look_up(cache, key) for key in ("one", "three", "four")] == [b"1" * 10, b"3" * 10, b"4" * 10]
    assert (len(cache), cache.used_nbytes, cache.evictions) == (3, 30, 1)
    assert (cache.lookups, cache.hits) == (5, 4)


def test_a_response_that_is_there_already_is_kept_once() -> None:
    cache = LocalCache(30, arena())
    insert(cache, "one", b"first")
    insert(cache, "one", b"second")
    assert look_up(cache, "one") == b"first"
    assert (len(cache), cache.used_nbytes) == (1, 5)


@pytest.mark.spec("server:232")
def test_a_response_larger_than_the_cache_is_logged_and_evicts_nothing(caplog: pytest.LogCaptureFixture) -> None:
    cache = LocalCache(30, arena())
    insert(cache, "one", b"1")
    with caplog.at_level(logging.ERROR):
        insert(cache, "large", b"2" * 31)
    assert "a response of 31 bytes is not kept: the response cache holds 30 bytes in all" in caplog.text
    assert look_up(cache, "large") is None
    assert look_up(cache, "one") == b"1"


def test_a_large_output_is_referred_to_in_shared_memory_until_nobody_does() -> None:
    memory = arena()
    cache = LocalCache(150_000, memory)
    insert(cache, "one", b"1" * 100_000)
    assert memory.stats().blocks == 1
    found = asyncio.run(cache.look_up(b"one"))
    assert found is not None
    assert isinstance(found.outputs[0].data, Slice)
    insert(cache, "two", b"2" * 100_000)  # evicts it
    assert memory.stats().blocks == 2
    assert bytes(found.outputs[0].buffer()) == b"1" * 100_000
    del found
    assert memory.stats().blocks == 1


def test_what_a_caller_does_to_a_hit_does_not_reach_the_next() -> None:
    cache = LocalCache(100, arena())
    asyncio.run(cache.insert(b"key", CachedResponse([Tensor("OUT", "UINT8", [4], b"abcd")], {"a": 1})))
    for _ in range(2):
        found = asyncio.run(cache.look_up(b"key"))
        assert found is not None
        assert (found.outputs[0].shape, found.parameters) == ([4], {"a": 1})
        found.outputs[0].shape = [2, 2]
        assert found.parameters is not None
        found.parameters["b"] = 2


@pytest.mark.spec("server:232")
def test_requests_are_equal_whatever_their_ids_parameters_and_order_of_inputs() -> None:
    key = request_key(b"model", OUTPUTS, request(A, B))
    assert request_key(b"model", OUTPUTS, request(B, A, id="7", parameters={"p": 1}, priority=1)) == key
    assert request_key(b"model", OUTPUTS, request(A, B, outputs=["X", "Y"])) == request_key(
        b"model", OUTPUTS, request(A, B, outputs=["Y", "X"])
    )
    assert request_key(b"model", OUTPUTS, request(A, B, outputs=OUTPUTS)) == key


@pytest.mark.spec("server:232")
@pytest.mark.parametrize(
    "other",
    [
        request(A),
        request(A, Tensor("B", "BYTES", [1], b"\1\0\0\0c")),
        request(A, Tensor("C", "BYTES", [1], b"\1\0\0\0b")),
        request(Tensor("A", "UINT32", [1], b"\1\0\0\0"), B),
        request(Tensor("A", "INT32", [1, 1], b"\1\0\0\0"), B),
        request(A, B, outputs=["X"]),
        # The same bytes in all, otherwise divided.
        request(Tensor("A", "INT32", [1], b"\1\0\0"), Tensor("B", "BYTES", [1], b"\0\1\0\0\0b")),
    ],
)
def test_requests_differ_by_names_types_shapes_bytes_and_requested_outputs(other: Request) -> None:
    assert request_key(b"model", OUTPUTS, other) != request_key(b"model", OUTPUTS, request(A, B))


def test_requests_of_different_models_differ() -> None:
    assert request_key(b"model", OUTPUTS, request(A)) != request_key(b"other", OUTPUTS, request(A))


@pytest.mark.spec("server:165")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([("foo", "size", "1")], "unable to find 'libtritoncache_foo.so' for cache. Searched: /caches"),
        (
            [("local", "size", "1"), ("redis", "host", "h")],
            "found multiple cache configurations, but only a single cache is currently supported",
        ),
        ([("local", "size", "many")], "--cache-config=local,size must be a number, got: many"),
        ([("local", "size", "0")], "--cache-config=local,size must be greater than 0, got: 0"),
        ([("local", "sice", "1")], "--cache-config=local,sice is not known; there are: size"),
        ([("redis", "port", "x")], "--cache-config=redis,port must be a number, got: x"),
    ],
)
def test_a_cache_that_cannot_be_is_refused(given: list[tuple[str, str, str]], message: str) -> None:
    with pytest.raises(ServerError) as caught:
        make_cache(given, "/caches", arena)
    assert (caught.value.code, caught.value.message) == (Code.INVALID_ARG, message)
