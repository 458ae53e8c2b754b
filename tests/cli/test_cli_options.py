"""What a whole command line means: defaults, aliases, refusals, warnings."""

import dataclasses

import pytest
from atoll.cli.flags import FLAGS
from atoll.cli.metrics_config import MetricsConfig
from atoll.cli.options import Options, options_from
from atoll.cli.parser import UsageError, parse
from atoll.core.backend_config import PythonBackendOptions, python_backend_options
from atoll.errors import Code, ServerError

SAMPLES = {
    "<boolean>": "true",
    "<integer>": "2",
    "<float>": "2.5",
    "<string>": "abc",
    "<path>": "/tmp",
    "<integer>:<value>": "0:1",
    "<string>,<string>=<string>": "a,b=c",
}


def options(*argv: str) -> Options:
    return options_from(parse(argv))


def test_defaults() -> None:
    plain = options()
    assert (plain.id, plain.http_port, plain.grpc_port, plain.metrics_port) == ("triton", 8000, 8001, 8002)
    assert plain.metrics_address == plain.http_address == "0.0.0.0"
    assert plain.http_max_input_size == 67108864
    assert plain.exit_on_error
    assert plain.strict_readiness
    assert not plain.disable_auto_complete_config
    assert plain.grpc_max_connection_age is None
    assert (plain.warnings, plain.ignored, plain.model_repository) == ((), (), ())


@pytest.mark.spec("server:121")
@pytest.mark.parametrize(
    ("flags", "allowed"),
    [
        ("", False),
        ("--http-address=127.0.0.1", False),
        ("--http-address=127.0.0.1 --grpc-address=127.1.2.3", True),
        ("--http-address=localhost --grpc-address=::1", True),
        ("--http-address=::1 --allow-grpc=false", True),
        ("--grpc-address=10.0.0.1 --allow-http=false", False),
        ("--http-address=example.org --allow-grpc=false", False),
        ("--allow-client-shm=true", True),
        ("--http-address=127.0.0.1 --grpc-address=127.0.0.1 --allow-client-shm=false", False),
    ],
)
def test_client_shared_memory_goes_with_loopback_addresses(flags: str, allowed: bool) -> None:
    assert options(*flags.split()).allow_client_shm is allowed


def test_every_flag_with_a_meaning_has_a_field() -> None:
    folded = {"help", "model-store", "strict-model-config", "cache-config"}
    folded |= {"response-cache-byte-size"}
    fields = {field.name for field in dataclasses.fields(Options)}
    missing = {flag.name for flag in FLAGS.values() if not flag.ignored and flag.field not in fields}
    folded |= {name for name in FLAGS if name.startswith("trace-")}
    assert missing - folded == set()


@pytest.mark.spec("server:156")
@pytest.mark.parametrize("name", [name for name, flag in FLAGS.items() if flag.ignored])
def test_a_flag_without_meaning_is_accepted_and_named(name: str) -> None:
    value = SAMPLES[FLAGS[name].kind.metavar]
    assert options(f"--{name}={value}").ignored == (name,)


@pytest.mark.spec("server:164")
def test_repositories_are_a_set_in_order_whatever_their_flag() -> None:
    chosen = options("--model-store=/b", "--model-repository", "/c", "--model-repo=/a", "--model-store=/c")
    assert chosen.model_repository == ("/a", "/b", "/c")


def test_the_metrics_address_follows_the_http_address() -> None:
    assert options("--http-address=127.0.0.1").metrics_address == "127.0.0.1"
    assert options("--http-address=127.0.0.1", "--metrics-address=::1").metrics_address == "::1"


@pytest.mark.spec("server:281")
def test_mutual_tls_implies_tls() -> None:
    assert options("--grpc-use-ssl-mutual=true").grpc_use_ssl


@pytest.mark.spec("server:168")
def test_strict_model_config_is_a_deprecated_alias() -> None:
    strict = options("--strict-model-config=true")
    assert strict.disable_auto_complete_config
    assert strict.warnings == (
        "Warning: '--strict-model-config' has been deprecated! Please use '--disable-auto-complete-config' instead.",
    )
    overridden = options("--strict-model-config=false", "--disable-auto-complete-config")
    assert overridden.disable_auto_complete_config
    assert overridden.warnings[1] == (
        "Warning: Overriding deprecated '--strict-model-config' from False to True "
        "in favor of '--disable-auto-complete-config'!"
    )


@pytest.mark.spec("server:168")
@pytest.mark.parametrize("name", ["trace-file", "trace-rate", "trace-count", "trace-log-frequency"])
def test_deprecated_trace_flags_warn(name: str) -> None:
    assert options(f"--{name}=1").warnings == (
        f"Warning: '--{name}' has been deprecated! Please use '--trace-config' instead.",
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--load-model=m"],
            "Error: Use of '--load-model' requires setting '--model-control-mode=explicit' as well.",
        ),
        (
            ["--response-cache-byte-size=1", "--cache-config=local,size=1"],
            "Error: Incompatible flags --response-cache-byte-size and --cache-config both provided. "
            "Please provide one or the other.",
        ),
        (
            ["--http-port=8100", "--grpc-port=8100"],
            "The server cannot listen to HTTP requests and GRPC requests at the same address and port 0.0.0.0:8100",
        ),
        (
            ["--metrics-port=8001"],
            "The server cannot listen to GRPC requests and metrics requests at the same address and port 0.0.0.0:8001",
        ),
        (
            ["--http-restricted-api=health:k=v", "--http-restricted-api=health:k=w"],
            'Bad option: "--http-restricted-api".\n'
            "restricted api 'health' can not be specified in multiple config groups",
        ),
        (
            ["--http-restricted-api=health,infer:k=v"],
            "Bad option: \"--http-restricted-api\".\nunknown restricted api 'infer' ",
        ),
        (
            ["--grpc-header-forward-pattern=["],
            'Bad option: "--grpc-header-forward-pattern".\n'
            "invalid header forward pattern '[': unterminated character set at position 0",
        ),
        (
            ["--grpc-restricted-protocol=trace,trace:k=v"],
            'Bad option: "--grpc-restricted-protocol".\n'
            "restricted protocol 'trace' can not be specified in multiple config groups",
        ),
        (
            ["--metrics-config=counter_latencies=maybe"],
            'Bad option: "--metrics-config".\ninvalid value for bool option: maybe',
        ),
        (
            ["--metrics-config=summary_quantiles=0.5:0.1,0.9"],
            'Bad option: "--metrics-config".\n'
            "summary_quantiles format is <quantile>:<error>[,<quantile>:<error>...]. Got 0.9",
        ),
        (
            ["--metrics-config=summary_quantiles=1.5:0.1"],
            'Bad option: "--metrics-config".\n'
            "quantile and error in summary_quantiles must be between 0 and 1. Got 1.5:0.1",
        ),
    ],
)
@pytest.mark.spec("server:158", "server:163")
def test_combinations_that_cannot_be(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        options(*argv)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "argv",
    [
        ["--http-port=0", "--grpc-port=0", "--metrics-port=0"],
        ["--http-port=8001", "--allow-grpc=false"],
        ["--http-port=8001", "--http-address=127.0.0.1"],
    ],
)
def test_endpoints_that_do_not_collide(argv: list[str]) -> None:
    options(*argv)


@pytest.mark.spec("server:167", "server:245", "server:246")
def test_metrics_settings_are_folded_and_the_last_of_a_name_counts() -> None:
    assert options().metrics_config == MetricsConfig()
    chosen = options(
        "--metrics-config=counter_latencies=false",
        "--metrics-config=summary_latencies=0",
        "--metrics-config=summary_latencies=true",
        "--metrics-config=summary_quantiles=0.25:0.01,1:0",
        "--metrics-config=histogram_latencies=on",
        "--metrics-config=stage_histograms=1",
        "--metrics-config=unknown=x",
    )
    assert chosen.metrics_config == MetricsConfig(False, True, (0.25, 1.0), True, True, ignored=("unknown",))


@pytest.mark.spec("server:166")
def test_backend_settings_are_kept_by_backend() -> None:
    chosen = options(
        "--backend-config=python,shm-default-byte-size=1048576",
        "--backend-config=default-max-batch-size=8",
        "--backend-config=python,shm-default-byte-size=2097152",
    )
    assert chosen.backend_settings("python") == {"shm-default-byte-size": "2097152"}
    assert chosen.backend_settings("") == {"default-max-batch-size": "8"}


@pytest.mark.spec("server:166")
def test_python_settings_have_types_and_defaults() -> None:
    assert python_backend_options({}) == PythonBackendOptions(
        shm_default_byte_size=67108864, shm_growth_byte_size=67108864, stub_timeout_seconds=30, shm_backing="auto"
    )
    chosen = python_backend_options(
        {
            "shm-default-byte-size": "1048576",
            "shm-growth-byte-size": "4096 bytes",
            "shm-backing": "memfd",
            "thread-pool-size": "8",
            "nonsense": "x",
        }
    )
    assert chosen.shm_default_byte_size == 1 << 20
    assert chosen.shm_growth_byte_size == 4096
    assert chosen.shm_backing == "memfd"
    assert chosen.ignored == ("thread-pool-size", "nonsense")


@pytest.mark.spec("server:166", "python_backend:C237")
@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("shm-default-byte-size", "1048575", "shm-default-byte-size can't be smaller than 4 MiBs"),
        ("shm-growth-byte-size", "0", "shm-growth-byte-size can't be smaller than or equal to zero."),
        ("stub-timeout-seconds", "-1", "stub-timeout-seconds can't be smaller than or equal to zero."),
        ("shm-region-prefix-name", "", "shm-region-prefix-name must at least contain one character."),
        ("thread-pool-size", "0", "thread-pool-size can't be less than 1."),
        ("shm-default-byte-size", "many", "stol"),
        ("shm-default-byte-size", "9" * 30, "stol"),
        ("shm-backing", "disk", "shm-backing must be one of auto, posix, memfd. Got disk"),
    ],
)
def test_python_settings_are_checked(setting: str, value: str, message: str) -> None:
    with pytest.raises(ServerError) as caught:
        python_backend_options({setting: value})
    assert (caught.value.code, caught.value.message) == (Code.INVALID_ARG, message)
