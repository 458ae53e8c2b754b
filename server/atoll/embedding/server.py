"""A server embedded in a process of somebody else's: the core on a loop thread, and what any thread may ask of it.

The loop lives as long as the core or one of its frontends does: a frontend that outlives its core still answers, with
refusals. An embedded server that nobody holds any more ends by itself, and at the latest when the interpreter exits.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import weakref
from collections.abc import Coroutine, Iterable
from typing import Any, Protocol, TypeVar

from atoll.core.server import Server, ServerOptions
from atoll.embedding.loop_thread import LoopThread
from atoll.errors import Code, ServerError
from atoll.inference import Request, Response
from atoll.observe.exposition import Collector, Registry

__all__ = ["EmbeddedServer", "Listener"]

T = TypeVar("T")

_ABANDONED_END_S = 5.0
"""For a server that nobody stopped: at the interpreter's exit it holds up the process no longer than this."""

_numbers = itertools.count(1)


class Listener(Protocol):
    """A frontend, in the loop's thread."""

    port: int

    async def start(self) -> None:
        """Listen. Raises ServerError."""

    async def abandon(self) -> None:
        """Stop listening, and leave requests in progress without an answer."""


class EmbeddedServer:
    """One server and its loop thread. Methods are for any thread but the loop's own, unless they say otherwise."""

    def __init__(self, options: ServerOptions, shows_metrics: bool, collectors: Iterable[Collector] = ()) -> None:
        """``collectors`` add to the metrics page; all that is on it unless it ``shows_metrics`` of its own.

        Raises ServerError for options that cannot be.
        """
        self._thread = LoopThread(f"atoll-{next(_numbers)}")
        try:
            self._core = self._thread.call(_made(options))
        except BaseException:
            self._thread.end()
            raise
        self._listeners: set[Listener] = set()
        self._stopped = False
        self._page = Registry()
        registry = self._core.metrics.registry if shows_metrics else self._page
        for collector in collectors:
            registry.register(collector)
        self.page = registry.page
        self._finalizer = weakref.finalize(self, _abandon, self._thread, self._core)

    @property
    def core(self) -> Server:
        """For frontends, and for reading what does not change."""
        return self._core

    # -- life

    def start(self) -> None:
        """Load the models. Raises ServerError; then nothing of it stays."""
        try:
            self.call(self._core.start())
        except BaseException:
            self._stopped = True
            with contextlib.suppress(ServerError):
                self.call(self._core.stop(_ABANDONED_END_S))
            self._end_if_unused()
            raise

    def stop(self, timeout_s: float) -> None:
        """Finish what is in flight, end every process. Raises ServerError when that takes too long."""
        clean = self.call(self._core.stop(timeout_s))
        if not clean:
            raise ServerError(Code.INTERNAL, "Exit timeout expired. Exiting immediately.")
        self._stopped = True
        self._end_if_unused()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the core's on its loop, and wait for it."""
        return self._thread.call(work)

    # -- frontends

    def start_listener(self, listener: Listener) -> None:
        """Raises ServerError."""
        self.call(listener.start())
        self._listeners.add(listener)

    def stop_listener(self, listener: Listener) -> None:
        self.call(listener.abandon())
        self._listeners.discard(listener)
        self._end_if_unused()

    def _end_if_unused(self) -> None:
        if self._stopped and not self._listeners:
            self._finalizer.detach()
            self._thread.end()

    # -- requests

    def infer(self, request: Request) -> None:
        """In any thread. Raises ServerError when the request is not in order, or its model is not there.

        Its inputs are copied, or not needed any more, when this returns. ``request.respond`` is called in the loop's
        thread; also a refusal that only the scheduler knows comes that way.
        """
        model = self._core.model_version(request.model_name, request.model_version)
        model.prepare(request)
        try:
            self._thread.soon(self._submit, model, request)
        except RuntimeError:
            raise ServerError(Code.UNAVAILABLE, "Server not ready") from None

    def cancel(self, request: Request) -> None:
        """In any thread; safe at any time."""
        with contextlib.suppress(RuntimeError):
            self._thread.soon(self._core.cancel, request)

    def _submit(self, model: Any, request: Request) -> None:
        try:
            if model.is_ready:
                self._core.submit(model, request)
            else:  # another may have taken its place meanwhile, to which the checks do not apply
                request.form = None
                self._core.infer(request)
        except ServerError as error:
            request.respond(Response(request, model.version, [], error=error.with_traceback(None)))


async def _made(options: ServerOptions) -> Server:
    return Server(options)


def _abandon(thread: LoopThread, core: Server) -> None:
    """Nobody holds the server any more, or the interpreter exits."""

    async def end() -> None:
        try:
            await core.stop(_ABANDONED_END_S)
        finally:
            asyncio.get_running_loop().stop()

    ending = end()
    try:
        asyncio.run_coroutine_threadsafe(ending, thread.loop)
    except RuntimeError:
        ending.close()
    thread.wait(_ABANDONED_END_S)
