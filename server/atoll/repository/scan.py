"""Reads model repositories: which models there are, and what each would serve.

A pure reading: nothing is loaded, no state is kept, and a fault stays where it is. A folder that cannot be read fails
alone, and a model that cannot be read is an entry with its error. Two shapes of folder are known:

* a repository: ``<model>/config.pbtxt`` and ``<model>/<version>/model.py``, see :func:`scan`;
* a flat folder: ``config.pbtxt`` and ``model.py`` side by side, as in an example, see :func:`load_flat`.
"""

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from atoll_protos import messages

from atoll.errors import Code, ServerError
from atoll.repository import pbtxt
from atoll.repository.config import Host, ModelConfig
from atoll.repository.config_json import from_json
from atoll.repository.normalize import MODEL_FILENAME
from atoll.repository.versions import select_versions, subdirectories, version_directories

__all__ = [
    "ModelSource",
    "Options",
    "Scan",
    "find_model",
    "is_flat",
    "load_flat",
    "model_directories",
    "read_model",
    "scan",
]

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
class ModelSource:
    """One model as it lies in a repository.

    With an error and without ``config`` the model could not be read. With an error and with ``config`` it was read,
    but its version policy leaves no version to serve.
    """

    name: str
    path: Path
    repository: Path
    config_path: Path | None
    """The configuration file; None where there is none."""
    versions: dict[int, Path] = field(default_factory=dict)
    """Version directories to serve, ascending."""
    config: ModelConfig | None = None
    error: ServerError | None = None


@dataclass(frozen=True, slots=True)
class Scan:
    """What was found: models, and the repositories that could not be read."""

    sources: tuple[ModelSource, ...]
    failures: dict[Path, ServerError] = field(default_factory=dict)

    @property
    def models(self) -> dict[str, ModelSource]:
        """The models whose name is unique."""
        return {name: sources[0] for name, sources in self._by_name().items() if len(sources) == 1}

    @property
    def duplicates(self) -> dict[str, list[ModelSource]]:
        """The models whose name occurs more than once. Without namespacing none of them is usable."""
        return {name: sources for name, sources in self._by_name().items() if len(sources) > 1}

    def _by_name(self) -> dict[str, list[ModelSource]]:
        found: dict[str, list[ModelSource]] = {}
        for source in self.sources:
            found.setdefault(source.name, []).append(source)
        return found


def scan(repositories: Iterable[Path], options: Options) -> Scan:
    """Every model of every repository."""
    sources: list[ModelSource] = []
    failures: dict[Path, ServerError] = {}
    for repository in dict.fromkeys(repositories):
        try:
            directories = model_directories(repository)
        except ServerError as error:
            failures[repository] = error
        else:
            sources += [read_model(directory, repository, options) for directory in directories]
    return Scan(tuple(sources), failures)


def find_model(repositories: Iterable[Path], name: str, options: Options) -> list[ModelSource]:
    """The model of that name in each repository that has it; more than one is a duplicate.

    The name comes from a client: one that is not the plain name of a directory finds nothing.
    """
    return [
        read_model(directory, repository, options)
        for repository in dict.fromkeys(repositories)
        for directory in _model_directories_or_none(repository)
        if directory.name == name
    ]


def model_directories(repository: Path) -> list[Path]:
    """The directories of a repository that hold a model each."""
    try:
        mode = repository.stat().st_mode
    except (OSError, ValueError) as error:
        raise ServerError(Code.INTERNAL, f"failed to stat file {repository}") from error
    if not stat.S_ISDIR(mode):
        raise ServerError(Code.INVALID_ARG, "repository path is not a valid directory")
    return subdirectories(repository)


def read_model(
    directory: Path,
    repository: Path,
    options: Options,
    *,
    name: str = "",
    override: str | bytes | Mapping[str, Any] | None = None,
) -> ModelSource:
    """The model in a directory.

    ``name`` is the name to serve it under, where that is not the directory's. ``override`` is a configuration as
    JSON that stands in for the file.
    """
    config_path = _config_path(directory, options.config_name)
    source = ModelSource(name or directory.name, directory, repository, config_path)
    try:
        present = version_directories(directory)
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


def is_flat(path: Path) -> bool:
    """Whether a model, not a repository, lies in a folder; or several such models in its sub-folders."""
    return _is_flat_model(path) or any(map(_is_flat_model, _model_directories_or_none(path)))


def load_flat(path: Path, options: Options) -> Scan:
    """The models of a flat folder: the one in it, and those in its sub-folders, be they flat or ordinary.

    A flat model is named by its configuration, else by its folder, which is also its version 1. Sub-folders that hold
    no model are passed over.
    """
    try:
        directories = model_directories(path)
    except ServerError as error:
        return Scan((), {path: error})
    sources = [_read_flat_model(path, path, options)] if _is_flat_model(path) else []
    for directory in directories:
        if _is_flat_model(directory):
            sources.append(_read_flat_model(directory, path, options))
        elif _has_versions(directory) or _config_path(directory, options.config_name) is not None:
            sources.append(read_model(directory, path, options))
    return Scan(tuple(sources))


def _read_flat_model(directory: Path, repository: Path, options: Options) -> ModelSource:
    config_path = directory / _CONFIG_FILENAME
    # A path such as "." has no name of its own.
    source = ModelSource(directory.absolute().name, directory, repository, config_path)
    try:
        message = pbtxt.read(config_path)
    except ServerError as error:
        return replace(source, error=error)
    return _resolve(replace(source, name=message.name or source.name), message, {1: directory}, options)


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


def _has_versions(directory: Path) -> bool:
    return any(path.name.isdecimal() for path in _model_directories_or_none(directory))


def _model_directories_or_none(path: Path) -> list[Path]:
    try:
        return model_directories(path)
    except ServerError:
        return []
