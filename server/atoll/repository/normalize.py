"""Fills in what a configuration leaves out, so that everything after reads one complete form.

Works on the ``ModelConfig`` message in place. Refuses only what leaves nothing to fill in: a name that contradicts the
directory, a backend that cannot be inferred.
"""

from collections.abc import Sequence
from typing import Any

from atoll_protos import messages

from atoll.errors import Code, ServerError

__all__ = ["ENSEMBLE", "MODEL_FILENAME", "PYTHON", "is_ensemble", "normalize", "normalize_scheduling"]

ENSEMBLE = "ensemble"
PYTHON = "python"
MODEL_FILENAME = "model.py"

_DEFAULT_SEQUENCE_IDLE_US = 1_000_000
_Kind = messages.ModelInstanceGroup


def normalize(config: Any, *, name: str, has_model_file: bool, gpus: Sequence[int]) -> None:
    """Complete ``config`` in place.

    ``has_model_file`` tells whether a version directory holds ``model.py``; ``gpus`` are the device ids this host has.
    """
    _normalize_name(config, name)
    _infer_backend(config, has_model_file)
    if config.backend == PYTHON and not config.default_model_filename:
        config.default_model_filename = MODEL_FILENAME
    if config.version_policy.WhichOneof("policy_choice") is None:
        config.version_policy.latest.num_versions = 1
    normalize_scheduling(config)
    if not is_ensemble(config):
        _normalize_optimization(config.optimization)
        _normalize_instance_groups(config, gpus)


def is_ensemble(config: Any) -> bool:
    """Whether the configuration means an ensemble, be it well-formed or not."""
    return bool(config.platform == ENSEMBLE or config.HasField("ensemble_scheduling"))


def normalize_scheduling(config: Any) -> None:
    """Complete the scheduler's settings; again after auto-complete, which may bring a scheduler or a batch size."""
    if config.HasField("dynamic_batching"):
        _normalize_preferred(config, config.dynamic_batching)
    if config.HasField("sequence_batching"):
        batching = config.sequence_batching
        if not batching.max_sequence_idle_microseconds:
            batching.max_sequence_idle_microseconds = _DEFAULT_SEQUENCE_IDLE_US
        if batching.HasField("oldest"):
            _normalize_preferred(config, batching.oldest)


def _normalize_name(config: Any, name: str) -> None:
    if config.name and config.name != name:
        raise ServerError(
            Code.INVALID_ARG,
            f"unexpected directory name '{name}' for model '{config.name}', directory name must equal model name",
        )
    config.name = name


def _infer_backend(config: Any, has_model_file: bool) -> None:
    if config.backend or is_ensemble(config):
        return
    filename = config.default_model_filename
    if filename == MODEL_FILENAME or (has_model_file and not filename and not config.platform):
        config.backend = PYTHON
    elif not config.platform:
        config.backend = config.name.rpartition(".")[2] if "." in config.name else ""
        if not config.backend:
            raise ServerError(
                Code.INVALID_ARG,
                f"Invalid model name: Could not determine backend for model '{config.name}' with no backend in model "
                "configuration. Expected model name of the form 'model.<backend_name>'.",
            )


def _normalize_preferred(config: Any, batching: Any) -> None:
    if not batching.preferred_batch_size and config.max_batch_size > 0:
        batching.preferred_batch_size.append(config.max_batch_size)


def _normalize_optimization(optimization: Any) -> None:
    for buffer in ("input_pinned_memory", "output_pinned_memory"):
        if not optimization.HasField(buffer):
            getattr(optimization, buffer).enable = True


def _normalize_instance_groups(config: Any, gpus: Sequence[int]) -> None:
    if not config.instance_group:
        config.instance_group.add(name=config.name)
    for index, group in enumerate(config.instance_group):
        if not group.name:
            group.name = f"{config.name}_{index}"
        if group.kind == _Kind.KIND_AUTO:
            group.kind = _Kind.KIND_GPU if group.gpus or gpus else _Kind.KIND_CPU
        if group.kind == _Kind.KIND_GPU and not group.gpus:
            group.gpus.extend(gpus)
        group.count = max(1, group.count)
