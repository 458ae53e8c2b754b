"""Who is loaded and unloaded when, and what the catalog says of it; with models that are no processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from atoll.core.catalog import Catalog
from atoll.core.loading import Loader
from atoll.core.model import Model, ModelHost
from atoll.core.server import ServerOptions
from atoll.errors import Code, ServerError
from atoll.observe.metrics import Metrics
from atoll.observe.statistics import ModelStatistics
from atoll.repository.scan import ModelSource


class ModelTwin:
    """A model whose steps end when the test says so."""

    def __init__(self, name: str, version: int) -> None:
        self.name = name
        self.version = version
        self.statistics = ModelStatistics()
        self.series = None
        self.metric_tags: dict[str, str] = {}
        self.decoupled = False
        self.metric_buckets: dict[str, list[float]] = {}
        self.is_ready = True
        self.starts = asyncio.Event()
        self.may_start: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.may_drain = asyncio.Event()
        self.may_stop = asyncio.Event()
        self.stopped_after_s: float | None = None
        self.may_drain.set()
        self.may_stop.set()

    def pending(self) -> int:
        return 0

    async def start(self) -> None:
        self.starts.set()
        await self.may_start

    async def drained(self) -> None:
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
        model = ModelTwin(source.name, version)
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
        settings = ServerOptions(repositories=(str(repository),), **options)
        self.loader = Loader(settings, self.catalog, self.metrics, cast(ModelHost, None))
        self.loader._maker = cast(Any, self.maker)

    def write(self, name: str, *versions: int, config: str = "version_policy: { all: { } }") -> None:
        for version in versions or (1,):
            (self.repository / name / str(version)).mkdir(parents=True, exist_ok=True)
            (self.repository / name / str(version) / "model.py").write_text(name)
        (self.repository / name / "config.pbtxt").write_text(config)

    def touch(self, name: str) -> None:
        (self.repository / name / f"changed {len(self.maker.made)}").touch()

    def states(self, name: str) -> dict[str, str]:
        """State and reason of each version."""
        return {
            row.get("version", ""): f"{row.get('state', '')} {row.get('reason', '')}".strip()
            for row in self.catalog.index(ready=False)
            if row["name"] == name
        }


def in_world(story: Callable[[World], Awaitable[None]], path: Path, **options: Any) -> None:
    async def run() -> None:
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


def test_a_model_is_loading_then_ready_then_unloading_then_unloaded(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.write("m")
        world.maker.script = held
        load = asyncio.ensure_future(world.loader.load("m"))
        await settled()
        assert world.states("m") == {"1": "LOADING"}
        [model] = world.maker.made
        model.may_start.set_result(None)
        await load
        assert world.states("m") == {"1": "READY"}
        model.may_drain.clear()
        await world.loader.unload("m")
        assert world.states("m") == {"1": "UNLOADING"}
        await settled()
        assert model.stopped_after_s is None  # it has something to answer
        model.may_drain.set()
        await settled()
        assert model.stopped_after_s is not None
        assert world.states("m") == {"1": "UNAVAILABLE unloaded"}

    in_world(story, tmp_path)


def test_all_versions_or_none(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.write("m", 1, 2, 3)
        world.maker.script = failing("no", 2, 3)
        with pytest.raises(ServerError) as caught:
            await world.loader.load("m")
        assert (caught.value.code, caught.value.message) == (
            Code.INVALID_ARG,
            "load failed for model 'm': version 2 is at UNAVAILABLE state: Internal: no;\n"
            "version 3 is at UNAVAILABLE state: Internal: no;\n",
        )
        unavailable = "UNAVAILABLE Internal: no"
        assert world.states("m") == {"1": "UNAVAILABLE unloaded", "2": unavailable, "3": unavailable}
        assert world.maker.made[0].stopped_after_s is not None
        assert not world.catalog.is_settled()
        await world.loader.unload("m")
        assert set(world.states("m").values()) == {"UNAVAILABLE unloaded"}
        assert world.catalog.is_settled()

    in_world(story, tmp_path)


def test_the_former_stays_when_the_new_one_fails(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.write("m")
        await world.loader.load("m")
        former = world.catalog.find("m")
        world.touch("m")
        world.maker.script = failing("no")
        with pytest.raises(ServerError, match="load failed for model 'm'"):
            await world.loader.load("m")
        assert world.catalog.find("m") is former
        assert world.states("m") == {"1": "READY"}
        assert world.catalog.living() == [former]
        world.maker.script = lambda model: model.may_start.set_result(None)
        await world.loader.load("m")  # a failure is no excuse not to try again
        assert world.catalog.find("m") is not former

    in_world(story, tmp_path)


def test_the_former_is_among_the_living_until_it_has_ended(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.write("m")
        await world.loader.load("m")
        former = world.maker.made[0]
        former.may_drain.clear()
        world.touch("m")
        await world.loader.load("m")
        assert world.catalog.models() == [cast(Model, world.maker.made[1])]
        assert cast(Model, former) in world.catalog.living()
        former.may_drain.set()
        await settled()
        assert world.catalog.living() == world.catalog.models()
        assert world.states("m") == {"1": "READY"}

    in_world(story, tmp_path)


def test_a_version_that_is_gone_is_unloaded(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.write("m", 1, 2)
        await world.loader.load("m")
        (world.repository / "m" / "1" / "model.py").unlink()
        (world.repository / "m" / "1").rmdir()
        world.write("m", 3)
        await world.loader.load("m")
        await settled()
        assert world.states("m") == {"1": "UNAVAILABLE unloaded", "2": "READY", "3": "READY"}
        assert world.catalog.is_settled()

    in_world(story, tmp_path)


def test_what_has_not_changed_is_not_loaded_again(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.write("m")
        for _ in range(3):
            await world.loader.load("m")
        assert len(world.maker.made) == 1
        await world.loader.load("m", config="{}")
        await world.loader.load("m")
        assert len(world.maker.made) == 2
        await world.loader.load("m", config="{}", files={"file:1/model.py": b""})
        await world.loader.load("m")
        assert len(world.maker.made) == 4
        await world.loader.unload("m")
        await world.loader.load("m")
        assert len(world.maker.made) == 5

    in_world(story, tmp_path)


def test_changes_of_one_model_take_turns(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.write("m")
        world.maker.script = held
        load = asyncio.ensure_future(world.loader.load("m"))
        await settled()
        unload = asyncio.ensure_future(world.loader.unload("m"))
        again = asyncio.ensure_future(world.loader.load("m"))
        await settled()
        assert len(world.maker.made) == 1
        assert not unload.done()
        world.maker.script = lambda model: model.may_start.set_result(None)
        world.maker.made[0].may_start.set_result(None)
        await asyncio.gather(load, unload, again)
        await settled()
        assert len(world.maker.made) == 2
        assert world.maker.made[0].stopped_after_s is not None
        assert world.states("m") == {"1": "READY"}

    in_world(story, tmp_path)


def test_no_more_models_load_at_once_than_there_are_slots(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for name in "abcd":
            world.write(name)
        world.maker.script = held
        loads = asyncio.gather(*(world.loader.load(name) for name in "abcd"))
        await settled()
        assert len(world.maker.made) == 2
        inner = asyncio.ensure_future(world.loader.load("e", "{}", {"file:1/model.py": b""}, asker="a"))
        await settled()
        assert len(world.maker.made) == 3  # what a model waits for that is being loaded needs no slot
        while len(world.maker.made) < 5 or not all(model.may_start.done() for model in world.maker.made):
            for model in world.maker.made:
                if not model.may_start.done():
                    model.may_start.set_result(None)
            await settled()
        await asyncio.gather(loads, inner)

    in_world(story, tmp_path, load_thread_count=2)


def test_models_that_wait_for_each_other_are_refused(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for name in "abc":
            world.write(name)

        async def ask(model: ModelTwin) -> None:
            await world.loader.load({"a": "b", "b": "c", "c": "a"}[model.name], asker=model.name)

        world.maker.script = ask
        with pytest.raises(ServerError) as caught:
            await world.loader.load("a")
        assert "model 'c' cannot wait for 'a' while it is being loaded: 'a' waits for 'c'" in caught.value.message
        with pytest.raises(ServerError, match="model 'a' cannot load or unload itself"):
            await world.loader.unload("a", asker="a")

    in_world(story, tmp_path)


def test_a_load_is_tried_again(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.write("m")

        def script(model: ModelTwin) -> None:
            failing("not yet")(model) if len(world.maker.made) < 3 else model.may_start.set_result(None)

        world.maker.script = script
        await world.loader.load("m")
        assert world.states("m") == {"1": "READY"}
        assert len(world.maker.made) == 3

    in_world(story, tmp_path, load_retry_count=2)


def test_at_the_servers_end_what_loads_and_what_unloads_ends_too(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for name in ("loading", "unloading", "ready"):
            world.write(name)
        await asyncio.gather(world.loader.load("unloading"), world.loader.load("ready"))
        unloading = next(model for model in world.maker.made if model.name == "unloading")
        unloading.may_drain.clear()
        await world.loader.unload("unloading")
        world.maker.script = held
        load = asyncio.ensure_future(world.loader.load("loading"))
        await settled()
        assert await world.loader.stop_all(1)
        assert all(model.stopped_after_s is not None for model in world.maker.made)
        with pytest.raises(ServerError, match="it was stopped"):
            await load
        with pytest.raises(ServerError, match="Server not ready"):
            await world.loader.load("ready")

    in_world(story, tmp_path, load_retry_count=5)


def test_a_model_that_does_not_end_in_time_is_left(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.write("m")
        await world.loader.load("m")
        world.maker.made[0].may_stop.clear()
        assert not await world.loader.stop_all(0.01)
        world.maker.made[0].may_stop.set()
        await settled()

    in_world(story, tmp_path)


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("", Code.INVALID_ARG, "Model name cannot be empty. Please enter a valid name to deploy."),
        *(
            (
                name,
                Code.INVALID_ARG,
                f"invalid model name '{name}', model name must not contain path traversal characters",
            )
            for name in ("..", ".", "../m", "a/b", "a\0")
        ),
        ("nope", Code.INTERNAL, "failed to load 'nope', failed to poll from model repository"),
        (".hidden", Code.INTERNAL, "failed to load '.hidden', failed to poll from model repository"),
    ],
)
def test_names_that_cannot_be_loaded(tmp_path: Path, name: str, code: Code, text: str) -> None:
    async def story(world: World) -> None:
        world.write(".hidden")
        with pytest.raises(ServerError) as caught:
            await world.loader.load(name)
        assert (caught.value.code, caught.value.message) == (code, text)
        assert world.catalog.is_settled()

    in_world(story, tmp_path)


def test_the_names_in_the_repositories(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.write("a")
        world.write("b")
        assert world.loader.names() == {"a": 1, "b": 1}

    in_world(story, tmp_path)
