"""The warm parents of one server: that of its own interpreter, and one for each execution environment in use."""

from __future__ import annotations

import asyncio
import importlib.util
import tempfile
from collections import Counter
from pathlib import Path

from atoll.environments.interpreter import OWN, Interpreter
from atoll.instances.warm_parent import WarmParent

__all__ = ["WarmParents"]

_STUB_PACKAGES = ("atoll_stub", "atoll_ipc", "triton_python_backend_utils", "c_python_backend_utils")


class WarmParents:
    """Made when first asked for. That of the server's own interpreter stays, others end with their last user."""

    def __init__(self) -> None:
        self._parents: dict[Interpreter, WarmParent] = {}
        self._users: Counter[WarmParent] = Counter()
        self._ending: set[asyncio.Task[None]] = set()
        self._kit: tempfile.TemporaryDirectory[str] | None = None

    def take(self, interpreter: Interpreter) -> WarmParent:
        """What forks stubs under an interpreter; to be given back to :meth:`release` when these have ended."""
        parent = self._parents.get(interpreter)
        if parent is None:
            roots = () if interpreter is OWN else (self._stub_kit(),)
            parent = self._parents[interpreter] = WarmParent(interpreter, roots)
        self._users[parent] += 1
        return parent

    def release(self, parent: WarmParent) -> None:
        """One of those who took it has no stubs any more."""
        self._users[parent] -= 1
        if not self._users[parent] and parent.interpreter is not OWN:
            del self._users[parent]
            del self._parents[parent.interpreter]
            task = asyncio.ensure_future(parent.stop())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def stop(self) -> None:
        """End all of them; every stub must have ended before."""
        await asyncio.gather(*self._ending, *(parent.stop() for parent in self._parents.values()))
        self._parents.clear()
        self._users.clear()
        if self._kit is not None:
            self._kit.cleanup()

    def _stub_kit(self) -> str:
        """A folder with links to what a stub is made of, and to nothing else that the server's environment holds."""
        if self._kit is None:
            self._kit = tempfile.TemporaryDirectory(prefix="atoll-stub-")
            for name in _STUB_PACKAGES:
                spec = importlib.util.find_spec(name)  # without importing it, which only a stub may do
                assert spec is not None
                assert spec.origin is not None
                file = Path(spec.origin)
                source = file.parent if file.stem == "__init__" else file
                Path(self._kit.name, source.name).symlink_to(source)
        return self._kit.name
