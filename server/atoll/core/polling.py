"""Brings what is loaded in line with what lies in the repositories: once at the start, or again and again.

A model is loaded when its files are not those of the last time, whatever came of it then: one that fails to load is
tried again when somebody has changed it. One that cannot even be read is read every time. What is wrong is said once,
and again when it changes.
"""

from __future__ import annotations

import asyncio
import logging

from atoll.core.catalog import NOT_UNIQUE, Catalog
from atoll.core.composing import Composer
from atoll.repository.changes import Snapshot
from atoll.repository.repositories import Found, Look, Repositories
from atoll.repository.scan import Listed

__all__ = ["Poller"]

_log = logging.getLogger(__name__)


class Poller:
    """Looks at the repositories. Errors are told in the log and in the catalog."""

    def __init__(self, repositories: Repositories, composer: Composer, catalog: Catalog) -> None:
        self._repositories = repositories
        self._composer = composer
        self._catalog = catalog
        self._known: dict[str, Listed] = {}
        self._files: dict[str, Snapshot] = {}  # of those that could be read
        self._complaints: dict[str, str] = {}  # what was said about what, the last time

    async def run(self, interval_s: float) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self.poll()
            except Exception:
                _log.exception("failed to poll the model repository")

    async def poll(self, all_must_be_readable: bool = False) -> bool:
        """Look, and load and unload what changed since the last time; True when nothing went wrong.

        Raises the first error of a repository that ``all_must_be_readable``.
        """
        look = await asyncio.to_thread(self._repositories.look, dict(self._files))
        unreadable = [found for found in look.changed if found.source.config is None]
        self._complain(look, unreadable)
        if look.failures and all_must_be_readable:
            raise next(iter(look.failures.values()))
        await self._unload_lost(look)
        self._known.update(look.present)
        for found in unreadable:
            self._files.pop(found.source.identifier, None)
            self._set_unloadable(found.source.identifier, str(found.source.error))
        loads = [found for found in look.changed if found.source.config is not None]
        self._files.update({found.source.identifier: found.files for found in loads})
        outcomes = await self._composer.load_all(loads)
        return not (look.failures or look.duplicates or unreadable or any(outcomes))

    async def _unload_lost(self, look: Look) -> None:
        """Unload what is gone, or is there twice. What was in a repository that cannot be read just now stays."""
        for identifier, listed in list(self._known.items()):
            gone = identifier not in look.present and listed.repository not in look.failures
            if gone or identifier in look.duplicates:
                self._files.pop(identifier, None)
                await self._composer.unload_lost(identifier, listed.name)
            if gone:
                del self._known[identifier]
                self._catalog.set_unloadable(identifier, "")
        for identifier in look.duplicates:
            self._catalog.set_unloadable(identifier, NOT_UNIQUE["reason"])

    def _set_unloadable(self, identifier: str, reason: str) -> None:
        """Unless it serves, as it was before."""
        if not self._catalog.ready(identifier):
            self._catalog.set_unloadable(identifier, reason)

    def _complain(self, look: Look, unreadable: list[Found]) -> None:
        complaints = {str(path): error.message for path, error in look.failures.items()}
        for identifier in look.duplicates:
            complaints[identifier] = f"failed to poll model '{identifier}': not unique across all model repositories"
        for found in unreadable:
            assert found.source.error is not None
            name = found.source.identifier
            complaints[name] = f"Poll failed for model directory '{name}': {found.source.error.message}"
        for about, text in complaints.items():
            if self._complaints.get(about) != text:
                _log.error(text)
        self._complaints = complaints
