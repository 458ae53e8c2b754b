"""What a poll of the repositories loads and unloads, and what it says of what it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from atoll.errors import ServerError
from loading_world import World, failing, in_world, settled


def test_a_poll_follows_the_repository(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.write("m")
        world.write("n")
        assert await world.poller.poll()
        assert await world.poller.poll()
        assert [model.name for model in world.maker.made] == ["m", "n"]
        world.write("new")
        world.touch("n")
        world.remove("m")
        assert await world.poller.poll()
        await settled()
        assert [model.name for model in world.maker.made[2:]] == ["n", "new"]
        assert world.states("m") == {"1": "UNAVAILABLE unloaded"}
        assert world.states("n") == world.states("new") == {"1": "READY"}

    in_world(story, tmp_path)


def test_what_failed_to_load_is_tried_again_when_it_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(world: World) -> None:
        world.write("m")
        world.maker.script = failing("no")
        assert not await world.poller.poll()
        assert await world.poller.poll()  # nothing new
        assert len(world.maker.made) == 1
        world.touch("m")
        world.maker.script = lambda model: model.may_start.set_result(None)
        assert await world.poller.poll()
        assert world.states("m") == {"1": "READY"}

    in_world(story, tmp_path)


def test_what_cannot_be_read_is_told_once_and_serves_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(world: World) -> None:
        world.write("m")
        world.write("never", config="foo: 1")
        assert not await world.poller.poll()
        assert not world.catalog.is_settled()
        world.remove("never")
        assert await world.poller.poll()
        assert world.catalog.is_settled()
        caplog.clear()
        world.configure("m", "foo: 2")
        for _ in range(3):
            assert not await world.poller.poll()
        assert world.states("m") == {"1": "READY"}
        assert world.catalog.is_settled()
        [message] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert message.startswith("Poll failed for model directory 'm': failed to read text proto from")
        world.configure("m", "version_policy: { all: { } }")
        assert await world.poller.poll()
        assert world.states("m") == {"1": "READY"}
        world.configure("m", "foo: 2")
        await world.poller.poll()
        world.remove("m")
        assert await world.poller.poll()
        await settled()
        assert world.states("m") == {"1": "UNAVAILABLE unloaded"}

    in_world(story, tmp_path)


@pytest.mark.spec("server:197")
def test_a_name_that_comes_twice_serves_no_more_until_it_is_there_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    two.mkdir()

    async def story(world: World) -> None:
        world.repository = one
        world.write("m")
        assert await world.poller.poll()
        world.repository = two
        world.write("m")
        for _ in range(2):
            assert not await world.poller.poll()
        await settled()
        text = "UNAVAILABLE model appears in two or more repositories"
        assert world.states("m") == {"1": "UNAVAILABLE unloaded", "": text}
        assert caplog.messages.count("failed to poll model 'm': not unique across all model repositories") == 1
        world.repository = one
        world.remove("m")
        assert await world.poller.poll()
        assert world.states("m") == {"1": "READY"}
        assert len(world.maker.made) == 2

    in_world(story, one, repositories=(str(one), str(two)))


def test_a_repository_that_cannot_be_read_for_the_moment_keeps_its_models(tmp_path: Path) -> None:
    repository = tmp_path / "repository"

    async def story(world: World) -> None:
        world.write("m")
        assert await world.poller.poll()
        repository.rename(tmp_path / "elsewhere")
        assert not await world.poller.poll()
        with pytest.raises(ServerError, match="failed to stat file"):
            await world.poller.poll(all_must_be_readable=True)
        assert world.states("m") == {"1": "READY"}
        (tmp_path / "elsewhere").rename(repository)
        assert await world.poller.poll()
        assert len(world.maker.made) == 1

    in_world(story, repository)


@pytest.mark.spec("server:198")
def test_namespaces(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"

    async def story(world: World) -> None:
        for world.repository in (one, two):
            world.write("m")
        await world.loader.load("m")
        assert [model.identifier for model in world.maker.made] == [f"{one}::m", f"{two}::m"]
        assert f'namespace="{one}"' in world.metrics.page()
        with pytest.raises(ServerError, match="There are 2 identifiers of model 'm' in global map"):
            world.catalog.find("m")
        world.touch("m")
        await world.loader.load("m")
        assert [model.identifier for model in world.maker.made[2:]] == [f"{two}::m"]
        await world.loader.unload("m")
        await settled()
        assert world.catalog.index(ready=True) == []

    in_world(story, one, repositories=(str(one), str(two)), model_namespacing=True)
