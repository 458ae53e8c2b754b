"""Version directories and version policies."""

import logging
from pathlib import Path

import pytest
from atoll.errors import Code, ServerError
from atoll.repository.versions import VersionPolicy, select_versions, version_directories

PRESENT = {version: Path(str(version)) for version in (1, 3, 9, 10)}


@pytest.mark.spec("server:174")
def test_directories_that_are_versions_and_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    silent = ["warmup", "initial_state", "configs", "__pycache__", ".git"]
    for name in ["1", "10", "0", "01", "abc", "-1", "1.5", "9223372036854775808", "9223372036854775807", *silent]:
        (tmp_path / name).mkdir()
    (tmp_path / "2").touch()
    with caplog.at_level(logging.WARNING):
        found = version_directories(tmp_path)
    assert found == {version: tmp_path / str(version) for version in (0, 1, 10, 2**63 - 1)}
    assert sorted(caplog.messages) == [
        "ignore version directory '-1' which fails to convert to integral number",
        "ignore version directory '01' which contains leading zeros in its directory name",
        "ignore version directory '1.5' which fails to convert to integral number",
        "ignore version directory '9223372036854775808' which fails to convert to integral number",
        "ignore version directory 'abc' which fails to convert to integral number",
    ]


def test_links(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").symlink_to("1")
    (tmp_path / "3").symlink_to("nowhere")
    (tmp_path / "4").symlink_to("4")
    assert sorted(version_directories(tmp_path)) == [1, 2]


def test_a_directory_that_cannot_be_listed(tmp_path: Path) -> None:
    with pytest.raises(ServerError) as caught:
        version_directories(tmp_path / "m")
    assert (caught.value.code, caught.value.message) == (
        Code.INTERNAL,
        f"failed to open directory {tmp_path / 'm'}: No such file or directory",
    )


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (VersionPolicy("latest"), [10]),
        (VersionPolicy("latest", 2), [9, 10]),
        (VersionPolicy("latest", 99), [1, 3, 9, 10]),
        (VersionPolicy("all"), [1, 3, 9, 10]),
        (VersionPolicy("specific", versions=(9, 1, 9)), [1, 9]),
    ],
)
@pytest.mark.spec("server:176")
def test_selection(policy: VersionPolicy, expected: list[int]) -> None:
    assert list(select_versions("m", policy, PRESENT).items()) == [(version, PRESENT[version]) for version in expected]


@pytest.mark.spec("server:176")
def test_a_listed_version_that_is_missing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    policy = VersionPolicy("specific", versions=(3, 4))
    assert list(select_versions("m", policy, PRESENT)) == [3]
    assert caplog.record_tuples == [
        (
            "atoll.repository.versions",
            logging.ERROR,
            "version 4 is specified for model 'm', but the version directory is not present",
        )
    ]


@pytest.mark.parametrize(
    ("policy", "present"),
    [
        (VersionPolicy("latest"), {}),
        (VersionPolicy("all"), {}),
        (VersionPolicy("latest", 0), PRESENT),
        (VersionPolicy("specific", versions=(2,)), PRESENT),
    ],
)
@pytest.mark.spec("server:176")
def test_no_version_is_an_error(policy: VersionPolicy, present: dict[int, Path]) -> None:
    with pytest.raises(ServerError) as caught:
        select_versions("m", policy, present)
    assert (caught.value.code, caught.value.message) == (
        Code.INVALID_ARG,
        "at least one version must be available under the version policy of model 'm'",
    )
