"""The trace flags: what they amount to, and what is refused."""

from __future__ import annotations

import pytest
from atoll.cli.options import options_from
from atoll.cli.parser import UsageError, parse
from atoll.cli.trace_config import trace_options
from atoll.observe.trace_settings import TraceOptions, TraceSettings


def trace(*argv: str) -> TraceOptions:
    return options_from(parse(argv)).trace


@pytest.mark.spec("server:167")
def test_nothing_is_traced_unless_a_level_is_given() -> None:
    assert trace() == TraceOptions("triton", TraceSettings(("OFF",), 1000, -1, 0), "", {})


@pytest.mark.spec("server:167")
@pytest.mark.parametrize(
    "argv",
    [
        [
            "--trace-config=level=TIMESTAMPS",
            "--trace-config=rate=5",
            "--trace-config=count=7",
            "--trace-config=triton,file=/t.json",
            "--trace-config=triton,log-frequency=3",
        ],
        ["--trace-level=MIN", "--trace-rate=5", "--trace-count=7", "--trace-file=/t.json", "--trace-log-frequency=3"],
        ["--trace-rate=6", "--trace-file=/u", "--trace-level=tensors", "--trace-config=level=on"]
        + ["--trace-config=rate=5", "--trace-config=count=7", "--trace-config=triton,file=/t.json"]
        + ["--trace-log-frequency=3", "--trace-config=mode=triton"],
    ],
    ids=["trace-config", "deprecated", "both"],
)
def test_flags_and_their_deprecated_forms(argv: list[str]) -> None:
    assert trace(*argv) == TraceOptions("triton", TraceSettings(("TIMESTAMPS",), 5, 7, 3), "/t.json", {})


@pytest.mark.spec("server:167")
@pytest.mark.parametrize(
    ("words", "level"),
    [
        (["TIMESTAMPS", "TENSORS"], ("TIMESTAMPS", "TENSORS")),
        (["TENSORS"], ("TENSORS",)),
        (["max"], ("TIMESTAMPS",)),
        (["true", "off"], ("TIMESTAMPS",)),
        (["false"], ("OFF",)),
    ],
)
def test_levels(words: list[str], level: tuple[str, ...]) -> None:
    assert trace(*(f"--trace-config=level={word}" for word in words)).settings.level == level


@pytest.mark.spec("server:128", "server:167")
def test_the_settings_of_opentelemetry() -> None:
    chosen = trace(
        "--trace-config=mode=opentelemetry",
        "--trace-config=opentelemetry,url=http://c:4318/v1/traces",
        "--trace-config=opentelemetry,resource=service.name=mine",
        "--trace-config=opentelemetry,resource=zone=a=b",
        "--trace-config=opentelemetry,bsp_max_queue_size=4096",
    )
    assert chosen.mode == "opentelemetry"
    assert chosen.exporter == {
        "url": "http://c:4318/v1/traces",
        "resource": "service.name=mine,zone=a=b",
        "bsp_max_queue_size": "4096",
        "bsp_schedule_delay": "5000",
        "bsp_max_export_batch_size": "512",
    }


@pytest.mark.spec("server:128")
def test_the_environment_sets_what_no_flag_does() -> None:
    values = {
        "trace_config": (("", "mode", "opentelemetry"), ("opentelemetry", "bsp_schedule_delay", "9")),
        "trace_level": (),
        "trace_rate": 1,
        "trace_count": -1,
        "trace_log_frequency": 0,
        "trace_file": "",
    }
    environment = {"OTEL_BSP_SCHEDULE_DELAY": "1", "OTEL_BSP_MAX_QUEUE_SIZE": "600"}
    assert trace_options(values, environment).exporter == {
        "bsp_schedule_delay": "9",
        "bsp_max_queue_size": "600",
        "bsp_max_export_batch_size": "512",
    }


@pytest.mark.spec("server:167")
@pytest.mark.parametrize(
    ("setting", "detail"),
    [
        ("rate=x", "Invalid option value. Got x"),
        ("rate=-1", "Provided option value is out of bound. Got -1"),
        ("count=-2", "Provided option value is out of bound. Got -2"),
        ("triton,log-frequency=99999999999", "Provided option value is out of bound. Got 99999999999"),
        ("opentelemetry,bsp_schedule_delay=soon", "Invalid option value. Got soon"),
        ("opentelemetry,bsp_max_queue_size=5", "bsp_max_export_batch_size must not be greater than bsp_max_queue_size"),
        ("opentelemetry,resource==b", "the format is 'opentelemetry,resource=<key>=<value>'. Got =b"),
        ("opentelemetry,resource=b", "the format is 'opentelemetry,resource=<key>=<value>'. Got b"),
    ],
)
def test_bad_values(setting: str, detail: str) -> None:
    with pytest.raises(UsageError) as caught:
        trace("--trace-config=mode=opentelemetry", f"--trace-config={setting}")
    assert str(caught.value) == f'Bad option: "--trace-config".\n{detail}'


def test_settings_that_nobody_knows_are_named() -> None:
    given = ["--trace-config=speed=9", "--trace-config=triton,url=x", "--trace-config=rate=5"]
    assert options_from(parse(given)).warnings == (
        "Warning: '--trace-config=speed' has no meaning here and is ignored",
        "Warning: '--trace-config=triton,url' has no meaning here and is ignored",
    )
