"""Ends a provider's own stream where it is cut, under the ids and the numbers that the provider gave."""

from contextlib import suppress
from typing import Any

import msgspec

from tollkeeper.chat import Delta, FinishReason, Usage
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.dialects.responses.content import DECODE_ERRORS
from tollkeeper.dialects.responses.stream_writer import StreamWriter
from tollkeeper.dialects.sse import Splitter

_ITEM_EVENT = b"response.output_item."


class _ItemEvent(msgspec.Struct):
    type: str = ""
    output_index: int = 0
    item: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_ItemEvent).decode
_NO_EVENT = _ItemEvent()


class StreamTracker:
    """Records the events that pass, and decodes the items that they begin and end only if the stream is cut."""

    def __init__(self) -> None:
        self._events: list[tuple[bytes, tuple[Delta, ...]]] = []
        self.event_count = 0
        """Events so far: the sequence number of the next one."""

    def follow(self, raw: bytes, deltas: tuple[Delta, ...], events: int) -> None:
        """Record so many events, as they were received, with their deltas. One that begins or ends an item is alone."""
        self.event_count += events
        self._events.append((raw if _ITEM_EVENT in raw else b"", deltas))

    def end(self, meta: ResponseMeta, finish_reason: FinishReason, usage: Usage) -> bytes:
        """The events that close every open item and the response."""
        writer = StreamWriter(meta)
        for raw, deltas in self._events:
            event = _read_item_event(raw)
            if event.type == "response.output_item.added":
                writer.resume_item(event.output_index, event.item or {})
            for delta in deltas:
                writer.write(delta)
            if event.type == "response.output_item.done":
                writer.finish_item(event.output_index, event.item or {})
        writer.sequence_number = self.event_count
        return writer.end(finish_reason, usage)


def _read_item_event(raw: bytes) -> _ItemEvent:
    """The event; an empty one if it is malformed: StreamReader has checked only the fields that it needs."""
    for event in Splitter().feed(raw):
        with suppress(*DECODE_ERRORS):
            return _decode(event.data)
    return _NO_EVENT
