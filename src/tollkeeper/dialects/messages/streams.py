"""Streamed answers: a provider's events into deltas, deltas of ours into events."""

from typing import Any

import msgspec
import orjson

from tollkeeper.chat import Delta, Finish, InputTokens, ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta, Usage
from tollkeeper.dialects.messages.answers import (
    explanation,
    finish_reason,
    message,
    read_usage,
    stop_reason,
    write_usage,
)
from tollkeeper.dialects.reading import BadAnswer, ProviderSaidError
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.dialects.sse import Event, Splitter, event

NOTHING = "{}"


class _Delta(msgspec.Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_details: Any = None


class _Block(msgspec.Struct):
    type: str
    id: str | None = None
    name: str | None = None
    text: str | None = None
    thinking: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _Message(msgspec.Struct):
    usage: Any = None


class _Event(msgspec.Struct):
    """What we need of an event; everything else is skipped unread."""

    type: str
    index: int = 0
    delta: _Delta | None = None
    content_block: _Block | None = None
    message: _Message | None = None
    usage: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


class _Call:
    """A tool call that is being told."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.begun = False


class EventReader:
    """Reads the events of one stream. `last` says of the event just read that it ends the answer.

    Usage is told only at the end, when it is whole: of what the first event says, only the input is known by then, and
    its output is a placeholder.
    """

    def __init__(self) -> None:
        self.last = False
        self.finished = False
        self._usage: dict[str, Any] = {}
        self._calls: dict[int, _Call] = {}
        self._begun = 0

    def read(self, event: Event) -> list[Delta]:
        """What the event brings. Raises BadAnswer, ProviderSaidError."""
        if event.name == b"error":
            raise ProviderSaidError
        try:
            read = _decode(event.data)
            if read.type == "error" or read.error is not None:
                raise ProviderSaidError
            self.last = read.type in {"message_delta", "message_stop"}
            match read.type:
                case "content_block_delta":
                    return self._read_delta(read)
                case "content_block_start":
                    return self._start_block(read)
                case "content_block_stop":
                    return self._end_block(read.index)
                case "message_start":
                    return self._start(read.message.usage if read.message is not None else None)
                case "message_delta":
                    return self._end(read)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadAnswer from error
        return []

    def _start(self, reported: Any) -> list[Delta]:
        """Servers that do not know the input by then say 0."""
        self._note_usage(reported)
        usage = read_usage(reported)
        return [InputTokens(usage.input_tokens)] if usage is not None and usage.input_tokens else []

    def _read_delta(self, read: _Event) -> list[Delta]:
        if (delta := read.delta) is None:
            raise BadAnswer
        if delta.type == "text_delta" and delta.text:
            return [TextDelta(delta.text)]
        if delta.type == "thinking_delta" and delta.thinking:
            return [ReasoningDelta(delta.thinking)]
        if delta.type == "input_json_delta" and delta.partial_json and (call := self._calls.get(read.index)):
            call.begun = True
            return [ToolCallDelta(call.number, None, None, delta.partial_json)]
        return []

    def _start_block(self, read: _Event) -> list[Delta]:
        if (block := read.content_block) is None:
            raise BadAnswer
        if block.type == "text" and block.text:
            return [TextDelta(block.text)]
        if block.type == "thinking" and block.thinking:
            return [ReasoningDelta(block.thinking)]
        if block.type != "tool_use":
            return []
        call = self._calls[read.index] = _Call(self._begun)
        self._begun += 1
        given = bytes(block.input).decode()
        call.begun = given not in {NOTHING, "null"}
        return [ToolCallDelta(call.number, block.id or "", block.name or "", given if call.begun else "")]

    def _end_block(self, index: int) -> list[Delta]:
        """A call without arguments brings no piece of them; in our nouns they are an empty object."""
        call = self._calls.get(index)
        if call is None or call.begun:
            return []
        call.begun = True
        return [ToolCallDelta(call.number, None, None, NOTHING)]

    def _end(self, read: _Event) -> list[Delta]:
        self._note_usage(read.usage)
        deltas: list[Delta] = []
        if read.delta is not None and read.delta.stop_reason is not None:
            if said := explanation(read.delta.stop_details):
                deltas.append(RefusalDelta(said))
            self.finished = True
            deltas.append(Finish(finish_reason(read.delta.stop_reason)))
        told = isinstance(read.usage, dict) and read.usage.get("output_tokens") is not None
        if told and (usage := read_usage(self._usage)):
            deltas.append(usage)
        return deltas

    def _note_usage(self, usage: Any) -> None:
        """Counts are totals: a later one replaces an earlier one, and what it does not name stays."""
        if isinstance(usage, dict):
            self._usage |= {name: value for name, value in usage.items() if value is not None}


class StreamWriter:
    """Writes one answer as events. The usage comes in the last but one; the first says nothing of it yet."""

    def __init__(self, head: ResponseMeta) -> None:
        self._head = head
        self._begun = False
        self._open: str | None = None
        """The kind of the block that is being written; of a tool call, its place too."""
        self._blocks = 0
        self._calls: dict[int, int] = {}
        self._custom: dict[int, list[str]] = {}
        """What was given to custom tools, by block. It stands in an object here, and is told when it is whole."""
        self._refused = False

    def write(self, delta: Delta) -> bytes:
        """The events that say this, if any."""
        match delta:
            case TextDelta(text) | RefusalDelta(text):
                self._refused |= isinstance(delta, RefusalDelta)
                return self._piece("text", "text", text) if text else b""
            case ReasoningDelta(text):
                return self._piece("thinking", "thinking", text) if text else b""
            case ToolCallDelta():
                return self._call(delta)
            case _:
                return b""

    def end(self, finish_reason: str, usage: Usage) -> bytes:
        """What ends the stream."""
        return (
            self._begin()
            + b"".join(self._given(block, {"input": "".join(texts)}) for block, texts in self._custom.items())
            + self._close()
            + _ended(stop_reason(finish_reason, refused=self._refused), usage)
        )

    def _begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return _event("message_start", message=message(self._head, [], None, write_usage(Usage(0, 0))))

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return _event("content_block_stop", index=self._blocks - 1)

    def _start(self, kind: str, block: dict[str, Any]) -> bytes:
        written = self._begin() + self._close()
        self._open = kind
        self._blocks += 1
        return written + _event("content_block_start", index=self._blocks - 1, content_block=block)

    def _piece(self, kind: str, field: str, text: str) -> bytes:
        written = b""
        if self._open != kind:
            signature = {"signature": ""} if kind == "thinking" else {}
            written = self._start(kind, {"type": kind, field: "", **signature})
        delta = {"type": f"{kind}_delta", field: text}
        return written + _event("content_block_delta", index=self._blocks - 1, delta=delta)

    def _call(self, delta: ToolCallDelta) -> bytes:
        """A piece of a call that came too late is said of its block, though that was closed."""
        written = b""
        if delta.index not in self._calls:
            block = {"type": "tool_use", "id": delta.id or f"call_{delta.index}", "name": delta.name or "", "input": {}}
            written = self._start(f"call {delta.index}", block)
            self._calls[delta.index] = self._blocks - 1
        place = self._calls[delta.index]
        if delta.custom:
            self._custom.setdefault(place, []).append(delta.arguments)
            return written
        return written + self._given(place, delta.arguments) if delta.arguments else written

    def _given(self, block: int, arguments: str | dict[str, str]) -> bytes:
        told = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
        return _event("content_block_delta", index=block, delta={"type": "input_json_delta", "partial_json": told})


_START, _STOP = b'"content_block_start"', b'"content_block_stop"'


class StreamTracker:
    """Takes note of a stream that someone else writes, so that it can be ended at its place where it is cut."""

    def __init__(self) -> None:
        self._latest = b""

    def follow(self, raw: bytes) -> None:
        """One event."""
        if _START in raw or _STOP in raw:
            self._latest = raw

    def end(self, finish_reason: str, usage: Usage) -> bytes:
        """What closes the block that is open, and then the answer."""
        closing = b""
        for latest in Splitter().feed(self._latest):
            block = _decode(latest.data)
            if block.type == "content_block_start":
                closing = _event("content_block_stop", index=block.index)
        return closing + _ended(stop_reason(finish_reason), usage)


def _ended(reason: str, usage: Usage) -> bytes:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return _event("message_delta", delta=delta, usage=write_usage(usage)) + STOP


def _event(name: str, **fields: Any) -> bytes:
    return event(orjson.dumps({"type": name, **fields}), name=name)


STOP = _event("message_stop")
"""The last event of every answer."""
