"""Metrics that models make: what a registry of the supervisor answers, and what it shows."""

from __future__ import annotations

import math
from typing import Any

import pytest
from atoll.errors import Code, ServerError
from atoll.observe.custom_metrics import CustomMetrics
from atoll.observe.exposition import Registry

COUNTER, GAUGE, HISTOGRAM = range(3)
KINDS = {"COUNTER": COUNTER, "GAUGE": GAUGE, "HISTOGRAM": HISTOGRAM}
DELETED = (
    "Invalid metric operation as the corresponding 'MetricFamily' has been deleted. The 'MetricFamily' object should "
    "be deleted AFTER its corresponding 'Metric' objects have been deleted."
)


class Setup:
    """A registry of models' metrics, asked as one model asks."""

    def __init__(self) -> None:
        self.metrics = CustomMetrics(lambda: {"nv_inference_count", "nv_summary_us", "nv_summary_us_sum"})
        self.model: object = "m"

    def do(self, topic: str, *arguments: Any) -> Any:
        return self.metrics.perform(self.model, topic, list(arguments))

    def family(self, name: str = "f", kind: int = GAUGE, description: str = "help") -> int:
        handle: int = self.do("create_family", name, description, kind)
        return handle

    def metric(self, family: int, bounds: list[float] | None = None, **labels: str) -> int:
        metric: int = self.do("create_metric", family, [list(pair) for pair in labels.items()], bounds)
        return metric

    def refusal(self, topic: str, *arguments: Any) -> tuple[Code, str]:
        with pytest.raises(ServerError) as caught:
            self.do(topic, *arguments)
        return caught.value.code, caught.value.message

    @property
    def page(self) -> list[str]:
        registry = Registry()
        registry.register(self.metrics.collect)
        return registry.page().splitlines()

    @property
    def samples(self) -> list[str]:
        return [line for line in self.page if not line.startswith("#")]


@pytest.fixture
def on() -> Setup:
    return Setup()


# -- kinds and operations


@pytest.mark.spec("python_backend:C197")
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize(
    ("operation", "arguments", "allowed"),
    [
        ("increment", [2.0], {"COUNTER", "GAUGE"}),
        ("set", [2.0], {"GAUGE"}),
        ("observe", [2.0], {"HISTOGRAM"}),
        ("value", [], {"COUNTER", "GAUGE"}),
    ],
)
def test_each_kind_has_its_operations(
    on: Setup, kind: str, operation: str, arguments: list[float], allowed: set[str]
) -> None:
    metric = on.metric(on.family(kind=KINDS[kind]), [1.0] if kind == "HISTOGRAM" else None)
    if kind in allowed:
        on.do(operation, metric, *arguments)
    else:
        text = f"TRITONSERVER_METRIC_KIND_{kind} does not support {operation.capitalize()}"
        assert on.refusal(operation, metric, *arguments) == (Code.UNSUPPORTED, text)


@pytest.mark.spec("python_backend:C197")
def test_a_counter_only_grows(on: Setup) -> None:
    metric = on.metric(on.family(kind=COUNTER))
    for value in (0.0, 1.5, 2.0):
        on.do("increment", metric, value)
    assert on.refusal("increment", metric, -0.5) == (
        Code.INVALID_ARG,
        "TRITONSERVER_METRIC_KIND_COUNTER can only be incremented monotonically by non-negative values.",
    )
    assert on.do("value", metric) == 3.5
    assert on.page == ["# HELP f help", "# TYPE f counter", "f 3.5"]


def test_a_gauge_goes_both_ways(on: Setup) -> None:
    metric = on.metric(on.family())
    assert on.samples == ["f 0"]
    on.do("set", metric, 5.0)
    on.do("increment", metric, -7.25)
    assert on.do("value", metric) == -2.25
    assert on.samples == ["f -2.25"]


def test_a_histogram_counts_up_to_each_bound(on: Setup) -> None:
    metric = on.metric(on.family("h", HISTOGRAM), [0.1, 1.0, 2.5], model="m")
    for value in (0.05, 0.1, 0.2, 1.0, 2.4, 99.0):
        on.do("observe", metric, value)
    assert on.page == [
        "# HELP h help",
        "# TYPE h histogram",
        'h_bucket{model="m",le="0.1"} 2',
        'h_bucket{model="m",le="1"} 4',
        'h_bucket{model="m",le="2.5"} 5',
        'h_bucket{model="m",le="+Inf"} 6',
        'h_sum{model="m"} 102.75',
        'h_count{model="m"} 6',
    ]


@pytest.mark.spec("python_backend:C199")
@pytest.mark.parametrize("bounds", [[], [math.inf]])
def test_a_histogram_without_bounds_has_one_bucket(on: Setup, bounds: list[float]) -> None:
    on.do("observe", on.metric(on.family("h", HISTOGRAM), bounds), 3.0)
    assert on.samples == ['h_bucket{le="+Inf"} 1', "h_sum 3", "h_count 1"]


@pytest.mark.spec("python_backend:C199")
@pytest.mark.parametrize(
    "bounds", [[2.0, 1.0], [1.0, 1.0], [1.0, 3.0, 2.0], [math.nan], [1.0, math.nan], [-math.inf], [1.0, math.inf] * 2]
)
def test_bounds_ascend(on: Setup, bounds: list[float]) -> None:
    family = on.family("h", HISTOGRAM)
    refused = (Code.INVALID_ARG, "Buckets must be in ascending order, without duplicates")
    assert on.refusal("create_metric", family, [], bounds) == refused
    on.metric(family, [1.0])
    assert on.refusal("create_metric", family, [], bounds) == refused  # also where the series is there already
    assert len(on.samples) == 4


def test_bounds_that_differ_little_are_told_apart(on: Setup) -> None:
    on.metric(on.family("h", HISTOGRAM), [0.1234567, 0.12345678, 1e6, 1234567.5])
    bounds = [line.split('"')[1] for line in on.samples if "_bucket" in line]
    assert bounds == ["0.1234567", "0.12345678", "1000000", "1234567.5", "+Inf"]


# -- names


@pytest.mark.parametrize("name", ["f", "nv:x_1", "_", "A9"])
def test_valid_names(on: Setup, name: str) -> None:
    on.metric(on.family(name))
    assert on.samples == [f"{name} 0"]


@pytest.mark.parametrize("name", ["", "9", "a-b", "a b", "ä", "a\n"])
def test_invalid_names(on: Setup, name: str) -> None:
    assert on.refusal("create_family", name, "", GAUGE) == (Code.INVALID_ARG, f"Invalid metric name: '{name}'")
    assert on.page == []


@pytest.mark.spec("server:251")
@pytest.mark.parametrize(
    ("name", "kind"),
    [("nv_inference_count", COUNTER), ("nv_summary_us_sum", GAUGE), ("nv_inference", HISTOGRAM)],
)
def test_a_family_may_not_clash_with_one_of_the_server(on: Setup, name: str, kind: int) -> None:
    refused = (Code.INVALID_ARG, f"Metric family '{name}' would clash with a metric of the server")
    assert on.refusal("create_family", name, "help", kind) == refused
    assert on.page == []
    on.family("nv_inference_counted", COUNTER)  # the prefix alone is no clash


@pytest.mark.spec("python_backend:C198")
@pytest.mark.parametrize("label", ["", "9", "a-b", "a:b", "ä", "__reserved", "a\n"])
def test_invalid_labels(on: Setup, label: str) -> None:
    refusal = on.refusal("create_metric", on.family(), [[label, "x"]], None)
    assert refusal == (Code.INVALID_ARG, f"Invalid label name: '{label}'")


@pytest.mark.spec("python_backend:C198")
def test_a_histogram_writes_the_label_of_its_bounds_itself(on: Setup) -> None:
    on.metric(on.family("g"), le="1")
    assert on.samples == ['g{le="1"} 0']
    refusal = on.refusal("create_metric", on.family("h", HISTOGRAM), [["le", "1"]], [])
    assert refusal == (Code.INVALID_ARG, "Invalid label name: 'le'")


@pytest.mark.spec("python_backend:C198")
@pytest.mark.parametrize("pair", [[None, "x"], ["x", None]])
def test_labels_are_strings(on: Setup, pair: list[str | None]) -> None:
    assert on.refusal("create_metric", on.family(), [pair], None) == (Code.INVALID_ARG, "Labels must be strings")


def test_any_text_may_be_a_labels_value(on: Setup) -> None:
    on.metric(on.family(), b='"\\\n', a="ä")
    assert on.samples == ['f{a="ä",b="\\"\\\\\\n"} 0']


# -- what is shared


@pytest.mark.spec("python_backend:C200")
def test_a_family_of_the_same_name_and_kind_is_the_same(on: Setup) -> None:
    on.metric(on.family(description="first"), a="1")
    on.metric(on.family(description="second"), a="2")
    assert on.page == ["# HELP f first", "# TYPE f gauge", 'f{a="1"} 0', 'f{a="2"} 0']


@pytest.mark.spec("python_backend:C200")
def test_a_name_keeps_its_kind(on: Setup) -> None:
    first = on.family(kind=GAUGE)
    text = "Metric family 'f' already exists with kind GAUGE, not COUNTER"
    assert on.refusal("create_family", "f", "help", COUNTER) == (Code.INVALID_ARG, text)
    on.do("delete_family", first)
    assert on.refusal("create_family", "f", "help", COUNTER) == (Code.INVALID_ARG, text)


@pytest.mark.spec("python_backend:C201")
def test_the_same_labels_are_the_same_series(on: Setup) -> None:
    family = on.family()
    first, second = on.metric(family, a="1", b="2"), on.metric(family, b="2", a="1")
    other = on.metric(on.family(), a="1", b="2")
    for metric in (first, second, other):
        on.do("increment", metric, 1.0)
    assert [on.do("value", metric) for metric in (first, second, other)] == [3, 3, 3]
    assert on.samples == ['f{a="1",b="2"} 3']


def test_asking_for_a_metric_again_and_again_takes_no_memory(on: Setup) -> None:
    family = on.family()
    assert len({on.metric(family, a="1") for _ in range(100)}) == 1


# -- how long it lives


@pytest.mark.spec("python_backend:C202")
def test_a_family_takes_its_series_with_it(on: Setup) -> None:
    family = on.family()
    metric = on.metric(family, a="1")
    on.do("delete_family", family)
    assert on.page == []
    for operation in ("value", "increment", "set", "observe"):
        arguments = [] if operation == "value" else [1.0]
        assert on.refusal(operation, metric, *arguments) == (Code.INVALID_ARG, DELETED)
    assert on.refusal("create_metric", family, [], None) == (Code.INVALID_ARG, DELETED)
    assert on.refusal("delete_family", family) == (Code.INVALID_ARG, DELETED)


@pytest.mark.spec("python_backend:C202")
def test_a_series_stays_while_another_family_made_it_too(on: Setup) -> None:
    first, second = on.family(), on.family()
    shared = on.metric(first, a="shared")
    on.metric(first, a="own")
    also = on.metric(second, a="shared")
    on.do("set", shared, 4.0)
    on.do("delete_family", first)
    assert on.do("value", also) == 4
    assert on.samples == ['f{a="shared"} 4']
    on.do("delete_family", second)
    assert on.samples == []
    assert on.do("value", on.metric(on.family(), a="shared")) == 0


def test_a_model_that_ended_leaves_nothing_but_what_others_made_too(on: Setup) -> None:
    for model, labels in (("m", ["1", "2"]), ("other", ["2"]), ("m", ["3"])):
        on.model = model
        family = on.family()
        for label in labels:
            on.metric(family, a=label)
    on.metrics.forget("m")
    assert on.samples == ['f{a="2"} 0']
    on.metrics.forget("m")
    on.metrics.forget("other")
    assert on.samples == []


def test_an_unknown_question_is_refused(on: Setup) -> None:
    assert on.refusal("divide", 1) == (Code.INVALID_ARG, "unknown request of a model: 'divide'")
