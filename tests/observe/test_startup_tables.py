"""The start-up tables, cell by cell."""

import pytest
from atoll.observe.tables import agent_table, backend_table, model_table, options_table, render

pytestmark = pytest.mark.spec("server:267")


def test_an_empty_table() -> None:
    assert agent_table() == (
        "+------------------+------+\n"
        "| Repository Agent | Path |\n"
        "+------------------+------+\n"
        "+------------------+------+\n"
    )


def test_models() -> None:
    index = [
        {"name": "add_sub", "version": "1", "state": "READY"},
        {"name": "broken", "version": "1", "state": "UNAVAILABLE", "reason": "Internal: it broke\nin two lines"},
        {"name": "empty"},
        {"name": "twice", "state": "UNAVAILABLE", "reason": "model appears in two or more repositories"},
    ]
    assert model_table(index) == (
        "+---------+---------+-------------------------------------------------------+\n"
        "| Model   | Version | Status                                                |\n"
        "+---------+---------+-------------------------------------------------------+\n"
        "| add_sub | 1       | READY                                                 |\n"
        "| broken  | 1       | UNAVAILABLE: Internal: it broke                       |\n"
        "|         |         | in two lines                                          |\n"
        "| empty   | -       | Not loaded: No model version was found                |\n"
        "| twice   | -       | Not loaded: model appears in two or more repositories |\n"
        "+---------+---------+-------------------------------------------------------+\n"
    )


def test_backends() -> None:
    assert backend_table("/stub", {"auto-complete-config": "true"}) == (
        "+---------+-------+---------------------------------------------+\n"
        "| Backend | Path  | Config                                      |\n"
        "+---------+-------+---------------------------------------------+\n"
        '| python  | /stub | {"cmdline":{"auto-complete-config":"true"}} |\n'
        "+---------+-------+---------------------------------------------+\n"
    )


def test_options() -> None:
    assert options_table([("server_id", "triton"), ("exit_timeout", 30)]) == (
        "+--------------+--------+\n"
        "| Option       | Value  |\n"
        "+--------------+--------+\n"
        "| server_id    | triton |\n"
        "| exit_timeout | 30     |\n"
        "+--------------+--------+\n"
    )


def test_a_last_newline_adds_no_line() -> None:
    assert render(("A",), [("x\n",)]).count("\n") == 5
