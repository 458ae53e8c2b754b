"""Loading and unloading: from a folder in a repository to versions that serve, and back.

A load brings up all versions that the policy selects, or none. What was serving before stays until the new is ready,
and stays for good when the new fails. Loads of different models run side by side, those of one model one after another.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from atoll.core.catalog import Catalog, Entry, ModelState
from atoll.core.model import Model, ModelHost, initialize_args
from atoll.errors import Code, ServerError
from atoll.instances.auto_complete import auto_complete
from atoll.observe.log import model_output
from atoll.observe.metrics import Metrics
from atoll.repository import scan
from atoll.repository.config import ModelConfig, QueuePolicy

if TYPE_CHECKING:
    from atoll.core.server import ServerOptions

__all__ = ["Loader"]

_log = logging.getLogger(__name__)

_FAILED_LOAD_END_S = 5.0
_UNLOAD_S = 300.0


class Loader:
    """Brings models up and down, and tells the catalog."""

    def __init__(self, options: ServerOptions, catalog: Catalog, metrics: Metrics, host: ModelHost) -> None:
        self._options = options
        self._catalog = catalog
        self._metrics = metrics
        self._host = host
        self._slots = asyncio.Semaphore(max(1, options.load_thread_count))
        self._locks: dict[str, asyncio.Lock] = {}
        self._overrides: dict[str, tempfile.TemporaryDirectory[str]] = {}
        self._unloading: set[asyncio.Task[bool]] = set()

    async def load_all(self) -> bool:
        """Load every model of every repository; True when none failed."""
        found = self._scan()
        for error in found.failures.values():
            _log.error(error.message)
        if found.failures and self._options.exit_on_error:
            raise next(iter(found.failures.values()))
        for name in found.duplicates:
            _log.error(f"failed to poll model '{name}': not unique across all model repositories")
            self._catalog.set_unloadable(name, "model appears in two or more repositories")
        loaded = await asyncio.gather(*(self._load(source) for source in found.models.values()))
        return not found.failures and not found.duplicates and all(loaded)

    async def load(self, name: str, config: str = "", files: Mapping[str, bytes] | None = None) -> None:
        """Load a model by name, or load it again. Raises ServerError with the original's words.

        ``config`` is a configuration as JSON that stands in for the file; ``files`` (by ``file:<path>``) stand in for
        the model's directory and need a ``config``.
        """
        poll_failed = ServerError(Code.INTERNAL, f"failed to load '{name}', failed to poll from model repository")
        try:
            source = self._find(name, config, files)
        except ServerError as error:
            _log.error(f"failed to poll model '{name}': {error.message}")
            raise poll_failed from error
        if source.error is not None and source.config is None:
            _log.error(f"Poll failed for model directory '{name}': {source.error.message}")
            raise poll_failed from source.error
        async with self._locks.setdefault(name, asyncio.Lock()):
            if not await self._load(source):
                raise ServerError(Code.INVALID_ARG, self._why_failed(name))

    async def unload(self, name: str) -> None:
        """Begin to unload a model; what is under way is answered first. A model that is not loaded is no error."""
        for model in [model for model in self._catalog.models() if model.name == name]:
            self._catalog.set(name, model.version, Entry(ModelState.UNLOADING, model))
            task = asyncio.ensure_future(self._retire(model))
            self._unloading.add(task)
            task.add_done_callback(self._unloading.discard)

    async def stop_all(self, timeout_s: float) -> bool:
        """Finalize every model; True when all ended by themselves."""
        for task in list(self._unloading):
            task.cancel()
        await asyncio.gather(*self._unloading, return_exceptions=True)
        ended = await asyncio.gather(*(self.finalize(model, timeout_s) for model in self._catalog.models()))
        for folder in self._overrides.values():
            folder.cleanup()
        return all(ended)

    async def finalize(self, model: Model, timeout_s: float) -> bool:
        """End a model's instances; whatever it has not answered by now is answered with an error."""
        self._catalog.set(model.name, model.version, Entry(ModelState.UNLOADING, model))
        clean = await self._end(model, timeout_s)
        self._catalog.set(model.name, model.version, Entry(ModelState.UNAVAILABLE, reason="unloaded"))
        return clean

    # -- one model

    def _scan(self) -> scan.Scan:
        flat = [Path(path) for path in self._options.repositories if scan.is_flat(Path(path))]
        ordinary = [Path(path) for path in self._options.repositories if Path(path) not in flat]
        scans = [scan.scan(ordinary, self._scan_options), *(scan.load_flat(path, self._scan_options) for path in flat)]
        sources = tuple(source for one in scans for source in one.sources)
        return scan.Scan(sources, {path: error for one in scans for path, error in one.failures.items()})

    @property
    def _scan_options(self) -> scan.Options:
        return scan.Options(strict=not self._options.auto_complete_config, config_name=self._options.model_config_name)

    def _find(self, name: str, config: str, files: Mapping[str, bytes] | None) -> scan.ModelSource:
        if files:
            if not config:
                raise ServerError(Code.INVALID_ARG, "Load parameter 'config' must be specified for model file override")
            directory = self._write_override(name, files)
            return scan.read_model(directory, directory.parent, self._scan_options, name=name, override=config)
        found = scan.find_model(map(Path, self._options.repositories), name, self._scan_options)
        if len(found) != 1:
            reason = "not unique across all model repositories" if found else "unable to find it in the repositories"
            raise ServerError(Code.NOT_FOUND, reason)
        if config:
            return scan.read_model(found[0].path, found[0].repository, self._scan_options, name=name, override=config)
        return found[0]

    def _write_override(self, name: str, files: Mapping[str, bytes]) -> Path:
        """The model's directory as the request has it."""
        if not name or "/" in name or name.startswith("."):
            raise ServerError(Code.INVALID_ARG, f"invalid model name '{name}'")
        folder = tempfile.TemporaryDirectory(prefix="atoll_model_")
        root = Path(folder.name) / name
        for key, content in files.items():
            path = (root / key.removeprefix("file:").lstrip("/")).resolve()
            if not path.is_relative_to(root.resolve()) or path == root.resolve():
                folder.cleanup()
                raise ServerError(Code.INVALID_ARG, f"file override '{key}' must stay within model directory.")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            except OSError as error:
                folder.cleanup()
                raise ServerError(Code.INVALID_ARG, f"file override '{key}': {error.strerror}") from error
        previous = self._overrides.get(name)
        self._overrides[name] = folder
        if previous is not None:
            previous.cleanup()
        return root

    async def _load(self, source: scan.ModelSource) -> bool:
        """Load the versions of one model: all of them, or none."""
        name = source.name
        try:
            if source.error is not None:
                raise source.error
            assert source.config is not None
            config = await self._complete(source, source.config)
            _check_supported(config)
        except ServerError as error:
            _log.error(f"failed to load model '{name}': {error}")
            if not self._catalog.ready_versions(name):
                self._catalog.set_unloadable(name, str(error))
            return False
        before = [model for model in self._catalog.models() if model.name == name]
        async with self._slots:
            results = await asyncio.gather(
                *(self._load_version(config, version, path, source.path) for version, path in source.versions.items())
            )
        loaded = [model for model in results if model is not None]
        if len(loaded) < len(results):
            _log.info(f"failed to load '{name}'")
            for model in loaded:
                await self._end(model, _FAILED_LOAD_END_S)
                entry = self._catalog.entry(name, model.version)
                if entry is not None and entry.model is model:
                    self._catalog.set(name, model.version, Entry(ModelState.UNAVAILABLE, reason="unloaded"))
            return False
        for model in loaded:
            model.metadata = config.metadata(list(source.versions))
            model.series = self._metrics.add_model(
                name, model.version, model.statistics, model.pending, model.metric_tags
            )
            self._catalog.set(name, model.version, Entry(ModelState.READY, model))
        _log.info(f"successfully loaded '{name}'")
        for model in before:
            task = asyncio.ensure_future(self._retire(model))
            self._unloading.add(task)
            task.add_done_callback(self._unloading.discard)
        return True

    async def _complete(self, source: scan.ModelSource, config: ModelConfig) -> ModelConfig:
        """The final configuration: what is in the file, and what the model adds in ``auto_complete_config``."""
        config.check_loadable()
        completed: str | None = None
        if self._options.auto_complete_config and config.platform != "ensemble":
            for version, path in source.versions.items():
                if completed is not None:
                    config = config.complete(completed)
                completed = await auto_complete(
                    initialize_args(config, version, source.path, instance=None),
                    path.absolute(),
                    config.default_model_filename,
                    self._host.warm_parent,
                    self._host.start_timeout_s,
                    partial(model_output, f"{config.name} auto-complete"),
                )
        return config.complete(completed)

    async def _load_version(self, config: ModelConfig, version: int, path: Path, model_dir: Path) -> Model | None:
        """One version, loaded, or None when it failed; the catalog then has the reason, unless an older one serves."""
        name = config.name
        _log.info(f"loading: {name}:{version}")
        serving = version in self._catalog.ready_versions(name)
        for attempt in itertools.count():
            try:
                model = Model(config, version, path.absolute(), model_dir.absolute(), self._host)
                if not serving:
                    self._catalog.set(name, version, Entry(ModelState.LOADING, model))
                await model.start()
            except ServerError as error:
                if not serving:
                    self._catalog.set(name, version, Entry(ModelState.UNAVAILABLE, reason=str(error)))
                self._catalog.note_failure(name, version, str(error))
                _log.error(f"failed to load '{name}' version {version}: {error}")
                if attempt >= self._options.load_retry_count:
                    return None
            else:
                return model
        return None

    async def _retire(self, model: Model) -> bool:
        """Let a model finish what it has accepted, then end it. Another may have taken its place in the catalog."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(model.drained(), _UNLOAD_S)
        clean = await self._end(model, _UNLOAD_S)
        entry = self._catalog.entry(model.name, model.version)
        if entry is not None and entry.model is model:
            self._catalog.set(model.name, model.version, Entry(ModelState.UNAVAILABLE, reason="unloaded"))
        return clean

    async def _end(self, model: Model, timeout_s: float) -> bool:
        clean = await model.stop(timeout_s)
        if model.series is not None:
            self._metrics.remove_model(model.series)
        _log.info(f"successfully unloaded '{model.name}' version {model.version}")
        return clean

    def _why_failed(self, name: str) -> str:
        reasons = self._catalog.failures(name)
        if not reasons:
            return f"load failed for model '{name}': {self._catalog.unloadable_reason(name)}\n"
        lines = "".join(
            f"version {version} is at UNAVAILABLE state: {reason};\n" for version, reason in sorted(reasons.items())
        )
        return f"load failed for model '{name}': {lines}"


def _check_supported(config: ModelConfig) -> None:
    """Refuse what would be served wrongly because it is not built yet; warn of what would only be missed."""
    refused: list[str] = [name for name in ("ensemble_scheduling",) if name in config.json]
    if "sequence_batching" in config.json and not config.json["sequence_batching"]["iterative_sequence"]:
        refused.append("sequence_batching")
    if "EXECUTION_ENV_PATH" in config.parameters:
        refused.append("EXECUTION_ENV_PATH")
    if refused:
        raise ServerError(Code.UNSUPPORTED, f"'{refused[0]}' of model '{config.name}' is not supported yet")
    missed = [name for name in ("model_warmup", "response_cache") if config.json.get(name)]
    batching = config.dynamic_batching
    if batching is not None:
        policies = {batching.default_queue_policy, *batching.priority_queue_policies.values()}
        missed += ["queue policies"] if policies != {QueuePolicy()} else []
        missed += ["priority_levels"] if batching.priority_levels else []
        missed += ["preserve_ordering"] if batching.preserve_ordering else []
    for name in missed:
        _log.warning(f"model '{config.name}': '{name}' is not supported yet and has no effect")
