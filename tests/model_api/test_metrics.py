"""Metrics that models make, on a real server's page: kinds, labels, texts, lifetime, and who shares what.

The model ``script`` runs the lines that a request brings; what they leave in ``result`` is the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from calling import call, wait_until
from rendezvous import config, write
from serving import Served, serve

SCRIPT = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def __init__(self):
        self.early = pb_utils.MetricFamily("made_in_init_total", "help", pb_utils.MetricFamily.COUNTER)
        self.early.Metric(labels={"step": "init"}).increment(1)

    def initialize(self, args):
        self.early.Metric(labels={"step": "initialize"}).increment(1)
        self.names = {"pb_utils": pb_utils, "np": np, "Family": pb_utils.MetricFamily}

    def execute(self, requests):
        responses = []
        for request in requests:
            self.names["result"] = None
            try:
                exec(request.inputs()[0].as_numpy()[0].decode(), self.names)
                result = str(self.names["result"])
            except (pb_utils.TritonModelException, TypeError, AttributeError) as error:
                result = f"{type(error).__name__}: {error}"
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([result], object))]))
        return responses
"""

SHARES = """
import threading
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        name = args["model_instance_name"]
        description = "described by " + args["model_name"]
        self.family = pb_utils.MetricFamily("shared_total", description, pb_utils.MetricFamily.COUNTER)
        self.shared = self.family.Metric(labels={"of": "all"})
        self.own = self.family.Metric(labels={"of": name})
        threads = [threading.Thread(target=self.increment) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def increment(self):
        for metric in (self.shared, self.own):
            metric.increment(0.5)

    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", r.inputs()[0].as_numpy())]) for r in requests]

    def finalize(self):
        self.shared.increment(100)
        pb_utils.Logger.log_info(f"value in finalize: {self.shared.value():g}")
"""

DIES = SHARES.replace("shared_total", "dies_total").replace(
    "    def execute(self, requests):\n", "    def execute(self, requests):\n        import os; os._exit(3)\n"
)

FAILS = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.family = pb_utils.MetricFamily("of_a_failure", "help", pb_utils.MetricFamily.GAUGE)
        self.metric = self.family.Metric()
        self.metric.set(1)
        pb_utils.Logger.log_info(f"set {self.metric.value():g}")
        raise ValueError("no")
"""

ANYTHING = np.zeros(1, np.uint8)


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[Served]:
    write(repository, "script", SCRIPT, config("IN:STRING", "OUT:STRING"))
    write(repository, "shares", SHARES, config(count=3))
    write(repository, "shares_too", SHARES)
    write(repository, "dies", DIES)
    write(repository, "fails", FAILS)
    with serve(repository, "--model-control-mode=explicit", "--load-model=script") as served:
        yield served


@pytest.fixture
def run(served: Served) -> Iterator[Run]:
    """Has the model run lines; every name that they made is gone afterwards."""
    run = Run(served)
    yield run
    run("for name in set(globals()) - {'pb_utils', 'np', 'Family', 'result', '__builtins__'}: del globals()[name]")


class Run:
    def __init__(self, served: Served) -> None:
        self._served = served

    def __call__(self, *lines: str) -> str:
        """What the lines leave in ``result``, as text."""
        (text,) = call(self._served, "script", {"IN": ["\n".join(lines)]})["OUT"]
        return str(text.decode())

    def page(self, name: str) -> list[str]:
        return page(self._served, name)


def page(served: Served, name: str) -> list[str]:
    """The lines of a family."""
    own = re.compile(rf"(# HELP |# TYPE )?{name}(_bucket|_sum|_count)?[ {{]")
    return [line for line in served.metrics().splitlines() if own.match(line)]


def load(served: Served, model: str, status: int = 200) -> None:
    assert served.post(f"/v2/repository/models/{model}/load", {})[0] == status


def unload(served: Served, model: str, times: int = 1) -> None:
    assert served.post(f"/v2/repository/models/{model}/unload", {})[0] == 200
    served.wait_for_log(f"successfully unloaded '{model}' version 1", times=times)


OF_THE_SERVER = "Failed to process the request for model 'script_0_0', message: "


# -- kinds


@pytest.mark.spec("python_backend:C197")
@pytest.mark.spec("python_backend:Q107")
def test_a_counter(run: Run) -> None:
    run("f = Family('a_counter', 'It counts.', Family.COUNTER)", "m = f.Metric(labels={'b': 'x', 'a': 'y'})")
    assert run.page("a_counter") == [
        "# HELP a_counter It counts.",
        "# TYPE a_counter counter",
        'a_counter{a="y",b="x"} 0',
    ]
    assert run("m.increment(1); m.increment(0); m.increment(0.25); result = m.value()") == "1.25"
    assert run("m.increment(-1)") == (
        f"TritonModelException: Failed to increment metric value: {OF_THE_SERVER}"
        "TRITONSERVER_METRIC_KIND_COUNTER can only be incremented monotonically by non-negative values."
    )
    assert run.page("a_counter")[2:] == ['a_counter{a="y",b="x"} 1.25']


@pytest.mark.spec("python_backend:C197")
@pytest.mark.spec("python_backend:Q107")
def test_a_gauge(run: Run) -> None:
    run("f = Family(name='a_gauge', description='help', kind=Family.GAUGE)", "m = f.Metric()")
    assert run.page("a_gauge")[1:] == ["# TYPE a_gauge gauge", "a_gauge 0"]
    assert run("m.set(10); m.increment(-2.5); m.increment(np.float32(1)); result = m.value()") == "8.5"
    assert run("m.set(value=-1); result = type(m.value()).__name__") == "float"
    assert run.page("a_gauge")[2:] == ["a_gauge -1"]


@pytest.mark.spec("python_backend:C197")
@pytest.mark.spec("python_backend:Q107")
def test_a_histogram(run: Run) -> None:
    run("f = Family('a_histogram', 'help', Family.HISTOGRAM)", "m = f.Metric(labels={'a': 'x'}, buckets=[0.1, 1, 2.5])")
    run("for value in (0, 0.5, 1, 100): m.observe(value)")
    assert run.page("a_histogram") == [
        "# HELP a_histogram help",
        "# TYPE a_histogram histogram",
        'a_histogram_bucket{a="x",le="0.1"} 1',
        'a_histogram_bucket{a="x",le="1"} 3',
        'a_histogram_bucket{a="x",le="2.5"} 3',
        'a_histogram_bucket{a="x",le="+Inf"} 4',
        'a_histogram_sum{a="x"} 101.5',
        'a_histogram_count{a="x"} 4',
    ]


@pytest.mark.spec("python_backend:C197")
@pytest.mark.parametrize(
    ("kind", "operation", "doing"),
    [
        ("COUNTER", "set(1)", "set"),
        ("COUNTER", "observe(1)", "observe"),
        ("GAUGE", "observe(1)", "observe"),
        ("HISTOGRAM", "increment(1)", "increment"),
        ("HISTOGRAM", "set(1)", "set"),
        ("HISTOGRAM", "value()", "get"),
    ],
)
def test_operations_of_other_kinds_are_refused(run: Run, kind: str, operation: str, doing: str) -> None:
    buckets = "buckets=[1]" if kind == "HISTOGRAM" else ""
    name = operation.partition("(")[0].capitalize()
    assert run(f"f = Family('f_{kind}', '', Family.{kind})", f"f.Metric({buckets}).{operation}") == (
        f"TritonModelException: Failed to {doing} metric value: {OF_THE_SERVER}"
        f"TRITONSERVER_METRIC_KIND_{kind} does not support {name}"
    )


# -- arguments


@pytest.mark.spec("python_backend:C199")
@pytest.mark.spec("python_backend:Q108")
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("", "Failed to create metric. Missing required buckets."),
        ("buckets=None", "Failed to create metric. Missing required buckets."),
        ("buckets=(1, 2)", "Failed to create metric. Buckets must be a list."),
        ("buckets=np.array([1, 2])", "Failed to create metric. Buckets must be a list."),
        (
            "buckets=[2, 1]",
            f"Error when creating Metric: {OF_THE_SERVER}Buckets must be in ascending order, without dup",
        ),
        (
            "buckets=[1, 1]",
            f"Error when creating Metric: {OF_THE_SERVER}Buckets must be in ascending order, without dup",
        ),
    ],
)
def test_buckets_of_a_histogram(run: Run, arguments: str, text: str) -> None:
    refusal = run("f = Family('h', '', Family.HISTOGRAM)", f"f.Metric({arguments})")
    assert refusal.startswith(f"TritonModelException: {text}")
    assert run("f.Metric(buckets=[]).observe(1)") == "None"


@pytest.mark.spec("python_backend:C199")
@pytest.mark.parametrize("kind", ["COUNTER", "GAUGE"])
@pytest.mark.parametrize("buckets", ["[]", "[1]"])
def test_only_histograms_have_buckets(run: Run, kind: str, buckets: str) -> None:
    refusal = run(f"f = Family('f_{kind}', '', Family.{kind})", f"f.Metric(buckets={buckets})")
    assert refusal == "TritonModelException: Failed to create metric. Unexpected buckets found."


@pytest.mark.spec("python_backend:C198")
@pytest.mark.parametrize("labels", ["['a']", "'a'", "5", "(('a', 'b'),)"])
def test_labels_are_a_dictionary(run: Run, labels: str) -> None:
    refusal = run("f = Family('f', '', Family.GAUGE)", f"f.Metric(labels={labels})")
    assert refusal == "TritonModelException: Failed to create metric. Labels must be a dictionary."


@pytest.mark.spec("python_backend:C198")
@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ("{'a': 1}", "Labels must be strings"),
        ("{1: 'a'}", "Labels must be strings"),
        ("{'a': None}", "Labels must be strings"),
        ("{'a-b': 'x'}", "Invalid label name: 'a-b'"),
        ("{'': 'x'}", "Invalid label name: ''"),
    ],
)
def test_labels_are_checked(run: Run, labels: str, text: str) -> None:
    refusal = run("f = Family('f', '', Family.GAUGE)", f"f.Metric(labels={labels})")
    assert refusal == f"TritonModelException: Error when creating Metric: {OF_THE_SERVER}{text}"
    assert run.page("f") == []


@pytest.mark.parametrize(
    "line",
    [
        "Family('f', '', 1)",
        "Family('f', '', None)",
        "Family('f', '')",
        "Family(None, '', Family.GAUGE)",
        "Family('f', 5, Family.GAUGE)",
        "Family('f', '', Family.GAUGE).Metric(tags={})",
        "Family('f', '', Family.GAUGE).Metric().set('1')",
        "Family('f', '', Family.GAUGE).Metric().set(None)",
        "Family('f', '', Family.GAUGE).Metric().increment()",
        "Family('f', '', Family.HISTOGRAM).Metric(buckets=['1'])",
    ],
)
def test_wrong_types_are_type_errors(run: Run, line: str) -> None:
    assert run(line.replace("'f'", "'of_wrong_types'" if "HISTOGRAM" not in line else "'h'")).startswith("TypeError: ")


# -- what is shared


@pytest.mark.spec("python_backend:C200")
@pytest.mark.spec("python_backend:Q109")
def test_a_family_of_the_same_name(run: Run) -> None:
    run("f = Family('twice', 'first', Family.COUNTER)", "g = Family('twice', 'second', Family.COUNTER)")
    run("f.Metric(labels={'of': 'f'}).increment(1)", "g.Metric(labels={'of': 'g'}).increment(2)")
    assert run.page("twice") == [
        "# HELP twice first",
        "# TYPE twice counter",
        'twice{of="f"} 1',
        'twice{of="g"} 2',
    ]
    assert run("Family('twice', 'first', Family.GAUGE)") == (
        f"TritonModelException: Error when creating MetricFamily: {OF_THE_SERVER}"
        "Metric family 'twice' already exists with kind COUNTER, not GAUGE"
    )
    assert run("Family('not valid', '', Family.GAUGE)") == (
        f"TritonModelException: Error when creating MetricFamily: {OF_THE_SERVER}Invalid metric name: 'not valid'"
    )


@pytest.mark.spec("python_backend:Q109")
def test_metrics_of_the_same_labels_share_their_value(run: Run) -> None:
    run("f = Family('once', '', Family.GAUGE)", "a, b = (f.Metric(labels={'x': '1'}) for _ in range(2))")
    assert run("a.set(5); b.increment(1); result = a.value(), b.value()") == "(6.0, 6.0)"
    assert run.page("once")[2:] == ['once{x="1"} 6']


# -- how long it lives


@pytest.mark.spec("python_backend:C202")
@pytest.mark.spec("python_backend:Q109")
def test_a_family_keeps_its_metrics_and_takes_them_with_it(run: Run) -> None:
    run("f = Family('mortal', '', Family.GAUGE)", "f.Metric(labels={'x': '1'}).set(5)", "m = f.Metric()")
    assert run.page("mortal")[2:] == ['mortal{x="1"} 5', "mortal 0"]
    deleted = (
        "Invalid metric operation as the corresponding 'MetricFamily' has been deleted. The 'MetricFamily' object "
        "should be deleted AFTER its corresponding 'Metric' objects have been deleted."
    )
    assert run("del f", "m.set(1)") == f"TritonModelException: Failed to set metric value: {deleted}"
    assert run("m.value()") == f"TritonModelException: Failed to get metric value: {deleted}"
    assert run.page("mortal") == []


@pytest.mark.spec("server:251")
@pytest.mark.parametrize("name", ["nv_inference_count", "atoll_instance_restarts", "nv_cpu_utilization"])
def test_a_metric_of_the_server_is_no_models(run: Run, name: str) -> None:
    assert run(f"f = Family('{name}', '', Family.GAUGE)") == (
        "TritonModelException: Error when creating MetricFamily: Failed to process the request for model 'script_0_0', "
        f"message: Metric family '{name}' would clash with a metric of the server"
    )


@pytest.mark.spec("python_backend:C202")
@pytest.mark.spec("python_backend:Q109")
def test_another_family_of_the_name_goes_on_when_the_first_is_deleted(run: Run) -> None:
    run("f, g = (Family('heir', '', Family.GAUGE) for _ in range(2))", "a, b = f.Metric(), g.Metric()", "a.set(5)")
    assert run("del f", "b.increment(1)", "result = b.value()") == "6.0"
    assert run.page("heir")[2:] == ["heir 6"]


def test_metrics_may_be_made_from_the_beginning(served: Served) -> None:
    assert page(served, "made_in_init_total")[2:] == [
        'made_in_init_total{step="init"} 1',
        'made_in_init_total{step="initialize"} 1',
    ]


@pytest.mark.spec("python_backend:C201")
@pytest.mark.spec("python_backend:C203")
def test_instances_and_models_share_a_series_until_the_last_of_them_ends(served: Served) -> None:
    for model in ("shares", "shares_too"):
        load(served, model)
    head = ["# HELP shared_total described by shares", "# TYPE shared_total counter"]
    own = {f'shared_total{{of="shares_0_{number}"}} 5' for number in range(3)}
    lines = page(served, "shared_total")
    assert lines[:2] == head
    assert set(lines[2:]) == {'shared_total{of="all"} 20', 'shared_total{of="shares_too_0_0"} 5', *own}
    unload(served, "shares")
    assert page(served, "shared_total") == [*head, 'shared_total{of="all"} 320', 'shared_total{of="shares_too_0_0"} 5']
    unload(served, "shares_too")
    served.wait_for_log("value in finalize: 420")
    assert page(served, "shared_total") == []


def test_a_series_survives_the_stub_that_crashed_but_not_the_model(served: Served) -> None:
    load(served, "dies")
    assert page(served, "dies_total")[2:] == ['dies_total{of="all"} 5', 'dies_total{of="dies_0_0"} 5']
    assert call(served, "dies", {"IN": ANYTHING}).status == 500
    served.wait_for_log("instance 'dies_0_0' serves again")
    wait_until(lambda: 'dies_total{of="dies_0_0"} 10' in page(served, "dies_total"), "the next stub counts on")
    unload(served, "dies")
    assert page(served, "dies_total") == []


def test_a_model_that_fails_to_load_leaves_no_series(served: Served) -> None:
    load(served, "fails", status=400)
    served.wait_for_log('"set 1"')
    assert page(served, "of_a_failure") == []
