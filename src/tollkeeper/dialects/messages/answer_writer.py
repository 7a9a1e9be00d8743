"""Writes whole answers."""

from typing import Any

import orjson

from tollkeeper.chat import Completion, FinishReason, Usage
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.dialects.tool_results import arguments_object

STOP_REASONS = {
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "refusal": "refusal",
}
"""The `stop_reason` of each of our finish reasons. Any other is written as `end_turn`."""


def write_answer(completion: Completion, meta: ResponseMeta, usage: Usage) -> bytes:
    """A message, in JSON. The wire format takes only objects as the input of a tool call.

    Arguments that are not a JSON object (a cut answer has such) are replaced by an empty one. The text for a custom
    tool is written as the field `input` of an object.
    """
    content: list[dict[str, Any]] = []
    blocks = completion.reasoning_blocks
    content += [{"type": "thinking", "thinking": one.text, "signature": one.signature} for one in blocks]
    content += [{"type": "text", "text": text} for text in dict.fromkeys((completion.text, completion.refusal)) if text]
    for call in completion.tool_calls:
        tool_input = {"input": call.arguments} if call.custom else arguments_object(call.arguments)
        content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": tool_input})
    reason = stop_reason(completion.finish_reason, refused=completion.refusal is not None)
    return orjson.dumps(message(meta, content, reason, write_usage(usage)))


def stop_reason(finish_reason: FinishReason, *, refused: bool = False) -> str:
    """The `stop_reason` of an answer; `refused`: it contains a refusal."""
    if refused and finish_reason == "stop":
        return "refusal"
    return STOP_REASONS.get(finish_reason, "end_turn")


def write_usage(usage: Usage) -> dict[str, Any]:
    """The `usage` of an answer."""
    uncached = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
    written: dict[str, Any] = {
        "input_tokens": max(0, uncached),
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_input_tokens,
        "output_tokens": usage.output_tokens,
    }
    if usage.reasoning_tokens:
        written["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return written


def message(meta: ResponseMeta, content: list[Any], stop_reason: str | None, usage: dict[str, Any]) -> dict[str, Any]:
    """The fields of a message."""
    return {
        "id": meta.id,
        "type": "message",
        "role": "assistant",
        "model": meta.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": usage,
    }


def write_token_count(input_tokens: int) -> bytes:
    """The answer of `/v1/messages/count_tokens`."""
    return orjson.dumps({"input_tokens": input_tokens})
