"""What a stub prints, line by line, however it arrives."""

from __future__ import annotations

import asyncio

from atoll.instances.output import TAIL_LINES, OutputReader
from hypothesis import given, settings
from hypothesis import strategies as st

LONGEST = 1 << 16


def read(*parts: bytes) -> tuple[list[str], OutputReader]:
    """The lines of a stream that came in these parts and then ended."""
    lines: list[str] = []

    async def run() -> OutputReader:
        reader = OutputReader(lines.append)
        for part in parts:
            reader.data_received(part)
        assert not reader.closed.done()
        reader.connection_lost(None)
        await reader.closed
        return reader

    return lines, asyncio.run(run())


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))), st.data())
def test_lines_are_the_same_however_the_stream_is_cut(lines: list[str], data: st.DataObject) -> None:
    stream = "".join(line + "\n" for line in lines).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=4)))
    parts = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert read(*parts)[0] == lines


def test_a_line_without_an_end_is_passed_on_when_the_stream_ends() -> None:
    assert read(b"one\ntw", b"o")[0] == ["one", "two"]


def test_bytes_that_are_no_text_are_shown_escaped() -> None:
    assert read(b"caf\xe9 \xff\n")[0] == ["caf\\xe9 \\xff"]


def test_a_long_line_is_split_while_it_comes() -> None:
    lines, _ = read(b"x" * LONGEST, b"x" * LONGEST, b"x" * 10 + b"\nshort\n")
    assert [len(line) for line in lines] == [LONGEST, LONGEST, 10, 5]


def test_a_long_line_that_comes_at_once_is_split_as_well() -> None:
    lines, _ = read(b"x" * (2 * LONGEST + 10) + b"\nshort\n")
    assert [len(line) for line in lines] == [LONGEST, LONGEST, 10, 5]


def test_the_last_lines_are_kept() -> None:
    _, reader = read(b"".join(b"%d\n" % number for number in range(TAIL_LINES + 5)))
    assert list(reader.tail) == [str(number) for number in range(5, TAIL_LINES + 5)]


def test_the_end_may_come_twice() -> None:
    async def run() -> None:
        reader = OutputReader(lambda line: None)
        reader.connection_lost(None)
        reader.connection_lost(None)
        assert reader.closed.done()

    asyncio.run(run())
