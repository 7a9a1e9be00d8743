"""Writes whole answers."""

from collections.abc import Mapping
from typing import Any

import orjson

from tollkeeper.chat import Completion, FinishReason, Usage
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.dialects.responses import output_items
from tollkeeper.dialects.responses.namespaces import NO_NAMESPACES, ToolName

INCOMPLETE_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter", "refusal": "content_filter"}
"""The reason of an incomplete response, by our finish reason."""


def write_answer(
    completion: Completion, meta: ResponseMeta, usage: Usage, tool_names: Mapping[str, ToolName] = NO_NAMESPACES
) -> bytes:
    """The response, in JSON, with the status and the items that OpenAI would send. `tool_names` as in a call's item."""
    reason = incomplete_reason(completion.finish_reason, refused=completion.refusal is not None)
    status = output_items.COMPLETED if reason is None else output_items.INCOMPLETE
    items: list[dict[str, Any]] = []
    for block in completion.reasoning_blocks:
        item_id = output_items.item_id("rs", meta, len(items))
        items.append(output_items.reasoning_item(item_id, block.text or None, block.signature))
    parts: list[dict[str, Any]] = []
    if completion.text and completion.text != completion.refusal:
        parts.append(output_items.text_part(completion.text))
    if completion.refusal is not None:
        parts.append(output_items.refusal_part(completion.refusal))
    if parts:
        items.append(output_items.message_item(output_items.item_id("msg", meta, len(items)), parts, status))
    for call in completion.tool_calls:
        prefix = output_items.tool_call_id_prefix(call)
        item_id = output_items.item_id(prefix, meta, len(items))
        items.append(output_items.tool_call_item(item_id, call, status, tool_names))
    return orjson.dumps(output_items.response(meta, status, items, usage, reason))


def incomplete_reason(finish_reason: FinishReason, *, refused: bool) -> str | None:
    """The reason of an incomplete response; None for a complete one.

    An answer that contains its refusal as text (`refused`) is complete.
    """
    return None if finish_reason == "refusal" and refused else INCOMPLETE_REASONS.get(finish_reason)
