"""The lines of a file are found wherever its parts end."""

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from tollkeeper.errors import LineTooLong
from tollkeeper.files.lines import Line, read_lines

CONTENT = b'\xef\xbb\xbf{"a": 1}\r\n\n  \r\n{"b": 2}\n{"c": "\xc3\xa9"}'
LINES = [(1, b'{"a": 1}'), (4, b'{"b": 2}'), (5, b'{"c": "\xc3\xa9"}')]


async def parts_of(content: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def lines_of(content: bytes, size: int, number: int = 0, start: int = 0, max_bytes: int = 100) -> list[Line]:
    found = read_lines(parts_of(content, size), number=number, start=start, max_bytes=max_bytes)
    return [line async for some in found for line in some]


async def test_parts_of_any_size_give_the_same_lines_and_each_says_where_the_next_begins() -> None:
    for size in range(1, len(CONTENT) + 1):
        lines = await lines_of(CONTENT, size)
        assert [(line.number, line.content) for line in lines] == LINES, size
        for before, line in pairwise(lines):
            [following, *_] = await lines_of(CONTENT[before.end :], size, before.number, before.end)
            assert following.content == line.content
            assert following.end == line.end


async def test_a_line_that_is_too_long_is_refused_before_it_is_read_as_a_whole() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 10
            yield b"x" * 10

    with pytest.raises(LineTooLong) as refused:
        async for _ in read_lines(endless(), max_bytes=100):
            pass
    assert (refused.value.number, read) == (1, 110)
    with pytest.raises(LineTooLong) as refused:
        await lines_of(b"{}\n" + b"x" * 200, 7)
    assert refused.value.number == 2


async def test_a_file_of_empty_lines_leaves_time_to_the_event_loop() -> None:
    """The longest time for which the loop itself is busy between two of its turns."""
    times: list[float] = []

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(3):
            await asyncio.sleep(0)
            yield b" \n" * 128 * 1024

    async def tick() -> None:
        while True:
            times.append(time.thread_time())
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    assert [line async for some in read_lines(parts(), max_bytes=100) for line in some] == []
    await asyncio.sleep(0)
    ticking.cancel()
    assert max(after - before for before, after in pairwise(times)) < 0.01  # the loop alone takes 0.03 s for a part
