"""A stream that someone else writes, followed, so that it can be ended under its own names where it is cut."""

from contextlib import suppress
from typing import Any

import msgspec

from tollkeeper.chat import Delta, FinishReason, Usage
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.dialects.responses.items import BAD_JSON
from tollkeeper.dialects.responses.writer import StreamWriter
from tollkeeper.dialects.sse import Splitter

_MARK = b"response.output_item."


class _Marked(msgspec.Struct):
    type: str = ""
    output_index: int = 0
    item: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Marked).decode
_NOTHING = _Marked()


class StreamTracker:
    """Takes note while events pass by; what they begin and end is read only when it is needed."""

    def __init__(self) -> None:
        self._heard: list[tuple[bytes, tuple[Delta, ...]]] = []
        self.events = 0
        """How many have passed by: they are numbered."""

    def follow(self, raw: bytes, deltas: tuple[Delta, ...]) -> None:
        """One event, and what it brought."""
        self.events += 1
        self._heard.append((raw if _MARK in raw else b"", deltas))

    def end(self, head: ResponseMeta, finish_reason: FinishReason, usage: Usage) -> bytes:
        """What closes everything that is open, and then the answer."""
        writer = StreamWriter(head)
        for raw, deltas in self._heard:
            marked = _read(raw)
            if marked.type == "response.output_item.added":
                writer.take_over(marked.output_index, marked.item or {})
            for delta in deltas:
                writer.write(delta)
            if marked.type == "response.output_item.done":
                writer.leave(marked.output_index, marked.item or {})
        writer.sequence_number = self.events
        return writer.end(finish_reason, usage)


def _read(raw: bytes) -> _Marked:
    """What an event begins or ends. It has been read before, but for what nobody needed of it, which may be garbage."""
    for event in Splitter().feed(raw):
        with suppress(*BAD_JSON):
            return _decode(event.data)
    return _NOTHING
