"""A failed call's status, as every transport sends it: the code's name, and details that a client will accept."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

from atoll.errors import GRPC_STATUS, ServerError

__all__ = ["status_of"]

# Details travel percent-encoded in a header, and gRPC clients refuse headers of more than 8 KiB in all: a long
# traceback would reach nobody.
_MAX_ENCODED_DETAILS = 7000
_CUT = "\n[...]\n"


def status_of(error: ServerError) -> tuple[str, str]:
    """The status code's name and the details; of details that are too long, the beginning and the end."""
    details = error.message
    if _head(details, _MAX_ENCODED_DETAILS) != details:
        half = _MAX_ENCODED_DETAILS // 2
        details = _head(details, half) + _CUT + _head(details[::-1], half)[::-1]
    return GRPC_STATUS[error.code], details


def _head(text: str, room: int) -> str:
    """As much from the beginning of ``text`` as takes at most ``room`` bytes when it is percent-encoded."""
    sizes = accumulate(
        1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode("utf-8", "replace"))
        for character in text[:room]
    )
    return text[: bisect_right(list(sizes), room)]
