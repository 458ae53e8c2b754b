"""What is measured. A case yields figures; a figure is one line of the table."""

from __future__ import annotations

import os
import queue
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import contenders
import numpy as np
import psutil
import tritonclient.grpc
import tritonclient.http
import tritonclient.utils
from loads import BareIdentity, median_ms, perf_analyzer, wrk
from numpy.typing import NDArray
from server_process import RunningServer
from tritonclient.utils import shared_memory

MIB = 1024 * 1024
LARGE = (1, 16, 64)
"""MiB of one tensor."""
STRING_COUNT = 1_000_000
STREAM_COUNT = 10_000
MODEL_COUNT = 20


@dataclass(frozen=True)
class Figure:
    label: str
    unit: str
    value: float

    def __str__(self) -> str:
        return f"{self.label}: {number(self.value)} {self.unit}"


def number(value: float) -> str:
    """Three significant digits are more than a measurement holds."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


Case = Callable[[RunningServer, float], Iterator[Figure]]
"""Measures a server that holds the bench repository; each figure may take about so many seconds."""


def http_binary(server: RunningServer, seconds: float) -> Iterator[Figure]:
    for connections in (1, 8, 32):
        load = wrk(server.http_url, "binary", connections, seconds)
        label = f"add_sub, HTTP binary, connections: {connections}"
        yield Figure(label, "requests/s", load.requests_per_s)
        yield Figure(label, "p50 µs", load.p50_us)


def http_json(server: RunningServer, seconds: float) -> Iterator[Figure]:
    load = wrk(server.http_url, "json", 8, seconds)
    yield Figure("add_sub, HTTP JSON, connections: 8", "requests/s", load.requests_per_s)


def grpc_small(server: RunningServer, seconds: float) -> Iterator[Figure]:
    for concurrency in (1, 8, 32):
        load = perf_analyzer(server.grpc_url, concurrency, seconds)
        label = f"add_sub, gRPC, concurrency: {concurrency}"
        yield Figure(label, "requests/s", load.requests_per_s)
        yield Figure(label, "p50 µs", load.p50_us)


def identity_socket(server: RunningServer, seconds: float) -> Iterator[Figure]:
    for size in LARGE:
        value = _tensor(size * MIB)
        with BareIdentity(server.http_port, "identity", "FP32", len(value), value.tobytes()) as connection:
            duration_ms = median_ms(connection.exchange, seconds)
        yield Figure(f"identity {size} MiB, HTTP, bare socket", "ms", duration_ms)


def identity_http(server: RunningServer, seconds: float) -> Iterator[Figure]:
    for size in LARGE:
        duration_ms = _identity_ms(tritonclient.http, server.http_url, "identity", _tensor(size * MIB), "FP32", seconds)
        yield Figure(f"identity {size} MiB, HTTP, tritonclient", "ms", duration_ms)


def identity_grpc(server: RunningServer, seconds: float) -> Iterator[Figure]:
    for size in LARGE:
        duration_ms = _identity_ms(tritonclient.grpc, server.grpc_url, "identity", _tensor(size * MIB), "FP32", seconds)
        yield Figure(f"identity {size} MiB, gRPC, tritonclient", "ms", duration_ms)


def identity_shared(server: RunningServer, seconds: float) -> Iterator[Figure]:
    size = max(LARGE)
    value = _tensor(size * MIB)
    with _region(server.http_url, 2 * value.nbytes) as (client, handle):
        shared_memory.set_shared_memory_region(handle, [value])
        tensor = tritonclient.http.InferInput("INPUT0", value.shape, "FP32")
        tensor.set_shared_memory(handle._triton_shm_name, value.nbytes)
        output = tritonclient.http.InferRequestedOutput("OUTPUT0")
        output.set_shared_memory(handle._triton_shm_name, value.nbytes, value.nbytes)

        def call() -> None:
            client.infer("identity", [tensor], outputs=[output])

        call()
        returned = shared_memory.get_contents_as_numpy(handle, np.float32, value.shape, value.nbytes)
        if not np.array_equal(returned, value):
            raise RuntimeError("identity left something else in shared memory")
        del returned
        duration_ms = median_ms(call, seconds)
    yield Figure(f"identity {size} MiB, system shared memory", "ms", duration_ms)


def strings(server: RunningServer, seconds: float) -> Iterator[Figure]:
    value = np.array([f"string {index}".encode() for index in range(STRING_COUNT)], np.object_)
    payload = tritonclient.utils.serialize_byte_tensor(value).item()
    with BareIdentity(server.http_port, "identity_strings", "BYTES", STRING_COUNT, payload) as connection:
        duration_ms = median_ms(connection.exchange, seconds)
    yield Figure(f"identity of {STRING_COUNT:,} strings, HTTP, bare socket", "ms", duration_ms)
    duration_ms = _identity_ms(tritonclient.http, server.http_url, "identity_strings", value, "BYTES", seconds)
    yield Figure(f"identity of {STRING_COUNT:,} strings, HTTP, tritonclient", "ms", duration_ms)


def bls_hop(server: RunningServer, seconds: float) -> Iterator[Figure]:
    with tritonclient.http.InferenceServerClient(server.http_url, network_timeout=60) as client:
        for label, nbytes in ("16 B", 16), ("16 MiB", 16 * MIB):
            inputs = [
                tritonclient.http.InferInput("NBYTES", [1], "INT64").set_data_from_numpy(np.array([nbytes])),
                tritonclient.http.InferInput("SECONDS", [1], "FP64").set_data_from_numpy(np.array([seconds])),
            ]
            hop_ns = client.infer("bls_hop", inputs).as_numpy("HOP_NS")[0]
            yield Figure(f"one BLS hop, {label}", "ms", hop_ns / 1e6)


def ensemble(server: RunningServer, seconds: float) -> Iterator[Figure]:
    value = _tensor(16 * MIB)
    with BareIdentity(server.http_port, "identity_ensemble", "FP32", len(value), value.tobytes()) as connection:
        duration_ms = median_ms(connection.exchange, seconds)
    yield Figure("ensemble of three identities, 16 MiB", "ms", duration_ms)


def stream(server: RunningServer, seconds: float) -> Iterator[Figure]:
    """Responses per second of a decoupled model: to a client, and to another model."""
    results: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()
    count = tritonclient.grpc.InferInput("COUNT", [1], "INT64").set_data_from_numpy(np.array([STREAM_COUNT]))

    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(lambda result, error: results.put((result, error)))

        def call() -> None:
            client.async_stream_infer("repeat", [count])
            for index in range(STREAM_COUNT):
                result, error = results.get(timeout=30)
                if error or result.as_numpy("INDEX")[0] != index:
                    raise RuntimeError(f"response {index} of the stream: {error or 'out of order'}")

        duration_ms = median_ms(call, seconds)
        yield Figure("decoupled model, gRPC stream", "responses/s", STREAM_COUNT / duration_ms * 1e3)
        durations = [client.infer("bls_stream", [count]).as_numpy("DURATION_NS")[0] / 1e6 for _ in range(3)]
    yield Figure("decoupled model, BLS", "responses/s", STREAM_COUNT / sorted(durations)[1] * 1e3)


def start(contender: contenders.Contender) -> Iterator[Figure]:
    """Brings up a server of its own, with many models."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contender.serve(contenders.repository_of_many(Path(folder), MODEL_COUNT)) as server,
    ):
        pss = _pss(server.process.pid)
        stop_s = server.stop()
    yield Figure(f"{MODEL_COUNT} models: from start to ready", "s", server.ready_s)
    yield Figure(f"{MODEL_COUNT} models: memory of all processes (PSS)", "MiB", pss / MIB)
    yield Figure(f"{MODEL_COUNT} models: stop", "s", stop_s)


SERVED: dict[str, Case] = {
    "http_binary": http_binary,
    "http_json": http_json,
    "grpc": grpc_small,
    "identity_socket": identity_socket,
    "identity_http": identity_http,
    "identity_grpc": identity_grpc,
    "identity_shared": identity_shared,
    "strings": strings,
    "bls": bls_hop,
    "stream": stream,
    "ensemble": ensemble,
}
"""The cases that share one server."""

NAMES = (*SERVED, "start")


def _tensor(nbytes: int) -> NDArray[np.float32]:
    return np.arange(nbytes // 4, dtype=np.float32)


@contextmanager
def _region(http_url: str, nbytes: int) -> Iterator[tuple[Any, Any]]:
    """A client, and memory of that size which it shares with the server."""
    name = f"atoll_bench_{os.getpid()}"
    handle = shared_memory.create_shared_memory_region(name, f"/{name}", nbytes, create_only=True)
    try:
        with tritonclient.http.InferenceServerClient(http_url, network_timeout=60) as client:
            client.register_system_shared_memory(name, f"/{name}", nbytes)
            try:
                yield client, handle
            finally:
                client.unregister_system_shared_memory(name)
    finally:
        shared_memory.destroy_shared_memory_region(handle)


def _identity_ms(
    protocol: ModuleType, url: str, model: str, value: NDArray[Any], datatype: str, seconds: float
) -> float:
    """The duration a user of tritonclient sees: from a numpy array to a numpy array."""
    with protocol.InferenceServerClient(url) as client:

        def call() -> NDArray[Any]:
            tensor = protocol.InferInput("INPUT0", value.shape, datatype)
            tensor.set_data_from_numpy(value)
            returned: NDArray[Any] = client.infer(model, [tensor]).as_numpy("OUTPUT0")
            return returned

        if not np.array_equal(call(), value):
            raise RuntimeError(f"{model} returned something else")
        return median_ms(call, seconds)


def _pss(pid: int) -> int:
    """Proportional set size of a process and all its descendants: memory they share counts once."""
    root = psutil.Process(pid)
    return sum(process.memory_full_info().pss for process in [root, *root.children(recursive=True)])
