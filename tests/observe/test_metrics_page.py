"""The metrics page: text format, names, labels, HELP lines, and the frontend that serves it."""

import asyncio
import math
from collections.abc import Callable

import aiohttp
import pytest
from atoll.errors import Code, ServerError
from atoll.frontends.metrics import MetricsFrontend, MetricsListenOptions
from atoll.observe.exposition import Family, Registry, label_text
from atoll.observe.metrics import Metrics, MetricsOptions
from atoll.observe.statistics import Failure, ModelStatistics
from prometheus_client.parser import text_string_to_metric_families

MODEL_FAMILIES = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="m",version="1"} 2
# HELP nv_inference_request_failure Number of failed inference requests, all batch sizes
# TYPE nv_inference_request_failure counter
nv_inference_request_failure{model="m",reason="REJECTED",version="1"} 0
nv_inference_request_failure{model="m",reason="CANCELED",version="1"} 0
nv_inference_request_failure{model="m",reason="BACKEND",version="1"} 1
nv_inference_request_failure{model="m",reason="OTHER",version="1"} 0
# HELP nv_inference_count Number of inferences performed (does not include cached requests)
# TYPE nv_inference_count counter
nv_inference_count{model="m",version="1"} 6
# HELP nv_inference_exec_count Number of model executions performed (does not include cached requests)
# TYPE nv_inference_exec_count counter
nv_inference_exec_count{model="m",version="1"} 1
# HELP nv_inference_request_duration_us Cumulative inference request duration in microseconds (includes cached requests)
# TYPE nv_inference_request_duration_us counter
nv_inference_request_duration_us{model="m",version="1"} 50
# HELP nv_inference_queue_duration_us Cumulative inference queuing duration in microseconds (includes cached requests)
# TYPE nv_inference_queue_duration_us counter
nv_inference_queue_duration_us{model="m",version="1"} 5
# HELP nv_inference_compute_input_duration_us Cumulative compute input duration in microseconds \
(does not include cached requests)
# TYPE nv_inference_compute_input_duration_us counter
nv_inference_compute_input_duration_us{model="m",version="1"} 2
# HELP nv_inference_compute_infer_duration_us Cumulative compute inference duration in microseconds \
(does not include cached requests)
# TYPE nv_inference_compute_infer_duration_us counter
nv_inference_compute_infer_duration_us{model="m",version="1"} 40
# HELP nv_inference_compute_output_duration_us Cumulative inference compute output duration in microseconds \
(does not include cached requests)
# TYPE nv_inference_compute_output_duration_us counter
nv_inference_compute_output_duration_us{model="m",version="1"} 4
# HELP nv_inference_pending_request_count Instantaneous number of pending requests awaiting execution per-model.
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="m",version="1"} 3
# HELP nv_model_load_duration_secs Model load time in seconds
# TYPE nv_model_load_duration_secs gauge
nv_model_load_duration_secs{model="m",version="1"} 0.25
# HELP nv_pinned_memory_pool_total_bytes Pinned memory pool total memory size, in bytes
# TYPE nv_pinned_memory_pool_total_bytes gauge
nv_pinned_memory_pool_total_bytes 268435456
# HELP nv_pinned_memory_pool_used_bytes Pinned memory pool used memory size, in bytes
# TYPE nv_pinned_memory_pool_used_bytes gauge
nv_pinned_memory_pool_used_bytes 0
"""


def used_model() -> ModelStatistics:
    statistics = ModelStatistics()
    statistics.executed(6, 2, 50_000, 5_900, (1_000, 20_000, 2_000), began_ms=1)
    statistics.failed(Failure.BACKEND, 7)
    statistics.load_duration_s = 0.25
    return statistics


def names(page: str) -> list[str]:
    return [line.split()[2] for line in page.splitlines() if line.startswith("# HELP")]


@pytest.mark.spec("server:238", "server:239", "server:240", "server:242", "server:247")
def test_the_page_of_one_model() -> None:
    metrics = Metrics(MetricsOptions(cpu=False))
    metrics.add_model("m", 1, used_model(), lambda: 3)
    assert metrics.page() == MODEL_FAMILIES


@pytest.mark.spec("server:238", "server:241")
def test_prometheus_reads_the_page() -> None:
    metrics = Metrics()
    metrics.add_model("m", 1, used_model(), lambda: 3, {"team": 'a "b"\\\n'})
    families = {family.name: family for family in text_string_to_metric_families(metrics.page())}
    failure = families["nv_inference_request_failure"]
    assert failure.documentation == "Number of failed inference requests, all batch sizes"
    assert [sample.labels["reason"] for sample in failure.samples] == ["REJECTED", "CANCELED", "BACKEND", "OTHER"]
    assert failure.samples[0].labels["_team"] == 'a "b"\\\n'
    assert 0 <= families["nv_cpu_utilization"].samples[0].value <= 1
    total = families["nv_cpu_memory_total_bytes"].samples[0].value
    assert 0 < families["nv_cpu_memory_used_bytes"].samples[0].value <= total


@pytest.mark.spec("server:241")
def test_help_of_the_processor_gauges() -> None:
    page = Metrics().page()
    assert "# HELP nv_cpu_utilization CPU utilization rate [0.0 - 1.0]\n# TYPE nv_cpu_utilization gauge\n" in page
    assert "# HELP nv_cpu_memory_total_bytes CPU total memory (RAM), in bytes\n" in page
    assert "# HELP nv_cpu_memory_used_bytes CPU used memory (RAM), in bytes\n" in page


@pytest.mark.spec("server:248")
def test_tags_become_labels_in_order() -> None:
    metrics = Metrics(MetricsOptions(cpu=False))
    metrics.add_model("m", 1, ModelStatistics(), lambda: 0, {"team": "x"})
    assert 'nv_inference_request_failure{_team="x",model="m",reason="OTHER",version="1"} 0\n' in metrics.page()


@pytest.mark.spec("server:249", "server:256")
def test_series_vanish_at_unload_and_start_at_zero_after_a_reload() -> None:
    metrics = Metrics(MetricsOptions(cpu=False))
    old = metrics.add_model("m", 1, used_model(), lambda: 3)
    new = metrics.add_model("m", 1, ModelStatistics(), lambda: 0)
    assert 'nv_inference_count{model="m",version="1"} 0\n' in metrics.page()
    metrics.remove_model(old)
    assert "nv_inference_count" in names(metrics.page())
    metrics.remove_model(new)
    assert names(metrics.page()) == ["nv_pinned_memory_pool_total_bytes", "nv_pinned_memory_pool_used_bytes"]


@pytest.mark.spec("server:167")
def test_latencies_can_be_left_out() -> None:
    metrics = Metrics(MetricsOptions(counter_latencies=False, cpu=False))
    metrics.add_model("m", 1, used_model(), lambda: 3)
    assert not [name for name in names(metrics.page()) if name.endswith("duration_us")]
    assert 'nv_inference_count{model="m",version="1"} 6\n' in metrics.page()


@pytest.mark.spec("server:243")
@pytest.mark.parametrize("latencies", [True, False])
def test_the_page_of_a_model_that_uses_the_response_cache(latencies: bool) -> None:
    metrics, statistics = Metrics(MetricsOptions(counter_latencies=latencies, cpu=False)), ModelStatistics()
    metrics.add_model("plain", 1, ModelStatistics(), lambda: 0)
    metrics.add_model("m", 1, statistics, lambda: 0)
    statistics.cached = True
    statistics.missed_cache(2_000, 7_000)
    for _ in range(2):
        statistics.found_in_cache(20_000, 1_000, 3_000)
    shown = [line for line in metrics.page().splitlines() if "nv_cache" in line]
    durations = [line for line in shown if "_duration_" in line]
    assert [line for line in shown if line not in durations] == [
        "# HELP nv_cache_num_hits_per_model Number of cache hits per model",
        "# TYPE nv_cache_num_hits_per_model counter",
        'nv_cache_num_hits_per_model{model="m",version="1"} 2',
        "# HELP nv_cache_num_misses_per_model Number of cache misses per model",
        "# TYPE nv_cache_num_misses_per_model counter",
        'nv_cache_num_misses_per_model{model="m",version="1"} 1',
    ]
    expected = [
        "# HELP nv_cache_hit_duration_per_model Total cache hit duration per model, in microseconds",
        "# TYPE nv_cache_hit_duration_per_model counter",
        'nv_cache_hit_duration_per_model{model="m",version="1"} 6',
        "# HELP nv_cache_miss_duration_per_model Total cache miss (insert+lookup) duration per model, in microseconds",
        "# TYPE nv_cache_miss_duration_per_model counter",
        'nv_cache_miss_duration_per_model{model="m",version="1"} 9',
    ]
    assert durations == (expected if latencies else [])


def test_collectors_of_others_share_families() -> None:
    def collector(label: str) -> Callable[[], list[Family]]:
        def collect() -> list[Family]:
            family = Family("requests", "counter", f"of {label}\\\n")
            family.add(label_text({"from": label}), 1)
            return [family, Family("empty", "gauge", "without samples")]

        return collect

    registry = Registry()
    first, second = collector("a"), collector("b")
    registry.register(first)
    registry.register(second)
    assert registry.page() == (
        '# HELP requests of a\\\\\\n\n# TYPE requests counter\nrequests{from="a"} 1\nrequests{from="b"} 1\n'
    )
    registry.unregister(first)
    registry.unregister(second)
    assert registry.page() == ""


def test_labels_are_sorted_with_le_and_quantile_last() -> None:
    assert label_text({"zone": "z", "le": "+Inf", "model": "m"}) == '{model="m",zone="z",le="+Inf"}'
    assert label_text({"quantile": "0.5", "version": "1"}) == '{version="1",quantile="0.5"}'
    assert label_text({}) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (True, "1"),
        (3.0, "3"),
        (0.25, "0.25"),
        (math.nan, "Nan"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (1e300, "1e+300"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    def collect() -> list[Family]:
        family = Family("f", "gauge", "h")
        family.add("", value, "_sum")
        return [family]

    registry = Registry()
    registry.register(collect)
    assert registry.page().splitlines()[-1] == f"f_sum {text}"


def test_the_machine_is_looked_at_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics(MetricsOptions(interval_s=0.001))
    looks: list[int] = []

    async def until_the_third_look() -> None:
        third = asyncio.Event()

        def refresh() -> None:
            looks.append(1)
            if len(looks) == 3:
                third.set()

        monkeypatch.setattr(metrics, "refresh", refresh)
        metrics.start()
        await asyncio.wait_for(third.wait(), 10)
        metrics.stop()

    asyncio.run(until_the_third_look())
    assert len(looks) == 3


class TestFrontend:
    @staticmethod
    async def ask(frontend: MetricsFrontend, method: str, path: str) -> tuple[int, str, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"http://127.0.0.1:{frontend.port}{path}") as answer,
        ):
            return answer.status, answer.headers["Content-Type"], await answer.text()

    @pytest.mark.spec("server:252")
    @pytest.mark.parametrize(
        ("method", "path", "expected"),
        [
            ("GET", "/metrics", (200, "text/plain; charset=utf-8", "the page é")),
            ("GET", "/metrics/", (200, "text/plain; charset=utf-8", "the page é")),
            ("GET", "/metrics?x=1", (200, "text/plain; charset=utf-8", "the page é")),
            ("GET", "/foo", (200, "text/plain", "")),
            ("POST", "/metrics", (405, "text/plain", '{"error":"Method Not Allowed"}')),
            ("DELETE", "/foo", (405, "text/plain", '{"error":"Method Not Allowed"}')),
        ],
    )
    def test_routes(self, method: str, path: str, expected: tuple[int, str, str]) -> None:
        async def run() -> tuple[int, str, str]:
            frontend = MetricsFrontend(lambda: "the page é", MetricsListenOptions("127.0.0.1", 0))
            await frontend.start()
            assert frontend.port != 0
            answer = await self.ask(frontend, method, path)
            await frontend.stop(1)
            return answer

        assert asyncio.run(run()) == expected

    @pytest.mark.spec("server:161")
    def test_a_taken_port_is_unavailable(self) -> None:
        async def run() -> ServerError:
            first = MetricsFrontend(str, MetricsListenOptions("127.0.0.1", 0))
            await first.start()
            second = MetricsFrontend(str, MetricsListenOptions("127.0.0.1", first.port))
            try:
                with pytest.raises(ServerError) as caught:
                    await second.start()
            finally:
                await first.stop(1)
            assert caught.value.message == f"Socket '127.0.0.1:{first.port}' already in use "
            return caught.value

        assert asyncio.run(run()).code is Code.UNAVAILABLE

    def test_stopping_closes_idle_connections(self) -> None:
        async def run() -> None:
            frontend = MetricsFrontend(str, MetricsListenOptions("127.0.0.1", 0))
            await frontend.start()
            reader, writer = await asyncio.open_connection("127.0.0.1", frontend.port)
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.wait_for(frontend.stop(0), 5)
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

        asyncio.run(run())
