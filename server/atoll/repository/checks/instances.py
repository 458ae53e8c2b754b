"""Checks of instance groups, and of what this host cannot run at all."""

from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Any

from atoll_protos import messages

from atoll.repository.checks.refusal import invalid
from atoll.repository.normalize import PYTHON, is_ensemble

__all__ = ["check_instance_groups", "check_loadable", "check_stub_name"]

_Group = messages.ModelInstanceGroup
# The original puts the name on a shell's command line; names it refuses stay refused.
_UNSAFE = frozenset(";|&$`<>()[]{}\\\"'*?~#!")


def check_instance_groups(config: Any, gpus: Collection[int], min_compute_capability: float) -> None:
    if not config.instance_group:
        raise invalid(f"must specify one or more 'instance group's for {config.name}")
    for group in config.instance_group:
        subject = f"instance group {group.name} of model {config.name}"
        if group.kind == _Group.KIND_GPU:
            _check_gpus(subject, group, gpus, min_compute_capability)
        elif group.kind not in _Group.Kind.values():
            raise invalid(f"{subject} has unknown kind {group.kind}")
        elif group.gpus:
            raise invalid(f"{subject} has kind {_Group.Kind.Name(group.kind)} but specifies one or more GPUs")


def check_loadable(config: Any, backends: Collection[str] = (PYTHON,)) -> None:
    """Refuse a model that this host cannot run; ``backends`` are those it has."""
    if is_ensemble(config):
        return
    if config.backend not in backends:
        raise invalid(
            f"unable to find backend library for backend '{config.backend}', "
            "try specifying runtime on the model configuration."
        )
    filename = PurePosixPath(config.default_model_filename)
    if filename.is_absolute() or ".." in filename.parts or "\0" in config.default_model_filename:
        raise invalid(f"default_model_filename '{filename}' of model '{config.name}' is outside its version directory")
    for group in config.instance_group:
        if group.kind == _Group.KIND_MODEL:
            raise invalid("instance_group kind KIND_MODEL not supported")
        check_stub_name(group.name)


def check_stub_name(name: str) -> None:
    """Refuse the name of an instance, or of a model to auto-complete, that the original refuses."""
    if not _UNSAFE.isdisjoint(name):
        raise invalid("Invalid stub name: contains invalid characters")


def _check_gpus(subject: str, group: Any, gpus: Collection[int], min_compute_capability: float) -> None:
    if not gpus:
        raise invalid(f"{subject} has kind KIND_GPU but no GPUs are available")
    if not group.gpus:
        raise invalid(f"{subject} has kind KIND_GPU but specifies no GPUs")
    for gpu in group.gpus:
        if gpu not in gpus:
            available = ", ".join(map(str, sorted(gpus)))
            raise invalid(
                f"{subject} specifies invalid or unsupported gpu id {gpu}. GPUs with at least the minimum required "
                f"CUDA compute compatibility of {min_compute_capability:f} are: {available}"
            )
