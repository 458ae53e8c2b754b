"""The life of a server process, from start-up to its exit status.

::

    load models ─► tables ─► endpoints listen ─► signal ─► endpoints stop ─► core stops ─► exit
         └───────────────────────┴── failure or signal ──────────────────────►┘

One budget, the exit timeout, covers everything after the signal. What the core and the endpoints are is not known here,
so the story can be tested with stand-ins.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from atoll.errors import ServerError

__all__ = ["Core", "Endpoint", "Listener", "report_startup_failure", "serve"]

_log = logging.getLogger(__name__)


class Core(Protocol):
    """What the process needs of the server object."""

    async def start(self) -> None:
        """Load the models. Raises ServerError."""

    async def stop(self, timeout_s: float) -> bool:
        """Finish what is in flight, unload everything; False if the time did not suffice."""


class Listener(Protocol):
    """What the process needs of a frontend."""

    port: int

    @property
    def busy(self) -> int:
        """Connections or calls that are still served."""

    async def start(self) -> None:
        """Listen. Raises ServerError."""

    async def stop(self, timeout_s: float, /) -> Any:
        """Accept nothing more, finish what is in flight."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A frontend with the names it has in log lines. An ``auxiliary`` one stays until the core has stopped.

    ``busy_with`` is what its stop has to wait for.
    """

    protocol: str
    service: str
    address: str
    listener: Listener
    busy_with: str
    auxiliary: bool = False


def report_startup_failure(error: ServerError) -> None:
    """The line on standard error that ends a start-up that failed."""
    print(f"error: creating server: {error.code.title} - {error.message}", file=sys.stderr)


async def serve(
    core: Core,
    endpoints: Sequence[Endpoint],
    *,
    exit_timeout_s: float,
    on_loaded: Callable[[bool], Awaitable[None]],
    abandon: Callable[[int], Any] = os._exit,
) -> int:
    """Run until SIGINT or SIGTERM; return the exit status.

    ``on_loaded`` is called once the start-up loads have ended, with whether they ended well. ``abandon`` ends the
    process without waiting for anything, for when the exit timeout has expired.
    """
    signalled = asyncio.Event()
    _handle_signals(signalled)

    started: list[Endpoint] = []
    failure: ServerError | None = None
    status = 0
    try:
        if await _finished_before(signalled, core.start()):
            await on_loaded(True)
            await _finished_before(signalled, _start(endpoints, started))
            await signalled.wait()
    except ServerError as error:
        await on_loaded(False)
        failure = error
        status = 1
    except _EndpointFailed:
        status = 1

    if not await _stop(core, started, exit_timeout_s):
        _log.error("failed to stop server: Internal - Exit timeout expired. Exiting immediately.")
        abandon(1)
        return 1
    if failure is not None:
        report_startup_failure(failure)
    return status


class _EndpointFailed(Exception):
    """An endpoint could not listen; the log says why."""


def _handle_signals(signalled: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def received(number: int) -> None:
        if signalled.is_set():
            return
        signalled.set()
        try:
            os.write(1, f"Signal ({number}) received.\n".encode())
        except OSError:
            pass  # nobody reads the console

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, received, number)


async def _finished_before(signalled: asyncio.Event, work: Any) -> bool:
    """Do ``work`` unless the signal comes first, which cancels it; what it raises, this raises."""
    task = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(signalled.wait())
    await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if task.done():
        task.result()
        return True
    task.cancel()
    await asyncio.wait((task,))
    return False


async def _start(endpoints: Sequence[Endpoint], started: list[Endpoint]) -> None:
    for endpoint in endpoints:
        try:
            await endpoint.listener.start()
        except ServerError as error:
            _log.error("failed to start %s service: %s - %s", endpoint.protocol, error.code.title, error.message)
            raise _EndpointFailed from error
        started.append(endpoint)
        _log.info("Started %s at %s:%s", endpoint.service, endpoint.address, endpoint.listener.port)


async def _stop(core: Core, started: Sequence[Endpoint], timeout_s: float) -> bool:
    """Stop everything within the budget; False if it did not suffice."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + max(timeout_s, 0)

    def left_s() -> float:
        return max(deadline - loop.time(), 0)

    async def stop_all(auxiliary: bool) -> None:
        await asyncio.gather(*(stop_one(endpoint) for endpoint in started if endpoint.auxiliary == auxiliary))

    async def stop_one(endpoint: Endpoint) -> None:
        stopping = asyncio.ensure_future(endpoint.listener.stop(left_s()))
        patience_s = _QUICK_S
        try:
            while not (await asyncio.wait([stopping], timeout=patience_s))[0]:
                patience_s = 1.0
                if endpoint.listener.busy:
                    _log.info(f"Timeout {round(left_s())}: Found {endpoint.listener.busy} {endpoint.busy_with}")
        finally:
            stopping.cancel()
        if (error := stopping.exception()) is not None:
            _log.error("failed to stop a service", exc_info=error)

    await _within(left_s(), stop_all(auxiliary=False))
    # Who gives any time at all has models finalized, even when connections took all of it.
    core_s = max(left_s(), _LAST_S) if timeout_s > 0 else 0
    clean = await _within(core_s, core.stop(core_s))
    await _within(left_s(), stop_all(auxiliary=True))
    return bool(clean)


_QUICK_S = 0.1
"""A frontend that stops as fast is not worth a word."""
_LAST_S = 0.1
_GRACE_S = 1.0
"""Each part keeps to the budget by itself; one that does not is left behind this much later."""


async def _within(timeout_s: float, work: Any) -> Any:
    try:
        return await asyncio.wait_for(work, timeout_s + _GRACE_S)
    except asyncio.TimeoutError:
        return None
