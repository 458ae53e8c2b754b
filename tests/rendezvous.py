"""Where tests and models meet: a model says that it has come to a point, and waits there until the test lets it go.

The models' half, :data:`AT`, is put beside ``model.py`` by :func:`write`; the name of the socket reaches them in the
environment.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import write_model

__all__ = ["IDENTITY", "Rendezvous", "Visit", "config", "identity", "meeting_place", "tensors", "write"]

_VARIABLE = "ATOLL_TEST_RENDEZVOUS"

AT = f'''
import os
import socket

def at(place):
    """Say where we are; the word that lets us go on."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(b"\\0" + os.environ["{_VARIABLE}"].encode())
        connection.sendall(f"{{os.getpid()}} {{place}}\\n".encode())
        return connection.recv(100).decode()
'''


class Visit:
    """A model that has come and waits."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        said = b""
        while not said.endswith(b"\n"):
            said += connection.recv(200) or b"\n"
        pid, _, place = said.decode().strip().partition(" ")
        self.pid = int(pid)
        self.place = place

    def let_go(self, word: str = "on") -> None:
        with self._connection as connection:
            connection.sendall(word.encode())

    def close(self) -> None:
        self._connection.close()


class Rendezvous:
    """Accepts visits, in the order in which models come."""

    def __init__(self) -> None:
        self.name = f"atoll-test-{uuid.uuid4()}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(b"\0" + self.name.encode())
        self._listener.listen(256)
        self._visits: list[Visit] = []

    def next(self, timeout_s: float = 20) -> Visit:
        self._listener.settimeout(timeout_s)
        connection, _ = self._listener.accept()
        connection.settimeout(timeout_s)
        visit = Visit(connection)
        self._visits.append(visit)
        return visit

    def close(self) -> None:
        self._listener.close()
        for visit in self._visits:
            visit.close()


def meeting_place() -> Iterator[Rendezvous]:
    """The body of a fixture: servers that start while it lives know where to meet."""
    rendezvous = Rendezvous()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(_VARIABLE, rendezvous.name)
        yield rendezvous
    rendezvous.close()


def tensors(text: str) -> str:
    """The entries for one-dimensional tensors of any length, such as ``"A:UINT8 B:FP32"``."""
    pairs = [pair.split(":") for pair in text.split()]
    return ", ".join(f'{{ name: "{name}" data_type: TYPE_{kind} dims: [ -1 ] }}' for name, kind in pairs)


def config(inputs: str = "IN:UINT8", outputs: str = "OUT:UINT8", count: int = 1, more: str = "") -> str:
    """A ``config.pbtxt`` with tensors as :func:`tensors` has them."""
    return (
        f'backend: "python"\ninput [ {tensors(inputs)} ]\noutput [ {tensors(outputs)} ]\n'
        f"instance_group [ {{ kind: KIND_CPU count: {count} }} ]\n{more}\n"
    )


def write(repository: Path, name: str, code: str, text: str = "", **files: str) -> Path:
    """Write a model with the given ``config.pbtxt``; ``files`` are modules beside ``model.py``. Its folder."""
    folder = write_model(repository, name, code, text or config())
    for stem, content in {"rendezvous": AT, **files}.items():
        (folder / "1" / f"{stem}.py").write_text(content)
    return folder


IDENTITY = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUT", request.inputs()[0].as_numpy())])
            for request in requests
        ]
"""


def identity(repository: Path, name: str = "identity", count: int = 1) -> Path:
    """A model that answers with its input."""
    return write(repository, name, IDENTITY, config(count=count))
