"""A request in our nouns, put onto the wire."""

from collections.abc import Iterator
from typing import Any

from tollkeeper.chat import NAMED_TOOL, ChatRequest, Image, Message, Options, Part, Role, Tool, ToolCall, ToolResult
from tollkeeper.dialects.parameters import unsayable
from tollkeeper.errors import InvalidRequest

SCHEMA_NAME = "answer"
UNSAYABLE = ("stop", "seed", "presence_penalty", "frequency_penalty")
"""Options that this wire has no name for."""


def write_request(request: ChatRequest, model: str) -> dict[str, Any]:
    """The request without its output limit, `store`, and what says how to deliver.

    Raises UnsayableOption for an option that this wire has no name for.
    """
    options = request.options
    for name in UNSAYABLE:
        if getattr(options, name):
            raise unsayable(name)
    parts = [part for message in request.messages for part in message.parts]
    custom = frozenset(part.id for part in parts if isinstance(part, ToolCall) and part.custom)
    body: dict[str, Any] = {
        "model": model,
        "input": [item for message in request.messages for item in _items(message, custom)],
        "temperature": options.temperature,
        "top_p": options.top_p,
        "parallel_tool_calls": options.parallel_tools,
        "tool_choice": _written_choice(options),
        "reasoning": None if options.effort is None else {"effort": options.effort},
        "text": _written_format(options),
        "tools": [_written_tool(tool) for tool in options.tools] or None,
    }
    return {name: value for name, value in body.items() if value is not None}


def _items(message: Message, custom: frozenset[str]) -> Iterator[dict[str, Any]]:
    if isinstance(message.content, str):
        yield {"type": "message", "role": message.role, "content": message.content}
        return
    parts: list[dict[str, Any]] = []
    for part in message.content:
        item = _item(part, custom)
        if item is None:
            parts.append(_written_part(part, message.role))
            continue
        if parts:
            yield {"type": "message", "role": message.role, "content": parts}
            parts = []
        yield item
    if parts:
        yield {"type": "message", "role": message.role, "content": parts}


def _item(part: Part, custom: frozenset[str]) -> dict[str, Any] | None:
    """What is an item of its own on this wire. `custom` are the ids of calls whose results are of another kind too."""
    match part:
        case ToolCall(custom=True):
            return {"type": "custom_tool_call", "call_id": part.id, "name": part.name, "input": part.arguments}
        case ToolCall():
            return {
                "type": "function_call",
                "call_id": part.id,
                "name": part.name,
                "arguments": part.arguments,
            }
        case ToolResult():
            kind = "custom_tool_call_output" if part.call_id in custom else "function_call_output"
            return {"type": kind, "call_id": part.call_id, "output": part.content}
        case _:
            return None


def _written_part(part: Part, role: Role) -> dict[str, Any]:
    if isinstance(part, Image):
        if role == "assistant":
            raise InvalidRequest("A picture can stand in the messages of users only.")
        image: dict[str, Any] = {"type": "input_image", "image_url": part.url}
        return image if part.detail is None else image | {"detail": part.detail}
    if role == "assistant":
        return {"type": "output_text", "text": part, "annotations": []}
    return {"type": "input_text", "text": part}


def _written_tool(tool: Tool) -> dict[str, Any]:
    written: dict[str, Any] = {"type": "custom", "name": tool.name}
    if not tool.custom:
        written = {"type": "function", "name": tool.name, "parameters": tool.parameters, "strict": tool.strict}
    elif tool.grammar is not None:
        written["format"] = {"type": "grammar", **tool.grammar._asdict()}
    return written if tool.description is None else written | {"description": tool.description}


def _written_choice(options: Options) -> str | dict[str, str] | None:
    choice = options.tool_choice
    if choice is None or not choice.startswith(NAMED_TOOL):
        return choice
    name = choice.removeprefix(NAMED_TOOL)
    custom = any(tool.custom and tool.name == name for tool in options.tools)
    return {"type": "custom" if custom else "function", "name": name}


def _written_format(options: Options) -> dict[str, Any] | None:
    if options.schema is not None:
        name = options.schema_name or SCHEMA_NAME
        more = {"description": options.schema_description, "strict": options.schema_strict}
        told = {name: value for name, value in more.items() if value is not None}
        return {"format": {"type": "json_schema", "name": name, "schema": options.schema, **told}}
    return {"format": {"type": "json_object"}} if options.json else None
