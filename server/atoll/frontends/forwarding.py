"""Request headers that the operator lets through to models, as parameters: ``--http-header-forward-pattern`` and the
like for gRPC metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable

from atoll.errors import Code, ServerError
from atoll.inference import Request

__all__ = ["compile_pattern", "forward", "matching"]

_RESERVED = frozenset({"sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "binary_data_output"})
_CASE_COUNTS = "(?-i)"


def compile_pattern(text: str) -> re.Pattern[str] | None:
    """None for an empty text, which lets nothing through. Raises ValueError for one that is no regular expression.

    Case does not count but behind RE2's word for it, ``(?-i)``, which Python knows only for a group.
    """
    if not text:
        return None
    before, found, after = text.partition(_CASE_COUNTS)
    if found and before and "|" in text:
        raise ValueError(f"{_CASE_COUNTS} must come first where there are alternatives")
    try:
        return re.compile(f"{before}(?-i:{after})" if found else text, re.IGNORECASE)
    except re.error as error:
        raise ValueError(str(error)) from None


def matching(pattern: re.Pattern[str], headers: Iterable[tuple[str, str | bytes]]) -> list[tuple[str, str]]:
    """The headers to forward; the pattern may match anywhere in the name."""
    return [
        (name, value if isinstance(value, str) else value.decode("utf-8", "replace"))
        for name, value in headers
        if pattern.search(name)
    ]


def forward(headers: Iterable[tuple[str, str]], request: Request) -> None:
    """Make parameters of ``headers``. Raises ServerError for names that mean something else there."""
    for name, value in headers:
        if name in _RESERVED or name.startswith("triton_"):
            raise ServerError(
                Code.INVALID_ARG, f"Header '{name}' is reserved for Triton usage and cannot be forwarded."
            )
        if request.parameters is None:
            request.parameters = {}
        request.parameters[name] = value
