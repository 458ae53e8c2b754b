"""Ensembles are loaded after the models they are composed of, go down before them and come back with them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from atoll.errors import Code, ServerError
from loading_world import World, failing, held, in_world, settled


def model(mbs: int = 0, dims: str = "4", dtype: str = "FP32", more: str = "") -> str:
    tensor = f'name: "%s" data_type: TYPE_{dtype} dims: [ {dims} ]'
    return (
        f'backend: "python" max_batch_size: {mbs} input [ {{ {tensor % "I"} }} ] output [ {{ {tensor % "O"} }} ] {more}'
    )


def ensemble(*models: str, mbs: int = 0, dims: str = "4", maps: Mapping[str, str] | None = None, more: str = "") -> str:
    """Models one behind the other. ``maps`` replaces names of tensors: ``{"a.I": "X"}`` maps another input."""
    names = maps or {}
    steps = []
    for index, name in enumerate(models):
        name, _, version = name.partition(":")
        source, target = "I" if not index else f"T{index}", "O" if index == len(models) - 1 else f"T{index + 1}"
        steps.append(
            f'{{ model_name: "{name}" model_version: {version or -1} '
            f'input_map {{ key: "{names.get(f"{name}.I", "I")}" value: "{source}" }} '
            f'output_map {{ key: "{names.get(f"{name}.O", "O")}" value: "{target}" }} }}'
        )
    tensor = f'name: "%s" data_type: TYPE_FP32 dims: [ {dims} ]'
    return (
        f'platform: "ensemble" max_batch_size: {mbs} input [ {{ {tensor % "I"} }} ] output [ {{ {tensor % "O"} }} ] '
        f"ensemble_scheduling {{ step [ {', '.join(steps)} ] }} {more}"
    )


def write(world: World, **configs: str) -> None:
    for name, config in configs.items():
        world.write(name, config=config)


def up(world: World) -> list[str]:
    return [row["name"] for row in world.catalog.index(ready=True)]


async def refusal(world: World, name: str) -> str:
    """What the load of a model is refused with, without what stands before it."""
    with pytest.raises(ServerError) as failed:
        await world.composer.load(name)
    assert failed.value.code is Code.INVALID_ARG
    prefix, end = f"load failed for model '{name}': ", "\n"
    text = failed.value.message
    assert text.startswith(prefix)
    assert text.endswith(end)
    return text[len(prefix) : -len(end)]


def explicitly(story: Callable[[World], Awaitable[None]], path: Path) -> None:
    in_world(story, path, model_control_mode="explicit")


# -- up


@pytest.mark.parametrize("mode", ["none", "poll"])
def test_an_ensemble_waits_for_its_steps(tmp_path: Path, mode: str) -> None:
    async def story(world: World) -> None:
        write(world, a_nested=ensemble("b_ensemble", "c"), b_ensemble=ensemble("c", "d"), c=model(), d=model())
        world.maker.script = held
        polling = asyncio.ensure_future(world.poller.poll())
        await settled()
        assert [twin.name for twin in world.maker.made] == ["c", "d"]
        for expected in ("c", "d"), ("b_ensemble",), ("a_nested",):
            for name in expected:
                next(twin for twin in world.maker.made if twin.name == name).may_start.set_result(None)
            await settled()
        assert await polling
        assert [twin.name for twin in world.maker.made] == ["c", "d", "b_ensemble", "a_nested"]
        assert up(world) == ["a_nested", "b_ensemble", "c", "d"]

    in_world(story, tmp_path, model_control_mode=mode)


def test_an_ensemble_brings_its_steps(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        write(world, nested=ensemble("e", "c"), e=ensemble("a", "b"), a=model(), b=model(), c=model(), d=model())
        await world.composer.load("nested")
        assert up(world) == ["a", "b", "c", "e", "nested"]
        await world.composer.load("nested")
        assert len(world.maker.made) == 5  # nothing changed
        world.touch("a")
        await world.composer.load("nested")
        assert [twin.name for twin in world.maker.made[5:]] == ["a"]

    explicitly(story, tmp_path)


def test_steps_come_up_side_by_side(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        write(world, e=ensemble("a", "b"), a=model(), b=model())
        world.maker.script = held
        load = asyncio.ensure_future(world.composer.load("e"))
        await settled()
        assert [twin.name for twin in world.maker.made] == ["a", "b"]
        world.maker.script = lambda twin: twin.may_start.set_result(None)
        for twin in world.maker.made:
            twin.may_start.set_result(None)
        await load
        assert up(world) == ["a", "b", "e"]

    explicitly(story, tmp_path)


def test_a_step_that_loads_its_ensemble_is_refused(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        write(world, e=ensemble("a"), a=model())
        world.maker.script = held
        load = asyncio.ensure_future(world.composer.load("e"))
        await settled()
        with pytest.raises(ServerError, match="'e' waits for 'a'"):
            await world.composer.load("e", asker="a")
        world.maker.script = lambda twin: twin.may_start.set_result(None)
        world.maker.made[0].may_start.set_result(None)
        await load

    explicitly(story, tmp_path)


# -- refused


@pytest.mark.spec("server:188")
def test_steps_that_are_not_there(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        write(world, a=model(), unreadable="foo: 1", bad=model())
        write(world, e1=ensemble("a", "nope"), e2=ensemble("a", "unreadable"), e3=ensemble("a:7"), e4=ensemble("bad"))
        text = "ensemble e1 contains models that are not available or ambiguous: nope"
        assert await refusal(world, "e1") == text
        text = "ensemble e2 contains models that are not available or ambiguous: unreadable"
        assert await refusal(world, "e2") == text
        assert await refusal(world, "e3") == "ensemble 'e3' depends on 'a' whose required version 7 is not loaded."
        world.maker.script = failing("oh")
        assert await refusal(world, "e4") == (
            "ensemble 'e4' depends on 'bad' which has no loaded version. Model 'bad' loading failed with error: "
            "version 1 is at UNAVAILABLE state: Internal: oh;"
        )
        assert up(world) == ["a"]
        assert world.states("e1") == {
            "": "UNAVAILABLE Invalid argument: "
            + ("ensemble e1 contains models that are not available or ambiguous: nope")
        }

    explicitly(story, tmp_path)


@pytest.mark.spec("server:188")
def test_steps_without_a_version(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        write(world, e=ensemble("a"), a=model(more="version_policy: { specific: { versions: [ 3 ] } }"))
        assert await refusal(world, "e") == (
            "ensemble 'e' depends on 'a' which has no loaded version. Model 'a' loading failed with error: at least "
            "one version must be available under the version policy of model 'a'"
        )

    explicitly(story, tmp_path)


@pytest.mark.spec("server:188")
def test_steps_that_are_no_valid_ensembles(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        write(world, nested=ensemble("e"), e=ensemble("a", maps={"a.I": "X"}), a=model())
        failure = "in ensemble e, ensemble tensor I is mapping to non-existing input X in model a"
        assert await refusal(world, "nested") == (
            f"ensemble 'nested' depends on 'e' which is not valid. Model 'e' failed with error: {failure}"
        )
        await world.composer.unload("nested")
        assert world.states("e") == {}  # nobody wants it any more
        assert await refusal(world, "e") == failure

    explicitly(story, tmp_path)


@pytest.mark.spec("server:188")
@pytest.mark.parametrize("mode", ["none", "explicit"])
def test_circles_are_refused(tmp_path: Path, mode: str) -> None:
    async def story(world: World) -> None:
        write(world, alone=ensemble("alone"), one=ensemble("two"), two=ensemble("one"), over=ensemble("two"))
        circle = "circular dependency between ensembles: one -> ... -> two -> one"
        if mode == "explicit":
            assert await refusal(world, "one") == circle
            text = "circular dependency between ensembles: alone -> ... -> alone -> alone"
            assert await refusal(world, "alone") == text
            await refusal(world, "over")
        else:
            assert not await world.poller.poll()
        assert world.states("one") == {"": f"UNAVAILABLE Invalid argument: {circle}"}
        assert world.states("over")[""].startswith(
            "UNAVAILABLE Invalid argument: ensemble 'over' depends on 'two' which is not valid. Model 'two' failed "
            "with error: circular dependency"
        )

    in_world(story, tmp_path, model_control_mode=mode)


# -- down, and up again


@pytest.mark.spec("server:109")
def test_a_step_takes_its_ensembles_down_and_brings_them_back(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        write(world, nested=ensemble("e"), e=ensemble("a", "b"), a=model(), b=model(), c=model())
        await world.composer.load("nested")
        await world.composer.load("c")
        await world.composer.unload("a")
        await settled()
        assert up(world) == ["b", "c"]
        assert world.states("e") == world.states("nested") == {"1": "UNAVAILABLE unloaded"}
        await world.composer.load("c")
        assert up(world) == ["b", "c"]
        await world.composer.load("a")
        assert up(world) == ["a", "b", "c", "e", "nested"]
        await world.composer.unload("e")
        await settled()
        await world.composer.load("a")
        assert up(world) == ["a", "b", "c"]  # somebody unloaded it

    explicitly(story, tmp_path)


def test_what_failed_for_a_step_is_tried_again_with_it(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        write(world, e=ensemble("a", "b"), a=model())
        await refusal(world, "e")
        write(world, b=model(dtype="INT32"))
        await world.composer.load("b")
        assert world.states("e")[""].endswith(
            "in ensemble e, ensemble tensor T1: inconsistent data type: TYPE_FP32 is inferred from model a while "
            "TYPE_INT32 is inferred from model b"
        )
        world.configure("b", model())
        await world.composer.load("b")
        assert up(world) == ["a", "b", "e"]

    explicitly(story, tmp_path)


@pytest.mark.spec("server:108")
def test_steps_go_with_their_ensemble_unless_they_are_wanted(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        write(world, nested=ensemble("e", "d"), e=ensemble("a", "b"), other=ensemble("b", "c"))
        write(world, **dict.fromkeys("abcd", model()))
        await world.composer.load("nested")
        await world.composer.unload("nested")
        await settled()
        assert up(world) == ["a", "b", "d", "e"]
        await world.composer.load("nested")
        await world.composer.load("a")
        await world.composer.load("other")
        await world.composer.unload("nested", with_steps=True)
        await settled()
        assert up(world) == ["a", "b", "c", "other"]  # a by its own name, b for the other ensemble
        await world.composer.unload("other", with_steps=True)
        await settled()
        assert up(world) == ["a"]
        await world.composer.unload("a", with_steps=True)
        await settled()
        assert up(world) == []

    explicitly(story, tmp_path)


@pytest.mark.spec("server:179")
def test_a_poll_follows_the_steps(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        write(world, e=ensemble("a"), a=model())
        assert await world.poller.poll()
        world.remove("a")
        assert await world.poller.poll()
        await settled()
        assert up(world) == []
        write(world, a=model())
        assert await world.poller.poll()
        assert up(world) == ["a", "e"]

    in_world(story, tmp_path, model_control_mode="poll")


def test_an_ensemble_is_loaded_again_when_a_step_takes_something_else(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        write(world, e=ensemble("a"), a=model())
        await world.composer.load("e")
        world.touch("a")
        await world.composer.load("a")
        world.configure("a", model(more="model_transaction_policy { decoupled: true }"))
        await world.composer.load("a")
        assert [twin.name for twin in world.maker.made] == ["a", "e", "a", "a", "e"]
        world.configure("a", model(dims="5"))
        await world.composer.load("a")
        assert up(world) == ["a", "e"]  # what served goes on, although it does not fit any more
        assert [twin.name for twin in world.maker.made[5:]] == ["a"]
        world.configure("a", model(dims="-1"))
        await world.composer.load("a")
        assert [twin.name for twin in world.maker.made[6:]] == ["a", "e"]

    explicitly(story, tmp_path)


def test_an_ensemble_with_a_cache_follows_every_reload_of_a_step(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        write(world, e=ensemble("a", more="response_cache { enable: true }"), a=model())
        await world.composer.load("e")
        world.touch("a")
        await world.composer.load("a")
        assert [twin.name for twin in world.maker.made] == ["a", "e", "a", "e"]

    explicitly(story, tmp_path)


def test_what_is_no_ensemble_any_more_has_no_steps(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        write(world, e=ensemble("a"), a=model())
        await world.composer.load("e")
        world.configure("e", model())
        await world.composer.load("e")
        await world.composer.unload("a")
        await settled()
        assert up(world) == ["e"]

    explicitly(story, tmp_path)
