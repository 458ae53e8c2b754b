"""The warm parents of one server: that of its own interpreter, and one for each execution environment in use."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Collection
from pathlib import Path

from atoll.environments.interpreter import OWN, Interpreter
from atoll.instances.warm_parent import WarmParent

__all__ = ["WarmParents"]

_STUB_PACKAGES = ("atoll_stub", "atoll_ipc", "triton_python_backend_utils", "c_python_backend_utils")


class WarmParents:
    """Made when first asked for."""

    def __init__(self) -> None:
        self._parents: dict[Interpreter, WarmParent] = {}
        self._kit: tempfile.TemporaryDirectory[str] | None = None

    def of(self, interpreter: Interpreter) -> WarmParent:
        parent = self._parents.get(interpreter)
        if parent is None:
            roots = () if interpreter is OWN else (self._stub_kit(),)
            parent = self._parents[interpreter] = WarmParent(interpreter, roots)
        return parent

    async def keep(self, used: Collection[WarmParent]) -> None:
        """End those of environments that no model uses any more."""
        for interpreter, parent in list(self._parents.items()):
            if parent not in used and interpreter is not OWN:
                del self._parents[interpreter]
                await parent.stop()

    async def stop(self) -> None:
        """End all of them; every stub must have ended before."""
        for parent in self._parents.values():
            await parent.stop()
        self._parents.clear()
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
