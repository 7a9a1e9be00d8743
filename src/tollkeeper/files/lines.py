"""Splits a file into its lines while it is read."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple

from tollkeeper.errors import LineTooLong
from tollkeeper.worker_thread import pause, run_by_size

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
PAUSE_EVERY = 1_000
"""Lines after which a thread lets the event loop run."""


class Line(NamedTuple):
    """A line with more than white space. It is the `number`th of its file, from 1; the next begins at byte `end`."""

    number: int
    end: int
    content: bytes


async def read_lines(
    parts: AsyncIterator[bytes], *, number: int = 0, start: int = 0, max_bytes: int
) -> AsyncGenerator[list[Line]]:
    """The lines that end in each part. The parts begin at byte `start`, behind line `number`. The last line needs no
    line break; a carriage return before one is none of its content, and a byte order mark at the start of the file is
    skipped.

    Raises LineTooLong for a line of more than `max_bytes`, before it is in memory as a whole.
    """
    splitter = _Splitter(number, start, max_bytes)
    async for part in parts:
        yield await run_by_size(len(part), splitter.lines_in, part)
    if (last := splitter.last()) is not None:
        yield [last]


class _Splitter:
    """Splits a file, part by part. `number` lines of it, with `start` bytes, have been found before."""

    def __init__(self, number: int, start: int, max_bytes: int) -> None:
        self._number = number
        self._start = start
        self._max_bytes = max_bytes
        self._rest = bytearray()

    def lines_in(self, part: bytes) -> list[Line]:
        """The lines that end in this part. Raises LineTooLong."""
        *ended, begun = part.split(b"\n")
        found = []
        for place, content in enumerate(ended):
            if not place % PAUSE_EVERY:
                pause()
            if (line := self._next_line(content)) is not None:
                found.append(line)
        self._rest += begun
        _require_length(self._rest, self._number + 1, self._max_bytes)
        return found

    def last(self) -> Line | None:
        """What follows the last line break."""
        content = _cleaned(bytes(self._rest), self._number + 1)
        return Line(self._number + 1, self._start + len(self._rest), content) if content else None

    def _next_line(self, end: bytes) -> Line | None:
        """The line that ends so; None for one without content."""
        self._number += 1
        self._start += len(self._rest) + len(end) + 1
        if not end and not self._rest:
            return None
        content = bytes(self._rest) + end if self._rest else end
        self._rest.clear()
        _require_length(content, self._number, self._max_bytes)
        cleaned = _cleaned(content, self._number)
        return Line(self._number, self._start, cleaned) if cleaned else None


def _require_length(line: bytes | bytearray, number: int, max_bytes: int) -> None:
    if len(line) > max_bytes:
        raise LineTooLong(number=number, max_bytes=max_bytes)


def _cleaned(line: bytes, number: int) -> bytes:
    return (line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line).strip(b" \t\r")
