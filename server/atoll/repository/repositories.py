"""The repositories of one server as a whole: the models in them, and what changed since one last looked.

Everything here reads files and may take its time: the server calls it in a thread, away from its event loop. Several
threads may.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from atoll.errors import Code, ServerError
from atoll.repository import scan
from atoll.repository.changes import Snapshot, snapshot
from atoll.repository.mirror import Mirror
from atoll.repository.names import is_plain_name
from atoll.repository.scan import Listed, ModelSource
from atoll.repository.stores import is_remote

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
    """Where models lie: in local folders, or in stores that are copied. Each may be a namespace of its own."""

    def __init__(self, paths: Sequence[str], options: scan.Options, namespacing: bool = False) -> None:
        self._places = [
            _Place(path, Mirror(path)) if is_remote(path) else _Place(path) for path in dict.fromkeys(paths)
        ]
        self._options = options
        self._namespacing = namespacing

    def close(self) -> None:
        """Remove all copies."""
        for place in self._places:
            if place.mirror is not None:
                place.mirror.close()

    def register(self, path: str, served_as: Mapping[str, str]) -> None:
        """One more place. ``served_as``: the folders of models there that have another name, by that name.

        Raises ServerError where there is no such folder, it is known already, or a name is taken.
        """
        if not is_remote(path) and not Path(path).is_dir():
            raise ServerError(Code.INVALID_ARG, f"failed to register '{path}', repository not found")
        if any(place.name == path for place in self._places):
            raise ServerError(Code.ALREADY_EXISTS, f"model repository '{path}' has already been registered")
        taken = {name for place in self._places for name in place.served_as}
        for name in served_as:
            if name in taken:
                text = f"failed to register '{path}', there is a conflicting mapping for '{name}'"
                raise ServerError(Code.INVALID_ARG, text)
        place = _Place(path, Mirror(path) if is_remote(path) else None, dict(served_as))
        self._places = [*self._places, place]  # other threads may be reading the list

    def unregister(self, path: str) -> None:
        """One place less. Raises ServerError where it is not known."""
        for place in self._places:
            if place.name == path:
                self._places = [other for other in self._places if other is not place]
                if place.mirror is not None:
                    place.mirror.close()
                return
        raise ServerError(Code.INVALID_ARG, f"failed to unregister '{path}', repository not found")

    def check(self) -> None:
        """Raises ServerError when a repository cannot be read."""
        for place in self._places:
            self._list(place)

    def look(self, known: Mapping[str, Snapshot]) -> Look:
        """Every model that is not as ``known`` has it, and the identifiers of all."""
        look = Look()
        listed: list[Listed] = []
        for place in self._places:
            try:
                if place.mirror is not None:
                    failures = place.mirror.refresh()
                    look.failures.update({place.path / name: error for name, error in failures.items()})
                listed += self._list_copied(place)
            except ServerError as error:
                look.failures[place.path] = error
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
        model, or more than there may be, or it cannot be copied.
        """
        for place in self._places:
            if place.mirror is not None and is_plain_name(name):
                for error in place.mirror.refresh(name).values():
                    raise error
        found = [model for model in self._readable(self._list_copied) if model.name == name]
        if not found or (len(found) > 1 and not self._namespacing):
            reason = "not unique across all model" if found else "unable to find it in the"
            raise ServerError(Code.NOT_FOUND, f"{reason} repositories")
        return [self._read(model, config) for model in found]

    def read_folder(self, name: str, path: Path, config: str) -> Found:
        """A model that lies in no repository, with a configuration as JSON."""
        return self._read(Listed(name, path, path.parent), config)

    def listed(self) -> list[Listed]:
        """The models of all repositories that can be read, copied or not."""
        return self._readable(self._list)

    def _read(self, model: Listed, config: str) -> Found:
        files = snapshot(model.path)  # before it is read: what changes in between is seen next time
        return Found(scan.read_model(model, self._options, config or None), files)

    def _readable(self, list_place: Callable[[_Place], list[Listed]]) -> list[Listed]:
        found: list[Listed] = []
        for place in self._places:
            with contextlib.suppress(ServerError):
                found += list_place(place)
        return found

    def _list(self, place: _Place) -> list[Listed]:
        if place.mirror is None:
            return self._list_copied(place)
        return [Listed(name, place.path / name, place.path, self._namespace(place)) for name in place.mirror.names()]

    def _list_copied(self, place: _Place) -> list[Listed]:
        listed = [replace(model, namespace=self._namespace(place)) for model in scan.list_models(place.path)]
        if not place.served_as:
            return listed
        names = {folder: name for name, folder in place.served_as.items()}
        return [replace(model, name=names.get(model.path.name, model.name)) for model in listed]

    def _namespace(self, place: _Place) -> str:
        return place.name if self._namespacing else ""


@dataclass(frozen=True, slots=True)
class _Place:
    """One repository, as it was named; ``mirror`` is the copy of one in a store."""

    name: str
    mirror: Mirror | None = None
    served_as: Mapping[str, str] = field(default_factory=dict)
    """Folders of models that have another name, by that name."""

    @property
    def path(self) -> Path:
        return Path(self.name) if self.mirror is None else self.mirror.path
