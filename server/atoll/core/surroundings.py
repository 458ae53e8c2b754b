"""What a model's parameters say of the processes of its instances: variables, threads, processors and limits.

====================== =================================================================================
``ENV:NAME``           the environment variable NAME
INSTANCE_THREADS       threads of numeric libraries (OpenMP, OpenBLAS, MKL, NumExpr)
INSTANCE_CPU_CORES     processors to run on, such as ``0-3,8``
INSTANCE_ADDRESS_SPACE the most virtual memory, in bytes or with a letter behind: ``6G``
INSTANCE_OPEN_FILES    the most open files
====================== =================================================================================

Each may end with ``@`` and the name of an instance or of an instance group: then it is for these only, and comes before
what is said for all. Without INSTANCE_THREADS, and where neither the model nor the server's environment sets one of the
libraries' own variables, the instances that share processors share them out evenly: each library would otherwise
start as many threads as there are processors, in each instance.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from atoll.core.host_policies import HostPolicies, parse_cpus
from atoll.errors import Code, ServerError
from atoll.repository.config import Instance, InstanceGroup, ModelConfig

__all__ = ["model_surroundings", "surroundings"]

_VARIABLE = "ENV:"
_THREADS, _CPUS = "INSTANCE_THREADS", "INSTANCE_CPU_CORES"
_LIMITS = {"INSTANCE_ADDRESS_SPACE": "address_space", "INSTANCE_OPEN_FILES": "open_files"}
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_OF_LOADED = _THREAD_VARIABLES[:3]
"""numpy has loaded its library when these variables come: the stub tells it the number."""
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}

Surroundings = dict[str, Any]
"""As LOAD has it: ``variables``, ``threads``, ``limits``, and where something is said of them ``cpus``."""


def surroundings(config: ModelConfig, policies: HostPolicies) -> list[Surroundings]:
    """Those of all instances, in their order. Raises ServerError INVALID_ARG for a parameter that cannot be.

    What the host's policy leaves an instance of the processors, a parameter may narrow down.
    """
    named = [(group, instance) for group in config.instance_groups for instance in group.instances]
    _check_names(config, named)
    return _share_out(
        [
            _of(config, (instance.name, group.name), policies.cpus(instance, group.host_policy))
            for group, instance in named
        ]
    )


def model_surroundings(config: ModelConfig) -> Surroundings:
    """Those of the process in which a model completes its configuration: what is said for all of its instances."""
    return _share_out([_of(config, (), None)])[0]


def _of(config: ModelConfig, names: tuple[str, ...], cpus: frozenset[int] | None) -> Surroundings:
    """What the parameters say, those for one of these names before those for all."""
    said: dict[str, str] = {}
    for wanted in ("", *reversed(names)):
        for key, value in config.parameters.items():
            name, _, whose = key.partition("@")
            if whose == wanted:
                said[name] = value
    found: Surroundings = {"variables": {}, "limits": {}}
    if cpus is not None:
        found["cpus"] = sorted(cpus)
    for name, value in said.items():
        try:
            if name.startswith(_VARIABLE):
                found["variables"][_variable(name)] = value
            elif name == _THREADS:
                found["threads"] = _positive(value)
            elif name == _CPUS:
                found["cpus"] = _narrowed(cpus, value)
            elif name in _LIMITS:
                found["limits"][_LIMITS[name]] = _amount(value)
        except ValueError as error:
            raise ServerError(Code.INVALID_ARG, f"parameter '{name}' of model '{config.name}': {error}") from None
    return found


def _share_out(all_found: list[Surroundings]) -> list[Surroundings]:
    """Set the number of threads where nothing is said of it."""
    usable = sorted(os.sched_getaffinity(0))
    sharing = Counter(tuple(found.get("cpus", usable)) for found in all_found)
    is_said = any(name in os.environ for name in _THREAD_VARIABLES)
    for found in all_found:
        variables: Mapping[str, str] = found["variables"]
        cpus = tuple(found.get("cpus", usable))
        threads = found.get("threads")
        if threads is None and not is_said and not any(name in variables for name in _THREAD_VARIABLES):
            threads = max(1, len(cpus) // sharing[cpus])
            if threads == len(usable):
                threads = None  # what the libraries come to by themselves
        if threads is not None:
            found["variables"] = {**dict.fromkeys(_THREAD_VARIABLES, str(threads)), **variables}
        counts = [(name, found["variables"].get(name, "")) for name in _OF_LOADED]
        found["threads"] = {name: int(count) for name, count in counts if re.fullmatch("[1-9][0-9]{0,4}", count)}
    return all_found


def _check_names(config: ModelConfig, instances: list[tuple[InstanceGroup, Instance]]) -> None:
    names = {name for group, instance in instances for name in (group.name, instance.name)}
    for key in config.parameters:
        name, at, whose = key.partition("@")
        ours = name.startswith(_VARIABLE) or name in (_THREADS, _CPUS, *_LIMITS)
        if at and ours and whose not in names:
            text = f"parameter '{key}': model '{config.name}' has no instance and no instance group '{whose}'"
            raise ServerError(Code.INVALID_ARG, text)


def _variable(name: str) -> str:
    variable = name.removeprefix(_VARIABLE)
    if not variable or "=" in variable or "\0" in variable:
        raise ValueError(f"'{variable}' can be no environment variable")
    return variable


def _positive(value: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,4}", value):
        raise ValueError(f"'{value}' is no number of threads")
    return int(value)


def _amount(value: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]{0,17})\s*([KMGT]?)(?:i?B)?", value)
    if match is None:
        raise ValueError(f"'{value}' is no amount such as 4096 or 6G")
    return int(match[1]) << _UNITS[match[2]]


def _narrowed(cpus: frozenset[int] | None, value: str) -> list[int]:
    left = parse_cpus(value) & (os.sched_getaffinity(0) if cpus is None else cpus)
    if not left:
        raise ValueError(f"'{value}' leaves no core that the instance may run on")
    return sorted(left)
