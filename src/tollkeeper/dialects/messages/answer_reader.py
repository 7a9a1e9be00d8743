"""Reads whole answers."""

from typing import Any, Literal

import msgspec

from tollkeeper.chat import Completion, FinishReason, ToolCall, UsageReport
from tollkeeper.dialects.answer_checks import UNTYPED_FLOAT, raise_failure, raise_unreadable, token_count, usage_report

FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
}
"""Our finish reason for each `stop_reason` that has another name here."""


class _Block(msgspec.Struct):
    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _Answer(msgspec.Struct):
    """The fields of a message that metering and a Completion need."""

    type: Literal["message"]
    content: list[_Block]
    stop_reason: str | None = None
    stop_details: Any = None
    usage: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Answer, float_hook=UNTYPED_FLOAT).decode


def read_answer(body: bytes) -> Completion:
    """Read a message. Raises MalformedAnswer if it is malformed, ProviderSentError if it is an error."""
    try:
        answer = _decode(body)
        calls = tuple(
            ToolCall(block.id or "", block.name or "", bytes(block.input).decode())
            for block in answer.content
            if block.type == "tool_use"
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise_unreadable(body, read_usage)
    if answer.error is not None:
        raise_failure(read_usage(answer.usage), has_output=bool(answer.content))
    refusal = refusal_text(answer.stop_details)
    return Completion(
        "".join(block.text or "" for block in answer.content if block.type == "text") or refusal or "",
        finish_reason(answer.stop_reason or "end_turn"),
        read_usage(answer.usage),
        calls,
        refusal,
        "".join(block.thinking or "" for block in answer.content if block.type == "thinking") or None,
    )


def finish_reason(stop_reason: str) -> FinishReason:
    """Our finish reason of a message with that `stop_reason`."""
    return FINISH_REASONS.get(stop_reason, stop_reason)


def refusal_text(stop_details: Any) -> str | None:
    """The provider's explanation of a refusal, if it sent one."""
    text = stop_details.get("explanation") if isinstance(stop_details, dict) else None
    return text if isinstance(text, str) and text else None


def read_usage(reported: Any) -> UsageReport | None:
    """The reported usage; None if there is none, or no count in it is valid.

    This wire format counts tokens that are read from or written to the cache apart from `input_tokens`; ours includes
    them.
    """
    if not isinstance(reported, dict):
        return None
    details = reported.get("output_tokens_details")
    uncached, output_tokens = token_count(reported.get("input_tokens")), token_count(reported.get("output_tokens"))
    cached = token_count(reported.get("cache_read_input_tokens") or 0)
    cache_write = token_count(reported.get("cache_creation_input_tokens") or 0)
    input_tokens = token_count(uncached + (cached or 0) + (cache_write or 0)) if uncached is not None else None
    reasoning = token_count(details.get("thinking_tokens")) if isinstance(details, dict) else None
    reasoning = min(reasoning or 0, output_tokens or 0)
    return usage_report(input_tokens, output_tokens, reported.get("total_tokens"), cached, cache_write, reasoning)
