"""Everything at once for a while, by grpcio's client on several connections; afterwards nothing is left of it."""

from __future__ import annotations

import gc
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from atoll.frontends.grpc.http2.calls import GrpcCall
from atoll.frontends.grpc.http2.streams import Stream
from atoll.inference import Request
from grpc_harness import Client, Frontends, floats, infer_request
from grpc_twin import TwinServer

CONNECTIONS, ROUNDS = 8, 60


def repeated(count: int) -> Any:
    return infer_request("repeat", raw=[("IN", "INT32", [1], count.to_bytes(4, "little"))])


def unary(client: Client, chance: random.Random) -> None:
    assert client.infer(floats()).model_name == "ident"


def control(client: Client, chance: random.Random) -> None:
    assert client.call("ServerLive").live


def refused(client: Client, chance: random.Random) -> None:
    assert client.infer_error(floats(model="nope"))[0] == "NOT_FOUND"


def large(client: Client, chance: random.Random) -> None:
    data = chance.randbytes(chance.choice([70_000, 300_000, 5_000_000]))
    answer = client.infer(infer_request(raw=[("IN", "UINT8", [len(data)], data)]))
    assert answer.raw_output_contents[0] == data


def compressed(client: Client, chance: random.Random) -> None:
    data = np.arange(chance.choice([10, 500_000]), dtype=np.int32).tobytes()
    request = infer_request(raw=[("IN", "INT32", [len(data) // 4], data)])
    assert client.infer(request, compression=grpc.Compression.Gzip).raw_output_contents[0] == data


def late(client: Client, chance: random.Random) -> None:
    assert client.infer_error(floats(model="hold"), timeout=chance.uniform(0.001, 0.02))[0] == "DEADLINE_EXCEEDED"


def cancelled(client: Client, chance: random.Random) -> None:
    data = bytes(chance.choice([16, 3_000_000]))
    call = client.method("ModelInfer").future(infer_request("hold", raw=[("IN", "UINT8", [len(data)], data)]))
    call.cancel()
    assert call.cancelled()


def stream(client: Client, chance: random.Random) -> None:
    count = chance.randrange(40)
    assert len(list(client.stream([floats(), repeated(count), floats()]))) == count + 2


def stream_that_is_left(client: Client, chance: random.Random) -> None:
    call = client.stream([repeated(99)] * 50)
    for _ in range(chance.randrange(1, 20)):
        next(call)
    call.cancel()


KINDS = (unary, control, refused, large, compressed, late, cancelled, stream, stream_that_is_left)


def work(client: Client, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(ROUNDS):
        chance.choice(KINDS)(client, chance)


def alive() -> int:
    gc.collect()
    return sum(isinstance(thing, Stream | GrpcCall | Request) for thing in gc.get_objects())


def test_nothing_is_left(frontends: Frontends, twin: TwinServer) -> None:
    frontend = frontends.start()
    before = alive()
    own = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    clients = [
        frontends.adopt(grpc.insecure_channel(f"127.0.0.1:{frontend.port}", options=own)) for _ in range(CONNECTIONS)
    ]
    with ThreadPoolExecutor(CONNECTIONS) as workers:
        list(workers.map(work, clients, range(CONNECTIONS)))
    sessions = frontends.thread.call(lambda: [connection.session for connection in frontend._timers])
    assert len(sessions) == CONNECTIONS
    for client in clients:
        control(client, random.Random())  # behind every cancellation on this connection
    for events in (twin.arrived, twin.cancelled):
        while not events.empty():
            events.get()
    for session in sessions:
        assert not session.streams
        assert not session.sender._ready
        assert session.arriving_nbytes == 0
        assert len(session._reset_here) <= 1000
    assert frontends.thread.call(alive) <= before
    for model in twin.models.values():
        assert model.arena.stats().used_nbytes == 0
    del sessions
    for client in clients:
        client.channel.close()
    frontends.thread.run(frontend.stop(30))
    assert not frontend._timers
