"""What --host-policy means for an instance."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from atoll.core import host_policies
from atoll.core.host_policies import HostPolicies
from atoll.errors import Code, ServerError
from atoll.repository.config import Instance

CPU = Instance("m_0", "CPU", 0, False)
GPU = Instance("m_0", "GPU", 1, False)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Eight cores on two nodes."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(host_policies, "_NODES", tmp_path)
    for node, cpus in enumerate(("0-3", "4-7")):
        (tmp_path / f"node{node}").mkdir()
        (tmp_path / f"node{node}" / "cpulist").write_text(cpus + "\n")


@pytest.mark.spec("server:173")
@pytest.mark.parametrize(
    ("settings", "cpus"),
    [
        ([("cpu", "cpu-cores", "2")], {2}),
        ([("cpu", "cpu-cores", "0-2,5,100")], {0, 1, 2, 5}),
        ([("cpu", "numa-node", "1")], {4, 5, 6, 7}),
        ([("cpu", "numa-node", "1"), ("cpu", "cpu-cores", "2-5")], {4, 5}),
        ([("other", "cpu-cores", "2")], None),
        ([], None),
    ],
)
def test_cores(settings: list[tuple[str, str, str]], cpus: set[int] | None) -> None:
    assert HostPolicies(settings).cpus(CPU, "") == cpus


@pytest.mark.spec("server:173")
def test_the_policy_of_a_group_goes_before_that_of_its_kind() -> None:
    policies = HostPolicies([("cpu", "cpu-cores", "0"), ("gpu_1", "cpu-cores", "1"), ("mine", "cpu-cores", "2")])
    assert policies.cpus(CPU, "") == {0}
    assert policies.cpus(GPU, "") == {1}
    assert policies.cpus(CPU, "mine") == policies.cpus(GPU, "mine") == {2}
    assert policies.cpus(CPU, "nobody's") is None


@pytest.mark.spec("server:173")
@pytest.mark.parametrize(
    ("setting", "value", "code", "text"),
    [
        (
            "color",
            "red",
            Code.UNSUPPORTED,
            "Unsupported host policy setting 'color' is specified, supported settings are 'numa-node', 'cpu-cores'.",
        ),
        *(
            ("cpu-cores", value, Code.INVALID_ARG, f"host policy 'p': '{value}' is no list of cores such as 0-3,8")
            for value in ("", "x", "1-", "-1", "1,,2", "1 2")
        ),
        ("cpu-cores", "9", Code.INVALID_ARG, "host policy 'p' leaves no core that this process may run on"),
        ("cpu-cores", "3-2", Code.INVALID_ARG, "host policy 'p' leaves no core that this process may run on"),
        *(
            ("numa-node", value, Code.INVALID_ARG, f"host policy 'p': this machine has no NUMA node '{value}'")
            for value in ("2", "x", "-1", "../node0")
        ),
    ],
)
def test_what_cannot_be(setting: str, value: str, code: Code, text: str) -> None:
    with pytest.raises(ServerError) as caught:
        HostPolicies([("p", setting, value)])
    assert (caught.value.code, caught.value.message) == (code, text)
