"""What frontends say when they cannot listen."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

import pytest
from atoll.errors import Code, ServerError
from atoll.frontends.grpc.http2.frontend import Http2Frontend
from atoll.frontends.grpc.options import GrpcOptions
from atoll.frontends.http.listener import HttpFrontend, HttpOptions
from atoll.frontends.listening import cannot_listen

ELSEWHERE = "192.0.2.1"  # TEST-NET-1: no machine has it
SENTENCE = f"Socket '{ELSEWHERE}:8000' can not be opened: Cannot assign requested address"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OSError(errno.EADDRINUSE, "x"), "already in use "),
        (FileNotFoundError(errno.ENOENT, "no certificate"), "already in use "),
        (OSError(errno.EACCES, "x"), "can not be opened: Permission denied"),
        (OSError(errno.EADDRNOTAVAIL, "x"), "can not be opened: Cannot assign requested address"),
        (socket.gaierror(socket.EAI_NONAME, "Name not known"), "can not be opened: Name not known"),
    ],
)
def test_the_cause_is_told(error: OSError, cause: str) -> None:
    told = cannot_listen("host", 80, error)
    assert (told.code, told.message) == (Code.UNAVAILABLE, f"Socket 'host:80' {cause}")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_an_address_of_another_machine(protocol: str) -> None:
    core: Any = None
    frontend = (
        HttpFrontend(core, HttpOptions(address=ELSEWHERE))
        if protocol == "http"
        else Http2Frontend(core, GrpcOptions(address=ELSEWHERE, port=8000))
    )
    with pytest.raises(ServerError) as caught:
        asyncio.run(frontend.start())
    assert caught.value.message == SENTENCE
