"""The supervisor's side of one stub: channel, lane, and an arena of request blocks.

The stub is made of ``store`` and ``channel`` in the test's own process, or is another process that got ``theirs``.
"""

from __future__ import annotations

import functools
import os
import socket
import textwrap
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from atoll_ipc.dtypes import BY_NAME
from atoll_ipc.memory import PAGE, Arena, ArenaSettings, Block
from atoll_ipc.wire import FrameReader, Kind, pack, receive_chunk, send_chunk
from atoll_stub.channel import Channel
from atoll_stub.instance import Instance
from atoll_stub.memory import Store

__all__ = [
    "ECHO",
    "LARGE",
    "SETTINGS",
    "STUB_CHUNKS",
    "TIMEOUT_S",
    "InstanceThread",
    "LoadedModel",
    "SupervisorTwin",
    "described",
    "execute",
    "inline",
    "load_settings",
    "numbers",
    "reply",
    "request",
]

STUB_CHUNKS = 1 << 20
TIMEOUT_S = 10
SETTINGS = ArenaSettings(default_nbytes=64 * PAGE, growth_nbytes=16 * PAGE)

LARGE = np.arange(5000, dtype=np.float32)
ECHO = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUT", r.inputs()[0].as_numpy())]) for r in requests
        ]
"""


class SupervisorTwin:
    """Holds the supervisor's ends; ``theirs`` are the stub's: connection and lane."""

    def __init__(self) -> None:
        self.connection, connection = socket.socketpair()
        self.lane, lane = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.connection, self.lane):
            end.settimeout(TIMEOUT_S)
        self.arena = Arena(0, SETTINGS)
        self.theirs = (connection, lane)
        self._frames = FrameReader()
        self._received: deque[list[Any]] = deque()
        self._shared: set[int] = set()
        self._chunks: dict[int, int] = {}

    @functools.cached_property
    def store(self) -> Store:
        return Store(self.theirs[1], STUB_CHUNKS, SETTINGS)

    @functools.cached_property
    def channel(self) -> Channel:
        return Channel(self.theirs[0], self.store)

    def close(self) -> None:
        for end in (self.connection, self.lane, *self.theirs):
            end.close()
        for fd in self._chunks.values():
            os.close(fd)

    def hang_up(self) -> None:
        """What the stub sees when the supervisor dies."""
        self.connection.shutdown(socket.SHUT_RDWR)

    # -- messages

    def send(self, *messages: list[Any]) -> None:
        self.connection.sendall(b"".join(map(pack, messages)))

    def receive(self, kind: int) -> list[Any]:
        """The next message, which must be of this kind."""
        message = self.receive_any()
        assert message[0] == kind, message
        return message

    def receive_any(self) -> list[Any]:
        while not self._received:
            data = self.connection.recv(65536)
            assert data, "the stub closed its channel"
            self._received.extend(self._frames.feed(data))
        return self._received.popleft()

    # -- memory

    def place(self, data: bytes, offset: int = 0) -> tuple[Block, list[int]]:
        """A block with ``data`` at ``offset``, and the reference to it; the stub can open it."""
        block = self.arena.allocate(offset + len(data))
        start = block.start + offset
        block.chunk.map[start : start + len(data)] = data
        if block.chunk.id not in self._shared:
            self._shared.add(block.chunk.id)
            send_chunk(self.lane, block.chunk.id, block.chunk.nbytes, block.chunk.fd)
        return block, [block.chunk.id, block.start, block.nbytes, start, len(data)]

    def read(self, data: bytes | list[int]) -> bytes:
        """The bytes of a tensor that the stub described, from its own chunk."""
        if isinstance(data, bytes):
            return data
        chunk_id, start, length, offset, nbytes = data
        assert start <= offset <= offset + nbytes <= start + length
        while chunk_id not in self._chunks:
            received, _, fd = receive_chunk(self.lane)
            self._chunks[received] = fd
        return os.pread(self._chunks[chunk_id], nbytes, offset)


class InstanceThread:
    """An :class:`Instance` that runs in a thread; ``ended`` holds what it ended with."""

    def __init__(self, twin: SupervisorTwin) -> None:
        self.instance = Instance(twin.channel)
        self._twin = twin
        self.ended: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.instance.run()
        except (EOFError, ConnectionError) as error:
            self.ended = error
        except BaseException as error:
            self.ended = error
            self._twin.theirs[0].shutdown(socket.SHUT_RDWR)  # so that no test waits for an answer
            raise
        finally:
            self._end_coroutines()

    def _end_coroutines(self) -> None:
        """What the end of a stub's process does."""
        executor = self.instance._executor
        if executor is not None:
            executor.stop()
            for thread in threading.enumerate():
                if thread.name == "coroutines":
                    thread.join(TIMEOUT_S)
            if executor.coroutines._loop is not None:
                executor.coroutines._loop.close()

    def join(self) -> BaseException | None:
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        return self.ended


def inline(name: str, array: np.ndarray[Any, Any], datatype: str) -> list[Any]:
    """A tensor as it goes into a message with its bytes."""
    return [name, BY_NAME[datatype].code, list(array.shape), array.tobytes()]


def load_settings(
    version_dir: Path, filename: str = "model.py", outputs: tuple[str, ...] = ("OUT",), **others: Any
) -> dict[str, Any]:
    """What LOAD says of a model; ``others`` replace what is here."""
    model_dir = version_dir.parent
    args = {
        "model_config": "{}",
        "model_instance_kind": "CPU",
        "model_instance_name": f"{model_dir.name}_0_0",
        "model_instance_device_id": "0",
        "model_repository": str(model_dir),
        "model_version": version_dir.name,
        "model_name": model_dir.name,
    }
    settings = {
        "name": args["model_instance_name"],
        "auto_complete": False,
        "decoupled": False,
        "version_dir": str(version_dir),
        "filename": filename,
        "args": args,
        "outputs": list(outputs),
        "surroundings": {"variables": {}, "threads": {}, "limits": {}},
    }
    return {**settings, **others}


def execute(execution_id: int, *requests: list[Any], freed: Any = (), alone: bool = True) -> list[Any]:
    return [Kind.EXECUTE, execution_id, list(requests), list(freed), alone, []]


def reply(call_id: int, response: list[Any] | None, *, freed: Any = (), final: bool = True) -> list[Any]:
    return [Kind.REPLY, call_id, response, list(freed), final]


def request(*tensors: list[Any], outputs: Any = (), id: str = "", parameters: Any = None) -> list[Any]:
    return [id, 0, 0, 0, parameters, list(outputs), list(tensors), None]


def numbers(*values: float, name: str = "IN") -> list[Any]:
    return inline(name, np.array(values, np.float32), "FP32")


def described(name: str, data: Any, array: Any = LARGE) -> list[Any]:
    return [name, 11, list(array.shape), data]


class LoadedModel:
    """A model in an instance that runs beside the test."""

    def __init__(self, twin: SupervisorTwin, folder: Path) -> None:
        self.twin = twin
        self.folder = folder
        self.thread: InstanceThread | None = None
        self.facts: dict[str, Any] = {}
        self.executions = 0

    def load(self, code: str | None, filename: str = "model.py", **settings: Any) -> str | None:
        """Write the model's file and load it; the error that LOADED tells."""
        version_dir = self.folder / "m" / "1"
        version_dir.mkdir(parents=True)
        if code is not None:
            (version_dir / filename).write_text(textwrap.dedent(code))
        self.thread = InstanceThread(self.twin)
        self.twin.send([Kind.LOAD, load_settings(version_dir, filename, **settings)])
        _, error, self.facts = self.twin.receive(Kind.LOADED)
        return None if error is None else str(error)

    def run(self, *requests: list[Any]) -> list[Any]:
        """The answers to one batch of requests."""
        self.executions += 1
        self.twin.send(execute(self.executions, *requests))
        _, execution_id, responses, _, times, rescheduled, began_ns = self.twin.receive(Kind.RESULT)
        assert (execution_id, rescheduled) == (self.executions, [])
        assert [type(part) for part in times] == [int] * 3
        assert min(times) >= 0
        assert began_ns + sum(times) <= time.monotonic_ns()
        return list(responses)

    def fail(self, *requests: list[Any]) -> str:
        self.executions += 1
        self.twin.send(execute(self.executions, *requests))
        return str(self.twin.receive(Kind.FAILED)[2])

    def finalize(self) -> None:
        self.twin.send([Kind.FINALIZE])
        assert self.thread is not None
        assert self.thread.join() is None
        self.thread = None
