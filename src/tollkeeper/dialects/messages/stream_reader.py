"""Reads the events of a streamed answer."""

from typing import Any

import msgspec

from tollkeeper.chat import (
    Delta,
    Finish,
    InputTokens,
    ReasoningDelta,
    ReasoningEnd,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReport,
)
from tollkeeper.dialects.answer_checks import (
    UNTYPED_FLOAT,
    ProviderSentError,
    check_other_event,
    has_error,
    raise_error_event,
)
from tollkeeper.dialects.answer_tool_calls import new_call_id, raw_arguments_text
from tollkeeper.dialects.lenient_decoding import DECODE_ERRORS, decode_leniently
from tollkeeper.dialects.messages.answer_reader import (
    EMPTY_ARGUMENTS,
    OUTPUT_NAMES,
    finish_reason,
    read_usage,
    refusal_text,
)
from tollkeeper.dialects.signatures import seal
from tollkeeper.dialects.sse import Event
from tollkeeper.dialects.usage_counts import merged_report


class _Delta(msgspec.Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_details: Any = None


class _Block(msgspec.Struct):
    type: str = ""
    id: str | None = None
    name: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _MessageStart(msgspec.Struct):
    usage: Any = None


class _Event(msgspec.Struct):
    """The fields of an event that metering and the deltas need."""

    type: str = ""
    index: int | None = None
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


class _Thinking:
    """A block of thinking that has begun."""

    def __init__(self, block: _Block) -> None:
        self.texts = [block.thinking or ""]
        self.signatures = [block.signature or ""]


class StreamReader:
    """Reads the events of one stream into deltas.

    `last`: the latest event belongs to the end of the answer. `finished`: the answer is whole. `alone` is not used.
    Only the end gives a Usage: in the first event only the input tokens are final, and the output tokens are a
    placeholder. The signatures of thinking are sealed as those of the model `signer`; without one they are not read.
    """

    def __init__(self, signer: str = "") -> None:
        self._signer = signer
        self._thinking: _Thinking | None = None
        self.last = False
        self.finished = False
        self.alone = False
        self._usage: dict[str, Any] = {}
        """The latest value of each field of the usage."""
        self._report: UsageReport | None = None
        """The largest counts that were reported."""
        self._calls: dict[int | None, _ToolCall | None] = {}
        """The tool call of the latest block at each index, if it has one; at the index None, that of the latest."""
        self._call_count = 0

    def read(self, event: Event) -> list[Delta]:
        """The deltas of one event. Raises MalformedAnswer if it is malformed, ProviderSentError if it is an error."""
        if event.name == b"error":
            raise_error_event(event.data, read_usage)
        if event.data == b"[DONE]":  # some servers end every kind of stream so
            self.last = True
            return []
        try:
            decoded = _decode(event.data)
        except DECODE_ERRORS:
            decoded = decode_leniently(event.data, _Event)
        event_type = decoded.type or event.name.decode(errors="replace")
        is_error = decoded.error is not None and has_error(decoded.error, has_answer=bool(event_type))
        if is_error or event_type == "error":
            raise ProviderSentError(read_usage(decoded.usage))
        self.last = event_type == "message_stop"
        match event_type:
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
            case "":
                check_other_event(event.data)
        return []

    def _read_start(self, reported: Any) -> list[Delta]:
        """Servers that have not counted the input yet report 0 input tokens. The output is a placeholder."""
        if isinstance(reported, dict):
            self._update_usage({name: value for name, value in reported.items() if name not in OUTPUT_NAMES})
        usage = read_usage(reported)
        return [InputTokens(usage.input_tokens)] if isinstance(usage, Usage) and usage.input_tokens else []

    def _read_delta(self, event: _Event) -> list[Delta]:
        if (delta := event.delta) is None:
            return []
        if delta.type == "text_delta" and delta.text:
            return [TextDelta(delta.text)]
        if (thinking := self._thinking) is not None:
            thinking.texts.append(delta.thinking or "")
            thinking.signatures.append(delta.signature or "")
        if delta.type == "thinking_delta" and delta.thinking:
            return [ReasoningDelta(delta.thinking)]
        if delta.type == "input_json_delta" and delta.partial_json and (call := self._calls.get(event.index)):
            call.has_arguments = True
            return [ToolCallDelta(call.number, None, None, delta.partial_json)]
        return []

    def _read_block_start(self, event: _Event) -> list[Delta]:
        block = event.content_block or _Block()
        self._calls[event.index] = self._calls[None] = None
        if block.type == "text" and block.text:
            return [TextDelta(block.text)]
        if block.type == "thinking":
            self._thinking = _Thinking(block) if self._signer else None
            return [ReasoningDelta(block.thinking)] if block.thinking else []
        if block.type == "redacted_thinking" and block.data and self._signer:
            return [ReasoningEnd(seal(self._signer, "redacted", block.data))]
        if block.type != "tool_use":
            return []
        call = self._calls[event.index] = self._calls[None] = _ToolCall(self._call_count)
        self._call_count += 1
        arguments = raw_arguments_text(block.input)
        call.has_arguments = arguments not in {EMPTY_ARGUMENTS, ""}
        given = arguments if call.has_arguments else ""
        return [ToolCallDelta(call.number, block.id or new_call_id(), block.name or "", given)]

    def _read_block_stop(self, index: int | None) -> list[Delta]:
        """The signature of thinking; or the arguments of a call that has none, for which this wire has no delta."""
        if (thinking := self._thinking) is not None:
            self._thinking = None
            text, signature = "".join(thinking.texts), "".join(thinking.signatures)
            return [ReasoningEnd(seal(self._signer, "thinking", signature, text))]
        call = self._calls.get(index)
        if call is None or call.has_arguments:
            return []
        call.has_arguments = True
        return [ToolCallDelta(call.number, None, None, EMPTY_ARGUMENTS)]

    def _read_end(self, event: _Event) -> list[Delta]:
        if isinstance(event.usage, dict):
            self._update_usage(event.usage)
        deltas: list[Delta] = []
        if event.delta is not None and event.delta.stop_reason:
            if refusal := refusal_text(event.delta.stop_details):
                deltas.append(RefusalDelta(refusal))
            self.finished = True
            deltas.append(Finish(finish_reason(event.delta.stop_reason, called=self._call_count > 0)))
        self.last = self.finished
        has_output = isinstance(event.usage, dict) and any(event.usage.get(name) is not None for name in OUTPUT_NAMES)
        if has_output and self._report is not None:
            deltas.append(self._report)
        return deltas

    def _update_usage(self, usage: dict[str, Any]) -> None:
        """The counts are totals: a later one may be larger, never smaller, and a missing one leaves the earlier one.

        The input is compared with its cached parts: a server may tell them apart only at the end.
        """
        self._usage |= {name: value for name, value in usage.items() if value is not None}
        if (report := read_usage(self._usage)) is not None:
            self._report = merged_report(self._report, report)
