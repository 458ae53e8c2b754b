"""Which headers a pattern lets through, and what they become."""

from __future__ import annotations

import pytest
from atoll.errors import Code, ServerError
from atoll.frontends.forwarding import compile_pattern, forward, matching
from atoll.inference import Request


def forwarded(pattern: str, *names: str) -> list[str]:
    compiled = compile_pattern(pattern)
    assert compiled is not None
    return [name for name, _ in matching(compiled, [(name, "value") for name in names])]


@pytest.mark.spec("server:279")
@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("my_.*", ["My_one", "x-my_two"]),  # anywhere in the name, whatever the case
        ("^my_", ["My_one"]),
        ("(?-i)my_", ["x-my_two"]),
        ("(?-i)My_|two", ["My_one", "x-my_two"]),
        ("^(?-i)My", ["My_one"]),
        ("^MY(?-i)_one", ["My_one"]),
        ("^MY(?-i)_ONE", []),
        ("(?i)MY_ONE", ["My_one"]),
        (".*", ["My_one", "x-my_two", "other"]),
    ],
)
def test_patterns(pattern: str, names: list[str]) -> None:
    assert forwarded(pattern, "My_one", "x-my_two", "other") == names


def test_no_pattern_lets_nothing_through() -> None:
    assert compile_pattern("") is None


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [
        ("(", "missing ), unterminated subpattern at position 0"),
        ("a|b(?-i)c", "(?-i) must come first where there are alternatives"),
    ],
)
def test_what_is_no_pattern(pattern: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=r"must come|missing") as caught:
        compile_pattern(pattern)
    assert str(caught.value) == complaint


def test_headers_become_string_parameters_beside_the_clients_own() -> None:
    compiled = compile_pattern("x")
    assert compiled is not None
    request = Request("m", [], lambda response: None, parameters={"own": 1})
    forward(matching(compiled, [("X-Text", "ż"), ("x-bytes", "ż".encode()), ("x-odd", b"\xff")]), request)
    assert request.parameters == {"own": 1, "X-Text": "ż", "x-bytes": "ż", "x-odd": "\ufffd"}


@pytest.mark.spec("server:280")
@pytest.mark.parametrize(
    "name",
    ["sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "binary_data_output", "triton_any"],
)
def test_reserved_names_are_refused(name: str) -> None:
    request = Request("m", [], lambda response: None)
    with pytest.raises(ServerError) as caught:
        forward([(name, "1")], request)
    assert caught.value.code is Code.INVALID_ARG
    assert caught.value.message == f"Header '{name}' is reserved for Triton usage and cannot be forwarded."
    assert request.parameters is None
