"""Server-sent events, taken apart and put together (WHATWG HTML, "Server-sent events")."""

import re
from itertools import pairwise

import msgspec

from tollkeeper.dialects.reading import BadAnswer, Unfinished

MAX_EVENT_BYTES = 4 * 1024 * 1024
PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"

_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LINE = re.compile(rb"\r\n|\n|\r")


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event: as it came, its name (empty: none), and its data."""

    raw: bytes
    name: bytes
    data: bytes


class Splitter:
    """Takes blocks as the network cuts them; gives whole events. Comments and events without data are left out."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, block: bytes) -> list[Event]:
        """The events that this block completes. Raises BadAnswer when one does not end."""
        if self._rest:
            block = self._rest + block
        elif (
            block.startswith(b"data: ")
            and block.endswith(b"\n\n")
            and block.find(b"\n") == len(block) - 2
            and b"\r" not in block
        ):  # as most of them come: one line and no name
            return [Event(block, b"", block[6:-2])]
        events = self._of_any_lines(block) if b"\r" in block else self._of_common_lines(block)
        if len(self._rest) > MAX_EVENT_BYTES:
            raise BadAnswer
        return events

    def end(self) -> list[Event]:
        """There is no more. Raises Unfinished when something has begun that did not end."""
        if self._rest.strip():
            raise Unfinished
        return []

    def _of_common_lines(self, block: bytes) -> list[Event]:
        """Where lines end in \\n alone, as all providers' do: at half the cost."""
        *bodies, self._rest = block.split(b"\n\n")
        events = []
        for body in bodies:
            if body.startswith(b"data: ") and b"\n" not in body:
                events.append(Event(body + b"\n\n", b"", body[6:]))
            elif (event := _event(body + b"\n\n")) is not None:
                events.append(event)
        return events

    def _of_any_lines(self, block: bytes) -> list[Event]:
        ends = [found.end() for found in _END.finditer(block)]
        *raws, self._rest = (block[start:end] for start, end in pairwise([0, *ends, len(block)]))
        return [event for raw in raws if (event := _event(raw)) is not None]


def _event(raw: bytes) -> Event | None:
    name, data = b"", []
    for line in _LINE.split(raw) if b"\r" in raw else raw.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    return Event(raw, name, b"\n".join(data)) if data else None


def event(data: bytes, name: str | None = None) -> bytes:
    """One event to be sent; the data is of one line."""
    return b"data: " + data + b"\n\n" if name is None else b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
