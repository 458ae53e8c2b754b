"""Loading and unloading of ensembles together with the models that they are composed of.

Stands before the :class:`Loader`, which knows single models only:

1. The steps' models are up before an ensemble is: those that are loaded together with it are waited for, and in
   explicit mode the load of an ensemble loads them. It is then checked against them.
2. A model goes down after the ensembles that it is a step of. They come back with it, unless somebody unloads them.
3. ``with_steps`` an ensemble takes its steps' models down, except those that were loaded by their own names and those
   that another ensemble uses.
4. An ensemble is loaded again when what its steps take or give has changed.

Whoever waits for a model while he is being loaded says so in one graph, so that no circle of waits ever closes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atoll.core.catalog import Catalog
from atoll.core.ensemble_checks import check_composition
from atoll.core.ensemble_plan import Step
from atoll.core.loading import Loader
from atoll.core.model import Model
from atoll.errors import Code, ServerError
from atoll.repository.repositories import Found, Repositories
from atoll.repository.scan import ModelSource

__all__ = ["Composer"]


@dataclass(eq=False)
class _Known:
    """An ensemble that is to be up, whether it can be or not."""

    found: Found
    steps: list[Step]
    loads_steps: bool
    checked: list[Any] | None = None
    """What its steps took and gave when it was checked against them; None before, and when it was taken down."""
    failure: str = ""
    """Why it cannot be up."""

    @property
    def models(self) -> list[str]:
        """The names of its steps' models, each once."""
        return list(dict.fromkeys(step.model_name for step in self.steps))

    def signature(self, model: Model) -> Any:
        """What of a step's model the ensemble was checked against, or has taken over."""
        config = self.found.source.config
        if config is not None and config.json.get("response_cache", {}).get("enable"):
            return model  # it answers from what that one made
        return model.inputs, model.outputs, model.max_batch_size, model.decoupled, model.labels


class Composer:
    """What the server asks to load and to unload models."""

    def __init__(self, repositories: Repositories, loader: Loader, catalog: Catalog, loads_steps: bool) -> None:
        """``loads_steps``: whether an ensemble that is loaded by its name brings its steps' models with it."""
        self._repositories = repositories
        self._loader = loader
        self._catalog = catalog
        self._loads_steps = loads_steps
        self._known: dict[str, _Known] = {}
        self._asked: set[str] = set()  # loaded by their own names
        self._coming: dict[str, asyncio.Event] = {}  # loaded together; set when they are up, or failed
        self._reviving = asyncio.Lock()
        loader.prepare = self._prepare

    # -- what is asked

    async def load(
        self, name: str, config: str = "", files: Mapping[str, bytes] | None = None, asker: str = ""
    ) -> None:
        """As :meth:`Loader.load`; an ensemble with its steps' models."""
        was_up = self._is_up(name)
        await self._loader.load(name, config, files, asker)
        self._asked.add(name)
        if was_up and name in self._known:
            await self._load_steps(name, in_slot=not asker)
        if not asker:
            await self._revive()

    async def load_all(self, models: Sequence[Found]) -> list[ServerError | None]:
        """Load models as they were found, each after those it is composed of; the failure of each."""
        coming = {found.source.name: asyncio.Event() for found in models}
        self._coming.update(coming)

        async def load(found: Found) -> None:
            try:
                await self._loader.load_found(found)
            finally:
                coming[found.source.name].set()

        outcomes = await asyncio.gather(*map(load, models), return_exceptions=True)
        for name in coming:
            self._coming.pop(name, None)
        self._asked.update(coming)
        await self._revive()
        failures: list[ServerError | None] = []
        for outcome in outcomes:
            if outcome is not None and not isinstance(outcome, ServerError):
                raise outcome
            failures.append(outcome)
        return failures

    async def unload(self, name: str, asker: str = "", with_steps: bool = False) -> None:
        """Begin to unload a model, and before it the ensembles that it is a step of."""
        await self._take_down_users(name, asker)
        known = self._known.pop(name, None)
        self._asked.discard(name)
        await self._loader.unload(name, asker)
        for step in known.models if known is not None else ():
            is_wanted = step in self._asked or any(map(self._is_up, self._users(step)))
            has_failed = step in self._known and self._known[step].failure
            if not is_wanted and (with_steps or has_failed):
                await self.unload(step, asker, with_steps)

    async def unload_lost(self, identifier: str, name: str) -> None:
        """The same for one that is not in the repositories any more."""
        await self._take_down_users(name)
        self._known.pop(name, None)
        await self._loader.unload_lost(identifier, name)

    # -- up

    async def _prepare(self, found: Found, in_slot: bool) -> ServerError | None:
        """Called when it is a model's turn to be loaded: what it is composed of is up, or this is why it cannot be."""
        source = found.source
        assert source.config is not None
        if "ensemble_scheduling" not in source.config.json:
            self._known.pop(source.name, None)
            return None
        namespace = source.listed.namespace
        steps = [Step.from_json(step, namespace) for step in source.config.json["ensemble_scheduling"]["step"]]
        before = self._known.get(source.name)
        loads_steps = self._loads_steps and (before is None or before.found is not found)
        known = self._known[source.name] = _Known(found, steps, loads_steps)
        try:
            self._check_circle(source.name)
            await self._load_steps(source.name, in_slot)
            self._check_circle(source.name)
            models = await self._find_models(known)
            known.checked = [known.signature(model) for model in models]
            check_composition(source.config, steps, models)
        except ServerError as error:
            known.failure = error.message
            return error
        known.failure = ""
        return None

    async def _load_steps(self, ensemble: str, in_slot: bool) -> None:
        """Wait until the models of an ensemble's steps are up, or failed."""
        known = self._known[ensemble]
        await asyncio.gather(*(self._load_step(known, name, in_slot) for name in known.models))

    async def _load_step(self, known: _Known, name: str, in_slot: bool) -> None:
        coming = self._coming.get(name)
        if coming is not None:
            await coming.wait()
        elif known.loads_steps:
            was_up = self._is_up(name)
            # What came of it is seen by what is up then.
            with contextlib.suppress(ServerError):
                await self._loader.load(name, asker=known.found.source.name, asker_has_slot=not in_slot)
                if was_up and name in self._known:
                    await self._load_steps(name, in_slot)

    async def _revive(self) -> None:
        """Load the ensembles whose steps are up again, or are not what they were."""
        async with self._reviving:
            while changed := [known for known in self._known.values() if self._has_other_steps(known)]:
                for known in changed:
                    known.checked = self._signature(known)  # once for each change, whatever comes of it
                    with contextlib.suppress(ServerError):
                        await self._loader.reload(known.found)

    def _has_other_steps(self, known: _Known) -> bool:
        signature = self._signature(known)
        return signature is not None and signature != known.checked

    def _signature(self, known: _Known) -> list[Any] | None:
        """What all steps take and give; None when one is not there."""
        try:
            return [known.signature(self._find_model(step)) for step in known.steps]
        except ServerError:
            return None

    def _find_model(self, step: Step) -> Model:
        return self._catalog.find(step.model_name, step.model_version, step.namespace)

    # -- whether an ensemble can be up

    def _check_circle(self, ensemble: str) -> None:
        seen, pending = {ensemble}, [ensemble]
        while pending:
            last = pending.pop()
            models = self._known[last].models if last in self._known else []
            if ensemble in models:
                raise ServerError(
                    Code.INVALID_ARG,
                    f"circular dependency between ensembles: {ensemble} -> ... -> {last} -> {ensemble}",
                )
            pending += [model for model in models if model not in seen]
            seen.update(models)

    async def _find_models(self, known: _Known) -> list[Model]:
        """The models of all steps. Raises ServerError."""
        ensemble = known.found.source.name
        down = [name for name in known.models if not self._is_up(name)]
        sources = {name: await asyncio.to_thread(self._source, name) for name in down}
        missing = next((name for name, source in sources.items() if source is None), None)
        if missing is not None:
            raise ServerError(
                Code.INVALID_ARG, f"ensemble {ensemble} contains models that are not available or ambiguous: {missing}"
            )
        models = []
        for step in known.steps:
            try:
                models.append(self._find_model(step))
            except ServerError as error:
                raise self._depends(ensemble, step, sources.get(step.model_name)) from error
        return models

    def _depends(self, ensemble: str, step: Step, source: ModelSource | None) -> ServerError:
        """What to say of a step whose model is not up."""
        name = step.model_name
        text = f"ensemble '{ensemble}' depends on '{name}'"
        known = self._known.get(name)
        if source is None:
            text += f" whose required version {step.model_version} is not loaded."
        elif known is not None and known.failure:
            text += f" which is not valid. Model '{name}' failed with error: {known.failure}"
        else:
            text += " which has no loaded version."
            reason = source.error.message if source.error is not None else self._catalog.why_down(name)
            text += f" Model '{name}' loading failed with error: {reason}" if reason else ""
        return ServerError(Code.INVALID_ARG, text)

    def _source(self, name: str) -> ModelSource | None:
        """A model as it lies in the repositories, if it can be read. In a thread."""
        try:
            source = self._repositories.find(name)[0].source
        except ServerError:
            return None
        return source if source.config is not None else None

    def _is_up(self, name: str) -> bool:
        return any(self._catalog.ready(identifier) for identifier in self._catalog.identifiers(name))

    # -- down

    def _users(self, name: str) -> list[str]:
        """The ensembles that a model is a step of."""
        return [user for user, known in self._known.items() if name in known.models]

    async def _take_down_users(self, name: str, asker: str = "") -> None:
        for user in self._users(name):
            if self._is_up(user):
                await self._take_down_users(user, asker)
                self._known[user].checked = None
                await self._loader.unload(user, asker)
