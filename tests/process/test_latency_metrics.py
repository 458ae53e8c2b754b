"""Latencies of served models: summaries, histograms and the statistics of each response of a stream."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from calling import call, metric, statistics, wait_until
from grpc_wire import RpcClient, infer_request
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from rendezvous import IDENTITY, config, identity, write
from serving import Served, serve

FIRST_RESPONSE = "nv_inference_first_response_histogram_ms"

STREAM = """
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for word in request.inputs()[0].as_numpy():
                if word == b"data":
                    sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", request.inputs()[0].as_numpy())]))
                else:
                    code = getattr(pb_utils.TritonError, word.decode())
                    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("asked for", code)))
            sender.send(flags=FINAL)
"""
DECOUPLED = """
model_transaction_policy { decoupled: true }
model_metrics {
  metric_control {
    metric_identifier { family: "nv_inference_first_response_histogram_ms" }
    histogram_options { buckets: [ 60000, 0.000001 ] }
  }
}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    repository = tmp_path_factory.mktemp("models")
    identity(repository)
    write(repository, "stream", STREAM, config(inputs="IN:STRING", outputs="OUT:STRING", more=DECOUPLED))
    settings = (
        "summary_latencies=true",
        "summary_quantiles=0.5:0.05",
        "histogram_latencies=true",
        "stage_histograms=1",
    )
    write(repository, "cached", IDENTITY, config(more="response_cache { enable: true }"))
    metrics = (f"--metrics-config={setting}" for setting in settings)
    with serve(repository, "--cache-config=local,size=1048576", *metrics) as served:
        yield served


def shown(server: Served, model: str) -> dict[str, Metric]:
    """The families that have samples of a model, with those samples alone."""
    families = {}
    for family in text_string_to_metric_families(server.metrics()):
        family.samples = [sample for sample in family.samples if sample.labels.get("model") == model]
        if family.samples:
            families[family.name] = family
    return families


def stream(server: Served, *words: str) -> int:
    """How many messages a request for these responses is answered with."""
    raw = b"".join(len(word).to_bytes(4, "little") + word.encode() for word in words)
    tensor = {"name": "IN", "datatype": "BYTES", "shape": [len(words)]}
    client = RpcClient(server.grpc_url)
    with client.channel:
        return len(list(client.stream([infer_request("stream", tensor, raw_input_contents=[raw])])))


@pytest.mark.spec("server:245")
def test_summaries_tell_how_long_requests_took(server: Served) -> None:
    for _ in range(3):
        assert call(server, "identity", {"IN": np.ones(4, np.uint8)}).status == 200
    families = shown(server, "identity")
    taken = statistics(server, "identity")["inference_stats"]
    for name, counted in (
        ("request", "success"),
        ("queue", "queue"),
        ("compute_input", "compute_input"),
        ("compute_infer", "compute_infer"),
        ("compute_output", "compute_output"),
    ):
        values = {sample.name: sample.value for sample in families[f"nv_inference_{name}_summary_us"].samples}
        total_us = taken[counted]["ns"] / 1000
        assert values[f"nv_inference_{name}_summary_us_count"] == taken[counted]["count"] == 3
        assert total_us - 3 <= values[f"nv_inference_{name}_summary_us_sum"] <= total_us
        assert 0 <= values[f"nv_inference_{name}_summary_us"] <= total_us * 1.01


@pytest.mark.spec("server:243", "server:245")
def test_a_model_that_uses_the_response_cache_has_counters_and_summaries_of_that(server: Served) -> None:
    x = {"IN": np.ones(4, np.uint8)}
    assert call(server, "cached", x).status == 200
    wait_until(lambda: metric(server, "nv_cache_num_misses_per_model", "cached") == 1, "the response is inserted")
    for _ in range(2):
        assert call(server, "cached", x).status == 200
    families = shown(server, "cached")
    values = {sample.name: sample.value for family in families.values() for sample in family.samples}
    assert metric(server, "nv_cache_num_hits_per_model", "cached") == 2
    assert values["nv_cache_hit_summary_per_model_count"] == 2
    assert values["nv_cache_miss_summary_per_model_count"] == 1
    assert values["nv_inference_queue_summary_us_count"] == 3
    assert values["nv_inference_compute_infer_summary_us_count"] == 1
    assert "nv_inference_request_summary_us" not in families
    assert "nv_cache_num_hits_per_model" not in shown(server, "identity")


def test_stage_histograms_count_every_request_and_the_depth_every_execution(server: Served) -> None:
    assert call(server, "identity", {"IN": np.ones(4, np.uint8)}).status == 200
    families = shown(server, "identity")
    requests = statistics(server, "identity")["inference_stats"]["success"]["count"]
    counts = {
        (sample.name, sample.labels.get("stage")): sample.value
        for name in ("atoll_stage_duration_us", "atoll_queue_depth")
        for sample in families[name].samples
        if sample.name.endswith("_count")
    }
    stages = ("queue", "compute_input", "compute_infer", "compute_output")
    assert counts == {
        **{("atoll_stage_duration_us_count", stage): requests for stage in stages},
        ("atoll_queue_depth_count", None): statistics(server, "identity")["execution_count"],
    }


@pytest.mark.spec("server:246", "server:255")
def test_the_first_response_of_a_stream_and_all_after_it_are_counted(server: Served) -> None:
    assert FIRST_RESPONSE not in shown(server, "identity")
    assert stream(server, "data", "data", "CANCELLED") == 3
    assert stream(server, "INTERNAL") == 1
    first = shown(server, "stream")[FIRST_RESPONSE]
    buckets = {sample.labels["le"]: sample.value for sample in first.samples if sample.name.endswith("_bucket")}
    assert buckets == {"1e-06": 0, "60000": 2, "+Inf": 2}

    responses = statistics(server, "stream")["response_stats"]
    counts = {
        index: {what: duration["count"] for what, duration in response.items() if duration["count"]}
        for index, response in responses.items()
    }
    assert counts == {
        "0": {"compute_infer": 2, "compute_output": 2, "success": 1, "fail": 1},
        "1": {"compute_infer": 1, "compute_output": 1, "success": 1, "empty_response": 1},
        "2": {"cancel": 1},
        "3": {"empty_response": 1},
    }
    for response in responses.values():
        times = {what: duration["ns"] for what, duration in response.items()}
        assert times["success"] + times["fail"] == times["compute_infer"] + times["compute_output"]
        assert (times["compute_output"] > 0) == (response["compute_output"]["count"] > 0)
