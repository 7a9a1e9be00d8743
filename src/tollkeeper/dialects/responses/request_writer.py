"""Writes the request to a provider."""

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from tollkeeper.chat import (
    TOOL_CHOICE_PREFIX,
    ChatRequest,
    Image,
    Message,
    Options,
    Reasoning,
    Role,
    Tool,
    ToolCall,
    ToolResult,
)
from tollkeeper.dialects.call_ids import with_short_ids
from tollkeeper.dialects.parameters import untranslatable
from tollkeeper.errors import InvalidRequest

DEFAULT_SCHEMA_NAME = "answer"
OTHER_WIRES_OPTIONS = ("stop", "seed", "presence_penalty", "frequency_penalty")
"""Options without a parameter on this wire."""


def write_request(chat_request: ChatRequest, model: str) -> dict[str, Any]:
    """The request's fields, but for the output limit, `store` and `stream`.

    Raises UntranslatableOption for an option without a parameter on this wire, InvalidRequest for an image in a message
    of the assistant.
    """
    options = chat_request.options
    for name in OTHER_WIRES_OPTIONS:
        if getattr(options, name):
            raise untranslatable(name)
    messages = with_short_ids(chat_request.messages)
    parts = [part for message in messages for part in message.parts]
    custom_ids = frozenset(part.id for part in parts if isinstance(part, ToolCall) and part.custom)
    fields: dict[str, Any] = {
        "model": model,
        "input": [item for message in messages for item in _write_items(message, custom_ids)],
        "temperature": options.temperature,
        "top_p": options.top_p,
        "parallel_tool_calls": options.parallel_tools,
        "tool_choice": _write_tool_choice(options),
        "reasoning": None if options.effort is None else {"effort": options.effort},
        "text": _write_text_format(options),
        "tools": [_write_tool(tool) for tool in options.tools] or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _write_items(message: Message, custom_ids: frozenset[str]) -> Iterator[dict[str, Any]]:
    """The items of one message. Tool calls and their results are items of their own, between the other parts."""
    if isinstance(message.content, str):
        yield {"type": "message", "role": message.role, "content": message.content}
        return
    parts: list[dict[str, Any]] = []
    for part in message.content:
        if isinstance(part, str | Image):
            parts.append(_write_part(part, message.role))
            continue
        if parts:
            yield {"type": "message", "role": message.role, "content": parts}
            parts = []
        yield _write_item(part, custom_ids)
    if parts:
        yield {"type": "message", "role": message.role, "content": parts}


def _write_item(part: Reasoning | ToolCall | ToolResult, custom_ids: frozenset[str]) -> dict[str, Any]:
    """The item of a part that is an item of its own. `custom_ids`: the calls of custom tools."""
    match part:
        case Reasoning():
            return _write_reasoning(part)
        case ToolCall(custom=True):
            return {"type": "custom_tool_call", "call_id": part.id, "name": part.name, "input": part.arguments}
        case ToolCall():
            return {"type": "function_call", "call_id": part.id, "name": part.name, "arguments": part.arguments}
        case ToolResult():
            kind = "custom_tool_call_output" if part.call_id in custom_ids else "function_call_output"
            return {"type": kind, "call_id": part.call_id, "output": _write_tool_output(part)}


def _write_tool_output(result: ToolResult) -> str | list[dict[str, Any]]:
    """The text of a tool's result; with images, a list of parts."""
    if not result.images:
        return result.content
    text: list[str | Image] = [result.content] if result.content else []
    return [_write_part(part, "user") for part in [*text, *result.images]]


def _write_reasoning(reasoning: Reasoning) -> dict[str, Any]:
    """Without a signature the text is the model's own reasoning, and with one the summary of what is encrypted.

    The encrypted reasoning contains the id that it was given; servers of other models demand an id.
    """
    if not reasoning.signature:
        item_id = f"rs_{sha256(reasoning.text.encode()).hexdigest()[:24]}"
        parts = [{"type": "reasoning_text", "text": reasoning.text}]
        return {"type": "reasoning", "id": item_id, "summary": [], "content": parts}
    summary = [{"type": "summary_text", "text": reasoning.text}] if reasoning.text else []
    return {"type": "reasoning", "summary": summary, "encrypted_content": reasoning.signature}


def _write_part(part: str | Image, role: Role) -> dict[str, Any]:
    if isinstance(part, Image):
        if role == "assistant":
            raise InvalidRequest("An assistant message cannot contain an image. Send images in user messages.")
        image: dict[str, Any] = {"type": "input_image", "image_url": part.url}
        return image if part.detail is None else image | {"detail": part.detail}
    if role == "assistant":
        return {"type": "output_text", "text": part, "annotations": []}
    return {"type": "input_text", "text": part}


def _write_tool(tool: Tool) -> dict[str, Any]:
    written: dict[str, Any] = {"type": "custom", "name": tool.name}
    if not tool.custom:
        written = {"type": "function", "name": tool.name, "parameters": tool.parameters, "strict": tool.strict}
    elif tool.grammar is not None:
        written["format"] = {"type": "grammar", **tool.grammar._asdict()}
    return written if tool.description is None else written | {"description": tool.description}


def _write_tool_choice(options: Options) -> str | dict[str, str] | None:
    choice = options.tool_choice
    if choice is None or not choice.startswith(TOOL_CHOICE_PREFIX):
        return choice
    name = choice.removeprefix(TOOL_CHOICE_PREFIX)
    custom = any(tool.custom and tool.name == name for tool in options.tools)
    return {"type": "custom" if custom else "function", "name": name}


def _write_text_format(options: Options) -> dict[str, Any] | None:
    if options.schema is None:
        return {"format": {"type": "json_object"}} if options.json else None
    name = options.schema_name or DEFAULT_SCHEMA_NAME
    optional = {"description": options.schema_description, "strict": options.schema_strict}
    given = {field: value for field, value in optional.items() if value is not None}
    return {"format": {"type": "json_schema", "name": name, "schema": options.schema, **given}}
