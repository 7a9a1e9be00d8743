"""Writes whole answers."""

from typing import Any

import orjson

from tollkeeper.chat import Completion, FinishReason, ToolCall, Usage
from tollkeeper.dialects.response_meta import ResponseMeta

FINISH_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter"})
"""Our finish reasons that have the same name here. Any other is written as `stop`."""


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
    if calls := completion.tool_calls:
        first = calls[0]._replace(id=calls[0].id + _seal_of(completion))
        message["tool_calls"] = [
            write_tool_call(call if call.custom else call._replace(arguments=call.arguments or "{}"))
            for call in (first, *calls[1:])
        ]
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


def _seal_of(completion: Completion) -> str:
    """The sealed signature of the reasoning, where that is one block: this wire format has one text for all blocks."""
    blocks = completion.reasoning_blocks
    return blocks[0].signature if len(blocks) == 1 else ""


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
    written: dict[str, Any] = {"id": call.id, "type": "function"}
    if call.custom:
        written = {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    else:
        written["function"] = {"name": call.name, "arguments": call.arguments}
    if call.signature:
        written |= _extra_content(call.signature)
    return written


def _extra_content(signature: str) -> dict[str, Any]:
    """What the model demands back with a call; nothing if the text, which comes from the caller, is no such object."""
    try:
        extra_content = orjson.loads(signature)
        orjson.dumps(extra_content)  # it is limited in depth, more than loads
    except (ValueError, TypeError):
        return {}
    return {"extra_content": extra_content} if isinstance(extra_content, dict) else {}


def write_finish_reason(finish_reason: FinishReason) -> str:
    """The `finish_reason` of an answer."""
    return finish_reason if finish_reason in FINISH_REASONS else "stop"
