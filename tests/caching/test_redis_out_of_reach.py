"""A Redis server that is there and of no use: requests are not kept waiting for it."""

from __future__ import annotations

import asyncio

import pytest
from atoll.caching.settings import make_cache

pytest.importorskip("redis")


def test_each_question_is_asked_once() -> None:
    async def run() -> tuple[object, int]:
        attempts = 0

        def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal attempts
            attempts += 1
            writer.close()

        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as listener:
            port = str(listener.sockets[0].getsockname()[1])
            given = [("redis", "host", "127.0.0.1"), ("redis", "port", port)]
            cache = make_cache(given, "", lambda: pytest.fail("no arena for Redis"))
            found = await cache.look_up(b"key")
            await cache.close()
        return found, attempts

    assert asyncio.run(run()) == (None, 1)
