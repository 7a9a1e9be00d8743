"""Reads whole answers."""

from collections.abc import Iterator
from typing import Any

import msgspec

from tollkeeper.chat import Completion, FinishReason, Reasoning, ToolCall, UsageReport
from tollkeeper.dialects.answer_checks import (
    UNTYPED_FLOAT,
    has_error,
    raise_failure,
    raise_unreadable,
    token_count,
    usage_report,
)
from tollkeeper.dialects.answer_tool_calls import finish_reason_with, new_call_id, raw_arguments_text
from tollkeeper.dialects.lenient_decoding import DECODE_ERRORS, decode_leniently
from tollkeeper.dialects.signatures import seal
from tollkeeper.dialects.usage_counts import cached_in_details, first_count

EMPTY_ARGUMENTS = "{}"
OUTPUT_NAMES = ("output_tokens", "completion_tokens")
"""The names of the output in a usage report, this wire format's own first."""


class _Block(msgspec.Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _Answer(msgspec.Struct):
    """The fields of a message that metering and a Completion need."""

    type: Any = None
    content: list[_Block] | str | None = None
    stop_reason: str | None = None
    stop_details: Any = None
    usage: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Answer, float_hook=UNTYPED_FLOAT).decode


def read_answer(body: bytes, signer: str = "") -> Completion:
    """Read a message. The signatures of its thinking are sealed as those of the model `signer`, if one is given.

    Raises MalformedAnswer if it is malformed, ProviderSentError if it is an error.
    """
    try:
        answer = _decode(body)
    except DECODE_ERRORS:
        answer = decode_leniently(body, _Answer)
    usage, content = read_usage(answer.usage), answer.content
    if (answer.type or "message") != "message" or (content is None and (usage is None or answer.type is None)):
        raise_unreadable(body, read_usage)
    if has_error(answer.error, has_answer=content is not None):
        raise_failure(usage, has_output=bool(content))
    blocks = [_Block("text", content)] if isinstance(content, str) else content or []
    calls = tuple(
        ToolCall(block.id or new_call_id(), block.name or "", raw_arguments_text(block.input) or EMPTY_ARGUMENTS)
        for block in blocks
        if block.type == "tool_use"
    )
    refusal = refusal_text(answer.stop_details)
    return Completion(
        "".join(block.text or "" for block in blocks if block.type == "text") or refusal or "",
        finish_reason(answer.stop_reason or "end_turn", called=bool(calls)),
        usage,
        calls,
        refusal,
        "".join(block.thinking or "" for block in blocks if block.type == "thinking") or None,
        signed_reasoning=tuple(_signed_reasoning(blocks, signer)) if signer else (),
    )


def _signed_reasoning(blocks: list[_Block], signer: str) -> Iterator[Reasoning]:
    for block in blocks:
        if block.type == "thinking":
            text = block.thinking or ""
            yield Reasoning(text, seal(signer, "thinking", block.signature or "", text))
        elif block.type == "redacted_thinking" and block.data:
            yield Reasoning("", seal(signer, "redacted", block.data))


def finish_reason(stop_reason: str, *, called: bool) -> FinishReason:
    """Our finish reason of a message with that `stop_reason`; `called`: it contains tool calls."""
    return finish_reason_with(stop_reason, called=called)


def refusal_text(stop_details: Any) -> str | None:
    """The provider's explanation of a refusal, if it sent one."""
    text = stop_details.get("explanation") if isinstance(stop_details, dict) else None
    return text if isinstance(text, str) and text else None


def read_usage(reported: Any) -> UsageReport | None:
    """The reported usage; None if there is none, or no count in it is valid.

    This wire format counts tokens that are read from or written to the cache apart from `input_tokens`; ours includes
    them, as do OpenAI's names, which some servers send in place of those of this wire format.
    """
    if not isinstance(reported, dict):
        return None
    details = reported.get("output_tokens_details")
    uncached = token_count(reported.get("input_tokens"))
    output_tokens = first_count(reported, OUTPUT_NAMES)
    cached = token_count(reported.get("cache_read_input_tokens") or 0)
    cache_write = token_count(reported.get("cache_creation_input_tokens") or 0)
    input_tokens = token_count(uncached + (cached or 0) + (cache_write or 0)) if uncached is not None else None
    if not uncached and (whole := token_count(reported.get("prompt_tokens"))):
        input_tokens = max(whole, input_tokens or 0, (cached or 0) + (cache_write or 0))
        cached = cached or cached_in_details(reported, "prompt_tokens")
    reasoning = token_count(details.get("thinking_tokens")) if isinstance(details, dict) else None
    reasoning = min(reasoning or 0, output_tokens or 0)
    return usage_report(input_tokens, output_tokens, reported.get("total_tokens"), cached, cache_write, reasoning)
