"""One server: its models, the processes they run in, and the entry that HTTP, gRPC and models themselves call."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll_ipc.memory import ArenaSettings

from atoll import __version__
from atoll.core.catalog import Catalog, Entry, ModelState, parse_version
from atoll.core.model import Model
from atoll.errors import Code, ServerError
from atoll.inference import Request
from atoll.instances.instance import Answer
from atoll.instances.warm_parent import WarmParent
from atoll.observe.custom_metrics import CustomMetrics
from atoll.observe.exposition import Family, label_text
from atoll.observe.log import LogSettings
from atoll.observe.metrics import Metrics, MetricsOptions
from atoll.repository import scan
from atoll.repository.config import ModelConfig, QueuePolicy

__all__ = ["Server", "ServerOptions"]

_log = logging.getLogger(__name__)

_CHUNK_IDS_PER_ARENA = 1 << 20
_TRIM_INTERVAL_S = 10.0


@dataclass(frozen=True)
class ServerOptions:
    """Settings of a server, named after the flags of ``tritonserver``."""

    id: str = "triton"
    repositories: tuple[str, ...] = ()
    exit_on_error: bool = True
    auto_complete_config: bool = True
    strict_readiness: bool = True
    model_config_name: str = ""
    load_thread_count: int = 4
    load_retry_count: int = 0
    arena: ArenaSettings = field(default_factory=ArenaSettings)
    stub_timeout_s: float = 30.0
    metrics: MetricsOptions = field(default_factory=MetricsOptions)
    log: LogSettings = field(default_factory=LogSettings)


class Server:
    """Loads a model repository and serves it. All methods are for the event loop it was started on."""

    EXTENSIONS = (
        "classification",
        "sequence",
        "model_repository",
        "model_repository(unload_dependents)",
        "schedule_policy",
        "model_configuration",
        "system_shared_memory",
        "cuda_shared_memory",
        "binary_tensor_data",
        "parameters",
        "statistics",
        "trace",
        "logging",
    )

    def __init__(self, options: ServerOptions) -> None:
        self.name = options.id
        self.version = __version__
        self.options = options
        self.custom_metrics = CustomMetrics()
        self.metrics = Metrics(options.metrics, extra=[self._collect_memory, self.custom_metrics.collect])
        self.warm_parent = WarmParent()
        self.arena_settings = options.arena
        self.start_timeout_s = options.stub_timeout_s
        self._catalog = Catalog()
        self._arena_numbers = itertools.count()
        self._live = False
        self._stopping = False
        self._trimming: asyncio.TimerHandle | None = None

    # -- life

    async def start(self) -> None:
        """Load all models. Raises ServerError when one fails and ``exit_on_error`` is set; the rest is loaded then."""
        self.warm_parent.start()
        self._live = True
        self._trim_later()
        self.metrics.start()
        failed = not await self._load_all()
        if failed:
            error = ServerError(Code.INTERNAL, "failed to load all models")
            if self.options.exit_on_error:
                raise error
            _log.error(str(error))

    async def stop(self, timeout_s: float) -> bool:
        """Finish what is in flight, finalize every model, end every process; True when the time sufficed."""
        if not self._live:
            return True
        deadline = asyncio.get_running_loop().time() + timeout_s
        self._stopping = True
        _log.info("Waiting for in-flight requests to complete.")
        clean = await self._drain(deadline)
        _log.info("All models are stopped, unloading models")
        models = self._catalog.models()
        left_s = max(0.1, deadline - asyncio.get_running_loop().time())
        ended = await asyncio.gather(*(self._unload(model, left_s) for model in models))
        if self._trimming is not None:
            self._trimming.cancel()
        self.metrics.stop()
        await self.warm_parent.stop()
        self._live = False
        return clean and all(ended)

    async def _drain(self, deadline: float) -> bool:
        loop = asyncio.get_running_loop()
        while busy := [model for model in self._catalog.models() if model.in_flight]:
            left_s = deadline - loop.time()
            _log.info(
                f"Timeout {max(0, round(left_s))}: Found {len(busy)} model versions that have in-flight inferences"
            )
            for model in busy:
                _log.info(f"Model '{model.name}' (version {model.version}) has {model.in_flight} in-flight inferences")
            if left_s <= 0:
                return False
            waiting = [asyncio.ensure_future(model.drained()) for model in busy]
            await asyncio.wait(waiting, timeout=min(1.0, left_s))
            for task in waiting:
                task.cancel()
        return True

    async def _unload(self, model: Model, timeout_s: float) -> bool:
        self._catalog.set(model.name, model.version, Entry(ModelState.UNLOADING, model))
        clean = await model.stop(timeout_s)
        if model.series is not None:
            self.metrics.remove_model(model.series)
        _log.info(f"successfully unloaded '{model.name}' version {model.version}")
        self._catalog.set(model.name, model.version, Entry(ModelState.UNAVAILABLE, reason="unloaded"))
        return clean

    # -- loading

    async def _load_all(self) -> bool:
        """Load every model of every repository; True when none failed."""
        found = self._scan()
        clean = not found.failures and not found.duplicates
        for error in found.failures.values():
            _log.error(error.message)
        if found.failures and self.options.exit_on_error:
            raise next(iter(found.failures.values()))
        for name in found.duplicates:
            _log.error(f"failed to poll model '{name}': not unique across all model repositories")
            self._catalog.set_unloadable(name, "model appears in two or more repositories")
        slots = asyncio.Semaphore(max(1, self.options.load_thread_count))
        loaded = await asyncio.gather(*(self._load_source(source, slots) for source in found.models.values()))
        return clean and all(loaded)

    def _scan(self) -> scan.Scan:
        options = scan.Options(strict=not self.options.auto_complete_config, config_name=self.options.model_config_name)
        flat = [Path(path) for path in self.options.repositories if scan.is_flat(Path(path))]
        ordinary = [Path(path) for path in self.options.repositories if Path(path) not in flat]
        scans = [scan.scan(ordinary, options), *(scan.load_flat(path, options) for path in flat)]
        sources = tuple(source for one in scans for source in one.sources)
        return scan.Scan(sources, {path: error for one in scans for path, error in one.failures.items()})

    async def _load_source(self, source: scan.ModelSource, slots: asyncio.Semaphore) -> bool:
        """Load the versions of one model: all of them, or none."""
        name = source.name
        try:
            if source.error is not None:
                raise source.error
            assert source.config is not None
            config = source.config.complete(None)
            config.check_loadable()
            _check_supported(config)
        except ServerError as error:
            _log.error(f"failed to load model '{name}': {error}")
            self._catalog.set_unloadable(name, str(error))
            return False
        async with slots:
            results = await asyncio.gather(
                *(self._load_version(config, version, path, source.path) for version, path in source.versions.items())
            )
        failed = [result for result in results if result is None]
        if failed:
            _log.info(f"failed to load '{name}'")
            await asyncio.gather(*(self._unload(model, 5.0) for model in results if model is not None))
            return False
        versions = list(source.versions)
        for model in results:
            assert model is not None
            model.metadata = config.metadata(versions)
            model.series = self.metrics.add_model(
                name, model.version, model.statistics, model.pending, model.metric_tags
            )
            self._catalog.set(name, model.version, Entry(ModelState.READY, model))
        _log.info(f"successfully loaded '{name}'")
        return True

    async def _load_version(self, config: ModelConfig, version: int, path: Path, model_dir: Path) -> Model | None:
        """One version, loaded, or None when it failed; the catalog then has the reason."""
        name = config.name
        _log.info(f"loading: {name}:{version}")
        for attempt in itertools.count():
            try:
                model = Model(config, version, path.absolute(), model_dir.absolute(), self)
                self._catalog.set(name, version, Entry(ModelState.LOADING, model))
                await model.start()
            except ServerError as error:
                self._catalog.set(name, version, Entry(ModelState.UNAVAILABLE, reason=str(error)))
                _log.error(f"failed to load '{name}' version {version}: {error}")
                if attempt >= self.options.load_retry_count:
                    return None
            else:
                return model
        return None

    # -- what frontends ask

    def infer(self, request: Request) -> None:
        """Queue a request of a client. Raises ServerError when it is refused; else ``request.respond`` is called."""
        self.submit(self._catalog.find(request.model_name, request.model_version), request)

    def submit(self, model: Model, request: Request) -> None:
        """The same, for a caller that has the model already."""
        if self._stopping:
            raise ServerError(Code.UNAVAILABLE, "Server not ready")
        model.infer(request)

    def cancel(self, request: Request) -> None:
        """The client is gone. Safe at any time."""
        try:
            model = self._catalog.find(request.model_name, request.model_version)
        except ServerError:
            return
        model.cancel(request)

    def is_live(self) -> bool:
        return self._live and not self._stopping

    def is_ready(self) -> bool:
        return self.is_live() and (not self.options.strict_readiness or self._catalog.is_settled())

    def is_model_ready(self, name: str, version: str = "") -> bool:
        """False for a model that is not there. Raises ServerError INVALID_ARG for a version that is no number."""
        number = parse_version(version)
        try:
            return not self._stopping and self._catalog.find(name, number).is_ready
        except ServerError:
            return False

    def model(self, name: str, version: str = "") -> Model:
        """The model that would serve a request. Raises ServerError as ``infer`` does."""
        return self._catalog.find(name, parse_version(version) if version else -1)

    def statistics(self, name: str = "", version: str = "") -> list[dict[str, Any]]:
        """Entries of the statistics extension, sorted by name and version; of all models without a ``name``."""
        number = parse_version(version)
        models = sorted(self._catalog.models(), key=lambda model: (model.name, model.version))
        if name:
            models = [model for model in models if model.name == name]
            if not models:
                raise ServerError(Code.INVALID_ARG, f"requested model '{name}' is not available")
            if number != -1:
                models = [model for model in models if model.version == number]
                if not models:
                    raise ServerError(Code.INVALID_ARG, f"requested model version is not available for model '{name}'")
        return [model.statistics.as_dict(model.name, model.version) for model in models]

    def index(self, ready: bool = False) -> list[dict[str, Any]]:
        """The repository index: name, version, state and reason of every model version."""
        return self._catalog.index(ready)

    def models(self) -> list[Model]:
        """Every model that has instances."""
        return self._catalog.models()

    # -- what models ask (atoll.core.model.ModelHost)

    def infer_nested(self, request: Request, streaming: bool) -> None:
        """Queue a request that a model makes; served also while the server finishes what is in flight.

        ``streaming``: the caller takes any number of responses.
        """
        model = self._catalog.find(request.model_name, request.model_version)
        if not model.is_ready:
            raise ServerError(
                Code.UNAVAILABLE,
                f"Failed for execute the inference request. Model '{request.model_name}' is not ready.",
            )
        if model.decoupled and not streaming:
            raise ServerError(
                Code.INVALID_ARG,
                f"Model {model.name} is using the decoupled. The current BLS request call doesn't support models using "
                "the decoupled transaction policy. Please use 'decoupled=True' argument to the 'exec' or 'async_exec' "
                "calls for decoupled models.'",
            )
        model.infer(request)

    def ask(self, topic: str, arguments: list[Any], answer: Answer) -> None:
        """A model uses a metric or controls a model; ``answer`` gets a value or an error's text."""
        try:
            answer(self.custom_metrics.perform(topic, arguments), None)
        except ServerError as error:
            answer(None, error.message)

    def take_chunk_ids(self) -> int:
        """First of a range of chunk ids that no other arena uses."""
        return next(self._arena_numbers) * _CHUNK_IDS_PER_ARENA

    def chunks_gone(self, chunk_ids: list[int]) -> None:
        """Chunks that were given back, or whose owner died: whoever mapped them lets go."""
        if chunk_ids:
            for model in self._catalog.models():
                model.forget(chunk_ids)

    # -- upkeep

    def _collect_memory(self) -> Iterable[Family]:
        """Ours, beside the original's metrics: what the arena of each model's requests holds, and what stubs read."""
        families = [
            Family("atoll_shared_memory_bytes", "gauge", "Shared memory reserved for requests to a model, in bytes"),
            Family("atoll_shared_memory_used_bytes", "gauge", "Of it, bytes that requests hold at this moment"),
            Family("atoll_shared_memory_leased_blocks", "gauge", "Blocks of others that a model's instances may read"),
            Family("atoll_instance_restarts", "counter", "Times that instances of a model were started again"),
        ]
        for model in self._catalog.models():
            labels = label_text({"model": model.name, "version": str(model.version)})
            memory = model.arena.stats()
            values = (memory.reserved_nbytes, memory.used_nbytes, model.leased_blocks, model.restarts)
            for family, value in zip(families, values, strict=True):
                family.add(labels, value)
        return families

    def _trim_later(self) -> None:
        self._trimming = asyncio.get_running_loop().call_later(_TRIM_INTERVAL_S, self._trim)

    def _trim(self) -> None:
        """Give back chunks that nobody has used since the last time."""
        for model in self._catalog.models():
            self.chunks_gone(model.trim())
        self._trim_later()


def _check_supported(config: ModelConfig) -> None:
    """Refuse what would be served wrongly because it is not built yet; warn of what would only be missed."""
    refused: list[str] = [name for name in ("sequence_batching", "ensemble_scheduling") if name in config.json]
    if config.decoupled:
        refused.append("decoupled")
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
