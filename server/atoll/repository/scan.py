"""Reads model repositories: which models there are, and what each would serve.

A pure reading: nothing is loaded, no state is kept, and a fault stays where it is. A model that cannot be read is an
entry with its error. Two shapes of folder are known:

* a repository: ``<model>/config.pbtxt`` and ``<model>/<version>/model.py``;
* a flat folder: ``config.pbtxt`` and ``model.py`` side by side, as in an example; or sub-folders, of which some are so.

A flat model is named by its configuration, else by its folder, which is also its version 1.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from atoll_protos import messages

from atoll.errors import Code, ServerError
from atoll.repository import pbtxt
from atoll.repository.config import Host, ModelConfig
from atoll.repository.config_json import from_json
from atoll.repository.names import is_plain_name
from atoll.repository.normalize import ENSEMBLE, MODEL_FILENAME
from atoll.repository.versions import select_versions, subdirectories, version_directories

__all__ = ["Listed", "ModelSource", "Options", "list_models", "read_model"]

_CONFIG_FILENAME = "config.pbtxt"


@dataclass(frozen=True, slots=True)
class Options:
    """How configurations are read."""

    strict: bool = False
    """No auto-complete: ``config.pbtxt`` must be there and be complete."""
    config_name: str = ""
    """Prefer ``configs/<config_name>.pbtxt`` of a model."""
    host: Host = field(default_factory=Host)


@dataclass(frozen=True, slots=True)
class Listed:
    """A model that was seen in a repository and not read yet."""

    name: str
    path: Path
    repository: Path
    namespace: str = ""
    """The repository, where each is a namespace of its own."""
    is_flat: bool = False

    @property
    def identifier(self) -> str:
        """What tells it from all other models, and what the log calls it."""
        return f"{self.namespace}::{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class ModelSource:
    """One model as it lies in a repository.

    With an error and without ``config`` the model could not be read. With an error and with ``config`` it was read,
    but its version policy leaves no version to serve.
    """

    listed: Listed
    config_path: Path | None
    """The configuration file; None where there is none."""
    versions: dict[int, Path] = field(default_factory=dict)
    """Version directories to serve, ascending."""
    config: ModelConfig | None = None
    error: ServerError | None = None

    @property
    def name(self) -> str:
        return self.listed.name

    @property
    def path(self) -> Path:
        return self.listed.path

    @property
    def identifier(self) -> str:
        return self.listed.identifier


def list_models(repository: Path) -> list[Listed]:
    """The models of a repository. Raises ServerError when it cannot be read."""
    directories = _model_directories(repository)
    flat = [directory for directory in (repository, *directories) if _is_flat_model(directory)]
    found = [_list_flat(repository, repository)] if repository in flat else []
    for directory in directories:
        if directory in flat or (flat and _is_flat_ensemble(directory)):
            found.append(_list_flat(directory, repository))
        elif not flat or _has_versions(directory) or (directory / _CONFIG_FILENAME).exists():
            found.append(Listed(directory.name, directory, repository))
    return found


def _list_flat(directory: Path, repository: Path) -> Listed:
    # A path such as "." has no name of its own.
    name = directory.absolute().name
    try:
        configured = pbtxt.read(directory / _CONFIG_FILENAME).name
    except ServerError:
        configured = ""  # read again when the model is, and told then
    return Listed(configured if is_plain_name(configured) else name, directory, repository, is_flat=True)


def _model_directories(repository: Path) -> list[Path]:
    try:
        mode = repository.stat().st_mode
    except (OSError, ValueError) as error:
        raise ServerError(Code.INTERNAL, f"failed to stat file {repository}") from error
    if not stat.S_ISDIR(mode):
        raise ServerError(Code.INVALID_ARG, "repository path is not a valid directory")
    return subdirectories(repository)


def read_model(
    listed: Listed, options: Options, override: str | bytes | Mapping[str, Any] | None = None
) -> ModelSource:
    """What a model would serve. ``override`` is a configuration as JSON that stands in for the file."""
    directory = listed.path
    config_path = _config_path(directory, options.config_name)
    source = ModelSource(listed, config_path)
    try:
        present = {1: directory} if listed.is_flat else version_directories(directory)
        if override is not None:
            message = from_json(override)
        elif config_path is not None:
            message = pbtxt.read(config_path)
        elif options.strict:
            message = pbtxt.read(directory / _CONFIG_FILENAME)
        else:
            message = messages.ModelConfig()
    except ServerError as error:
        return replace(source, error=error)
    return _resolve(source, message, present, options)


def _resolve(source: ModelSource, message: Any, present: dict[int, Path], options: Options) -> ModelSource:
    """The source with its configuration and its versions, as far as they are in order."""
    has_model_file = any((directory / MODEL_FILENAME).is_file() for directory in present.values())
    try:
        config = ModelConfig.resolve(
            message, name=source.name, has_model_file=has_model_file, strict=options.strict, host=options.host
        )
        source = replace(source, config=config)
        return replace(source, versions=select_versions(source.name, config.version_policy, present))
    except ServerError as error:
        return replace(source, error=error)


def _config_path(directory: Path, config_name: str) -> Path | None:
    candidates = [directory / _CONFIG_FILENAME]
    if config_name:
        candidates.insert(0, directory / "configs" / f"{config_name}.pbtxt")
    return next((path for path in candidates if os.path.lexists(path)), None)


def _is_flat_model(directory: Path) -> bool:
    files = (directory / _CONFIG_FILENAME, directory / MODEL_FILENAME)
    return all(path.is_file() for path in files) and not _has_versions(directory)


def _is_flat_ensemble(directory: Path) -> bool:
    """Whether there is a configuration and nothing that it would need a version for."""
    try:
        return not _has_versions(directory) and bool(pbtxt.read(directory / _CONFIG_FILENAME).platform == ENSEMBLE)
    except ServerError:
        return False


def _has_versions(directory: Path) -> bool:
    try:
        return any(path.name.isdecimal() for path in subdirectories(directory))
    except ServerError:
        return False
