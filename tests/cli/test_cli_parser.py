"""The command line's grammar: that of getopt_long, and the value types."""

import pytest
from atoll.cli.flags import FLAGS, usage
from atoll.cli.parser import HelpRequested, Parsed, UsageError, parse


def error_of(*argv: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse(argv)
    return str(caught.value)


@pytest.mark.spec("server:155")
@pytest.mark.parametrize(
    "argv",
    [
        ["--http-port", "9000"],
        ["--http-port=9000"],
        ["--http-po", "9000"],
        ["--http-po=9000"],
        ["--http-port=1", "--http-port=9000"],
    ],
)
def test_a_value_follows_its_flag_in_either_form(argv: list[str]) -> None:
    assert parse(argv) == Parsed({"http-port": 9000}, [])


@pytest.mark.spec("server:155")
def test_words_stand_anywhere_and_two_dashes_end_the_flags() -> None:
    parsed = parse(["one", "--id", "x", "two", "--", "--http-port=1"])
    assert parsed == Parsed({"id": "x"}, ["one", "two", "--http-port=1"])


@pytest.mark.spec("server:155")
def test_a_value_may_begin_with_dashes_and_hold_equal_signs() -> None:
    assert parse(["--id", "--x", "--log-file=a=b"]).given == {"id": "--x", "log-file": "a=b"}


@pytest.mark.spec("server:155")
def test_an_exact_name_is_not_ambiguous_with_a_longer_one() -> None:
    assert parse(["--rate-limit=off"]).given == {"rate-limit": "off"}
    assert parse(["--grpc-use-ssl=1"]).given == {"grpc-use-ssl": True}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--nonsense"], "unrecognized option '--nonsense'"),
        (["--http-port"], "option '--http-port' requires an argument"),
        (["--disable-auto-complete-config=1"], "option '--disable-auto-complete-config' doesn't allow an argument"),
        (["-v"], "invalid option -- 'v'"),
    ],
)
def test_what_getopt_refuses(argv: list[str], message: str) -> None:
    assert error_of(*argv) == message


def test_an_ambiguous_prefix_names_its_possibilities() -> None:
    message = error_of("--metrics-", "1")
    assert message.startswith("option '--metrics-' is ambiguous; possibilities: ")
    assert "'--metrics-port'" in message


@pytest.mark.spec("server:159")
def test_help_wins_over_later_mistakes_and_lists_every_flag() -> None:
    with pytest.raises(HelpRequested):
        parse(["--help", "--nonsense"])
    text = usage()
    assert text.startswith("Usage: tritonserver [options]\n")
    listed = {line.split()[0] for line in text.splitlines() if line.startswith("  --")}
    assert listed == {f"--{name}" for name in FLAGS}


@pytest.mark.spec("server:157")
@pytest.mark.parametrize("text", ["true", "on", "1", "TRUE", "On"])
def test_yes(text: str) -> None:
    assert parse([f"--allow-http={text}"]).given == {"allow-http": True}


@pytest.mark.spec("server:157")
@pytest.mark.parametrize("text", ["false", "off", "0", "FALSE", "Off"])
def test_no(text: str) -> None:
    assert parse([f"--allow-http={text}"]).given == {"allow-http": False}


@pytest.mark.spec("server:269")
@pytest.mark.parametrize(("text", "level"), [("2", 2), ("true", 1), ("false", 0), ("0", 0), ("1", 1)])
def test_verbose_level_is_a_number_or_a_bool(text: str, level: int) -> None:
    assert parse([f"--log-verbose={text}"]).given == {"log-verbose": level}


@pytest.mark.parametrize(("text", "mode"), [("NONE", "none"), ("Explicit", "explicit"), ("poll", "poll")])
def test_words_are_read_in_any_case(text: str, mode: str) -> None:
    assert parse([f"--model-control-mode={text}"]).given == {"model-control-mode": mode}


def test_repeatable_flags_collect() -> None:
    parsed = parse(["--backend-config=python,a=1", "--backend-config=b=2", "--backend-config=python,c=x,y=z"])
    assert parsed.given["backend-config"] == (("python", "a", "1"), ("", "b", "2"), ("python", "c", "x,y=z"))


@pytest.mark.spec("server:158")
@pytest.mark.parametrize(
    ("flag", "value", "detail"),
    [
        ("http-port", "abc", "Invalid option value. Got abc"),
        ("http-port", "80x", "Invalid option value. Got 80x"),
        ("http-port", "", "Invalid option value. Got "),
        ("http-port", "99999999999", "Provided option value is out of bound. Got 99999999999"),
        ("http-port", "65536", "Provided option value is out of bound. Got 65536"),
        ("exit-timeout-secs", "1" * 5000, "Provided option value is out of bound. Got " + "1" * 5000),
        ("metrics-interval-ms", "soon", "Invalid option value. Got soon"),
        ("metrics-interval-ms", "inf", "Provided option value is out of bound. Got inf"),
        ("metrics-interval-ms", "nan", "Provided option value is out of bound. Got nan"),
        ("allow-http", "maybe", "invalid value for bool option: maybe"),
        ("log-format", "xml", "invalid argument for --log-format"),
        ("model-control-mode", "x", "invalid argument for --model-control-mode"),
        ("rate-limit", "x", "invalid argument for --rate-limit"),
        (
            "grpc-infer-response-compression-level",
            "x",
            "invalid argument for --grpc_infer_response_compression_level",
        ),
        (
            "grpc-infer-thread-count",
            "1",
            "invalid argument for --grpc_infer_thread_count. Must be in the range 2 to 128.",
        ),
        ("http-max-input-size", "0", "Error: --http-max-input-size must be greater than 0."),
        ("grpc-max-response-pool-size", "0", "Error: --grpc-max-response-pool-size must be greater than 0."),
        ("model-config-name", "", "Error: empty argument for --model-config-name"),
        ("model-config-name", "a b", "Error: --model-config-name must not contain spaces."),
        ("model-config-name", "../a", "Error: --model-config-name must be a name, not a path."),
        ("repository-poll-secs", "0", "Error: --repository-poll-secs must be greater than 0."),
        ("http-restricted-api", "foo:k=v", "unknown restricted api 'foo' "),
        ("http-restricted-api", "health,foo:k=v", "unknown restricted api 'foo' "),
        ("grpc-restricted-protocol", "foo:k=v", "unknown restricted protocol 'foo' "),
        (
            "http-restricted-api",
            "foo",
            "--http-restricted-api option format is '<config name>:<setting>=<value>'. Got foo",
        ),
        (
            "grpc-restricted-protocol",
            "health:key",
            "--grpc-restricted-protocol option format is '<config name>:<setting>=<value>'. Got health:key",
        ),
        ("host-policy", "foo", "--host-policy option format is '<policy name>,<setting>=<value>'. Got foo"),
        (
            "rate-limit-resource",
            "R1",
            "--rate-limit-resource option format is '<resource_name>:<count>:<device>' or "
            "'<resource_name>:<count>'. Got R1",
        ),
        ("metrics-config", "foo", "--metrics-config option format is <setting>=<value>. Got foo"),
        (
            "backend-config",
            "foo",
            "--backend-config option format is '<backend name>,<setting>=<value>'. Got foo",
        ),
        (
            "backend-config",
            ",x=1",
            "No backend specified. --backend-config option format is <backend name>,<setting>=<value> or "
            "<setting>=<value>. Got ,x=1",
        ),
        (
            "cache-config",
            "size=1",
            "No cache specified. --cache-config option format is <cache name>,<setting>=<value>. Got size=1",
        ),
        (
            "cache-config",
            "local,size",
            "--cache-config option format is '<cache name>,<setting>=<value>'. Got local,size",
        ),
        ("trace-config", "foo", "--trace-config option format is '<trace mode>,<setting>=<value>'. Got foo"),
        (
            "trace-config",
            ",x=1",
            "No trace mode specified. --trace-config option format is <trace mode>,<setting>=<value> or "
            "<setting>=<value>. Got ,x=1",
        ),
        (
            "trace-config",
            "mode=x",
            'invalid value for trace mode option: x. Available options are "triton" and "opentelemetry"',
        ),
        (
            "trace-config",
            "x,file=y",
            'invalid value for trace mode option: x. Available options are "triton" and "opentelemetry"',
        ),
        ("trace-config", "level=x", "invalid value for trace level option: x"),
        ("trace-level", "x", "invalid value for trace level option: x"),
    ],
)
def test_a_bad_value_is_explained(flag: str, value: str, detail: str) -> None:
    assert error_of(f"--{flag}={value}") == f'Bad option: "--{flag}".\n{detail}'


@pytest.mark.spec("server:167")
@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("level=TIMESTAMPS", ("", "level", "TIMESTAMPS")),
        ("triton,file=/tmp/a,b", ("triton", "file", "/tmp/a,b")),
        ("opentelemetry,resource=service.name=x", ("opentelemetry", "resource", "service.name=x")),
        ("mode=opentelemetry", ("", "mode", "opentelemetry")),
    ],
)
def test_trace_settings(value: str, read: tuple[str, str, str]) -> None:
    assert parse([f"--trace-config={value}"]).given == {"trace-config": (read,)}


@pytest.mark.parametrize(("value", "read"), [("R:2", ("R", 2, None)), ("R:2:1", ("R", 2, 1))])
def test_rate_limit_resources(value: str, read: tuple[str, int, int | None]) -> None:
    assert parse([f"--rate-limit-resource={value}"]).given == {"rate-limit-resource": (read,)}
