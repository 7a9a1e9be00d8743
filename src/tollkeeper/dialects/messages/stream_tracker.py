"""Ends a provider's own stream where it is cut."""

import msgspec

from tollkeeper.chat import FinishReason, Usage
from tollkeeper.dialects.lenient_decoding import DECODE_ERRORS, decode_leniently
from tollkeeper.dialects.messages.answer_writer import stop_reason
from tollkeeper.dialects.messages.stream_writer import end_events, write_event
from tollkeeper.dialects.sse import Splitter

_BLOCK_START, _BLOCK_STOP = b'"content_block_start"', b'"content_block_stop"'


class _BlockEvent(msgspec.Struct):
    type: str = ""
    index: int | None = None


_decode = msgspec.json.Decoder(_BlockEvent).decode


class StreamTracker:
    """Records the latest events among which a block started or stopped, and decodes them only if the stream is cut."""

    def __init__(self) -> None:
        self._latest = b""

    def follow(self, raw: bytes) -> None:
        """Record events, as they were received."""
        if _BLOCK_START in raw or _BLOCK_STOP in raw:
            self._latest = raw

    def end(self, finish_reason: FinishReason, usage: Usage) -> bytes:
        """The events that close the open block, if any, and the message."""
        closing = b""
        for latest in Splitter().feed(self._latest):
            try:
                block = _decode(latest.data)
            except DECODE_ERRORS:
                block = decode_leniently(latest.data, _BlockEvent)
            if block.type == "content_block_start":
                closing = write_event("content_block_stop", index=block.index or 0)
            elif block.type == "content_block_stop":
                closing = b""
        return closing + end_events(stop_reason(finish_reason), usage)
