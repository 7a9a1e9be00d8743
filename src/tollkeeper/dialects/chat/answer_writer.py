"""Writes whole answers."""

from typing import Any

import orjson

from tollkeeper.chat import Completion, FinishReason, ToolCall, Usage
from tollkeeper.dialects.response_meta import ResponseMeta

FINISH_REASONS = {"refusal": "stop"}
"""The `finish_reason` of each of our finish reasons that has another name here."""


def write_answer(completion: Completion, meta: ResponseMeta, usage: Usage) -> bytes:
    """A chat completion, in JSON."""
    text = "" if completion.text == completion.refusal else completion.text
    without_text = not text and (completion.refusal is not None or completion.tool_calls)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if without_text else text,
        "refusal": completion.refusal,
    }
    if completion.reasoning:
        message["reasoning_content"] = completion.reasoning
    if completion.tool_calls:
        message["tool_calls"] = [write_tool_call(call) for call in completion.tool_calls]
    finish_reason = write_finish_reason(completion.finish_reason)
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    return orjson.dumps(
        {
            "id": meta.id,
            "object": "chat.completion",
            "created": meta.created,
            "model": meta.model,
            "choices": [choice],
            "usage": write_usage(usage),
        }
    )


def write_usage(usage: Usage) -> dict[str, Any]:
    """The `usage` of an answer."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def write_tool_call(call: ToolCall) -> dict[str, Any]:
    """A tool call of an answer, or of an earlier message in a request."""
    if call.custom:
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def write_finish_reason(finish_reason: FinishReason) -> str:
    """The `finish_reason` of an answer."""
    return FINISH_REASONS.get(finish_reason, finish_reason)
