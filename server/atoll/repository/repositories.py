"""The repositories of one server as a whole: the models in them, and what changed since one last looked.

Everything here reads files and may take its time: the server calls it in a thread, away from its event loop. Several
threads may.
"""

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from atoll.errors import Code, ServerError
from atoll.repository import scan
from atoll.repository.changes import Snapshot, snapshot
from atoll.repository.scan import Listed, ModelSource

__all__ = ["Found", "Look", "Repositories"]


@dataclass(frozen=True, slots=True)
class Found:
    """A model, and its files as they were just before it was read."""

    source: ModelSource
    files: Snapshot


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at all repositories showed. Models are told apart by their identifiers."""

    changed: list[Found] = field(default_factory=list)
    """Models that are new, or whose files are not those already known."""
    present: dict[str, Listed] = field(default_factory=dict)
    """All models that lie there."""
    duplicates: set[str] = field(default_factory=set)
    """Names that occur more than once where they must not: none of these is of use."""
    failures: dict[Path, ServerError] = field(default_factory=dict)
    """Repositories that could not be read. Nothing is known of their models."""


class Repositories:
    """Where models lie. With ``namespacing`` each repository is a namespace of its own."""

    def __init__(self, paths: Sequence[str], options: scan.Options, namespacing: bool = False) -> None:
        self._paths = tuple(dict.fromkeys(map(Path, paths)))
        self._options = options
        self._namespacing = namespacing

    def look(self, known: Mapping[str, Snapshot]) -> Look:
        """Every model that is not as ``known`` has it, and the identifiers of all."""
        look = Look()
        listed: list[Listed] = []
        for repository in self._paths:
            try:
                listed += self._list(repository)
            except ServerError as error:
                look.failures[repository] = error
        counts = Counter(model.identifier for model in listed)
        for model in listed:
            look.present[model.identifier] = model
            if counts[model.identifier] > 1:
                look.duplicates.add(model.identifier)
                continue
            files = snapshot(model.path)
            if known.get(model.identifier) != files:
                look.changed.append(Found(scan.read_model(model, self._options), files))
        return look

    def find(self, name: str, config: str = "") -> list[Found]:
        """The model of a name; with namespacing that of each repository which has one.

        ``config`` is a configuration as JSON that stands in for the file. Raises ServerError when there is no such
        model, or more than there may be.
        """
        found = [model for model in self.listed() if model.name == name]
        if not found or (len(found) > 1 and not self._namespacing):
            reason = "not unique across all model" if found else "unable to find it in the"
            raise ServerError(Code.NOT_FOUND, f"{reason} repositories")
        return [self._read(model, config) for model in found]

    def read_folder(self, name: str, path: Path, config: str) -> Found:
        """A model that lies in no repository, with a configuration as JSON."""
        return self._read(Listed(name, path, path.parent), config)

    def listed(self) -> list[Listed]:
        """The models of all repositories that can be read."""
        found: list[Listed] = []
        for repository in self._paths:
            with contextlib.suppress(ServerError):
                found += self._list(repository)
        return found

    def _read(self, model: Listed, config: str) -> Found:
        files = snapshot(model.path)  # before it is read: what changes in between is seen next time
        return Found(scan.read_model(model, self._options, config or None), files)

    def _list(self, repository: Path) -> list[Listed]:
        models = scan.list_models(repository)
        return [replace(model, namespace=str(repository)) for model in models] if self._namespacing else models
