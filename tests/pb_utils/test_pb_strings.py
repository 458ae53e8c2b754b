"""The byte form of string tensors, few and many: by the loop and by guessing, which must agree."""

from __future__ import annotations

import itertools
import random
import struct
from typing import Any

import numpy as np
import pytest
from atoll_ipc import strings
from atoll_ipc.strings import count_elements, decode, encode
from hypothesis import given
from hypothesis import strategies as st
from triton_python_backend_utils import deserialize_bytes_tensor, serialize_byte_tensor

MANY = {
    "equal": [b"%08d" % number for number in range(1000)],
    "equal, of NULs": [bytes(8)] * 1000,
    "equal, long": [b"x" * 300] * 1000,
    "empty": [b""] * 1000,
    "varied": [b"%d" % number for number in range(1000)],
    "some empty": [b"x" * (number % 7 * number % 5) for number in range(1000)],
    "with NULs": [bytes(number % 5) + b"a" for number in range(1000)],
    "like lengths": [struct.pack("<II", number % 9, number % 3)[: number % 9] for number in range(1000)],
    "a long one": [b"x" * (400 if number == 500 else number % 30) for number in range(1000)],
    "long": [b"x" * (900 + number % 3) for number in range(200)],
    "longer": [b"x" * (2000 + number % 3) for number in range(200)],
    "of 255": [b"x" * (255 - number % 2) for number in range(500)],
    "large, one long": [b"x" * (400 if number % 3000 == 500 else number % 30) for number in range(8000)],
    "after few": [b"ab"] * 64 + [b"abc"],
    "text": ["zażółć gęślą jaźń 🎈"[: number % 19].encode() for number in range(1000)],
}


def plain(elements: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


@pytest.fixture(autouse=True, params=[1 << 20, 5000])
def window(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once, and in steps."""
    monkeypatch.setattr(strings, "_WINDOW_NBYTES", request.param)


@pytest.mark.parametrize("name", MANY)
def test_many_elements_are_read_and_written(name: str) -> None:
    elements = MANY[name]
    data = plain(elements)
    assert encode(elements) == data
    for form in (data, memoryview(data), bytearray(data), np.frombuffer(data, np.uint8)):
        assert decode(form) == elements
        assert count_elements(form) == (len(elements), len(data))
    assert {type(element) for element in decode(memoryview(data))} == {bytes}


@pytest.mark.parametrize("name", MANY)
@pytest.mark.parametrize("cut", [1, 3, 5])
def test_a_cut_is_found_after_many_elements(name: str, cut: int) -> None:
    elements = MANY[name]
    data = plain(elements)[:-cut]
    ends = [0, *itertools.accumulate(4 + len(element) for element in elements)]
    whole = max(index for index, end in enumerate(ends) if end <= len(data))
    assert count_elements(data) == (whole, ends[whole])
    with pytest.raises(struct.error, match=f"the element at offset {ends[whole]} extends beyond the buffer's"):
        decode(data)


def test_a_length_beyond_the_end_is_a_cut() -> None:
    assert count_elements(b"\0\0\0\0\xff\xff\xff\xff") == (1, 4)
    assert count_elements(b"\1\0\0\0a\1\0") == (1, 5)
    assert count_elements(b"") == (0, 0)
    assert count_elements(np.empty((0, 3), np.uint8)) == (0, 0)
    assert decode(np.empty((0, 3), np.uint8)) == []


SMALL_BYTES = st.lists(
    st.sampled_from([b"", b"\0", b"\1", b"\1\0\0\0", b"\0\0\0\0\0", b"a", b"\4\0\0", b"bcd", b"x" * 260])
)


@given(SMALL_BYTES, st.integers(0, 6), st.integers(0, 20))
def test_the_ways_to_read_agree(elements: list[bytes], repeat: int, cut: int) -> None:
    elements = elements * repeat * 8
    data = plain(elements)
    data = data[: len(data) - cut] if cut < len(data) else data
    view = memoryview(data)
    count, end = strings._count(view, 0, 1 << 30)
    assert count_elements(data) == (count, end)
    begins, nbytes = strings._locate(np.frombuffer(data, np.uint8)) if data else (None, 0)
    if begins is not None:
        assert (len(begins), nbytes) == (count, end)
        assert strings._split(np.frombuffer(data, np.uint8)[:nbytes], begins) == elements[:count]


def test_random_bytes_are_never_misread() -> None:
    choose = random.Random(7)
    for _ in range(200):
        data = bytes(choose.choices([0, 0, 0, 1, 2, 5], k=choose.randrange(4, 2000)))
        assert count_elements(data) == strings._count(memoryview(data), 0, 1 << 30)


@pytest.mark.spec("python_backend:C138")
@pytest.mark.spec("python_backend:C139")
@pytest.mark.parametrize("times", [1, 100])
def test_elements_of_any_kind_are_written(times: int) -> None:
    kinds: list[Any] = [b"\0raw\xff", "é", 1, None, True, 0.5, np.bytes_(b"xy"), np.str_("z")]
    array = np.empty(len(kinds) * times, object)
    array[:] = kinds * times
    data = serialize_byte_tensor(array)
    texts = [b"\0raw\xff", "é".encode(), b"1", b"None", b"True", b"0.5", b"b'xy'", b"z"]
    assert deserialize_bytes_tensor(data).tolist() == texts * times


@pytest.mark.spec("python_backend:C140")
def test_many_texts_and_fixed_width_bytes_are_written() -> None:
    texts = [f"é{number}" for number in range(1000)]
    assert serialize_byte_tensor(np.array(texts, object)) == plain([text.encode() for text in texts])
    fixed = np.array([b"%d\0" % number for number in range(1000)])
    assert serialize_byte_tensor(fixed) == plain([b"%d" % number for number in range(1000)])


def test_an_element_of_4_gib_is_refused() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 1 << 32

    with pytest.raises(struct.error):
        encode([Huge()])
