"""The instances of one model version: those that its configuration asks for, also when that changes while it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from atoll.instances.instance import Instance, InstanceSettings
from atoll.repository.config import ModelConfig

__all__ = ["InstanceSet"]

_FAILED_START_END_S = 5.0
_LEAVING_S = 300.0

_SettingsOf = Callable[[ModelConfig], list[InstanceSettings]]


class InstanceSet:
    """``all`` is every instance that has a process or is about to: others may hold on to the list."""

    def __init__(
        self, config: ModelConfig, settings_of: _SettingsOf, make: Callable[[InstanceSettings], Instance]
    ) -> None:
        self.config = config
        self.all = list(map(make, settings_of(config)))
        self._settings_of = settings_of
        self._make = make
        self._added: list[Instance] = []
        self._leaving: dict[Instance, asyncio.Task[bool]] = {}

    def staying(self) -> list[Instance]:
        """Those that were not told to go."""
        return [instance for instance in self.all if instance not in self._leaving]

    async def start(self) -> None:
        """Load the model in all instances at once. Raises the first failure, after all were ended."""
        await self._start(self.all)

    async def stop(self, timeout_s: float) -> bool:
        """Finalize every instance; True when all ended by themselves."""
        for instance in self._leaving:
            instance.hurry()
        staying = (instance.stop(timeout_s) for instance in self.staying())
        return all(await asyncio.gather(*staying, *self._leaving.values()))

    async def grow(self, config: ModelConfig) -> None:
        """Start what a new configuration asks for beside what there is. Raises ServerError; then nothing was added."""
        there = {_likeness(instance.settings) for instance in self.staying()}
        wanted = self._settings_of(self.config.with_instances_of(config))
        self._added = [self._make(settings) for settings in wanted if _likeness(settings) not in there]
        self.all += self._added
        try:
            await self._start(self._added)
        except BaseException:
            for instance in self._added:
                self.all.remove(instance)
            self._added = []
            raise

    def settle(self, config: ModelConfig | None) -> None:
        """After :meth:`grow`: have exactly the instances that the configuration asks for; None takes the growth back.

        What has to go gets nothing new, finishes what it has, and ends.
        """
        if config is None:
            unwanted = self._added
        else:
            self.config = self.config.with_instances_of(config)
            wanted = {_likeness(settings): settings for settings in self._settings_of(self.config)}
            unwanted = []
            for instance in self.staying():
                settings = wanted.get(_likeness(instance.settings))
                if settings is None:
                    unwanted.append(instance)
                else:
                    instance.settings = settings  # should it start again, the model reads of its new configuration
        self._added = []
        for instance in unwanted:
            task = self._leaving[instance] = asyncio.ensure_future(instance.leave(_LEAVING_S))
            task.add_done_callback(partial(self._left, instance))

    def _left(self, instance: Instance, _: asyncio.Task[bool]) -> None:
        del self._leaving[instance]
        self.all.remove(instance)

    async def _start(self, instances: list[Instance]) -> None:
        results = await asyncio.gather(*(instance.start() for instance in instances), return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            await asyncio.gather(*(instance.stop(_FAILED_START_END_S) for instance in instances))
            raise failures[0]


def _likeness(settings: InstanceSettings) -> object:
    """What an instance cannot change while it lives. Instances on several devices may share a name."""
    kind, device = settings.args["model_instance_kind"], settings.args["model_instance_device_id"]
    return settings.name, kind, device, settings.passive, settings.rate_limit, str(settings.surroundings.get("cpus"))
