"""Which models a server loads, and when: at the start, as its repositories change, or when it is told to."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from atoll.core.catalog import NOT_UNIQUE, Catalog
from atoll.core.composing import Composer
from atoll.core.loading import Loader
from atoll.core.model import ModelHost
from atoll.core.polling import Poller
from atoll.errors import Code, ServerError
from atoll.observe.metrics import Metrics
from atoll.repository import scan
from atoll.repository.repositories import Repositories

if TYPE_CHECKING:
    from atoll.core.server import ServerOptions

__all__ = ["ModelControl"]

_log = logging.getLogger(__name__)


class ModelControl:
    """Acts as the control mode says: ``none``, ``poll`` or ``explicit``."""

    def __init__(self, options: ServerOptions, catalog: Catalog, metrics: Metrics, host: ModelHost) -> None:
        self._options = options
        self._mode = options.model_control_mode
        self._catalog = catalog
        self._repositories = Repositories(
            options.repositories,
            scan.Options(strict=not options.auto_complete_config, config_name=options.model_config_name),
            options.model_namespacing,
        )
        self._loader = Loader(options, self._repositories, catalog, metrics, host)
        self._composer = Composer(self._repositories, self._loader, catalog, loads_steps=self._mode == "explicit")
        self._poller = Poller(self._repositories, self._composer, catalog)
        self._polling: asyncio.Task[None] | None = None
        self._started = False
        self._stopping = False

    async def start(self) -> bool:
        """Load what is to be loaded at the start; True when none of it failed.

        Raises ServerError where a repository cannot be read, if ``exit_on_error`` is set, and for names that make no
        sense.
        """
        if self._mode != "explicit" or self._options.startup_models == ("*",):
            loaded = await self._poller.poll(all_must_be_readable=self._options.exit_on_error)
        else:
            if self._options.exit_on_error:
                await asyncio.to_thread(self._repositories.check)
            loaded = await self._load_named(self._options.startup_models)
        self._started = True
        if self._mode == "poll":
            self._polling = asyncio.ensure_future(self._poller.run(self._options.repository_poll_s))
        return loaded

    async def _load_named(self, names: tuple[str, ...]) -> bool:
        if "*" in names:
            raise ServerError(
                Code.INVALID_ARG, "Wildcard model name '*' must be the ONLY startup model if specified at all."
            )
        outcomes = await asyncio.gather(*(self._composer.load(name) for name in names), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, ServerError):
                _log.error(outcome.message)
            elif outcome is not None:
                raise outcome
        return not any(outcomes)

    async def load(self, name: str, config: str, files: Mapping[str, bytes] | None, asker: str) -> None:
        """Load a model, or load it again, and wait until it serves. Raises ServerError; what served before stays.

        ``asker`` is the model that asks, where it is itself being loaded.
        """
        self._check_explicit()
        await self._composer.load(name, config, files, asker)

    async def unload(self, name: str, asker: str, with_steps: bool) -> None:
        """Begin to unload a model. Raises ServerError only where the mode does not allow it.

        ``with_steps`` the models that an ensemble is composed of go as well, unless they are wanted otherwise.
        """
        self._check_explicit()
        await self._composer.unload(name, asker, with_steps)

    def register(self, path: str, served_as: Mapping[str, str]) -> None:
        """One more repository. Raises ServerError."""
        self._check_registrable("registration")
        self._repositories.register(path, served_as)

    def unregister(self, path: str) -> None:
        """One repository less. Raises ServerError."""
        self._check_registrable("unregistration")
        self._repositories.unregister(path)

    def _check_registrable(self, what: str) -> None:
        self._check_started()
        if self._mode != "explicit":
            text = f"repository {what} is not allowed if model control mode is not EXPLICIT"
            raise ServerError(Code.UNSUPPORTED, text)

    async def poll(self) -> None:
        """Look at the repositories now. Raises ServerError where the mode is another."""
        self._check_started()
        if self._mode != "poll":
            raise ServerError(Code.UNAVAILABLE, "polling is disabled")
        await self._poller.poll()

    async def index(self, ready: bool) -> list[dict[str, Any]]:
        """The repository index: name, version, state and reason of every model version.

        In explicit mode also the names of models in the repositories that nobody asked to load.
        """
        if ready or self._mode != "explicit":
            return self._catalog.index(ready)
        listed = await asyncio.to_thread(self._repositories.listed)
        rows = self._catalog.index(ready)
        counts = Counter(model.identifier for model in listed)
        for identifier, name in {model.identifier: model.name for model in listed}.items():
            if not self._catalog.knows(identifier):
                rows.append({"name": name} if counts[identifier] == 1 else {"name": name, **NOT_UNIQUE})
        return sorted(rows, key=lambda row: str(row["name"]))

    def refuse(self) -> None:
        """The server is about to stop: nothing is loaded or unloaded any more."""
        self._stopping = True
        if self._polling is not None:
            self._polling.cancel()

    async def stop(self, timeout_s: float) -> bool:
        """Finalize every model; True when all ended by themselves."""
        try:
            return await self._loader.stop_all(timeout_s)
        finally:
            self.discard_copies()

    def discard_copies(self) -> None:
        """Remove the local copies of repositories in stores."""
        self._repositories.close()

    def _check_started(self) -> None:
        if not self._started or self._stopping:
            raise ServerError(Code.UNAVAILABLE, "Server not ready")

    def _check_explicit(self) -> None:
        self._check_started()
        if self._mode != "explicit":
            raise ServerError(Code.UNAVAILABLE, "explicit model load / unload is not allowed if polling is enabled")
