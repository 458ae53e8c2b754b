"""Version directories of one model, and which of them its version policy serves."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path
from typing import Any, Literal

from atoll.errors import Code, ServerError

__all__ = ["VersionPolicy", "select_versions", "subdirectories", "version_directories"]

_log = logging.getLogger(__name__)

# Directories that belong to a model and are no versions.
_NO_VERSIONS = frozenset({"warmup", "initial_state", "configs"})
_MAX_VERSION = 2**63 - 1


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which versions to serve: the ``count`` highest, all, or the ``versions`` listed."""

    kind: Literal["latest", "all", "specific"]
    count: int = 1
    versions: tuple[int, ...] = ()

    @classmethod
    def from_message(cls, policy: Any) -> "VersionPolicy":
        choice = policy.WhichOneof("policy_choice")
        if choice == "all":
            return cls("all")
        if choice == "specific":
            return cls("specific", versions=tuple(policy.specific.versions))
        return cls("latest", count=policy.latest.num_versions)


def select_versions(model: str, policy: VersionPolicy, present: Mapping[int, Path]) -> dict[int, Path]:
    """The versions that the policy serves out of those present, ascending. None at all is an error."""
    if policy.kind == "all":
        selected = set(present)
    elif policy.kind == "latest":
        selected = set(nlargest(policy.count, present))
    else:
        for version in sorted(set(policy.versions) - set(present)):
            _log.error(
                "version %d is specified for model '%s', but the version directory is not present", version, model
            )
        selected = set(policy.versions) & set(present)
    if not selected:
        raise ServerError(
            Code.INVALID_ARG, f"at least one version must be available under the version policy of model '{model}'"
        )
    return {version: present[version] for version in sorted(selected)}


def version_directories(model_directory: Path) -> dict[int, Path]:
    """The version directories of a model by number; other directories are named in a warning."""
    found: dict[int, Path] = {}
    for directory in subdirectories(model_directory):
        name = directory.name
        if name in _NO_VERSIONS:
            continue
        if not (name.isascii() and name.isdigit()):
            _log.warning("ignore version directory '%s' which fails to convert to integral number", name)
        elif name.startswith("0") and name != "0":
            _log.warning("ignore version directory '%s' which contains leading zeros in its directory name", name)
        elif len(name) > len(str(_MAX_VERSION)) or int(name) > _MAX_VERSION:
            _log.warning("ignore version directory '%s' which fails to convert to integral number", name)
        else:
            found[int(name)] = directory
    return found


def subdirectories(directory: Path) -> list[Path]:
    """The directories in a directory by name, without hidden ones; links to directories count."""
    try:
        names = os.listdir(directory)
    except OSError as error:
        raise ServerError(Code.INTERNAL, f"failed to open directory {directory}: {error.strerror}") from error
    return [directory / name for name in sorted(names) if _is_visible(name) and os.path.isdir(directory / name)]


def _is_visible(name: str) -> bool:
    """Whether an entry can be a model or a version: no protocol could carry a name that is not text."""
    return not name.startswith(".") and name != "__pycache__" and name.isprintable()
