"""A uvloop event loop in a thread of its own, for those who have no loop, or one that is not ours.

Nothing of the host is touched: no signal handler (a loop sets them in the main thread only), no policy, no loop of its.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop

__all__ = ["LoopThread"]

T = TypeVar("T")

_JOIN_S = 5.0


class LoopThread:
    """Runs from its construction until :meth:`end`. A daemon: it holds up no interpreter that exits."""

    def __init__(self, name: str) -> None:
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_current(self) -> bool:
        """Whether this is called on the loop's own thread, which must not wait for itself."""
        return threading.get_ident() == self._thread.ident

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` on the loop and wait for it; from any other thread. What it raises, this raises."""
        assert not self.is_current
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def soon(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have ``function`` called on the loop. Raises RuntimeError once the loop has ended."""
        self.loop.call_soon_threadsafe(function, *arguments)

    def end(self) -> None:
        """End the loop and what still runs on it. Safe to repeat, and from any thread."""
        with contextlib.suppress(RuntimeError):
            self.soon(self.loop.stop)
        self.wait(_JOIN_S)

    def wait(self, timeout_s: float) -> None:
        """Wait for the loop's end, unless this is its own thread (a finalizer may run there)."""
        if not self.is_current:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            left = asyncio.all_tasks(self.loop)
            for task in left:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            with contextlib.suppress(RuntimeError):  # an interpreter that exits starts no thread to wait in
                self.loop.run_until_complete(self.loop.shutdown_default_executor())
            asyncio.set_event_loop(None)
            self.loop.close()
