"""Asks a model to complete its configuration, in a stub of its own that ends with the answer.

The stub imports the model's file and calls ``auto_complete_config``; the class is never instantiated, and nothing that
the call does is visible to the model's instances later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from atoll_ipc.memory import ArenaSettings
from atoll_ipc.wire import Kind

from atoll.errors import Code, ServerError
from atoll.instances.stub_process import StubProcess
from atoll.instances.warm_parent import WarmParent

__all__ = ["auto_complete"]

_END_S = 5.0


async def auto_complete(
    args: dict[str, str],
    surroundings: dict[str, Any],
    version_dir: Path,
    filename: str,
    backend: Path | None,
    warm_parent: WarmParent,
    start_timeout_s: float,
    on_line: Callable[[str, str], None],
) -> str | None:
    """The completed configuration as JSON; None where the model has no ``auto_complete_config``. Raises ServerError."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[tuple[str | None, str | None]] = loop.create_future()
    closed: asyncio.Future[None] = loop.create_future()
    name = args["model_name"]

    def on_message(message: list[Any]) -> None:
        if message[0] == Kind.LOADED and not outcome.done():
            outcome.set_result((message[1], message[2].get("config")))

    process = await StubProcess.spawn(
        name,
        f"triton_python_backend_stub {name} auto_complete",
        warm_parent,
        0,
        ArenaSettings(),
        start_timeout_s,
        on_message=on_message,
        on_closed=partial(closed.set_result, None),
        on_line=on_line,
    )
    settings = {
        "name": name,
        "auto_complete": True,
        "decoupled": False,
        "version_dir": str(version_dir),
        "filename": filename,
        "backend_file": None if backend is None else str(backend),
        "args": args,
        "outputs": [],
        "surroundings": surroundings,
    }
    process.channel.send([Kind.LOAD, settings])
    try:
        ends: list[asyncio.Future[Any]] = [outcome, closed]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not outcome.done():
            reason = await process.cause_of_death()
            raise ServerError(Code.INTERNAL, f"Stub process '{name}' is not healthy. {reason}")
        error, config = outcome.result()
        if error is not None:
            raise ServerError(Code.INTERNAL, error)
        await asyncio.wait([closed], timeout=_END_S)
        return config
    finally:
        process.kill()
        if not closed.done():
            await asyncio.wait([closed], timeout=_END_S)
