"""Checks of the scheduler's settings and of what they exclude."""

from typing import Any

from atoll_protos import messages

from atoll.repository.checks.refusal import invalid
from atoll.repository.checks.sequence import check_sequence_batching

__all__ = ["check_scheduling"]

_DELAY = messages.ModelQueuePolicy.DELAY


def check_scheduling(config: Any) -> None:
    """The chosen scheduler, and the response cache where that scheduler cannot have one."""
    if config.HasField("dynamic_batching"):
        _check_dynamic_batching(config)
    if config.HasField("sequence_batching"):
        check_sequence_batching(config)
    if config.response_cache.enable:
        _check_response_cache(config)


def _check_dynamic_batching(config: Any) -> None:
    name, batching = config.name, config.dynamic_batching
    for size in batching.preferred_batch_size:
        if size <= 0:
            raise invalid(f"dynamic batching preferred size must be positive for {name}")
        if size > config.max_batch_size:
            raise invalid(f"dynamic batching preferred size must be <= max batch size for {name}")
    levels = batching.priority_levels
    if levels:
        if not 1 <= batching.default_priority_level <= levels:
            raise invalid(f"default priority level must be in range [1, {levels}] for {name}")
        if not all(1 <= level <= levels for level in batching.priority_queue_policy):
            raise invalid(f"priority queue policy must have priority level in range [1, {levels}] for {name}")
    if batching.preserve_ordering:
        if levels > 1:
            raise invalid(f"Only one priority level is allowed when 'preserve_ordering' is true for {name}")
        policies = [batching.default_queue_policy, *batching.priority_queue_policy.values()]
        if any(policy.timeout_action == _DELAY for policy in policies):
            raise invalid(
                f"Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true for {name}"
            )


def _check_response_cache(config: Any) -> None:
    if config.HasField("sequence_batching"):
        obstacle = "with sequence batching scheduler"
    elif config.model_transaction_policy.decoupled:
        obstacle = "with 'decoupled' transaction policy"
    else:
        return
    raise invalid(
        f"Response Cache does not currently support model {config.name} {obstacle}. Please disable the response cache."
    )
