"""The layers of trace settings, and the choice of requests by rate and count."""

from __future__ import annotations

import pytest
from atoll.errors import Code, ServerError
from atoll.observe.trace_settings import Sampler, TraceControl, TraceOptions, TraceSettings, read_changes

ON = ("TIMESTAMPS",)


def control(file: str = "/t.json", mode: str = "triton", **settings: object) -> TraceControl:
    return TraceControl(TraceOptions(mode, TraceSettings(**settings), file))  # type: ignore[arg-type]


def shown(control: TraceControl, model: str = "") -> dict[str, str]:
    return {name: ",".join(values) for name, values in control.shown(model).items()}


@pytest.mark.spec("server:124")
def test_the_settings_in_the_protocols_words() -> None:
    assert list(shown(control(file="")).items()) == [
        ("trace_level", "OFF"),
        ("trace_rate", "1000"),
        ("trace_count", "-1"),
        ("log_frequency", "0"),
        ("trace_file", ""),
        ("trace_mode", "triton"),
    ]


@pytest.mark.spec("server:124")
def test_opentelemetry_shows_its_own_settings_instead_of_a_file() -> None:
    options = TraceOptions("opentelemetry", exporter={"url": "http://c/v1/traces", "bsp_max_queue_size": "2048"})
    assert list(shown(TraceControl(options)).items()) == [
        ("trace_level", "OFF"),
        ("trace_rate", "1000"),
        ("trace_count", "-1"),
        ("trace_mode", "opentelemetry"),
        ("url", "http://c/v1/traces"),
        ("bsp_max_queue_size", "2048"),
    ]


@pytest.mark.spec("server:124")
def test_a_model_follows_all_others_until_it_has_settings_of_its_own() -> None:
    settings = control(rate=10)
    settings.update({"rate": 20})
    assert shown(settings, "m")["trace_rate"] == "20"
    settings.update({"rate": 7, "log_frequency": 3}, "m")
    settings.update({"rate": 30, "log_frequency": 4})
    assert (shown(settings)["trace_rate"], shown(settings, "m")["trace_rate"]) == ("30", "7")
    settings.update({"rate": None}, "m")
    assert (shown(settings, "m")["trace_rate"], shown(settings, "m")["log_frequency"]) == ("30", "3")
    settings.update({"log_frequency": None}, "m")
    assert settings.sampler("m") is settings.sampler("another")


@pytest.mark.spec("server:124")
def test_a_cleared_global_setting_is_what_it_was_at_start_up() -> None:
    settings = control(level=ON, rate=10, count=5)
    settings.update({"level": ("OFF",), "rate": 3, "count": 1})
    assert not settings.is_on
    settings.update({"level": None, "rate": None, "count": None})
    assert (shown(settings)["trace_level"], shown(settings)["trace_rate"]) == ("TIMESTAMPS", "10")
    assert shown(settings)["trace_count"] == "5"
    assert settings.is_on


def test_one_model_alone_can_be_traced() -> None:
    settings = control()
    settings.update({"level": ON, "rate": 1}, "m")
    assert settings.is_on
    assert settings.sampler("m").take()
    assert not settings.sampler("another").take()


@pytest.mark.spec("server:125")
def test_a_level_needs_a_file() -> None:
    settings = control(file="")
    with pytest.raises(ServerError, match=r"Attempting to set invalid trace setting :trace file name is not given"):
        settings.update({"level": ON, "rate": 5})
    with pytest.raises(ServerError, match="trace file name is not given"):
        settings.update({"level": ON}, "m")
    assert (shown(settings)["trace_level"], shown(settings)["trace_rate"]) == ("OFF", "1000")
    with pytest.raises(ServerError, match="trace file name is not given"):
        control(file="", level=ON)
    control(file="", mode="opentelemetry", level=ON)


@pytest.mark.spec("server:126")
def test_every_so_manieth_request_as_long_as_the_count_lasts() -> None:
    sampler = Sampler(TraceSettings(ON, rate=3, count=2), 2)
    assert [sampler.take() for _ in range(12)] == [False, False, True, False, False, True] + [False] * 6
    assert sampler.remaining == 0
    endless = Sampler(TraceSettings(ON, rate=1), -1)
    assert [endless.take() for _ in range(3)] == [True] * 3
    assert endless.remaining == -1
    assert not Sampler(TraceSettings(ON, rate=0), -1).take()
    assert not Sampler(TraceSettings(rate=1), -1).take()


@pytest.mark.spec("server:126")
def test_a_count_is_replenished_only_by_naming_it() -> None:
    settings = control(level=ON, rate=1, count=3)
    assert settings.sampler("m").take()
    assert shown(settings)["trace_count"] == "2"
    settings.update({"rate": 2})
    assert shown(settings)["trace_count"] == "2"
    settings.update({"rate": 1}, "m")
    assert shown(settings, "m")["trace_count"] == "2"
    settings.update({"count": 3})
    assert (shown(settings)["trace_count"], shown(settings, "m")["trace_count"]) == ("3", "3")
    assert settings.sampler("m").take()
    settings.update({"log_frequency": 9})
    assert (shown(settings)["trace_count"], shown(settings, "m")["trace_count"]) == ("3", "2")


@pytest.mark.spec("server:124")
def test_reading_changes() -> None:
    given = {"trace_level": ["TENSORS", "BOGUS", "TIMESTAMPS"], "trace_rate": ["5"], "log_frequency": None, "x": ["y"]}
    assert read_changes(given) == {"level": ("TIMESTAMPS", "TENSORS"), "rate": 5, "log_frequency": None}
    assert read_changes({"trace_level": ["BOGUS"], "trace_file": None, "trace_count": [" +7"]}) == {
        "level": ("OFF",),
        "count": 7,
    }


@pytest.mark.spec("server:125")
@pytest.mark.parametrize(
    ("name", "texts", "message"),
    [
        ("trace_rate", ["x"], "Unable to parse 'trace_rate', got: x"),
        ("trace_rate", ["5x"], "Unable to parse 'trace_rate', got: 5x"),
        ("trace_rate", [""], "Unable to parse 'trace_rate', got: "),
        ("log_frequency", ["x"], "Unable to parse 'log_frequency', got: x"),
        ("trace_count", ["1.5"], "Unable to parse 'trace_count', got: 1.5"),
        (
            "log_frequency",
            ["4294967296"],
            "Unable to parse 'log_frequency', value is out of range [ 0, 4294967295 ], got: 4294967296",
        ),
        (
            "trace_rate",
            ["9" * 5000],
            f"Unable to parse 'trace_rate', value is out of range [ 0, 4294967295 ], got: {'9' * 5000}",
        ),
        (
            "trace_count",
            ["2147483648"],
            "Unable to parse 'trace_count', value is out of range [ -1, 2147483647 ], got: 2147483648",
        ),
        ("trace_count", ["-2"], "Unable to parse 'trace_count'. Expecting value >= -1, got: -2"),
        ("trace_level", ["OFF", "TENSORS"], "Expect only one trace level 'OFF' is specified"),
        ("trace_rate", ["1", "2"], "expect only 1 value for 'trace_rate'"),
    ],
)
def test_changes_that_are_refused(name: str, texts: list[str], message: str) -> None:
    with pytest.raises(ServerError) as caught:
        read_changes({name: texts}, gap=" ")
    assert (caught.value.code, caught.value.message) == (Code.INVALID_ARG, message)


def test_a_negative_rate_counts_from_the_largest() -> None:
    assert read_changes({"trace_rate": ["-5"]}) == {"rate": 4294967291}
