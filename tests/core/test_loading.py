"""Who is loaded and unloaded when, and what the catalog says of it; with models that are no processes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest
from atoll.core.model import Model
from atoll.errors import Code, ServerError
from loading_world import ModelTwin, World, failing, held, in_world, settled


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
        world.add("m", 3)
        await world.loader.load("m")
        await settled()
        assert [model.version for model in world.maker.made] == [1, 2, 3]  # 2 served on
        assert world.maker.made[1].metadata == {"versions": ["2", "3"]}
        assert world.states("m") == {"1": "UNAVAILABLE unloaded", "2": "READY", "3": "READY"}
        assert world.catalog.is_settled()

    in_world(story, tmp_path)


def test_what_has_not_changed_is_not_loaded_again(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.write("m")
        for _ in range(3):
            await world.loader.load("m")
        assert len(world.maker.made) == 1
        await world.loader.load("m", config='{"max_batch_size": 2}')
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


# -- what a change does not concern


@pytest.mark.spec("server:183")
def test_instances_are_added_and_removed_in_place(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.write("m", 1, 2)
        await world.loader.load("m")
        world.configure("m", "version_policy: { all: { } } instance_group: { count: 3 }")
        await world.loader.load("m")
        await world.loader.load("m")  # nothing changed
        assert len(world.maker.made) == 2
        assert [model.growth for model in world.maker.made] == [["grow to 3", "settle at 3"]] * 2
        world.configure("m", "version_policy: { latest: { num_versions: 1 } } instance_group: { count: 3 }")
        await world.loader.load("m")
        await settled()
        assert len(world.maker.made) == 2
        assert world.states("m") == {"1": "UNAVAILABLE unloaded", "2": "READY"}
        assert world.maker.made[1].metadata == {"versions": ["2"]}

    in_world(story, tmp_path)


@pytest.mark.spec("server:183")
@pytest.mark.parametrize("change", ["config", "shared", "version", "not resizable"])
def test_other_changes_load_again(tmp_path: Path, change: str) -> None:
    async def story(world: World) -> None:
        world.write("m", 1, 2)
        await world.loader.load("m")
        more = "instance_group: { count: 2 }" + (" max_batch_size: 3" if change == "config" else "")
        world.configure("m", "version_policy: { all: { } }" + more)
        if change == "shared":
            (world.repository / "m" / "labels.txt").touch()
        elif change == "version":
            (world.repository / "m" / "2" / "model.py").write_text("something else")
        elif change == "not resizable":
            world.maker.made[0].is_resizable = False
        await world.loader.load("m")
        again = [model.version for model in world.maker.made[2:]]
        assert again == {"config": [1, 2], "shared": [1, 2], "version": [2], "not resizable": [1]}[change]

    in_world(story, tmp_path)


@pytest.mark.spec("server:183")
def test_when_one_version_cannot_grow_none_does(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.write("m", 1, 2)
        await world.loader.load("m")
        world.configure("m", "version_policy: { all: { } } instance_group: { count: 2 }")
        first, second = world.maker.made
        second.grow_error = ServerError(Code.INTERNAL, "no memory")
        world.add("m", 3)
        with pytest.raises(ServerError, match="version 2 is at UNAVAILABLE state: Internal: no memory;"):
            await world.loader.load("m")
        assert first.growth == ["grow to 2", "undo"]
        assert second.growth == ["grow to 2"]
        assert world.states("m") == {"1": "READY", "2": "READY", "3": "UNAVAILABLE unloaded"}

    in_world(story, tmp_path)
