"""What the parts of the server are told, and what the tables show."""

from atoll.cli.options import Options, options_from
from atoll.cli.parser import parse
from atoll.cli.wiring import backend_settings, log_settings, metrics_options, option_rows
from atoll.observe.distributions import DEFAULT_QUANTILES, DistributionOptions


def options(*argv: str) -> Options:
    return options_from(parse(argv))


def test_option_rows() -> None:
    chosen = options("--id=x", "--model-repository=/b", "--model-repository=/a", "--rate-limit-resource=R:2:1")
    rows = dict(option_rows(chosen, ("classification", "sequence")))
    assert list(rows) == [
        "server_id",
        "server_version",
        "server_extensions",
        "model_repository_path[0]",
        "model_repository_path[1]",
        "model_control_mode",
        "strict_model_config",
        "model_config_name",
        "rate_limit",
        "rate_limit_resource[0]",
        "pinned_memory_pool_byte_size",
        "min_supported_compute_capability",
        "strict_readiness",
        "exit_timeout",
        "cache_enabled",
    ]
    assert rows["server_id"] == "x"
    assert rows["server_extensions"] == "classification sequence"
    assert rows["model_repository_path[0]"] == "/a"
    assert (rows["model_control_mode"], rows["rate_limit"]) == ("MODE_NONE", "OFF")
    assert (rows["strict_model_config"], rows["strict_readiness"], rows["exit_timeout"]) == (0, 1, 30)
    assert rows["pinned_memory_pool_byte_size"] == 268435456
    assert rows["min_supported_compute_capability"] == 6.0


def test_backend_settings_shown() -> None:
    assert list(backend_settings(options()).items()) == [
        ("auto-complete-config", "true"),
        ("backend-directory", "/opt/tritonserver/backends"),
        ("min-compute-capability", "6.000000"),
        ("default-max-batch-size", "4"),
    ]
    chosen = backend_settings(
        options(
            "--disable-auto-complete-config",
            "--backend-config=default-max-batch-size=8",
            "--backend-config=python,shm-backing=memfd",
        )
    )
    assert chosen["auto-complete-config"] == "false"
    assert chosen["default-max-batch-size"] == "8"
    assert chosen["shm-backing"] == "memfd"


def test_log_and_metrics_settings() -> None:
    chosen = options("--log-format=iso8601", "--log-info=off", "--metrics-interval-ms=500", "--allow-cpu-metrics=0")
    log = log_settings(chosen)
    assert (log.format, log.info, log.verbose_level) == ("ISO8601", False, 0)
    metrics = metrics_options(chosen)
    assert (metrics.interval_s, metrics.cpu, metrics.counter_latencies) == (0.5, False, True)
    assert not metrics.distributions


def test_what_distributions_are_kept() -> None:
    def kept(*settings: str) -> DistributionOptions:
        return metrics_options(options(*(f"--metrics-config={setting}" for setting in settings))).distributions

    assert kept("summary_latencies=true") == DistributionOptions(DEFAULT_QUANTILES)
    assert kept("summary_latencies=true", "summary_quantiles=0.5:0") == DistributionOptions((0.5,))
    assert not kept("summary_quantiles=0.5:0")
    assert kept("histogram_latencies=true", "stage_histograms=true") == DistributionOptions((), True, True)
