"""The scheduler that a model's configuration asks for."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from atoll.inference import Request
from atoll.instances.instance import Instance
from atoll.repository.config import ModelConfig
from atoll.scheduling.dispatcher import Dispatcher
from atoll.scheduling.queues import DynamicBatcher, FifoQueue, Queue
from atoll.scheduling.scheduler import Scheduler, SchedulerOwner

__all__ = ["make_scheduler"]


def make_scheduler(config: ModelConfig, instances: list[Instance], owner: SchedulerOwner) -> Scheduler:
    """``owner`` is told of requests that are taken out of the queue without having been executed."""
    return Dispatcher(_queue(config), instances)


def _queue(config: ModelConfig) -> Queue:
    batching = config.dynamic_batching
    if batching is None:
        return FifoQueue()
    return DynamicBatcher(
        max(1, config.max_batch_size),
        batching.preferred_batch_sizes,
        batching.max_queue_delay_us * 1000,
        _signature(config),
    )


def _signature(config: ModelConfig) -> Callable[[Request], Hashable]:
    """What must be equal in one batch: shapes of inputs that may vary, and which optional inputs there are."""
    varying = {
        spec.name
        for spec in config.inputs.values()
        if not spec.allow_ragged_batch and (-1 in spec.dims or spec.optional)
    }
    if not varying:
        return lambda request: None
    return lambda request: tuple(
        sorted((tensor.name, tuple(tensor.shape[1:])) for tensor in request.inputs if tensor.name in varying)
    )
