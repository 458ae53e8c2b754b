"""The scheduler that a model's configuration asks for."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from pathlib import Path

from atoll.core.instance_settings import rate_limit
from atoll.core.sequence_batching import lane_maker, sequence_settings
from atoll.inference import Request
from atoll.instances.instance import Instance
from atoll.repository import config as settings
from atoll.repository.config import DynamicBatching, ModelConfig
from atoll.scheduling.dispatcher import Dispatcher
from atoll.scheduling.dynamic_batcher import DynamicBatcher
from atoll.scheduling.levels import Levels, QueuePolicy
from atoll.scheduling.limited_dispatcher import LimitedDispatcher
from atoll.scheduling.queues import FifoQueue, Queue
from atoll.scheduling.rate_limiter import Demand, RateLimiter
from atoll.scheduling.scheduler import Scheduler, SchedulerOwner
from atoll.scheduling.sequences.scheduler import SequenceOwner, SequenceScheduler
from atoll.scheduling.turns import demand

__all__ = ["demands", "make_scheduler", "make_sequence_scheduler"]

_HOLD_UNTIL = "TRITONSERVER_DELAY_SCHEDULER"


def make_scheduler(
    config: ModelConfig, instances: list[Instance], owner: SchedulerOwner, limiter: RateLimiter | None
) -> Scheduler:
    """``instances`` may change later on. Raises ServerError where ``limiter`` could never let some of them execute.

    ``owner`` is told of requests that are taken out of the queue without having been executed.
    """
    queue: Queue = FifoQueue() if config.dynamic_batching is None else _batcher(config, config.dynamic_batching)
    if limiter is None:
        return Dispatcher(queue, instances, owner)
    limiter.check(demands(config))
    return LimitedDispatcher(queue, instances, owner, limiter)


def demands(config: ModelConfig) -> list[Demand]:
    """What the executions of a configuration's instances take."""
    return [demand(rate_limit(instance)) for instance in config.instances if not instance.passive]


def make_sequence_scheduler(
    config: ModelConfig, model_dir: Path, instances: list[Instance], owner: SequenceOwner, limiter: RateLimiter | None
) -> SequenceScheduler | None:
    """None for a model without sequences. Raises ServerError."""
    if "sequence_batching" not in config.json:
        return None
    if limiter is not None:
        limiter.check(demands(config))
    settings = sequence_settings(config, model_dir, owner.place)
    return SequenceScheduler(settings, lane_maker(config, _signature(config)), instances, owner, limiter)


def _batcher(config: ModelConfig, batching: DynamicBatching) -> Queue:
    return DynamicBatcher(
        max(1, config.max_batch_size),
        batching.preferred_batch_sizes,
        batching.max_queue_delay_us * 1000,
        _signature(config),
        _levels(batching),
        int(os.environ.get(_HOLD_UNTIL) or 0),
    )


def _levels(batching: DynamicBatching) -> Levels:
    count = batching.priority_levels
    default = batching.default_priority_level if count else 0
    return Levels(lambda level: _policy(batching.queue_policy(level)), count, default)


def _policy(policy: settings.QueuePolicy) -> QueuePolicy:
    return QueuePolicy(
        policy.max_queue_size,
        policy.default_timeout_us * 1000,
        policy.allow_timeout_override,
        "delay" if policy.timeout_action == "DELAY" else "reject",
    )


def _signature(config: ModelConfig) -> Callable[[Request], Hashable]:
    """What must be equal in one batch: which optional inputs there are, and the shapes of inputs that may vary."""
    optional = {spec.name for spec in config.inputs.values() if spec.optional}
    varying = {spec.name for spec in config.inputs.values() if -1 in spec.dims and not spec.allow_ragged_batch}
    told = optional | varying
    if not told:
        return lambda request: None
    return lambda request: frozenset(
        (tensor.name, tuple(tensor.shape[1:]) if tensor.name in varying else None)
        for tensor in request.inputs
        if tensor.name in told
    )
