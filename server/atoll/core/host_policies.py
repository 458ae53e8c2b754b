"""Which processors the instances of a group run on: ``--host-policy``, by the policy that the group names.

A group that names none has the policy ``cpu``, ``model`` or ``gpu_<id>``, after its kind. Memory follows by itself: the
kernel takes it from the node of the processor that first writes to it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from atoll.errors import Code, ServerError
from atoll.repository.config import Instance

__all__ = ["HostPolicies", "parse_cpus"]

_NODES = Path("/sys/devices/system/node")


class HostPolicies:
    """The policies of one server."""

    def __init__(self, settings: Iterable[tuple[str, str, str]]) -> None:
        """``settings`` are policy, setting and value. Raises ServerError for what cannot be."""
        self._cpus: dict[str, frozenset[int]] = {}
        usable = os.sched_getaffinity(0)
        for policy, setting, value in settings:
            if setting == "cpu-cores":
                try:
                    cpus = parse_cpus(value)
                except ValueError as error:
                    raise ServerError(Code.INVALID_ARG, f"host policy '{policy}': {error}") from None
            elif setting == "numa-node":
                cpus = _of_node(policy, value)
            else:
                raise ServerError(
                    Code.UNSUPPORTED,
                    f"Unsupported host policy setting '{setting}' is specified, supported settings are 'numa-node', "
                    "'cpu-cores'.",
                )
            # Both settings together mean the cores of the node that are listed.
            cpus = cpus & self._cpus.get(policy, cpus) & usable
            if not cpus:
                raise ServerError(
                    Code.INVALID_ARG, f"host policy '{policy}' leaves no core that this process may run on"
                )
            self._cpus[policy] = cpus

    def cpus(self, instance: Instance, policy: str) -> frozenset[int] | None:
        """The processors of an instance whose group names ``policy``; None where it may run on any."""
        default = f"gpu_{instance.device_id}" if instance.kind == "GPU" else instance.kind.lower()
        return self._cpus.get(policy or default)


def _of_node(policy: str, node: str) -> frozenset[int]:
    try:
        return parse_cpus((_NODES / f"node{int(node)}" / "cpulist").read_text().strip())
    except (OSError, ValueError) as error:
        complaint = f"host policy '{policy}': this machine has no NUMA node '{node}'"
        raise ServerError(Code.INVALID_ARG, complaint) from error


def parse_cpus(text: str) -> frozenset[int]:
    """A list as the kernel writes it: ``0-3,8``. Raises ValueError."""
    cpus: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", part)
        if match is None:
            raise ValueError(f"'{text}' is no list of cores such as 0-3,8")
        cpus.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(cpus)
