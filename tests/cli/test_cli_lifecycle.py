"""The server process's life, told with stand-ins for the core and the frontends."""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from atoll.cli.lifecycle import Endpoint, serve
from atoll.errors import Code, ServerError


class Story:
    """Writes down what happens, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def tell(self, event: str) -> None:
        self.events.append(event)


class StandInCore:
    def __init__(self, story: Story, start: Callable[[], Awaitable[None]] | None = None, clean: bool = True) -> None:
        self.story = story
        self._start = start
        self._clean = clean
        self.budget_s = -1.0

    async def start(self) -> None:
        if self._start is not None:
            await self._start()
        self.story.tell("core started")

    async def stop(self, timeout_s: float) -> bool:
        self.budget_s = timeout_s
        self.story.tell("core stopped")
        return self._clean


class StandInListener:
    def __init__(self, story: Story, name: str, error: ServerError | None = None, then: Any = None) -> None:
        self.port = 0
        self.busy = 0
        self._story = story
        self._name = name
        self._error = error
        self._then = then

    async def start(self) -> None:
        if self._error is not None:
            raise self._error
        self.port = 4242
        self._story.tell(f"{self._name} started")
        if self._then is not None:
            self._then()

    async def stop(self, timeout_s: float, /) -> None:
        self._story.tell(f"{self._name} stopped")


@pytest.fixture
def story() -> Story:
    return Story()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, logger="atoll"):
        yield caplog


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def live(story: Story, core: StandInCore, *listeners: StandInListener, exit_timeout_s: float = 5) -> int:
    names = (("HTTP", "HTTPService", False), ("Metrics", "Metrics Service", True))
    endpoints = [
        Endpoint(protocol, service, "127.0.0.1", listener, "connections", auxiliary)
        for (protocol, service, auxiliary), listener in zip(names, listeners, strict=False)
    ]

    async def on_loaded(well: bool) -> None:
        story.tell("tables" if well else "tables of a failure")

    return asyncio.run(
        serve(
            core,
            endpoints,
            exit_timeout_s=exit_timeout_s,
            on_loaded=on_loaded,
            abandon=lambda status: story.tell(f"abandoned with {status}"),
        )
    )


@pytest.mark.spec("server:266", "server:270", "server:276")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_life(number: int, story: Story, log: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    core = StandInCore(story)
    http = StandInListener(story, "http")
    metrics = StandInListener(story, "metrics", then=lambda: send(number))
    assert live(story, core, http, metrics) == 0
    assert story.events == [
        "core started",
        "tables",
        "http started",
        "metrics started",
        "http stopped",
        "core stopped",
        "metrics stopped",
    ]
    assert capfd.readouterr().out == f"Signal ({number}) received.\n"
    assert log.messages == ["Started HTTPService at 127.0.0.1:4242", "Started Metrics Service at 127.0.0.1:4242"]
    assert 0 < core.budget_s <= 5


@pytest.mark.spec("server:270")
def test_a_second_signal_changes_nothing(story: Story, capfd: pytest.CaptureFixture[str]) -> None:
    class Slow(StandInCore):
        async def stop(self, timeout_s: float) -> bool:
            send(signal.SIGTERM)
            for _ in range(3):
                await asyncio.sleep(0)
            return await super().stop(timeout_s)

    listener = StandInListener(story, "http", then=lambda: send(signal.SIGINT))
    assert live(story, Slow(story), listener) == 0
    assert capfd.readouterr().out == "Signal (2) received.\n"


@pytest.mark.spec("server:160", "server:162")
def test_a_failed_load_is_the_last_line(story: Story, capfd: pytest.CaptureFixture[str]) -> None:
    async def fail() -> None:
        raise ServerError(Code.INTERNAL, "failed to load all models")

    assert live(story, StandInCore(story, fail), StandInListener(story, "http")) == 1
    assert story.events == ["tables of a failure", "core stopped"]
    assert capfd.readouterr().err == "error: creating server: Internal - failed to load all models\n"


@pytest.mark.spec("server:161")
def test_a_taken_port_ends_the_start(story: Story, log: pytest.LogCaptureFixture) -> None:
    taken = ServerError(Code.UNAVAILABLE, "Socket '127.0.0.1:8002' already in use ")
    http, metrics = StandInListener(story, "http"), StandInListener(story, "metrics", taken)
    assert live(story, StandInCore(story), http, metrics) == 1
    assert story.events == ["core started", "tables", "http started", "http stopped", "core stopped"]
    assert log.messages[-1] == (
        "failed to start Metrics service: Unavailable - Socket '127.0.0.1:8002' already in use "
    )


@pytest.mark.spec("server:274")
def test_a_signal_during_the_loads_does_not_wait_for_them(story: Story) -> None:
    async def load_for_ever() -> None:
        send(signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        finally:
            story.tell("load cancelled")

    assert live(story, StandInCore(story, load_for_ever), StandInListener(story, "http")) == 0
    assert story.events == ["load cancelled", "core stopped"]


@pytest.mark.spec("server:271")
def test_an_expired_timeout_abandons_the_process(story: Story, log: pytest.LogCaptureFixture) -> None:
    listener = StandInListener(story, "http", then=lambda: send(signal.SIGTERM))
    assert live(story, StandInCore(story, clean=False), listener, exit_timeout_s=0) == 1
    assert story.events[-1] == "abandoned with 1"
    assert log.messages[-1] == "failed to stop server: Internal - Exit timeout expired. Exiting immediately."
