"""What tests wait for: models that wait themselves, and gauges of the metrics page."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from serving import Served

__all__ = ["Gate", "wait_for_metrics"]

_SETTLING_S = 10


class Gate:
    """A pipe that a request to a model made of ``models/gate.py`` waits at, until the test opens it."""

    def __init__(self, path: Path, server: Served) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._server = server

    def wait_for_arrival(self, times: int = 1) -> None:
        self._server.wait_for_log(rf"waiting at {re.escape(self.path)}\b", times=times)

    def open(self) -> None:
        with open(self.path, "wb"):
            pass


def wait_for_metrics(server: Served, fits: Callable[[dict[tuple[str, str], float]], bool]) -> None:
    """Read the metrics page until the gauges of what requests hold fit; each reading takes turns with the requests."""
    pattern = re.compile(
        r'^(atoll_shared_memory_used_bytes|nv_inference_pending_request_count)\{model="([^"]+)".*\} (\S+)$', re.M
    )
    deadline = time.monotonic() + _SETTLING_S
    while True:
        page: dict[tuple[str, str], float] = {}
        for name, model, value in pattern.findall(server.metrics()):
            page[name, model] = page.get((name, model), 0.0) + float(value)
        assert page
        if fits(page):
            return
        assert time.monotonic() < deadline, {key: value for key, value in page.items() if value}
