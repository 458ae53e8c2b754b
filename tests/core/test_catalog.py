"""Which version answers a request, what the index shows, and the texts for models that are not there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest
from atoll.core.catalog import Catalog, Entry, ModelState, parse_version
from atoll.core.model import Model
from atoll.errors import Code, ServerError

READY, LOADING = ModelState.READY, ModelState.LOADING
UNLOADING, UNAVAILABLE = ModelState.UNLOADING, ModelState.UNAVAILABLE


@dataclass
class ModelTwin:
    """What a catalog sees of a model."""

    version: int
    identifier: str = "m"
    is_ready: bool = True
    has_begun_sequences: bool = False


def catalog(**models: dict[int, ModelState]) -> Catalog:
    made = Catalog()
    for name, versions in models.items():
        for version, state in versions.items():
            model = None if state is UNAVAILABLE else cast(Model, ModelTwin(version))
            made.set(name, version, Entry(state, model, "reason" if state is UNAVAILABLE else ""))
    return made


def refusal(call: Any, *arguments: Any) -> tuple[Code, str]:
    with pytest.raises(ServerError) as caught:
        call(*arguments)
    return caught.value.code, caught.value.message


# -- look-up


@pytest.mark.parametrize("version", [-1, 1])
def test_a_model_that_is_being_unloaded_is_found_while_its_sequences_go_on(version: int) -> None:
    models = Catalog()
    ending = ModelTwin(1, has_begun_sequences=True)
    models.set("m", 1, Entry(UNLOADING, cast(Model, ending)))
    assert models.find("m", version) is ending
    ending.has_begun_sequences = False
    assert refusal(models.find, "m", version)[0] in (Code.UNAVAILABLE, Code.NOT_FOUND)


def test_a_new_version_comes_before_the_sequences_of_an_old_one() -> None:
    models = catalog(m={1: READY, 2: READY})
    models.set("m", 2, Entry(UNLOADING, cast(Model, ModelTwin(2, has_begun_sequences=True))))
    assert models.find("m").version == 1


def test_without_a_version_the_highest_that_is_ready_answers() -> None:
    models = catalog(m={2: READY, 10: READY, 3: READY, 11: LOADING, 12: UNAVAILABLE})
    assert models.find("m").version == 10


def test_a_version_is_found_by_its_number() -> None:
    assert catalog(m={1: READY, 2: READY}).find("m", 1).version == 1


def test_an_unknown_model() -> None:
    for version in (-1, 1):
        assert refusal(catalog(m={1: READY}).find, "x", version) == (
            Code.NOT_FOUND,
            "Request for unknown model: 'x' is not found",
        )


def test_a_model_that_could_not_be_tried_is_unknown() -> None:
    models = Catalog()
    models.set_unloadable("m", "Invalid argument: no")
    assert refusal(models.find, "m") == (Code.NOT_FOUND, "Request for unknown model: 'm' is not found")


def test_an_unknown_version() -> None:
    assert refusal(catalog(m={1: READY}).find, "m", 7) == (
        Code.NOT_FOUND,
        "Request for unknown model: 'm' version 7 is not found",
    )


@pytest.mark.parametrize("state", [LOADING, UNLOADING, UNAVAILABLE])
def test_a_version_that_is_not_ready(state: ModelState) -> None:
    models = catalog(m={1: state})
    assert refusal(models.find, "m", 1) == (
        Code.UNAVAILABLE,
        "Request for unknown model: 'm' version 1 is not at ready state",
    )
    assert refusal(models.find, "m") == (Code.NOT_FOUND, "Request for unknown model: 'm' has no available versions")


def test_when_the_highest_version_goes_the_next_answers() -> None:
    models = catalog(m={1: READY, 2: READY})
    models.set("m", 2, Entry(UNLOADING, cast(Model, ModelTwin(2))))
    assert models.find("m").version == 1
    models.set("m", 1, Entry(UNAVAILABLE, reason="unloaded"))
    assert refusal(models.find, "m")[1] == "Request for unknown model: 'm' has no available versions"
    models.set("m", 2, Entry(READY, cast(Model, ModelTwin(2))))
    assert models.find("m").version == 2


def test_versions_that_serve() -> None:
    models = catalog(m={10: READY, 9: READY, 1: LOADING})
    assert sorted(models.ready("m")) == [9, 10]
    assert models.ready("x") == {}


# -- namespaces


def namespaces(**entries: Entry) -> Catalog:
    """A model m in each namespace."""
    made = Catalog()
    for namespace, entry in entries.items():
        made.know(f"{namespace}::m", "m")
        made.set(f"{namespace}::m", 1, entry)
    return made


def ready() -> Entry:
    return Entry(READY, cast(Model, ModelTwin(1)))


@pytest.mark.spec("server:198")
def test_a_name_alone_will_do_where_one_namespace_has_it() -> None:
    entry = ready()
    models = namespaces(one=entry, two=Entry(UNAVAILABLE, reason="unloaded"))
    assert models.find("m") is models.find("m", 1) is entry.model
    assert refusal(models.find, "m", 2) == (
        Code.NOT_FOUND,
        "Request for unknown model: 'm' version 2 is not found",
    )
    models.set("one::m", 1, Entry(UNAVAILABLE, reason="unloaded"))
    assert refusal(models.find, "m")[1] == "Request for unknown model: 'm' has no available versions"
    assert refusal(models.find, "one::x")[1] == "Request for unknown model: 'one::x' is not found"


@pytest.mark.spec("server:198")
@pytest.mark.parametrize("version", [-1, 1])
def test_a_name_in_two_namespaces_is_ambiguous(version: int) -> None:
    one, two = ready(), ready()
    models = namespaces(one=one, two=two)
    text = "There are 2 identifiers of model 'm' in global map, model namespace must be provided to resolve ambiguity."
    assert refusal(models.find, "m", version) == (Code.INVALID_ARG, text)
    assert models.find("m", version, namespace="one") is one.model
    assert models.find("m", version, namespace="two") is two.model
    assert refusal(models.find, "m", version, "three") == (Code.INVALID_ARG, text)
    assert models.index(ready=True) == [{"name": "m", "version": "1", "state": "READY"}] * 2
    assert models.identifiers("m") == ["one::m", "two::m"]


def test_models_are_those_with_instances() -> None:
    models = catalog(a={1: READY, 2: LOADING}, b={3: UNAVAILABLE, 4: UNLOADING})
    assert sorted(model.version for model in models.models()) == [1, 2, 4]


# -- index


def test_the_index_is_sorted_by_name_and_version_number() -> None:
    models = catalog(b={10: READY, 9: LOADING}, a={1: UNAVAILABLE})
    models.set_unloadable("c", "Invalid argument: no")
    assert models.index(ready=False) == [
        {"name": "a", "version": "1", "state": "UNAVAILABLE", "reason": "reason"},
        {"name": "b", "version": "9", "state": "LOADING"},
        {"name": "b", "version": "10", "state": "READY"},
        {"name": "c", "state": "UNAVAILABLE", "reason": "Invalid argument: no"},
    ]
    assert models.index(ready=True) == [{"name": "b", "version": "10", "state": "READY"}]


# -- readiness


@pytest.mark.parametrize(
    ("state", "settled"), [(READY, True), (LOADING, False), (UNLOADING, False), (UNAVAILABLE, False)]
)
def test_the_server_is_settled_when_every_version_is_ready(state: ModelState, settled: bool) -> None:
    assert catalog(a={1: READY}, m={1: state}).is_settled() is settled


def test_an_empty_server_is_settled() -> None:
    assert Catalog().is_settled()


def test_a_version_that_was_unloaded_on_purpose_unsettles_nothing() -> None:
    models = catalog(m={1: READY})
    models.set("m", 2, Entry(UNAVAILABLE, reason="unloaded"))
    assert models.is_settled()


def test_a_model_without_a_living_instance_unsettles() -> None:
    models = Catalog()
    models.set("m", 1, Entry(READY, cast(Model, ModelTwin(1, is_ready=False))))
    assert not models.is_settled()


def test_a_model_that_could_not_be_tried_unsettles() -> None:
    models = Catalog()
    models.set_unloadable("m", "reason")
    assert not models.is_settled()


# -- versions as clients write them


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("", -1),
        ("1", 1),
        ("007", 7),
        ("+3", 3),
        ("1.5", 1),
        (" 2", 2),
        ("3abc", 3),
        ("0", 0),
        ("9223372036854775807", (1 << 63) - 1),
    ],
)
def test_a_version_is_read_as_c_reads_a_number(text: str, version: int) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["x", "latest", "9223372036854775808", "-9223372036854775809", "1" * 5000, "-", "٣"])
def test_what_is_no_number_is_refused(text: str) -> None:
    assert refusal(parse_version, text) == (
        Code.INVALID_ARG,
        f"failed to get model version from specified version string '{text}' (details: stol), version should be an "
        "integral value > 0",
    )


@pytest.mark.parametrize("text", ["-1", "-7"])
def test_a_negative_version_is_refused(text: str) -> None:
    assert refusal(parse_version, text) == (
        Code.INVALID_ARG,
        f"invalid model version specified '{text}' , version should be an integral value > 0",
    )
