"""What the account keepers of requests and calls see of a channel, without a stub behind it."""

from __future__ import annotations

from typing import Any

from atoll.inference import Tensor

__all__ = ["FREED", "ChannelTwin"]

FREED = [(7, 0)]


class ChannelTwin:
    """Remembers what is sent, and which blocks the stub has released and given."""

    def __init__(self) -> None:
        self.sent: list[list[Any]] = []
        self.released: list[Any] = []
        self.opened: list[str] = []

    def describe(self, tensor: Tensor) -> list[Any]:
        return [tensor.name]

    def tensors(self, wire_tensors: list[list[Any]]) -> list[Tensor]:
        self.opened += [name for name, *_ in wire_tensors]
        return [Tensor(name, "UINT8", shape, data) for name, _, shape, data in wire_tensors]

    def discard(self, wire_tensors: list[list[Any]]) -> None:
        self.tensors(wire_tensors)

    def take_freed(self) -> list[Any]:
        return FREED

    def release(self, keys: list[Any]) -> None:
        self.released += keys

    def send(self, message: list[Any]) -> None:
        self.sent.append(message)

    send_soon = send
