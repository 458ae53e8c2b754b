"""Loading and unloading: from a folder in a repository to versions that serve, and back.

A load brings up all versions that the policy selects, or none. What was serving before stays until the new is ready,
and stays for good when the new fails; versions that the change does not concern serve on. Changes of different models
run side by side, those of one model one after another. Models are told apart by their identifiers, clients know names.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from atoll.core.catalog import Catalog, Entry, ModelState
from atoll.core.keeping import kept_versions
from atoll.core.making import ModelMaker
from atoll.core.model import Model, ModelHost
from atoll.errors import Code, ServerError
from atoll.observe.metrics import Metrics
from atoll.repository.backends import Backends
from atoll.repository.config import ModelConfig
from atoll.repository.names import is_plain_name
from atoll.repository.override import ModelFolder
from atoll.repository.repositories import Found, Repositories
from atoll.repository.scan import ModelSource

if TYPE_CHECKING:
    from atoll.core.server import ServerOptions

__all__ = ["Loader"]

_log = logging.getLogger(__name__)

_FAILED_LOAD_END_S = 5.0
_UNLOAD_S = 300.0
_UNLOADED = Entry(ModelState.UNAVAILABLE, reason="unloaded")

Prepare = Callable[[Found, bool], Awaitable[ServerError | None]]
"""Called when it is a model's turn, and with whether it takes a slot; returns why it cannot be loaded."""


async def _nothing_to_prepare(found: Found, in_slot: bool) -> ServerError | None:
    return None


class Loader:
    """Brings models up and down, and tells the catalog."""

    def __init__(
        self,
        options: ServerOptions,
        repositories: Repositories,
        catalog: Catalog,
        metrics: Metrics,
        host: ModelHost,
    ) -> None:
        self._options = options
        self._repositories = repositories
        self._catalog = catalog
        self._metrics = metrics
        self._maker = ModelMaker(Backends(Path(options.backend_directory)), options.auto_complete_config, host)
        self._slots = asyncio.Semaphore(max(1, options.load_thread_count))
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # A model that is being loaded, and those that it waits for: it asked for them, or is composed of them.
        self._waits: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._loaded: dict[str, Found] = {}  # what models were loaded from, as it was then
        self._folders: dict[Model, ModelFolder] = {}
        self._ending: dict[Model, asyncio.Task[bool]] = {}
        self._changes = 0  # loads and unloads under way
        self._stopping = asyncio.Event()
        self.prepare: Prepare = _nothing_to_prepare

    # -- what is asked

    async def load(
        self,
        name: str,
        config: str = "",
        files: Mapping[str, bytes] | None = None,
        asker: str = "",
        asker_has_slot: bool = True,
    ) -> None:
        """Load a model by name, or load it again if it changed. Raises ServerError with the original's words.

        ``config`` is a configuration as JSON that stands in for the file; ``files`` (by ``file:<path>``) stand in for
        the model's directory and need a ``config``. ``asker`` is the model that asks, where that is itself being
        loaded; ``asker_has_slot`` is False for one that has not come so far.
        """
        _check_name(name)
        async with self._turn(name, asker):
            with contextlib.ExitStack() as holding:
                try:
                    folder = _override_folder(name, config, files)
                    if folder is not None:
                        folder.hold()
                        holding.callback(folder.release)
                    all_found = await asyncio.to_thread(self._find, name, config, folder)
                except ServerError as error:
                    _log.error(f"failed to poll model '{name}': {error.message}")
                    text = f"failed to load '{name}', failed to poll from model repository"
                    raise ServerError(Code.INTERNAL, text) from error
                changed = [found for found in all_found if config or not self._is_unchanged(found)]
                loads = (self._load(found, folder, in_slot=not (asker and asker_has_slot)) for found in changed)
                for failure in _failures(await asyncio.gather(*loads, return_exceptions=True)):
                    raise failure

    async def load_found(self, found: Found) -> None:
        """Load a model as it was found in a repository. Raises ServerError."""
        async with self._turn(found.source.name, asker=""):
            await self._load(found)

    async def reload(self, found: Found) -> None:
        """Load a model again, though its files are what they were. Raises ServerError."""
        async with self._turn(found.source.name, asker=""):
            self._loaded.pop(found.source.identifier, None)
            await self._load(found)

    async def unload(self, name: str, asker: str = "") -> None:
        """Begin to unload a model; what is under way is answered first. A model that is not loaded is no error."""
        async with self._turn(name, asker):
            for identifier in self._catalog.identifiers(name):
                self._unload(identifier)

    async def unload_lost(self, identifier: str, name: str) -> None:
        """The same for one that is not in the repositories any more."""
        async with self._turn(name, asker=""):
            self._unload(identifier)

    async def stop_all(self, timeout_s: float) -> bool:
        """Finalize every model; True when all ended by themselves."""
        self._stopping.set()
        for model in self._catalog.living():
            self._catalog.set_if_current(model, Entry(ModelState.UNLOADING, model))
            self._end_later(model, timeout_s)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        tasks = late = set(self._ending.values())
        while late and (left_s := deadline - loop.time()) > 0:
            found = f"{len(self._catalog.living())} live models and {self._changes} in-flight non-inference requests"
            _log.info(f"Timeout {round(left_s)}: Found {found}")
            _, late = await asyncio.wait(late, timeout=min(1.0, left_s))
        return not late and all(task.result() for task in tasks)

    # -- whose turn it is

    @contextlib.asynccontextmanager
    async def _turn(self, name: str, asker: str) -> AsyncIterator[None]:
        """One change of a model at a time."""
        if asker and self._waits_for(name, asker):
            raise ServerError(
                Code.UNAVAILABLE,
                f"model '{asker}' cannot wait for '{name}' while it is being loaded: '{name}' waits for '{asker}'"
                if name != asker
                else f"model '{asker}' cannot load or unload itself while it is being loaded",
            )
        if asker:
            self._waits[asker][name] += 1
        try:
            async with self._turns.setdefault(name, asyncio.Lock()):
                if self._stopping.is_set():
                    raise ServerError(Code.UNAVAILABLE, "Server not ready")
                self._changes += 1
                try:
                    yield
                finally:
                    self._changes -= 1
        finally:
            if asker:
                self._waits[asker][name] -= 1

    def _waits_for(self, name: str, other: str) -> bool:
        """Whether a model is another, or waits for it, directly or not."""
        seen, pending = {name}, [name]
        while pending:
            last = pending.pop()
            if last == other:
                return True
            following = {waited for waited, count in self._waits[last].items() if count} - seen
            seen |= following
            pending += following
        return False

    # -- finding

    def _find(self, name: str, config: str, folder: ModelFolder | None) -> list[Found]:
        """The model as it is to be loaded, and its namesakes. Raises ServerError when one cannot be read."""
        if folder is not None:
            all_found = [self._repositories.read_folder(name, folder.path, config)]
        else:
            all_found = self._repositories.find(name, config)
        for found in all_found:
            error = found.source.error
            if error is not None and found.source.config is None:
                _log.error(f"Poll failed for model directory '{name}': {error.message}")
                prefix = "Invalid config override: " if config else ""
                raise ServerError(error.code, prefix + error.message)
        return all_found

    def _is_unchanged(self, found: Found) -> bool:
        """Whether a model serves, from the very files that lie in the repository now."""
        identifier = found.source.identifier
        before = self._loaded.get(identifier)
        return before is not None and before.files == found.files and bool(self._catalog.ready(identifier))

    # -- up

    async def _load(self, found: Found, folder: ModelFolder | None = None, in_slot: bool = True) -> None:
        """Load the versions of one model: all of them, or none. Raises ServerError.

        A load that a model waits for while it is loaded itself takes no slot of its own: that model has one.
        """
        source = found.source
        name = source.identifier
        if name != source.name:
            self._catalog.know(name, source.name)
        serving = self._catalog.ready(name)
        error = source.error or await self.prepare(found, in_slot)
        if error is not None:
            _log.error(f"failed to load model '{name}': {error}")
            if not serving:
                self._catalog.set_unloadable(name, str(error))
            raise ServerError(Code.INVALID_ARG, f"load failed for model '{name}': {error.message}\n")
        assert source.config is not None
        self._catalog.set_unloadable(name, "")
        kept = kept_versions(self._loaded.get(name), found, serving)
        async with self._slots if in_slot else contextlib.nullcontext():
            outcomes = await asyncio.gather(
                *(
                    self._keep(kept[version], source.config)
                    if version in kept
                    else self._bring_up(source, version, folder)
                    for version in source.versions
                ),
                return_exceptions=True,
            )
        failures = _failures(outcomes)
        loaded = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        if failures:
            _log.info(f"failed to load '{name}'")
            for model in loaded:
                if model in kept.values():
                    model.settle(None)
                else:
                    self._catalog.set_if_current(model, _UNLOADED)
                    await self._end_later(model, _FAILED_LOAD_END_S)
            lines = [
                f"version {version} is at UNAVAILABLE state: {outcome};\n"
                for version, outcome in zip(source.versions, outcomes, strict=True)
                if isinstance(outcome, ServerError)
            ]
            raise ServerError(Code.INVALID_ARG, f"load failed for model '{name}': {''.join(lines)}")
        self._loaded.pop(name, None)
        if folder is None:
            self._loaded[name] = found
        self._retire(name, keep=loaded)
        for model in loaded:
            model.metadata = {**model.metadata, "versions": [str(version) for version in source.versions]}
            if model in kept.values():
                model.settle(source.config)
                continue
            model.series = self._metrics.add_model(
                model.name,
                model.version,
                model.statistics,
                model.pending,
                model.metric_tags,
                namespace=model.namespace,
                decoupled=model.decoupled,
                buckets=model.metric_buckets,
            )
            self._catalog.set(name, model.version, Entry(ModelState.READY, model))
        _log.info(f"successfully loaded '{name}'")

    async def _keep(self, model: Model, config: ModelConfig) -> Model:
        """A version that serves on, with the instances that a new configuration adds."""
        try:
            await model.grow(config)
        except ServerError as error:
            _log.error(f"failed to load '{model.identifier}' version {model.version}: {error}")
            raise
        return model

    async def _bring_up(self, source: ModelSource, version: int, folder: ModelFolder | None) -> Model:
        """One version that serves. Raises ServerError; the catalog has it too, unless an older one serves."""
        name = source.identifier
        _log.info(f"loading: {name}:{version}")
        serving = version in self._catalog.ready(name)
        for attempt in itertools.count():
            model = None
            if not serving:
                self._catalog.set(name, version, Entry(ModelState.LOADING))
            try:
                model = await self._maker.make(source, version)
                self._catalog.born(model)
                if folder is not None:
                    folder.hold()
                    self._folders[model] = folder
                if not serving:
                    self._catalog.set(name, version, Entry(ModelState.LOADING, model))
                if self._stopping.is_set():
                    raise ServerError(Code.UNAVAILABLE, "Server not ready")
                await model.start()
            except ServerError as error:
                _log.error(f"failed to load '{name}' version {version}: {error}")
                if model is not None:
                    self._gone(model)
                if attempt >= self._options.load_retry_count or self._stopping.is_set():
                    if not serving:
                        self._catalog.set(name, version, Entry(ModelState.UNAVAILABLE, reason=str(error)))
                    raise
            else:
                return model
        raise AssertionError  # a count has no end

    # -- down

    def _unload(self, identifier: str) -> None:
        self._loaded.pop(identifier, None)
        self._catalog.set_unloadable(identifier, "")
        self._retire(identifier, keep=())

    def _retire(self, name: str, keep: Collection[Model]) -> None:
        """End what there is of a model but ``keep``, which is about to take its place."""
        versions = [model.version for model in keep]
        for version, entry in self._catalog.versions(name):
            if entry.model is not None and entry.model not in keep:
                self._end_later(entry.model, _UNLOAD_S, replaced=version in versions)
            if version in versions:
                continue
            alive = entry.model is not None
            self._catalog.set(name, version, Entry(ModelState.UNLOADING, entry.model) if alive else _UNLOADED)

    def _end_later(self, model: Model, timeout_s: float, replaced: bool = False) -> asyncio.Task[bool]:
        task = self._ending.get(model)
        if task is None:
            task = self._ending[model] = asyncio.ensure_future(self._end(model, timeout_s, replaced))
            task.add_done_callback(lambda done: self._ending.pop(model))
        return task

    async def _end(self, model: Model, timeout_s: float, replaced: bool) -> bool:
        """Let a model finish what it has accepted, unless the server stops; then end its instances."""
        waiting = [asyncio.ensure_future(event) for event in (model.retire(replaced), self._stopping.wait())]
        await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        clean = await model.stop(timeout_s)
        if model.series is not None:
            self._metrics.remove_model(model.series)
        self._catalog.set_if_current(model, _UNLOADED)
        self._gone(model)
        _log.info(f"successfully unloaded '{model.identifier}' version {model.version}")
        return clean

    def _gone(self, model: Model) -> None:
        """Its processes have ended."""
        self._catalog.gone(model)
        folder = self._folders.pop(model, None)
        if folder is not None:
            folder.release()


def _check_name(name: str) -> None:
    if not name:
        raise ServerError(Code.INVALID_ARG, "Model name cannot be empty. Please enter a valid name to deploy.")
    if not is_plain_name(name):
        raise ServerError(
            Code.INVALID_ARG, f"invalid model name '{name}', model name must not contain path traversal characters"
        )


def _override_folder(name: str, config: str, files: Mapping[str, bytes] | None) -> ModelFolder | None:
    if not files:
        return None
    if not config:
        raise ServerError(Code.INVALID_ARG, "Load parameter 'config' must be specified for model file override")
    return ModelFolder(name, files)


def _failures(outcomes: Sequence[object]) -> list[ServerError]:
    """The refusals among what was gathered; whatever else went wrong is raised."""
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, ServerError):
            raise outcome
    return [outcome for outcome in outcomes if isinstance(outcome, ServerError)]
