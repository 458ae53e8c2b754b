"""A loader and a poller over models that are no processes: each step of a model's life ends when the test says so."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

from atoll.core.catalog import Catalog
from atoll.core.composing import Composer
from atoll.core.loading import Loader
from atoll.core.model import ModelHost
from atoll.core.polling import Poller
from atoll.core.server import ServerOptions
from atoll.errors import Code, ServerError
from atoll.observe.metrics import Metrics
from atoll.observe.statistics import ModelStatistics
from atoll.repository.config import ModelConfig
from atoll.repository.repositories import Repositories
from atoll.repository.scan import ModelSource, Options


class ModelTwin:
    """A model whose steps end when the test says so."""

    def __init__(self, source: ModelSource, version: int) -> None:
        self.name = source.name
        self.identifier = source.identifier
        self.namespace = source.listed.namespace
        self.version = version
        self.metadata: dict[str, Any] = {}
        assert source.config is not None
        self.inputs = source.config.inputs
        self.outputs = source.config.outputs
        self.max_batch_size = source.config.max_batch_size
        self.decoupled = source.config.decoupled
        self.labels: dict[str, list[str]] = {}
        self.is_resizable = True
        self.growth: list[str] = []
        self.grow_error: ServerError | None = None
        self.statistics = ModelStatistics()
        self.series = None
        self.metric_tags: dict[str, str] = {}
        self.metric_buckets: dict[str, list[float]] = {}
        self.is_ready = True
        self.has_begun_sequences = False
        self.starts = asyncio.Event()
        self.may_start: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.may_drain = asyncio.Event()
        self.may_stop = asyncio.Event()
        self.stopped_after_s: float | None = None
        self.may_drain.set()
        self.may_stop.set()

    def pending(self) -> int:
        return 0

    async def grow(self, config: ModelConfig) -> None:
        self.growth.append(f"grow to {len(config.instances)}")
        if self.grow_error is not None:
            raise self.grow_error

    def settle(self, config: ModelConfig | None) -> None:
        self.growth.append("undo" if config is None else f"settle at {len(config.instances)}")

    async def start(self) -> None:
        self.starts.set()
        await self.may_start

    async def retire(self, replaced: bool) -> None:
        await self.may_drain.wait()

    async def stop(self, timeout_s: float) -> bool:
        self.stopped_after_s = timeout_s
        if not self.may_start.done():
            self.may_start.set_exception(ServerError(Code.INTERNAL, "it was stopped"))
        await self.may_stop.wait()
        return True


class MakerTwin:
    """Makes twins. ``script`` may hold one up, or fail."""

    def __init__(self) -> None:
        self.made: list[ModelTwin] = []
        self.script: Callable[[ModelTwin], Awaitable[None] | None] = lambda model: model.may_start.set_result(None)

    async def make(self, source: ModelSource, version: int) -> ModelTwin:
        model = ModelTwin(source, version)
        self.made.append(model)
        waiting = self.script(model)
        if waiting is not None:
            await waiting
        return model


class World:
    """A loader over a repository of models whose content means nothing."""

    def __init__(self, repository: Path, **options: Any) -> None:
        self.repository = repository
        self.catalog = Catalog()
        self.metrics = Metrics()
        self.maker = MakerTwin()
        settings = ServerOptions(**{"repositories": (str(repository),), **options})
        repositories = Repositories(settings.repositories, Options(), settings.model_namespacing)
        self.loader = Loader(settings, repositories, self.catalog, self.metrics, cast(ModelHost, None))
        self.loader._maker = cast(Any, self.maker)
        explicit = settings.model_control_mode == "explicit"
        self.composer = Composer(repositories, self.loader, self.catalog, loads_steps=explicit)
        self.poller = Poller(repositories, self.composer, self.catalog)

    def write(self, name: str, *versions: int, config: str = "version_policy: { all: { } }") -> None:
        self.add(name, *(versions or (1,)))
        (self.repository / name / "config.pbtxt").write_text(config)

    def add(self, name: str, *versions: int) -> None:
        for version in versions:
            (self.repository / name / str(version)).mkdir(parents=True)
            (self.repository / name / str(version) / "model.py").write_text(name)

    def configure(self, name: str, config: str) -> None:
        (self.repository / name / "config.pbtxt").write_text(config)

    def remove(self, name: str) -> None:
        shutil.rmtree(self.repository / name)

    def touch(self, name: str) -> None:
        (self.repository / name / f"changed {len(self.maker.made)}").touch()

    def states(self, name: str) -> dict[str, str]:
        """State and reason of each version."""
        return {
            row.get("version", ""): f"{row.get('state', '')} {row.get('reason', '')}".strip()
            for row in self.catalog.index(ready=False)
            if row["name"] == name
        }


class SameThread(ThreadPoolExecutor):
    """Does at once what should be done in a thread, so that a few turns of the loop are enough for everything."""

    def submit(self, work: Any, /, *arguments: Any, **keywords: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(work(*arguments, **keywords))
        except ServerError as error:
            done.set_exception(error)
        return done


def in_world(story: Callable[[World], Awaitable[None]], path: Path, **options: Any) -> None:
    async def run() -> None:
        asyncio.get_running_loop().set_default_executor(SameThread())
        world = World(path, **options)
        await story(world)
        await world.loader.stop_all(1)
        assert world.catalog.living() == []

    asyncio.run(asyncio.wait_for(run(), 10))


async def settled() -> None:
    """Let everything go on that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def held(model: ModelTwin) -> None:
    """It does not start by itself."""


def failing(text: str, *versions: int) -> Callable[[ModelTwin], None]:
    def script(model: ModelTwin) -> None:
        if not versions or model.version in versions:
            model.may_start.set_exception(ServerError(Code.INTERNAL, text))
        else:
            model.may_start.set_result(None)

    return script
