"""The log: line formats, switches, streams, and that it survives its console."""

import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from atoll.observe.log import (
    LogHandler,
    LogSettings,
    install,
    is_verbose,
    log_from,
    log_table,
    log_verbose,
    model_output,
    remove,
)

log = logging.getLogger("atoll.observe.test")


@pytest.fixture
def start_log() -> Iterator[Callable[[LogSettings], None]]:
    installed: list[LogHandler] = []
    yield lambda settings: installed.append(install(settings))
    for handler in installed:
        remove(handler)


StartLog = Callable[[LogSettings], None]


@pytest.mark.spec("server:268")
def test_the_default_format(start_log: StartLog, capfd: pytest.CaptureFixture[str]) -> None:
    start_log(LogSettings())
    log.info("loading: %s", "m:1")
    line = capfd.readouterr().out
    pattern = rf'I\d{{4}} \d\d:\d\d:\d\d\.\d{{6}} {os.getpid()} test_server_log\.py:\d+\] "loading: m:1"\n'
    assert re.fullmatch(pattern, line)


@pytest.mark.spec("server:268")
def test_the_iso_format(start_log: StartLog, capfd: pytest.CaptureFixture[str]) -> None:
    start_log(LogSettings(format="ISO8601"))
    log.info("loading: m:1")
    line = capfd.readouterr().out
    pattern = rf'\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ I {os.getpid()} test_server_log\.py:\d+\] "loading: m:1"\n'
    assert re.fullmatch(pattern, line)


def record_at(created: float, message: str) -> logging.LogRecord:
    record = logging.LogRecord("atoll", logging.WARNING, "/x/model_lifecycle.py", 472, message, (), None)
    record.created = created
    record.process = 4242
    return record


@pytest.mark.spec("server:268")
def test_times_are_utc_with_microseconds() -> None:
    settings = LogSettings()
    handler = LogHandler(settings)
    record = record_at(1795205333.053055, "loading: m:1")
    assert handler.format(record) == 'W1120 20:08:53.053055 4242 model_lifecycle.py:472] "loading: m:1"'
    settings.format = "ISO8601"
    assert handler.format(record) == '2026-11-20T20:08:53Z W 4242 model_lifecycle.py:472] "loading: m:1"'


@pytest.mark.spec("server:268")
def test_messages_are_json_strings_unless_switched_off() -> None:
    message = 'two\nlines, a "quote", a \\ and é'
    record = record_at(0.0, message)
    escaped = LogHandler(LogSettings(), {}).format(record).split("] ", 1)[1]
    assert json.loads(escaped) == message
    assert "\n" not in escaped
    assert "é" in escaped
    plain = LogHandler(LogSettings(), {"TRITON_SERVER_ESCAPE_LOG_MESSAGES": "0"}).format(record)
    assert plain.endswith(f"] {message}")


@pytest.mark.spec("server:268")
def test_information_goes_to_stdout_and_the_rest_to_stderr(
    start_log: StartLog, capfd: pytest.CaptureFixture[str]
) -> None:
    start_log(LogSettings(verbose_level=1))
    log.info("i")
    log_verbose(1, "v")
    log.warning("w")
    log.error("e")
    captured = capfd.readouterr()
    assert [line[0] + line[-2] for line in captured.out.splitlines()] == ["Ii", "Iv"]
    assert [line[0] + line[-2] for line in captured.err.splitlines()] == ["Ww", "Ee"]


@pytest.mark.spec("server:269")
def test_switches_change_at_run_time(start_log: StartLog, capfd: pytest.CaptureFixture[str]) -> None:
    settings = LogSettings(info=False, warning=False, error=False)
    start_log(settings)
    for emit in (log.info, log.warning, log.error):
        emit("hidden")
    settings.info = settings.warning = settings.error = True
    for emit in (log.info, log.warning, log.error):
        emit("shown")
    captured = capfd.readouterr()
    assert (captured.out + captured.err).count("hidden") == 0
    assert (captured.out + captured.err).count("shown") == 3


@pytest.mark.spec("server:269")
def test_verbose_levels(start_log: StartLog, capfd: pytest.CaptureFixture[str]) -> None:
    settings = LogSettings(info=False)
    start_log(settings)
    for chosen in (0, 1, 2, 1000):
        settings.verbose_level = chosen
        for level in (1, 2, 3):
            assert is_verbose(level) == (level <= chosen)
            log_verbose(level, f"{chosen}-{level}")
    assert re.findall(r"\d+-\d", capfd.readouterr().out) == ["1-1", "2-1", "2-2", "1000-1", "1000-2", "1000-3"]


def test_verbose_messages_name_their_caller_and_are_no_format(
    start_log: StartLog, capfd: pytest.CaptureFixture[str]
) -> None:
    start_log(LogSettings(verbose_level=1))
    log_verbose(1, "100 %s")
    assert re.search(r' test_server_log\.py:\d+\] "100 %s"$', capfd.readouterr().out.strip())


@pytest.mark.spec("server:269")
def test_a_log_file_is_appended_to_and_the_console_stays_silent(
    start_log: StartLog, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "server.log"
    path.write_text("before\n")
    start_log(LogSettings(file=str(path)))
    log.info("inside")
    log.error("inside")
    model_output("m_0_0", "stderr", "inside")
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    lines = path.read_text().splitlines()
    assert lines[0] == "before"
    assert [line.endswith('"inside"') for line in lines[1:]] == [True] * 3


def test_a_log_file_that_cannot_be_opened_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        LogSettings(file=str(tmp_path / "no" / "server.log"))


@pytest.mark.spec("server:267", "server:268")
def test_a_table_stands_raw_on_the_following_lines(start_log: StartLog, capfd: pytest.CaptureFixture[str]) -> None:
    start_log(LogSettings())
    log_table('+---+\n| " |\n+---+\n')
    first, *rest = capfd.readouterr().out.split("\n")
    assert re.fullmatch(r"I.* test_server_log\.py:\d+\] ", first)
    assert rest == ["+---+", '| " |', "+---+", "", ""]


def test_a_models_output_names_its_origin_whatever_the_switches(
    start_log: StartLog, capfd: pytest.CaptureFixture[str]
) -> None:
    start_log(LogSettings(info=False))
    model_output("add_sub_0_0", "stdout", 'hello "you" %s')
    model_output("add_sub_0_0", "stderr", "Traceback")
    captured = capfd.readouterr()
    assert captured.out.endswith(f' {os.getpid()} add_sub_0_0 stdout] "hello \\"you\\" %s"\n')
    assert captured.err.endswith(f' {os.getpid()} add_sub_0_0 stderr] "Traceback"\n')
    assert captured.out.startswith("I")


def test_a_message_on_behalf_of_a_model(start_log: StartLog, capfd: pytest.CaptureFixture[str]) -> None:
    start_log(LogSettings())
    log_from("model.py:12", "m_0_1", logging.WARNING, "careful")
    log_from("model.py:13", "m_0_1", logging.INFO - 1, "verbose, hence dropped")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("W")
    assert captured.err.endswith(' model.py:12 m_0_1] "careful"\n')


def test_an_exception_is_told_with_its_traceback(start_log: StartLog, capfd: pytest.CaptureFixture[str]) -> None:
    start_log(LogSettings())
    try:
        raise ValueError("odd")
    except ValueError:
        log.exception("failed")
    message = json.loads(capfd.readouterr().err.split("] ", 1)[1])
    assert message.startswith("failed\nTraceback")
    assert message.endswith("ValueError: odd")


def test_a_broken_console_loses_lines_but_raises_nothing(start_log: StartLog) -> None:
    start_log(LogSettings())
    reader, writer = os.pipe()
    saved = os.dup(1)
    try:
        os.dup2(writer, 1)
        os.close(writer)
        os.close(reader)
        log.info("to nobody")
        model_output("m", "stdout", "to nobody")
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def test_arguments_that_do_not_fit_are_told_without_a_traceback(
    start_log: StartLog, capfd: pytest.CaptureFixture[str]
) -> None:
    start_log(LogSettings())
    log.info("%d apples", "many")
    assert capfd.readouterr().err.startswith("unprintable log message '%d apples'")


def test_text_that_is_no_unicode_is_written_escaped(start_log: StartLog, capfd: pytest.CaptureFixture[str]) -> None:
    start_log(LogSettings())
    model_output("m", "stdout", "bad \udcff")
    assert capfd.readouterr().out.endswith('"bad \\udcff"\n')


def json_lines(text: str) -> list[dict[str, object]]:
    """Each line, which must be an object; without its time and process."""
    lines = []
    for line in text.splitlines():
        members = json.loads(line)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", members.pop("time"))
        assert members.pop("pid") == os.getpid()
        lines.append(members)
    return lines


def test_the_json_format_is_one_object_per_line(start_log: StartLog, capfd: pytest.CaptureFixture[str]) -> None:
    start_log(LogSettings(format="json", verbose_level=1))
    log.info("two\nlines, and é")
    log_verbose(1, "detail")
    log_table("+---+\n")
    log.error("bad")
    captured = capfd.readouterr()
    assert "é" in captured.out
    lines = json_lines(captured.out)
    assert all(line.pop("file") == "test_server_log.py" and isinstance(line.pop("line"), int) for line in lines)
    assert lines == [
        {"level": "INFO", "message": "two\nlines, and é"},
        {"level": "INFO", "message": "detail"},
        {"level": "INFO", "message": "+---+\n"},
    ]
    assert [line["level"] for line in json_lines(captured.err)] == ["ERROR"]


def test_the_json_format_names_the_instance_of_a_model(start_log: StartLog, capfd: pytest.CaptureFixture[str]) -> None:
    start_log(LogSettings(format="json"))
    model_output("m_0_1", "stdout", "hello")
    log_from("model.py:12", "m_0_1", logging.INFO, "note")
    log_from("add_sub", "m_0_1", logging.INFO, "no line")
    assert json_lines(capfd.readouterr().out) == [
        {"level": "INFO", "instance": "m_0_1", "stream": "stdout", "message": "hello"},
        {"level": "INFO", "file": "model.py", "line": 12, "instance": "m_0_1", "message": "note"},
        {"level": "INFO", "file": "add_sub", "instance": "m_0_1", "message": "no line"},
    ]


def test_the_time_of_a_json_line() -> None:
    line = json.loads(LogHandler(LogSettings(format="json")).format(record_at(1795205333.053055, "loading: m:1")))
    assert line == {
        "time": "2026-11-20T20:08:53.053055Z",
        "level": "WARNING",
        "pid": 4242,
        "file": "model_lifecycle.py",
        "line": 472,
        "message": "loading: m:1",
    }


def test_settings_as_the_protocol_shows_them() -> None:
    assert LogSettings(verbose_level=2, warning=False).as_dict() == {
        "log_file": "",
        "log_info": True,
        "log_warning": False,
        "log_error": True,
        "log_verbose_level": 2,
        "log_format": "default",
    }


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown log format 'xml'"):
        LogSettings(format="xml")


def test_settings_touch_nothing_before_they_are_installed() -> None:
    server_log = logging.getLogger("atoll")
    settings = LogSettings(verbose_level=2)
    assert server_log.level == logging.NOTSET
    handler = install(settings)
    assert server_log.level == logging.INFO - 2
    remove(handler)
    assert server_log.level == logging.NOTSET
    assert server_log.propagate
