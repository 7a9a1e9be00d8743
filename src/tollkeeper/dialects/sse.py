"""Splits and writes streams of server-sent events (WHATWG HTML, "Server-sent events")."""

import re
from itertools import pairwise

import msgspec

from tollkeeper.dialects.answer_checks import MalformedAnswer, TruncatedStream

MAX_EVENT_BYTES = 4 * 1024 * 1024
MAX_PARTS = 4_096
"""More parts of one event than this are joined: small ones take many times their size."""
PING = b": ping\n"
"""A comment, without a blank line: at a blank line, OpenAI's SDKs dispatch an empty event, which they cannot read."""
DONE = b"data: [DONE]\n\n"
BOM = b"\xef\xbb\xbf"
"""The mark with which some servers begin a stream. It is no part of the first field's name."""

_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LINE_END = re.compile(rb"\r\n|\n|\r")


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event: its bytes as received, its name (empty if it has none), and its data."""

    raw: bytes
    name: bytes
    data: bytes


class Splitter:
    """Collects network blocks and returns complete events, without comments and events whose data are empty.

    Servers send both as signs of life. An event named `error` is returned even if its data are empty.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._parts: list[bytes] = []
        """The incomplete event, if it came in several blocks: they are joined once it is complete."""
        self._size = 0
        self._last_bytes = b""

    def feed(self, block: bytes) -> list[Event]:
        """The events that this block completes. Raises MalformedAnswer for an event longer than MAX_EVENT_BYTES."""
        if self._parts:
            window = self._last_bytes + block
            if _EVENT_END.search(window) is None:
                self._keep(block, window)
                return []
            block = b"".join([*self._parts, block])
            self._parts.clear()
            self._size = 0
        elif (
            block.startswith(b"data: ")
            and block.endswith(b"\n\n")
            and block.find(b"\n") == len(block) - 2
            and b"\r" not in block
            and block[6:7] > b" "
        ):  # the common case: one event of one line, without a name, whose data begin with no space
            return [Event(block, b"", block[6:-2])]
        events = self._split_any(block) if b"\r" in block else self._split_lf(block)
        if self._rest:
            self._keep(self._rest, self._rest)
        return events

    def end(self) -> list[Event]:
        """No events, once the stream has ended. Raises TruncatedStream for an incomplete event."""
        rest = b"".join(self._parts)
        if any(line.strip() and not line.startswith(b":") for line in _LINE_END.split(rest)):
            raise TruncatedStream
        return []

    def _keep(self, block: bytes, window: bytes) -> None:
        """Keep a part of an incomplete event. `window` is its last bytes, with some of those before."""
        self._parts.append(block)
        self._size += len(block)
        self._last_bytes = window[-3:]
        if len(self._parts) > MAX_PARTS:
            self._parts = [b"".join(self._parts)]
        if self._size > MAX_EVENT_BYTES:
            raise MalformedAnswer

    def _split_lf(self, block: bytes) -> list[Event]:
        """Split a block whose lines all end in \\n: at half the cost, and the providers send no other."""
        *bodies, self._rest = block.split(b"\n\n")
        events = []
        for body in bodies:
            if not body or (body.startswith(b":") and b"\n" not in body):
                continue
            if body.startswith(b"data: ") and b"\n" not in body and body[6:7] > b" ":
                events.append(Event(body + b"\n\n", b"", body[6:]))
            elif (event := _parse(body + b"\n\n")) is not None:
                events.append(event)
        return events

    def _split_any(self, block: bytes) -> list[Event]:
        """Split a block whose lines may end in \\r, \\n or both."""
        ends = [found.end() for found in _EVENT_END.finditer(block)]
        *raws, self._rest = (block[start:end] for start, end in pairwise([0, *ends, len(block)]))
        return [event for raw in raws if (event := _parse(raw)) is not None]


def _parse(raw: bytes) -> Event | None:
    name, data, text = b"", [], raw.removeprefix(BOM)
    for line in _LINE_END.split(text) if b"\r" in text else text.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    joined = b"\n".join(data)
    return Event(raw, name, joined) if data and (name == b"error" or joined.strip()) else None


def event(data: bytes, name: str | None = None) -> bytes:
    """The bytes of one event. `data` must be one line."""
    return b"data: " + data + b"\n\n" if name is None else b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
