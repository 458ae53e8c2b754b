"""The two commands up to where a server would start: what they print, where, and their exit status."""

import pytest
from atoll import __version__
from atoll.cli import atoll as atoll_command
from atoll.cli import tritonserver
from atoll.cli.flags import usage


@pytest.mark.spec("server:158", "server:159", "server:276")
@pytest.mark.parametrize(
    ("argv", "stderr"),
    [
        (["--help"], usage()),
        (["--nonsense"], f"{usage()}\nunrecognized option '--nonsense'\n"),
        (["extra"], f"{usage()}\nUnexpected argument: extra\n"),
        (["--http-port=abc"], f'{usage()}\nBad option: "--http-port".\nInvalid option value. Got abc\n'),
    ],
)
def test_tritonserver_explains_on_standard_error(
    argv: list[str], stderr: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tritonserver.main(argv) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", stderr)


@pytest.mark.parametrize("argument", ["--version", "-V"])
def test_atoll_says_its_version(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert atoll_command.main([argument]) == 0
    assert capsys.readouterr().out == f"atoll {__version__}\n"


def test_atoll_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert atoll_command.main(["--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: atoll serve MODELS... [options]\n")
    assert atoll_command.main(["serve", "--help"]) == 0
    assert "--http-port <integer>" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([], "no command given"),
        (["launch"], "unknown command 'launch'"),
        (["serve", "--http-port=abc"], "Invalid option value. Got abc"),
        (["serve", "--nonsense"], "unrecognized option '--nonsense'"),
    ],
)
def test_atoll_refuses(argv: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert atoll_command.main(argv) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith(f"{complaint}\n")
