"""One stub process, seen from the supervisor: its birth with channel, lane and output pipes, and what it died of."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from atoll_ipc.memory import ArenaSettings

from atoll.errors import Code, ServerError
from atoll.instances.channel import Channel
from atoll.instances.output import OutputReader
from atoll.instances.side_door import SideDoor
from atoll.instances.warm_parent import Fork, WarmParent

__all__ = ["StubProcess"]

_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)

_EXIT_STATUS_WAIT_S = 2.0
_LAST_WORDS_WAIT_S = 0.1


class StubProcess:
    """A forked stub and this end of everything it is connected by. Made by :meth:`spawn`."""

    def __init__(
        self, fork: Fork, channel: Channel, outputs: dict[str, OutputReader], side_door: SideDoor | None
    ) -> None:
        self.fork = fork
        self.channel = channel
        self._outputs = outputs
        self._side_door = side_door
        fork.exited.add_done_callback(self._on_exited)

    @classmethod
    async def spawn(
        cls,
        name: str,
        title: str,
        warm_parent: WarmParent,
        first_chunk_id: int,
        arena: ArenaSettings,
        timeout_s: float,
        *,
        on_message: Callable[[list[Any]], None],
        on_closed: Callable[[], None],
        on_line: Callable[[str, str], None],
        side_door: SideDoor | None = None,
    ) -> StubProcess:
        """Fork a stub. ``on_line`` gets the stream's name and each line of it. Raises ServerError.

        Without a ``side_door``, processes that the model forks cannot call other models.
        """
        loop = asyncio.get_running_loop()
        channel_ours, channel_theirs = socket.socketpair()
        lane_ours, lane_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pipes = {"stdout": os.pipe(), "stderr": os.pipe()}
        theirs = [channel_theirs.fileno(), lane_theirs.fileno(), *(write for _, write in pipes.values())]
        if side_door is not None:
            theirs.append(side_door.theirs.fileno())
        try:
            fork = await asyncio.wait_for(warm_parent.fork(title, first_chunk_id, arena, theirs), timeout_s)
        except (OSError, asyncio.TimeoutError) as error:
            for ours in (channel_ours, lane_ours):
                ours.close()
            for read, _ in pipes.values():
                os.close(read)
            if side_door is not None:
                side_door.close()
            reason = str(error) or f"it was not there after {timeout_s:g} s (stub-timeout-seconds)"
            raise ServerError(Code.INTERNAL, f"Stub process '{name}' could not be started: {reason}") from error
        finally:
            channel_theirs.close()
            lane_theirs.close()
            for _, write in pipes.values():
                os.close(write)
        outputs = {}
        for stream, (read, _) in pipes.items():
            reader = outputs[stream] = OutputReader(partial(on_line, stream))
            pipe = open(read, "rb", buffering=0)  # noqa: SIM115  # the loop closes it
            await loop.connect_read_pipe(partial(_same, reader), pipe)
        channel = Channel(lane_ours, on_message, on_closed)
        await loop.create_unix_connection(partial(_same, channel), sock=channel_ours)
        if side_door is not None:
            side_door.open(channel)
        return cls(fork, channel, outputs, side_door)

    def kill(self) -> None:
        if not self.fork.exited.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.fork.pid, signal.SIGKILL)

    async def cause_of_death(self) -> str:
        """After the channel's end: make sure that the process is gone, and tell what ended it."""
        self.kill()  # a process that closed its channel serves nobody
        if self._side_door is not None:
            self._side_door.close()
        await asyncio.wait([self.fork.exited], timeout=_EXIT_STATUS_WAIT_S)
        # Children of the model may keep its output open.
        await asyncio.wait([reader.closed for reader in self._outputs.values()], timeout=_LAST_WORDS_WAIT_S)
        exited = self.fork.exited
        if not exited.done():
            text = "It closed its channel."
        elif os.WIFSIGNALED(exited.result()):
            number = os.WTERMSIG(exited.result())
            text = f"It was killed by signal {number} ({signal.Signals(number).name})."
            if number == signal.SIGKILL:
                text += " Perhaps out of memory?"
        else:
            text = f"It exited with code {os.WEXITSTATUS(exited.result())}."
        last_words = "\n".join(self._outputs["stderr"].tail)
        return f"{text} Last lines of its stderr:\n{last_words}" if last_words else text

    def _on_exited(self, exited: asyncio.Future[int]) -> None:
        """The channel ends by itself, after what was still in it, unless a child of the model keeps it open."""
        asyncio.get_running_loop().call_later(_LAST_WORDS_WAIT_S, self.channel.abort)


def _same(protocol: _Protocol) -> _Protocol:
    """What asyncio calls a protocol factory, for a protocol that exists."""
    return protocol
