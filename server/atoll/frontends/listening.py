"""What a frontend that cannot listen says."""

from __future__ import annotations

import errno
import os
import socket

from atoll.errors import Code, ServerError

__all__ = ["cannot_listen"]

_OTHER_CAUSES = (errno.EACCES, errno.EADDRNOTAVAIL)


def cannot_listen(address: str, port: int, error: OSError) -> ServerError:
    """The original names every cause "already in use"; a port below 1024 or a foreign address is told as what it is."""
    if isinstance(error, socket.gaierror):
        cause = f"can not be opened: {error.strerror}"
    elif error.errno in _OTHER_CAUSES:
        cause = f"can not be opened: {os.strerror(error.errno)}"
    else:
        cause = "already in use "
    return ServerError(Code.UNAVAILABLE, f"Socket '{address}:{port}' {cause}")
