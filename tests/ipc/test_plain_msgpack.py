"""The plain msgpack reads and writes what the package does."""

from __future__ import annotations

import enum
import math
from typing import Any

import msgpack
import numpy as np
import pytest
from atoll_ipc import plain_msgpack
from hypothesis import given
from hypothesis import strategies as st

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40) | st.integers(0, 300), inner, max_size=20)
    ),
)
LARGE = [[0] * 70_000, "x" * 300, "x" * 70_000, b"x" * 70_000, {str(key): key for key in range(70_000)}]


def package_unpacked(data: bytes) -> Any:
    return msgpack.unpackb(data, strict_map_key=False, unicode_errors="surrogateescape")


@given(value=VALUES)
def test_either_reads_what_the_other_writes(value: Any) -> None:
    data = plain_msgpack.Packer().pack(value)
    assert plain_msgpack.unpackb(data) == package_unpacked(data) == value
    assert plain_msgpack.unpackb(msgpack.packb(value)) == value


@pytest.mark.parametrize("value", LARGE, ids=lambda value: f"{type(value).__name__} of {len(value)}")
def test_what_is_large_has_longer_heads(value: Any) -> None:
    data = plain_msgpack.Packer().pack(value)
    assert data == msgpack.packb(value)
    assert plain_msgpack.unpackb(data) == value


class Level(enum.IntEnum):
    HIGH = 300


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Level.HIGH, 300),
        (np.float64(0.5), 0.5),
        (np.str_("a"), "a"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        ((1, (2, 3)), [1, [2, 3]]),
    ],
)
def test_what_is_almost_plain_is_written_as_what_it_is(value: Any, expected: Any) -> None:
    assert plain_msgpack.unpackb(plain_msgpack.Packer().pack(value)) == expected


def test_single_floats_and_nan_are_read() -> None:
    assert plain_msgpack.unpackb(msgpack.packb(0.5, use_single_float=True)) == 0.5
    assert math.isnan(plain_msgpack.unpackb(msgpack.packb(math.nan)))


def test_text_that_is_no_utf_8_passes_as_the_handler_says() -> None:
    data = plain_msgpack.Packer(unicode_errors="surrogateescape").pack(["a\udcff", "x" * 40 + "\udcfe"])
    assert plain_msgpack.unpackb(data, unicode_errors="surrogateescape") == ["a\udcff", "x" * 40 + "\udcfe"]
    assert data == msgpack.packb(["a\udcff", "x" * 40 + "\udcfe"], unicode_errors="surrogateescape")


@pytest.mark.parametrize(
    ("value", "error"), [(1 << 64, OverflowError), (-(1 << 63) - 1, OverflowError), (object(), TypeError)]
)
def test_what_has_no_form_is_refused(value: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        plain_msgpack.Packer().pack([value])


@pytest.mark.parametrize(
    "data", [b"", b"\x92\x01", b"\xa5ab", b"\xc4\x05ab", b"\xcd\x01", b"\x01\x02", b"\xc1", b"\x81\x01"]
)
def test_what_is_cut_or_too_long_or_unknown_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="npack"):
        plain_msgpack.unpackb(data)
