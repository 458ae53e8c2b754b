"""What a model's configuration says to each of its instances."""

from __future__ import annotations

import json
from pathlib import Path

from atoll_ipc.memory import ArenaSettings

from atoll.core.host_policies import HostPolicies
from atoll.core.surroundings import surroundings
from atoll.instances.instance import InstanceSettings, RateLimit
from atoll.repository.config import Instance, ModelConfig

__all__ = ["initialize_args", "instance_settings", "rate_limit"]


def instance_settings(
    config: ModelConfig,
    version: int,
    version_dir: Path,
    model_dir: Path,
    backend: Path | None,
    arena: ArenaSettings,
    start_timeout_s: float,
    host_policies: HostPolicies,
) -> list[InstanceSettings]:
    """The settings of all instances. ``backend`` is the file of a Python-based backend, where the model is of one."""
    return [
        InstanceSettings(
            name=instance.name,
            title=f"triton_python_backend_stub {config.name} {instance.name}",
            model_name=config.name,
            version=version,
            version_dir=str(version_dir),
            filename=config.default_model_filename,
            backend_file=None if backend is None else str(backend),
            args=initialize_args(config, version, model_dir, instance),
            outputs=list(config.outputs),
            decoupled=config.decoupled,
            passive=instance.passive,
            rate_limit=rate_limit(instance),
            arena=arena,
            start_timeout_s=start_timeout_s,
            surroundings=around,
        )
        for instance, around in zip(config.instances, surroundings(config, host_policies), strict=True)
    ]


def initialize_args(config: ModelConfig, version: int, model_dir: Path, instance: Instance | None) -> dict[str, str]:
    """What the model's ``initialize`` gets; without an instance, what its ``auto_complete_config`` may know."""
    return {
        "model_config": json.dumps(config.json),
        "model_instance_kind": instance.kind if instance else "CPU",
        "model_instance_name": instance.name if instance else config.name,
        "model_instance_device_id": str(instance.device_id if instance else 0),
        "model_repository": str(model_dir.absolute()),
        "model_version": str(version),
        "model_name": config.name,
    }


def rate_limit(instance: Instance) -> RateLimit:
    """What an execution takes of resources: those that are not global are those of the instance's device."""
    limiter = instance.rate_limiter
    resources = tuple(
        (name, None if is_global else instance.device_id, count) for name, count, is_global in limiter.resources
    )
    return RateLimit(limiter.priority, resources)
