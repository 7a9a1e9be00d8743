"""Reads the events of a streamed answer."""

from typing import Any

import msgspec

from tollkeeper.chat import (
    Delta,
    Finish,
    InputTokens,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from tollkeeper.dialects.answer_checks import UNTYPED_FLOAT, MalformedAnswer, ProviderSentError, raise_error_event
from tollkeeper.dialects.messages.answer_reader import finish_reason, read_usage, refusal_text
from tollkeeper.dialects.sse import Event

EMPTY_ARGUMENTS = "{}"


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


class _MessageStart(msgspec.Struct):
    usage: Any = None


class _Event(msgspec.Struct):
    """The fields of an event that metering and the deltas need."""

    type: str
    index: int = 0
    delta: _Delta | None = None
    content_block: _Block | None = None
    message: _MessageStart | None = None
    usage: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event, float_hook=UNTYPED_FLOAT).decode


class _ToolCall:
    """A tool call that has begun. `has_arguments`: some of its arguments were received."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.has_arguments = False


class StreamReader:
    """Reads the events of one stream into deltas.

    `last`: the latest event belongs to the end of the answer. `finished`: the answer is whole. Only the end gives a
    Usage: in the first event only the input tokens are final, and the output tokens are a placeholder.
    """

    def __init__(self) -> None:
        self.last = False
        self.finished = False
        self._usage: dict[str, Any] = {}
        self._calls: dict[int, _ToolCall] = {}
        """The tool calls that have begun, by the index of their block."""
        self._call_count = 0

    def read(self, event: Event) -> list[Delta]:
        """The deltas of one event. Raises MalformedAnswer if it is malformed, ProviderSentError if it is an error."""
        if event.name == b"error":
            raise_error_event(event.data, read_usage)
        try:
            decoded = _decode(event.data)
            if decoded.type == "error" or decoded.error is not None:
                raise ProviderSentError(read_usage(decoded.usage))
            self.last = decoded.type == "message_stop"
            match decoded.type:
                case "content_block_delta":
                    return self._read_delta(decoded)
                case "content_block_start":
                    return self._read_block_start(decoded)
                case "content_block_stop":
                    return self._read_block_stop(decoded.index)
                case "message_start":
                    return self._read_start(decoded.message.usage if decoded.message is not None else None)
                case "message_delta":
                    return self._read_end(decoded)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedAnswer from error
        return []

    def _read_start(self, reported: Any) -> list[Delta]:
        """Servers that have not counted the input yet report 0 input tokens."""
        self._update_usage(reported)
        usage = read_usage(reported)
        return [InputTokens(usage.input_tokens)] if isinstance(usage, Usage) and usage.input_tokens else []

    def _read_delta(self, event: _Event) -> list[Delta]:
        if (delta := event.delta) is None:
            raise MalformedAnswer
        if delta.type == "text_delta" and delta.text:
            return [TextDelta(delta.text)]
        if delta.type == "thinking_delta" and delta.thinking:
            return [ReasoningDelta(delta.thinking)]
        if delta.type == "input_json_delta" and delta.partial_json and (call := self._calls.get(event.index)):
            call.has_arguments = True
            return [ToolCallDelta(call.number, None, None, delta.partial_json)]
        return []

    def _read_block_start(self, event: _Event) -> list[Delta]:
        if (block := event.content_block) is None:
            raise MalformedAnswer
        if block.type == "text" and block.text:
            return [TextDelta(block.text)]
        if block.type == "thinking" and block.thinking:
            return [ReasoningDelta(block.thinking)]
        if block.type != "tool_use":
            return []
        call = self._calls[event.index] = _ToolCall(self._call_count)
        self._call_count += 1
        arguments = bytes(block.input).decode()
        call.has_arguments = arguments not in {EMPTY_ARGUMENTS, "null"}
        return [ToolCallDelta(call.number, block.id or "", block.name or "", arguments if call.has_arguments else "")]

    def _read_block_stop(self, index: int) -> list[Delta]:
        """The arguments of a call that has none: an empty object in our deltas, no delta on this wire."""
        call = self._calls.get(index)
        if call is None or call.has_arguments:
            return []
        call.has_arguments = True
        return [ToolCallDelta(call.number, None, None, EMPTY_ARGUMENTS)]

    def _read_end(self, event: _Event) -> list[Delta]:
        self._update_usage(event.usage)
        deltas: list[Delta] = []
        if event.delta is not None and event.delta.stop_reason is not None:
            if refusal := refusal_text(event.delta.stop_details):
                deltas.append(RefusalDelta(refusal))
            self.finished = True
            deltas.append(Finish(finish_reason(event.delta.stop_reason)))
        self.last = self.finished
        has_output = isinstance(event.usage, dict) and event.usage.get("output_tokens") is not None
        if has_output and (usage := read_usage(self._usage)):
            deltas.append(usage)
        return deltas

    def _update_usage(self, usage: Any) -> None:
        """The counts are totals: a later one replaces an earlier one, and a missing one leaves it."""
        if isinstance(usage, dict):
            self._usage |= {name: value for name, value in usage.items() if value is not None}
