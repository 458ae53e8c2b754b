"""Checks of a model as a whole: its name, backend and batch size; calls those of its parts."""

from collections.abc import Collection
from typing import Any

from atoll.repository.checks.ensemble import check_ensemble
from atoll.repository.checks.instances import check_instance_groups
from atoll.repository.checks.refusal import invalid
from atoll.repository.checks.scheduling import check_scheduling
from atoll.repository.normalize import ENSEMBLE, is_ensemble

__all__ = ["check_batch_size", "check_config"]

# Platforms that name a framework, and so contradict any other backend.
_BACKEND_OF_PLATFORM = {
    "tensorrt_plan": "tensorrt",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
}


def check_config(config: Any, *, gpus: Collection[int], min_compute_capability: float) -> None:
    """Everything but inputs and outputs; ``gpus`` are the device ids this host has."""
    if not config.name:
        raise invalid("model configuration must specify 'name'")
    if is_ensemble(config):
        check_ensemble(config)
    else:
        _check_backend(config)
        check_instance_groups(config, gpus, min_compute_capability)
    check_batch_size(config)
    check_scheduling(config)
    _check_metrics(config.model_metrics)


def check_batch_size(config: Any) -> None:
    if config.max_batch_size < 0:
        raise invalid(f"'max_batch_size' must be non-negative value for {config.name}")


def _check_backend(config: Any) -> None:
    platform, backend = config.platform, config.backend
    if not platform and not backend:
        raise invalid(f"must specify 'platform' or 'backend' for '{config.name}'")
    if backend == ENSEMBLE:
        raise invalid(f"Ensemble model '{config.name}' must have platform type 'ensemble' and empty backend type")
    if not backend:
        raise invalid(f"unexpected platform type '{platform}' for {config.name}")
    if _BACKEND_OF_PLATFORM.get(platform, backend) != backend:
        raise invalid(f"unexpected 'platform' and 'backend' pair, got:{platform}, {backend}")


def _check_metrics(metrics: Any) -> None:
    for control in metrics.metric_control:
        if not control.HasField("metric_identifier"):
            raise invalid("metric control must specify 'metric_identifier'")
        if not control.metric_identifier.family:
            raise invalid("metric identifier must specify non-empty 'family'")
        if not control.HasField("histogram_options"):
            raise invalid("metric control must specify 'histogram_options'")
        if not control.histogram_options.buckets:
            raise invalid("histogram options must specify non-empty 'buckets'")
