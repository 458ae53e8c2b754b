"""Which models and versions the server knows, in which state, and the texts for those it does not have."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Any

from atoll.core.model import Model
from atoll.errors import Code, ServerError

__all__ = ["NOT_UNIQUE", "Catalog", "Entry", "ModelState", "parse_version"]

_HIGHEST_VERSION = (1 << 63) - 1


class ModelState(enum.Enum):
    """States of the repository index."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


NOT_UNIQUE = {"state": ModelState.UNAVAILABLE.value, "reason": "model appears in two or more repositories"}
"""What the index has of a name that occurs more than once."""


@dataclass(slots=True)
class Entry:
    """One version. ``reason`` tells why it is unavailable."""

    state: ModelState
    model: Model | None = None
    reason: str = ""


class Catalog:
    """All entries, by model and version. A model without an entry was found but has no version to load.

    Models are known by their identifiers. That is the name, unless the same name may be in several namespaces: then
    :meth:`know` tells which name an identifier has, and a name alone will do as long as it means one model.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._entries: dict[str, dict[int, Entry]] = {}
        self._reasons: dict[str, str] = {}
        self._newest: dict[str, Model] = {}
        self._living: dict[Model, None] = {}

    def know(self, identifier: str, name: str) -> None:
        """Another model of a name that several namespaces may have."""
        self._names[identifier] = name

    def knows(self, identifier: str) -> bool:
        """Whether the index has something of a model."""
        return identifier in self._entries or identifier in self._reasons

    def identifiers(self, name: str) -> list[str]:
        """The models of a name."""
        return [identifier for identifier, known in self._names.items() if known == name] or [name]

    def set(self, identifier: str, version: int, entry: Entry) -> None:
        self._entries.setdefault(identifier, {})[version] = entry
        ready = self.ready(identifier)
        if ready:
            self._reasons.pop(identifier, None)
            self._newest[identifier] = ready[max(ready)]
        else:
            self._newest.pop(identifier, None)

    def set_if_current(self, model: Model, entry: Entry) -> None:
        """The same for the version that a model is, unless another has taken its place."""
        current = self._entries.get(model.identifier, {}).get(model.version)
        if current is not None and current.model is model:
            self.set(model.identifier, model.version, entry)

    def versions(self, identifier: str) -> list[tuple[int, Entry]]:
        """The entries of a model by version."""
        return sorted(self._entries.get(identifier, {}).items(), key=lambda pair: pair[0])

    def ready(self, identifier: str) -> dict[int, Model]:
        """The versions of a model that serve."""
        return {
            version: entry.model
            for version, entry in self._entries.get(identifier, {}).items()
            if entry.state is ModelState.READY and entry.model is not None
        }

    def why_down(self, identifier: str) -> str:
        """What was wrong with each version of a model; nothing of those that were unloaded."""
        return "".join(
            f"version {version} is at {entry.state.value} state: {entry.reason};"
            for version, entry in self.versions(identifier)
            if entry.state is ModelState.UNAVAILABLE and entry.reason != "unloaded"
        )

    def set_unloadable(self, identifier: str, reason: str) -> None:
        """A model that was found but is of no use before any version was tried; with no reason it is of use again."""
        if reason:
            self._reasons[identifier] = reason
        else:
            self._reasons.pop(identifier, None)

    def models(self) -> list[Model]:
        """The model of every entry that has one, whatever its state."""
        return [entry.model for versions in self._entries.values() for entry in versions.values() if entry.model]

    def born(self, model: Model) -> None:
        """It will have processes."""
        self._living[model] = None

    def gone(self, model: Model) -> None:
        """It has none any more."""
        self._living.pop(model, None)

    def living(self) -> list[Model]:
        """Every model that has processes: those of the entries, and those whose place another took or will take."""
        return list(self._living)

    def find(self, name: str, version: int = -1, namespace: str = "") -> Model:
        """The model to serve a request: ``version``, or with -1 the highest that is ready. Raises ServerError.

        Of several models of that name the one in ``namespace`` is meant. One that is being unloaded is found as long
        as sequences that it has begun may go on.
        """
        if version == -1 and not namespace:
            model = self._newest.get(name)
            if model is not None:
                return model
        identifier = self.identifier(name, namespace)
        entries = self._entries.get(identifier)
        if entries is None:
            raise _not_found(f"Request for unknown model: '{name}' is not found")
        if version == -1:
            model = self._newest.get(identifier)
            if model is not None:
                return model
            for known in reversed(entries.values()):
                if known.model is not None and known.model.has_begun_sequences:
                    return known.model
            raise _not_found(f"Request for unknown model: '{name}' has no available versions")
        entry = entries.get(version)
        if entry is None:
            raise _not_found(f"Request for unknown model: '{name}' version {version} is not found")
        if entry.model is not None and (entry.state is ModelState.READY or entry.model.has_begun_sequences):
            return entry.model
        raise ServerError(
            Code.UNAVAILABLE, f"Request for unknown model: '{name}' version {version} is not at ready state"
        )

    def identifier(self, name: str, namespace: str = "") -> str:
        """The one model that a name means. Raises ServerError when it means several."""
        if not self._names:
            return name
        identifiers = self.identifiers(name)
        if f"{namespace}::{name}" in identifiers:
            return f"{namespace}::{name}"
        in_use = [known for known in identifiers if not self._is_unloaded(known)]
        if len(in_use) > 1:
            raise ServerError(
                Code.INVALID_ARG,
                f"There are {len(in_use)} identifiers of model '{name}' in global map, model namespace must be "
                "provided to resolve ambiguity.",
            )
        return (in_use or identifiers)[0]

    def _is_unloaded(self, identifier: str) -> bool:
        return all(entry.model is None for entry in self._entries.get(identifier, {}).values())

    def is_settled(self) -> bool:
        """Whether every model is ready, or was unloaded on purpose, and its instances live."""
        if self._reasons:
            return False
        for versions in self._entries.values():
            for entry in versions.values():
                if entry.state is ModelState.READY:
                    if entry.model is None or not entry.model.is_ready:
                        return False
                elif not (entry.state is ModelState.UNAVAILABLE and entry.reason == "unloaded"):
                    return False
        return True

    def index(self, ready: bool) -> list[dict[str, Any]]:
        """The repository index, sorted by name."""
        rows: list[dict[str, Any]] = []
        for identifier in sorted({*self._entries, *self._reasons}):
            name = self._names.get(identifier, identifier)
            for version, entry in self.versions(identifier):
                if ready and entry.state is not ModelState.READY:
                    continue
                row = {"name": name, "version": str(version), "state": entry.state.value}
                if entry.reason:
                    row["reason"] = entry.reason
                rows.append(row)
            if identifier in self._reasons and not ready:
                rows.append({"name": name, "state": ModelState.UNAVAILABLE.value, "reason": self._reasons[identifier]})
        return sorted(rows, key=lambda row: str(row["name"]))


def parse_version(text: str) -> int:
    """A version as clients write it; -1 for an empty text. Raises ServerError INVALID_ARG.

    As C's ``stol`` reads it: leading digits count, what follows does not.
    """
    if not text:
        return -1
    match = re.match(r"\s*([+-]?[0-9]+)", text)
    number = int(match.group(1)) if match and len(match.group(1)) < 40 else None
    if number is None or not -_HIGHEST_VERSION <= number <= _HIGHEST_VERSION:
        raise ServerError(
            Code.INVALID_ARG,
            f"failed to get model version from specified version string '{text}' (details: stol), version should be "
            "an integral value > 0",
        )
    if number < 0:
        raise ServerError(
            Code.INVALID_ARG,
            f"invalid model version specified '{text}' , version should be an integral value > 0",
        )
    return number


def _not_found(message: str) -> ServerError:
    return ServerError(Code.NOT_FOUND, message)
