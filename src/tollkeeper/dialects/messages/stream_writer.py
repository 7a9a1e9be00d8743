"""Writes a streamed answer as events."""

from collections import deque
from typing import Any

import orjson

from tollkeeper.chat import Delta, ReasoningDelta, ReasoningEnd, RefusalDelta, TextDelta, ToolCallDelta, Usage
from tollkeeper.dialects.answer_tool_calls import is_whole_object, new_call_id
from tollkeeper.dialects.messages.answer_writer import message, stop_reason, write_usage
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.dialects.sse import event


class _Block:
    """A content block that is being written, or that waits until those before it have ended.

    `pending`: its content that is not written yet; `arguments`: all arguments of a tool call. `ended`: nothing follows.
    """

    def __init__(self, kind: str, call: ToolCallDelta | None = None) -> None:
        self.kind = kind
        self.id = "" if call is None else call.id or new_call_id()
        self.name = ""
        self.custom = call is not None and call.custom
        self.pending: list[str] = []
        self.arguments: list[str] = []
        self.signature: str | None = None
        self.started = self.ended = False

    @property
    def is_whole(self) -> bool:
        """Whether the block can end when another one waits. Only its end shows that a custom tool's text is whole."""
        return self.kind != "tool_use" or (not self.custom and is_whole_object(self.arguments))

    @property
    def content(self) -> dict[str, Any]:
        """The block as it starts."""
        if self.kind == "tool_use":
            return {"type": "tool_use", "id": self.id, "name": self.name, "input": {}}
        return {"type": self.kind, self.kind: ""} | ({"signature": ""} if self.kind == "thinking" else {})

    def take_deltas(self) -> list[dict[str, Any]]:
        """The deltas that are not written yet."""
        text, self.pending = "".join(self.pending), []
        if self.kind == "tool_use":
            return [{"type": "input_json_delta", "partial_json": text}] if text else []
        deltas: list[dict[str, Any]] = [{"type": f"{self.kind}_delta", self.kind: text}] if text else []
        if self.signature is not None:
            deltas.append({"type": "signature_delta", "signature": self.signature})
        return deltas


class StreamWriter:
    """Writes one answer as events. `message_delta`, the last but one, has the usage; `message_start` has zeros.

    One block is open at a time, as clients expect it. Where the pieces of several tool calls alternate, the later calls
    wait until the arguments of the open one are whole, or until the end.
    """

    def __init__(self, meta: ResponseMeta) -> None:
        self._meta = meta
        self._begun = False
        self._blocks: deque[_Block] = deque()
        """The open block, and those that wait for its end."""
        self._stopped_count = 0
        self._calls: dict[int, _Block] = {}
        """The block of each tool call, by the number of the call."""
        self._refused = False

    def write(self, delta: Delta) -> bytes:
        """The events with this delta; empty for a delta that has no event of its own, or that waits."""
        match delta:
            case TextDelta(text) | RefusalDelta(text):
                self._refused |= isinstance(delta, RefusalDelta)
                return self._write_text("text", text) if text else b""
            case ReasoningDelta(text):
                return self._write_text("thinking", text) if text else b""
            case ReasoningEnd(signature):
                block = self._last_block("thinking")
                block.signature, block.ended = signature, True
                return self._advance()
            case ToolCallDelta():
                return self._write_tool_call(delta)
            case _:
                return b""

    def end(self, finish_reason: str, usage: Usage) -> bytes:
        """The events that end the answer."""
        for block in self._blocks:
            block.ended = True
        return self._advance() + end_events(stop_reason(finish_reason, refused=self._refused), usage)

    def _write_text(self, kind: str, text: str) -> bytes:
        self._last_block(kind).pending.append(text)
        return self._advance()

    def _last_block(self, kind: str) -> _Block:
        """The last block, if it is of that kind and has not ended; else a new one."""
        if not self._blocks or self._blocks[-1].kind != kind or self._blocks[-1].ended:
            self._blocks.append(_Block(kind))
        return self._blocks[-1]

    def _write_tool_call(self, delta: ToolCallDelta) -> bytes:
        block = self._calls.get(delta.index)
        if block is None:
            block = self._calls[delta.index] = _Block("tool_use", delta)
            self._blocks.append(block)
        block.name += delta.name or ""
        block.arguments.append(delta.arguments)
        if not block.custom:
            block.pending.append(delta.arguments)
        return self._advance()

    def _advance(self) -> bytes:
        """The events of the open block, and of each that follows on one that has ended."""
        written = self._start_message()
        while self._blocks:
            block = self._blocks[0]
            ends = block.ended or (len(self._blocks) > 1 and block.is_whole)
            if block.kind != "tool_use" or ends or any(block.arguments):  # else its name may not be whole
                written += self._write_block(block, ends=ends)
            if not ends:
                break
            self._blocks.popleft()
            self._stopped_count += 1
        return written

    def _write_block(self, block: _Block, *, ends: bool) -> bytes:
        index, written = self._stopped_count, b""
        if not block.started:
            block.started = True
            written = write_event("content_block_start", index=index, content_block=block.content)
        if ends and block.custom:  # at the end, because an object has to hold the whole text
            block.pending = [orjson.dumps({"input": "".join(block.arguments)}).decode()]
        for delta in block.take_deltas():
            written += write_event("content_block_delta", index=index, delta=delta)
        return written + write_event("content_block_stop", index=index) if ends else written

    def _start_message(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return write_event("message_start", message=message(self._meta, [], None, write_usage(Usage(0, 0))))


def end_events(stop_reason: str, usage: Usage) -> bytes:
    """The last two events of an answer."""
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    return write_event("message_delta", delta=delta, usage=write_usage(usage)) + MESSAGE_STOP


def write_event(event_type: str, **fields: Any) -> bytes:
    """The bytes of one event. Its name and its `type` are the same."""
    return event(orjson.dumps({"type": event_type, **fields}), name=event_type)


MESSAGE_STOP = write_event("message_stop")
"""The last event of every answer."""
