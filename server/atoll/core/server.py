"""One server: its models, the processes they run in, and the entry that HTTP, gRPC and models themselves call."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll_ipc.memory import Arena, ArenaSettings

from atoll import __version__
from atoll.caching.response_cache import ResponseCache
from atoll.caching.settings import CacheSetting, make_cache
from atoll.core.catalog import Catalog, parse_version
from atoll.core.circular_calls import check_calls
from atoll.core.control import ModelControl
from atoll.core.extensions import EXTENSIONS
from atoll.core.host_policies import HostPolicies
from atoll.core.model import Model
from atoll.core.regions import Regions
from atoll.core.upkeep import Upkeep
from atoll.environments.cache import EnvironmentCache, default_directory
from atoll.environments.environments import Environments
from atoll.environments.interpreter import OWN
from atoll.errors import Code, ServerError
from atoll.inference import Request, Response
from atoll.instances.instance import Answer
from atoll.instances.warm_parents import WarmParents
from atoll.observe.custom_metrics import CustomMetrics
from atoll.observe.log import LogSettings, log_verbose
from atoll.observe.metrics import Metrics, MetricsOptions
from atoll.observe.trace_settings import TraceOptions
from atoll.observe.tracer import Tracer
from atoll.repository.stores import RemoteFile
from atoll.scheduling.rate_limiter import RateLimiter

__all__ = ["Server", "ServerOptions"]

_log = logging.getLogger(__name__)

_CHUNK_IDS_PER_ARENA = 1 << 20


@dataclass(frozen=True)
class ServerOptions:
    """Settings of a server, named after the flags of ``tritonserver``."""

    id: str = "triton"
    repositories: tuple[str, ...] = ()
    exit_on_error: bool = True
    auto_complete_config: bool = True
    strict_readiness: bool = True
    model_config_name: str = ""
    backend_directory: str = "/opt/tritonserver/backends"
    model_control_mode: str = "none"
    repository_poll_s: float = 15.0
    startup_models: tuple[str, ...] = ()
    model_namespacing: bool = False
    load_thread_count: int = 4
    load_retry_count: int = 0
    rate_limits: tuple[tuple[str, int, int | None], ...] | None = None
    """Name, units and device of the resources that executions share; None where nothing is limited."""
    host_policies: tuple[tuple[str, str, str], ...] = ()
    cache: tuple[CacheSetting, ...] = ()
    cache_directory: str = "/opt/tritonserver/caches"
    arena: ArenaSettings = field(default_factory=ArenaSettings)
    stub_timeout_s: float = 30.0
    env_cache_directory: Path = field(default_factory=default_directory)
    env_cache_nbytes: int = 20 << 30
    metrics: MetricsOptions = field(default_factory=MetricsOptions)
    log: LogSettings = field(default_factory=LogSettings)
    trace: TraceOptions = field(default_factory=TraceOptions)
    allow_client_shm: bool = True


class Server:
    """Loads a model repository and serves it. All methods are for the event loop it was started on."""

    EXTENSIONS = EXTENSIONS

    def __init__(self, options: ServerOptions) -> None:
        self.name = options.id
        self.version = __version__
        self.options = options
        self.custom_metrics = CustomMetrics(lambda: self.metrics.registry.names(but=self.custom_metrics.collect))
        self.metrics = Metrics(options.metrics, extra=[self.custom_metrics.collect])
        self.tracer = Tracer(options.trace, self.is_model_ready)
        self.warm_parents = WarmParents()
        cache = EnvironmentCache(options.env_cache_directory, options.env_cache_nbytes)
        self.environments = Environments(cache, RemoteFile)
        self.arena_settings = options.arena
        self.rate_limiter = None if options.rate_limits is None else RateLimiter(options.rate_limits)
        self.start_timeout_s = options.stub_timeout_s
        self.host_policies = HostPolicies(options.host_policies)
        self.response_cache: ResponseCache | None = None
        self.regions = Regions(enabled=options.allow_client_shm, on_gone=self.chunks_gone)
        self._catalog = Catalog()
        self._arena_numbers = itertools.count()
        self._live = False
        self._stopping = False
        self._started = False
        self._model_control = ModelControl(options, self._catalog, self.metrics, self)
        self._nested: set[asyncio.Future[None]] = set()
        self._upkeep = Upkeep(self._catalog, self.chunks_gone)

    # -- life

    async def start(self) -> None:
        """Load all models, or those to start with.

        Raises ServerError when one fails and ``exit_on_error`` is set; the rest is loaded then.
        """
        if self.options.cache:
            self.response_cache = make_cache(self.options.cache, self.options.cache_directory, self._make_arena)
            self.metrics.registry.register(self.response_cache.collect)
            self._upkeep.trims.append(self.response_cache.trim)
        self.tracer.start()
        self.warm_parents.take(OWN).start()
        self._live = True
        self._upkeep.start()
        self.metrics.registry.register(self._upkeep.collect)
        self.metrics.start()
        loaded = await self._model_control.start()
        self._started = True
        if not loaded:
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
        self._model_control.refuse()
        if timeout_s <= 0 and self._catalog.living():
            return False  # nobody is to be waited for
        _log.info("Waiting for in-flight requests to complete.")
        clean = await self._drain(deadline)
        _log.info("All models are stopped, unloading models")
        left_s = max(0.1, deadline - asyncio.get_running_loop().time())
        ended = await self._model_control.stop(left_s)
        self._upkeep.stop()
        self.metrics.stop()
        await asyncio.to_thread(self.tracer.stop, max(0.1, deadline - asyncio.get_running_loop().time()))
        await self.warm_parents.stop()
        self.environments.close()
        if self.response_cache is not None:
            await self.response_cache.close()
        self._live = False
        return clean and ended

    def discard_copies(self) -> None:
        """Remove the local copies of repositories in stores: the last thing before an end without :meth:`stop`."""
        self._model_control.discard_copies()

    async def _drain(self, deadline: float) -> bool:
        loop = asyncio.get_running_loop()
        while busy := [model for model in self._catalog.living() if model.in_flight]:
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

    async def load(
        self, name: str, config: str = "", files: Mapping[str, bytes] | None = None, asker: str = ""
    ) -> None:
        """Load a model, or load it again, and wait until it serves. Raises ServerError; what served before stays.

        ``asker`` is the model that asks, where it is itself being loaded.
        """
        await self._model_control.load(name, config, files, asker)

    async def unload(self, name: str, asker: str = "", with_steps: bool = False) -> None:
        """Begin to unload a model. Raises ServerError only where the mode does not allow it.

        ``with_steps`` the models that an ensemble is composed of go as well, unless they are wanted otherwise.
        """
        await self._model_control.unload(name, asker, with_steps)

    async def poll(self) -> None:
        """Look for changes of the repositories now. Raises ServerError where the control mode is not ``poll``."""
        await self._model_control.poll()

    def register_repository(self, path: str, served_as: Mapping[str, str]) -> None:
        """Look for models in one more repository. Raises ServerError; see ``Repositories.register``."""
        self._model_control.register(path, served_as)

    def unregister_repository(self, path: str) -> None:
        """Look there no longer; what was loaded from it serves on. Raises ServerError."""
        self._model_control.unregister(path)

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
        if isinstance(request.accepted_by, Model):
            request.accepted_by.cancel(request)

    @property
    def is_stopping(self) -> bool:
        """Whether the end has begun, or is over."""
        return self._stopping

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

    async def check_model_ready(self, name: str, version: str = "") -> bool:
        """As :meth:`is_model_ready`, and the model's own ``is_ready`` is asked where it has one."""
        number = parse_version(version)
        try:
            model = self._catalog.find(name, number)
        except ServerError:
            return False
        reason = "the server is stopping" if self._stopping else await model.not_ready_reason()
        if reason is not None:
            log_verbose(1, f"Model '{name}' version {model.version} is not ready: {reason}")
        return reason is None

    async def check_ready(self) -> bool:
        """As :meth:`is_ready`, and every model that has an ``is_ready`` of its own is asked."""
        if not self.is_ready():
            return False
        if not self.options.strict_readiness:
            return True
        asked = [model.not_ready_reason() for model in self._catalog.models() if model.has_check]
        return all(reason is None for reason in await asyncio.gather(*asked))

    def model(self, name: str, version: str = "") -> Model:
        """The model that would serve a request. Raises ServerError as ``infer`` does."""
        return self.model_version(name, parse_version(version) if version else -1)

    def model_version(self, name: str, version: int) -> Model:
        """The same for a version that is a number already; -1 is the highest that is ready."""
        try:
            return self._catalog.find(name, version)
        except ServerError:
            if self._stopping:  # then it is not the model's fault
                raise ServerError(Code.UNAVAILABLE, "Server not ready") from None
            raise

    def statistics(self, name: str = "", version: str = "") -> list[dict[str, Any]]:
        """Entries of the statistics extension, sorted by name and version; of all models without a ``name``."""
        number = parse_version(version)
        models = sorted(self._catalog.models(), key=lambda model: (model.name, model.version))
        if name:
            identifier = self._catalog.identifier(name)
            models = [model for model in models if model.identifier == identifier]
            if not models:
                raise ServerError(Code.INVALID_ARG, f"requested model '{name}' is not available")
            if number != -1:
                models = [model for model in models if model.version == number]
                if not models:
                    raise ServerError(Code.INVALID_ARG, f"requested model version is not available for model '{name}'")
        return [model.statistics.as_dict(model.name, model.version) for model in models]

    async def index(self, ready: bool = False) -> list[dict[str, Any]]:
        """The repository index: name, version, state and reason of every model version, or of those that are ready."""
        return await self._model_control.index(ready)

    def models(self) -> list[Model]:
        """Every model that has instances."""
        return self._catalog.models()

    # -- what models ask (atoll.core.model.ModelHost)

    def find(self, name: str, version: int, namespace: str) -> Model:
        """The model that is ready to serve as a step of an ensemble. Raises ServerError as ``infer`` does."""
        return self._catalog.find(name, version, namespace)

    def infer_nested(self, request: Request, streaming: bool) -> None:
        """Queue a request that a model makes; served also while the server finishes what is in flight.

        ``streaming``: the caller takes any number of responses.
        """
        model = self._catalog.find(request.model_name, request.model_version)
        if model.decoupled and not streaming:
            raise ServerError(
                Code.INVALID_ARG,
                f"Model {model.name} is using the decoupled. The current BLS request call doesn't support models using "
                "the decoupled transaction policy. Please use 'decoupled=True' argument to the 'exec' or 'async_exec' "
                "calls for decoupled models.'",
            )
        if not self._started:
            raise ServerError(Code.UNAVAILABLE, "Server not ready")
        check_calls(model, request)
        if model.has_check:
            task = asyncio.ensure_future(self._infer_when_ready(model, request))
            self._nested.add(task)
            task.add_done_callback(self._nested.discard)
        else:
            model.infer(request)

    async def _infer_when_ready(self, model: Model, request: Request) -> None:
        """The same for a model that says itself whether it is ready."""
        try:
            if await model.not_ready_reason() is not None:
                raise _not_ready_for(request)
            # Another may have taken its place meanwhile.
            self._catalog.find(request.model_name, request.model_version).infer(request)
        except ServerError as error:
            text = f"Model {request.model_name} - Error when running inference: {error.message}"
            request.respond(Response(request, model.version, [], error=ServerError(Code.INTERNAL, text)))

    def ask(self, model: Model, topic: str, arguments: list[Any], answer: Answer) -> None:
        """A model uses a metric or controls a model; ``answer`` gets a value or an error's text."""
        if topic in ("load_model", "unload_model", "is_model_ready"):
            asker = model.name if model.is_loading else ""
            task = asyncio.ensure_future(self._control(asker, topic, arguments, answer))
            self._nested.add(task)
            task.add_done_callback(self._nested.discard)
            return
        try:
            answer(self.custom_metrics.perform(model, topic, arguments), None)
        except ServerError as error:
            answer(None, error.message)

    def ended(self, model: Model) -> None:
        """The stubs of a model are gone."""
        self.custom_metrics.forget(model)

    async def _control(self, asker: str, topic: str, arguments: list[Any], answer: Answer) -> None:
        """Model control that a model asks for."""
        try:
            if topic == "load_model":
                name, config, files = arguments
                await self.load(name, config, files, asker)
                answer(None, None)
            elif topic == "unload_model":
                name, with_steps = arguments
                await self.unload(name, asker, with_steps)
                answer(None, None)
            else:
                name, version = arguments
                self.model(name, version)  # says that there is none, if so
                answer(await self.check_model_ready(name, version), None)
        except ServerError as error:
            # Clients are told as little as by the original; a model also gets to know what is in the log.
            cause = error.__cause__
            answer(None, f"{error.message}: {cause.message}" if isinstance(cause, ServerError) else error.message)

    def _make_arena(self) -> Arena:
        return Arena(self.take_chunk_ids(), self.arena_settings)

    def take_chunk_ids(self) -> int:
        """First of a range of chunk ids that no other arena uses."""
        return next(self._arena_numbers) * _CHUNK_IDS_PER_ARENA

    def chunks_gone(self, chunk_ids: list[int]) -> None:
        """Chunks that were given back, or whose owner died: whoever mapped them lets go."""
        if chunk_ids:
            for model in self._catalog.living():
                model.forget(chunk_ids)


def _not_ready_for(request: Request) -> ServerError:
    return ServerError(
        Code.UNAVAILABLE,
        f"Failed for execute the inference request. Model '{request.model_name}' is not ready.",
    )
