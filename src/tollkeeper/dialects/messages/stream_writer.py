"""Writes a streamed answer as events."""

from typing import Any

import orjson

from tollkeeper.chat import Delta, ReasoningDelta, ReasoningEnd, RefusalDelta, TextDelta, ToolCallDelta, Usage
from tollkeeper.dialects.answer_tool_calls import new_call_id
from tollkeeper.dialects.messages.answer_writer import message, stop_reason, write_usage
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.dialects.sse import event


class StreamWriter:
    """Writes one answer as events. `message_delta`, the last but one, has the usage; `message_start` has zeros."""

    def __init__(self, meta: ResponseMeta) -> None:
        self._meta = meta
        self._begun = False
        self._open: str | None = None
        """The block that is open: its kind, and of a tool call also the number."""
        self._block_count = 0
        self._call_blocks: dict[int, int] = {}
        """The block of each tool call, by the number of the call."""
        self._custom_inputs: dict[int, list[str]] = {}
        """The texts for custom tools, by block: sent at the end, because an object has to hold the whole text."""
        self._refused = False

    def write(self, delta: Delta) -> bytes:
        """The events with this delta; empty for a delta that has no event of its own."""
        match delta:
            case TextDelta(text) | RefusalDelta(text):
                self._refused |= isinstance(delta, RefusalDelta)
                return self._text_delta("text", "text", text) if text else b""
            case ReasoningDelta(text):
                return self._text_delta("thinking", "thinking", text) if text else b""
            case ReasoningEnd(signature):
                return self._signature(signature)
            case ToolCallDelta():
                return self._tool_call(delta)
            case _:
                return b""

    def end(self, finish_reason: str, usage: Usage) -> bytes:
        """The events that end the answer."""
        events = self._start_message()
        for block, texts in self._custom_inputs.items():
            events += self._input_delta(block, {"input": "".join(texts)})
        return events + self._close_block() + end_events(stop_reason(finish_reason, refused=self._refused), usage)

    def _start_message(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return write_event("message_start", message=message(self._meta, [], None, write_usage(Usage(0, 0))))

    def _close_block(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return write_event("content_block_stop", index=self._block_count - 1)

    def _start_block(self, kind: str, block: dict[str, Any]) -> bytes:
        written = self._start_message() + self._close_block()
        self._open = kind
        self._block_count += 1
        return written + write_event("content_block_start", index=self._block_count - 1, content_block=block)

    def _text_delta(self, kind: str, field: str, text: str) -> bytes:
        written = self._open_text(kind, field)
        delta = {"type": f"{kind}_delta", field: text}
        return written + write_event("content_block_delta", index=self._block_count - 1, delta=delta)

    def _open_text(self, kind: str, field: str) -> bytes:
        if self._open == kind:
            return b""
        signature = {"signature": ""} if kind == "thinking" else {}
        return self._start_block(kind, {"type": kind, field: "", **signature})

    def _signature(self, signature: str) -> bytes:
        written = self._open_text("thinking", "thinking")
        delta = {"type": "signature_delta", "signature": signature}
        written += write_event("content_block_delta", index=self._block_count - 1, delta=delta)
        return written + self._close_block()

    def _tool_call(self, delta: ToolCallDelta) -> bytes:
        """Arguments that arrive after another block has begun still go to the block of their call."""
        written = b""
        if delta.index not in self._call_blocks:
            block = {"type": "tool_use", "id": delta.id or new_call_id(), "name": delta.name or "", "input": {}}
            written = self._start_block(f"call {delta.index}", block)
            self._call_blocks[delta.index] = self._block_count - 1
        call_block = self._call_blocks[delta.index]
        if delta.custom:
            self._custom_inputs.setdefault(call_block, []).append(delta.arguments)
            return written
        return written + self._input_delta(call_block, delta.arguments) if delta.arguments else written

    def _input_delta(self, block: int, arguments: str | dict[str, str]) -> bytes:
        text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
        return write_event("content_block_delta", index=block, delta={"type": "input_json_delta", "partial_json": text})


def end_events(stop_reason: str, usage: Usage) -> bytes:
    """The last two events of an answer."""
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    return write_event("message_delta", delta=delta, usage=write_usage(usage)) + MESSAGE_STOP


def write_event(event_type: str, **fields: Any) -> bytes:
    """The bytes of one event. Its name and its `type` are the same."""
    return event(orjson.dumps({"type": event_type, **fields}), name=event_type)


MESSAGE_STOP = write_event("message_stop")
"""The last event of every answer."""
