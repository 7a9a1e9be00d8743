"""Builds the JSON objects of an answer: the response, its output items and their parts."""

from collections.abc import Mapping
from typing import Any

from tollkeeper.chat import ToolCall, Usage
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.dialects.responses.namespaces import NO_NAMESPACES, ToolName

COMPLETED, INCOMPLETE, IN_PROGRESS = "completed", "incomplete", "in_progress"


def item_id(prefix: str, meta: ResponseMeta, index: int) -> str:
    """The id of the `index`th item: the same in a whole answer and in a streamed one."""
    return f"{prefix}_{meta.id.removeprefix('resp_')}_{index}"


def text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def refusal_part(text: str) -> dict[str, Any]:
    return {"type": "refusal", "refusal": text}


def summary_part(text: str) -> dict[str, Any]:
    return {"type": "summary_text", "text": text}


def message_item(item_id: str, parts: list[dict[str, Any]], status: str) -> dict[str, Any]:
    return {"id": item_id, "type": "message", "status": status, "content": parts, "role": "assistant"}


def reasoning_item(item_id: str, text: str | None, signature: str = "") -> dict[str, Any]:
    item = {"id": item_id, "type": "reasoning", "summary": [] if text is None else [summary_part(text)]}
    return item | {"encrypted_content": signature} if signature else item


def tool_call_id_prefix(call: ToolCall) -> str:
    """The prefix of the ids of such items."""
    return "ctc" if call.custom else "fc"


def tool_call_item(
    item_id: str, call: ToolCall, status: str, tool_names: Mapping[str, ToolName] = NO_NAMESPACES
) -> dict[str, Any]:
    """The item of a call. `tool_names` are the tools in namespaces, by the name that the model knows."""
    tool_name = tool_names.get(call.name)
    name = {"name": call.name} if tool_name is None else {"name": tool_name.name, "namespace": tool_name.namespace}
    if call.custom:
        return {
            "id": item_id,
            "type": "custom_tool_call",
            "status": status,
            "input": call.arguments,
            "call_id": call.id,
            **name,
        }
    return {
        "id": item_id,
        "type": "function_call",
        "status": status,
        "arguments": call.arguments or ("" if status == IN_PROGRESS else "{}"),
        "call_id": call.id,
        **name,
    }


def response(
    meta: ResponseMeta, status: str, items: list[dict[str, Any]], usage: Usage | None, incomplete: str | None = None
) -> dict[str, Any]:
    """The response, with the defaults instead of the parameters of the request."""
    return {
        "id": meta.id,
        "object": "response",
        "created_at": meta.created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None if incomplete is None else {"reason": incomplete},
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "model": meta.model,
        "output": items,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": None,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "truncation": "disabled",
        "usage": None if usage is None else _usage(usage),
        "user": None,
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }
