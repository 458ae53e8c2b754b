"""What parameters say of the processes of instances: for whom, which comes first, and how threads are shared out."""

from __future__ import annotations

import os
from typing import Any

import pytest
from atoll.core.host_policies import HostPolicies
from atoll.core.surroundings import model_surroundings
from atoll.core.surroundings import surroundings as surroundings_under
from atoll.errors import ServerError
from atoll.repository.config import InstanceGroup, ModelConfig

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)


class Config:
    """As much of a configuration as is read."""

    name = "m"

    def __init__(self, parameters: dict[str, str], *counts: int) -> None:
        self.parameters = parameters
        self.instance_groups = [InstanceGroup(f"m_{number}", "CPU", count) for number, count in enumerate(counts)]


def config(parameters: dict[str, str], *counts: int) -> ModelConfig:
    return Config(parameters, *counts)  # type: ignore[return-value]


def surroundings(of: ModelConfig, *policies: tuple[str, str, str]) -> list[dict[str, Any]]:
    return surroundings_under(of, HostPolicies(policies))


def test_nothing_said_changes_nothing() -> None:
    assert surroundings(config({"mine": "1", "mine@else": "2"}, 1)) == [{"variables": {}, "threads": {}, "limits": {}}]


def test_variables_for_all_for_a_group_and_for_an_instance() -> None:
    said = {"ENV:A": "all", "ENV:A@m_1": "group", "ENV:A@m_1_1": "instance", "ENV:B": "", "ENV:OMP_NUM_THREADS": "8"}
    found = surroundings(config(said, 1, 2))
    assert [one["variables"]["A"] for one in found] == ["all", "group", "instance"]
    assert {one["variables"]["B"] for one in found} == {""}
    assert model_surroundings(config(said, 1, 2))["variables"]["A"] == "all"


def test_limits_and_processors() -> None:
    said = {"INSTANCE_ADDRESS_SPACE": "6G", "INSTANCE_OPEN_FILES": "4096", "INSTANCE_OPEN_FILES@m_0_1": "64 K"}
    first, second = surroundings(config({**said, "INSTANCE_CPU_CORES": "5-9,1"}, 2))
    assert first["limits"] == {"address_space": 6 << 30, "open_files": 4096}
    assert second["limits"] == {"address_space": 6 << 30, "open_files": 65536}
    assert first["cpus"] == [1, 5, 6, 7]


def threads(parameters: dict[str, str], *counts: int) -> list[object]:
    found = surroundings(config(parameters, *counts))
    return [one["variables"].get("OMP_NUM_THREADS") for one in found]


def test_instances_share_out_the_cores() -> None:
    assert threads({}, 1) == [None]  # what libraries come to by themselves
    assert threads({}, 2) == ["4", "4"]
    assert threads({}, 1, 2) == ["2", "2", "2"]
    assert threads({}, 20) == ["1"] * 20
    [first, _] = surroundings(config({}, 2))
    assert first["variables"] == dict.fromkeys(THREADS, "4")
    assert first["threads"] == dict.fromkeys(THREADS[:3], 4)


def test_only_those_share_that_run_on_the_same_cores() -> None:
    said = {"INSTANCE_CPU_CORES@m_0": "0-3", "INSTANCE_CPU_CORES@m_1": "4-5"}
    assert threads(said, 2, 1) == ["2", "2", "2"]
    assert threads({"INSTANCE_CPU_CORES": "0-3"}, 1) == ["4"]


def test_what_is_said_of_threads_holds() -> None:
    assert threads({"INSTANCE_THREADS": "3", "INSTANCE_THREADS@m_0_1": "8"}, 2) == ["3", "8"]
    assert threads({"ENV:OMP_NUM_THREADS": "5", "INSTANCE_THREADS": "3"}, 1) == ["5"]
    [found] = surroundings(config({"ENV:MKL_NUM_THREADS": "5"}, 1))
    assert found["variables"] == {"MKL_NUM_THREADS": "5"}
    assert found["threads"] == {"MKL_NUM_THREADS": 5}
    [found] = surroundings(config({"ENV:OMP_NUM_THREADS": "4,2"}, 1))
    assert found["threads"] == {}


def test_the_servers_environment_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert threads({}, 2) == [None, None]
    assert threads({"INSTANCE_THREADS": "3"}, 1) == ["3"]


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("ENV:", "1", "'' can be no environment variable"),
        ("ENV:A=B", "1", "'A=B' can be no environment variable"),
        ("INSTANCE_THREADS", "0", "'0' is no number of threads"),
        ("INSTANCE_THREADS", "many", "'many' is no number of threads"),
        ("INSTANCE_CPU_CORES", "1-", "'1-' is no list of cores such as 0-3,8"),
        ("INSTANCE_CPU_CORES", "8,9", "'8,9' leaves no core that the instance may run on"),
        ("INSTANCE_ADDRESS_SPACE", "6X", "'6X' is no amount such as 4096 or 6G"),
        ("INSTANCE_OPEN_FILES", "-1", "'-1' is no amount such as 4096 or 6G"),
    ],
)
def test_what_cannot_be_is_refused(key: str, value: str, complaint: str) -> None:
    with pytest.raises(ServerError) as caught:
        surroundings(config({key: value}, 1))
    assert caught.value.message == f"parameter '{key}' of model 'm': {complaint}"


def test_a_name_that_nobody_has_is_refused() -> None:
    with pytest.raises(ServerError) as caught:
        surroundings(config({"INSTANCE_THREADS@m_1": "1"}, 1))
    text = "parameter 'INSTANCE_THREADS@m_1': model 'm' has no instance and no instance group 'm_1'"
    assert caught.value.message == text


def test_a_parameter_narrows_what_the_host_policy_leaves() -> None:
    policy = ("cpu", "cpu-cores", "0-3")
    assert [one["cpus"] for one in surroundings(config({}, 2), policy)] == [[0, 1, 2, 3]] * 2
    narrowed = surroundings(config({"INSTANCE_CPU_CORES@m_0_1": "2-5"}, 2), policy)
    assert [one["cpus"] for one in narrowed] == [[0, 1, 2, 3], [2, 3]]
    assert [one["variables"]["OMP_NUM_THREADS"] for one in narrowed] == ["4", "2"]
    with pytest.raises(ServerError, match="'5' leaves no core that the instance may run on"):
        surroundings(config({"INSTANCE_CPU_CORES": "5"}, 1), policy)
