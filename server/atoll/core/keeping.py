"""Which versions of a model a change of its files leaves untouched, so that they may serve on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atoll.core.model import Model
from atoll.repository.config import ModelConfig
from atoll.repository.repositories import Found

__all__ = ["kept_versions"]


def kept_versions(before: Found | None, now: Found, serving: Mapping[int, Model]) -> dict[int, Model]:
    """Those of the versions ``serving``, loaded from ``before``, that need not be loaded again to serve ``now``.

    A version is loaded again when its own files changed, or files that all versions share, or anything in the
    configuration but the instances and the choice of versions; and when the instances changed and it cannot have
    others while it serves.
    """
    if before is None or before.source.path != now.source.path or before.files.shared != now.files.shared:
        return {}
    if _essence(before.source.config) != _essence(now.source.config):
        return {}
    same_instances = _instances(before.source.config) == _instances(now.source.config)
    return {
        version: serving[version]
        for version in now.source.versions
        if version in serving
        and before.files.versions.get(str(version)) == now.files.versions.get(str(version))
        and (same_instances or serving[version].is_resizable)
    }


def _essence(config: ModelConfig | None) -> dict[str, Any]:
    fields = {} if config is None else config.json
    return {key: value for key, value in fields.items() if key not in ("instance_group", "version_policy")}


def _instances(config: ModelConfig | None) -> Any:
    return None if config is None else config.json.get("instance_group")
