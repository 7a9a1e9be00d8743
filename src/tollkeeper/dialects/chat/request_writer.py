"""Writes the request to a provider."""

from collections.abc import Iterator
from typing import Any

from tollkeeper.chat import TOOL_CHOICE_PREFIX, ChatRequest, Image, Message, Reasoning, Tool, ToolCall, ToolResult
from tollkeeper.dialects.call_ids import with_short_ids
from tollkeeper.dialects.chat.answer_writer import write_tool_call
from tollkeeper.dialects.tool_results import tool_text

DEFAULT_SCHEMA_NAME = "answer"


def write_request(chat_request: ChatRequest, model: str, reasoning_field: str = "reasoning_content") -> dict[str, Any]:
    """The request's fields, but for the output limit and the delivery options.

    Reasoning is written in `reasoning_field` of its message.
    """
    options = chat_request.options
    earlier = with_short_ids(chat_request.messages)
    fields: dict[str, Any] = {"model": model, "messages": list(_write_messages(earlier, reasoning_field))}
    optional = {
        "temperature": options.temperature,
        "top_p": options.top_p,
        "stop": list(options.stop) or None,
        "seed": options.seed,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
        "reasoning_effort": options.effort,
        "parallel_tool_calls": options.parallel_tools if options.tools else None,
    }
    fields |= {name: value for name, value in optional.items() if value is not None}
    if options.tools:
        fields["tools"] = [_write_tool(tool) for tool in options.tools]
        if options.tool_choice is not None:
            fields["tool_choice"] = _write_tool_choice(options.tool_choice, options.tools)
    if options.schema is not None:
        schema: dict[str, Any] = {"name": options.schema_name or DEFAULT_SCHEMA_NAME, "schema": options.schema}
        schema_options = {"description": options.schema_description, "strict": options.schema_strict}
        schema |= {name: value for name, value in schema_options.items() if value is not None}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif options.json:
        fields["response_format"] = {"type": "json_object"}
    return fields


def _write_messages(messages: tuple[Message, ...], reasoning_field: str) -> Iterator[dict[str, Any]]:
    """The messages on the wire. Images that tools returned are in a user message after all results of the turn.

    The results follow the calls without another message between them, and servers take images from the user only.
    """
    images: list[dict[str, Any]] = []
    for message in messages:
        if isinstance(message.content, str) and not images:
            yield {"role": message.role, "content": message.content}
            continue
        results = [part for part in message.parts if isinstance(part, ToolResult)]
        images += [_write_part(image) for result in results for image in result.images]
        for written in _write_message(message, reasoning_field):
            if not images or written["role"] == "tool":
                yield written
                continue
            if written["role"] == "user":
                yield written | {"content": images + _as_parts(written["content"])}
            else:
                yield {"role": "user", "content": images}
                yield written
            images = []
    if images:
        yield {"role": "user", "content": images}


def _as_parts(content: str | list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    if isinstance(content, list):
        return content
    return [_write_part(content)] if content else []


def _write_message(message: Message, reasoning_field: str) -> list[dict[str, Any]]:
    """The messages on the wire: each tool result is one of its own."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    results: list[dict[str, Any]] = [
        {"role": "tool", "tool_call_id": part.call_id, "content": tool_text(part)}
        for part in message.content
        if isinstance(part, ToolResult)
    ]
    calls = [part for part in message.content if isinstance(part, ToolCall)]
    parts = [part for part in message.content if isinstance(part, str | Image)]
    if not parts and not calls:
        return results
    only_text = all(isinstance(part, str) for part in parts)
    written: dict[str, Any] = {"role": message.role}
    written["content"] = (message.text or None) if only_text else [_write_part(part) for part in parts]
    if reasoning := "".join(part.text for part in message.content if isinstance(part, Reasoning)):
        written[reasoning_field] = reasoning
    if calls:
        written["tool_calls"] = [write_tool_call(call) for call in calls]
    return [*results, written]


def _write_part(part: str | Image) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    detail = {"detail": part.detail} if part.detail else {}
    return {"type": "image_url", "image_url": {"url": part.url, **detail}}


def _write_tool(tool: Tool) -> dict[str, Any]:
    optional: dict[str, Any] = {"description": tool.description, "parameters": tool.parameters, "strict": tool.strict}
    if tool.grammar is not None:
        optional["format"] = {"type": "grammar", "grammar": tool.grammar._asdict()}
    definition = {"name": tool.name} | {name: value for name, value in optional.items() if value is not None}
    kind = "custom" if tool.custom else "function"
    return {"type": kind, kind: definition}


def _write_tool_choice(choice: str, tools: tuple[Tool, ...]) -> Any:
    if not choice.startswith(TOOL_CHOICE_PREFIX):
        return choice
    name = choice.removeprefix(TOOL_CHOICE_PREFIX)
    kind = "custom" if any(tool.custom and tool.name == name for tool in tools) else "function"
    return {"type": kind, kind: {"name": name}}
