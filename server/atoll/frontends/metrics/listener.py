"""The metrics frontend: the metrics page over HTTP, on a port of its own.

The page is neither hot nor part of the inference protocol, so aiohttp serves it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from atoll.frontends.listening import cannot_listen
from atoll.observe.exposition import CONTENT_TYPE

__all__ = ["MetricsFrontend", "MetricsListenOptions"]

_PATHS = frozenset(("/metrics", "/metrics/"))


@dataclass(frozen=True, slots=True)
class MetricsListenOptions:
    """Where the metrics frontend listens; port 0 picks a free one."""

    address: str = "0.0.0.0"
    port: int = 8002


class MetricsFrontend:
    """Serves ``page()``; ``port`` is the real port once started."""

    def __init__(self, page: Callable[[], str], options: MetricsListenOptions) -> None:
        self.port = options.port
        self._page = page
        self._address = options.address
        self._runner: web.ServerRunner | None = None

    @property
    def busy(self) -> int:
        server = None if self._runner is None else self._runner.server
        return 0 if server is None else len(server.connections)

    async def start(self) -> None:
        """Listen. Raises ServerError(UNAVAILABLE) when the address cannot be had."""
        runner = web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, self._address, self.port)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise cannot_listen(self._address, self.port, error) from None
        self._runner = runner
        self.port = runner.addresses[0][1]

    async def stop(self, timeout_s: float = 0) -> None:
        """Close the port and its connections; a page is made at once, so there is nothing to wait for long."""
        runner, self._runner = self._runner, None
        if runner is not None:
            try:
                await asyncio.wait_for(runner.cleanup(), max(timeout_s, 1.0))
            except asyncio.TimeoutError:
                pass  # a client that does not read; it goes with the process

    async def abandon(self) -> None:
        await self.stop()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if request.method != "GET":
            return _plain(405, b'{"error":"Method Not Allowed"}')
        if request.path not in _PATHS:
            return _plain(200, b"")
        return web.Response(text=self._page(), headers={"Content-Type": CONTENT_TYPE})


def _plain(status: int, body: bytes) -> web.Response:
    reason = "Not Allowed" if status == 405 else None
    return web.Response(status=status, reason=reason, body=body, headers={"Content-Type": "text/plain"})
