"""The event loop of a model's coroutines: one daemon thread, started with the first of them.

The loop outlives each ``execute``: a task that one call started goes on in the next.
"""

import asyncio
import concurrent.futures
import threading
from typing import Any, Callable, Coroutine, Optional

__all__ = ["CoroutineLoop"]


class CoroutineLoop:
    """Runs coroutines from other threads."""

    def __init__(self) -> None:
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._stopped = False
        self._lock = threading.Lock()

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> "concurrent.futures.Future[Any]":
        """Let a coroutine run; its future."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._running())

    def soon(self, action: Callable[[], object]) -> None:
        """Do this in the loop's thread, when what runs there now is done."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(action)

    def stop(self) -> None:
        self._stopped = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = self._loop = asyncio.new_event_loop()
                asyncio.set_event_loop(loop)  # so that the main thread's code finds it
                threading.Thread(target=self._run, args=(loop,), name="coroutines", daemon=True).start()
            return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        while not self._stopped:
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt):
                continue  # of one task, whose future has it; asyncio lets these two end the loop as well
