"""Writes the request to a provider."""

import re
from typing import Any

from tollkeeper.chat import (
    TOOL_CHOICE_PREFIX,
    ChatRequest,
    Image,
    Message,
    Options,
    Part,
    Reasoning,
    Tool,
    ToolCall,
    ToolResult,
)
from tollkeeper.dialects.call_ids import with_unique_word_ids
from tollkeeper.dialects.parameters import unsupported
from tollkeeper.dialects.tool_results import arguments_object

JSON_INSTRUCTION = "Answer with one JSON object and nothing else."
"""Requests a JSON object: the wire format itself has only schemas."""
EMPTY_SCHEMA = {"type": "object", "properties": {}}
"""The schema of a tool without parameters."""
TOOL_CHOICE_TYPES = {"auto": "auto", "required": "any", "none": "none"}
"""The type of `tool_choice` for each of our tool choices, but for a named tool."""
EFFORTS = {name: name for name in ("low", "medium", "high", "xhigh", "max")} | {"minimal": "low"}
"""The `output_config.effort` for each of our efforts, but for `none`, which disables thinking."""

_DATA_URL_PREFIX = re.compile(r"data:(image/(?:jpeg|png|gif|webp));base64,")


def write_request(chat_request: ChatRequest, model: str) -> dict[str, Any]:
    """The request's fields, but for the output limit and the delivery options.

    Consecutive messages of the same role are joined, with tool results first. Raises UnsupportedParameter for what this
    wire format cannot express.
    """
    options = chat_request.options
    _check_options(options)
    system, messages = _write_system(chat_request), _write_messages(chat_request.messages)
    fields: dict[str, Any] = {"model": model, "messages": messages}
    if not messages:  # the API requires one
        fields["messages"] = [{"role": "user", "content": system}] if system else []
    elif system:
        fields["system"] = system
    optional = {
        "temperature": options.temperature,
        "top_p": options.top_p,
        "stop_sequences": list(options.stop) or None,
    }
    fields |= {name: value for name, value in optional.items() if value is not None}
    if options.tools:
        fields["tools"] = [_write_tool(tool) for tool in options.tools]
    if choice := _write_tool_choice(options):
        fields["tool_choice"] = choice
    if options.effort == "none":
        fields["thinking"] = {"type": "disabled"}
    if output_config := _write_output_config(options):
        fields["output_config"] = output_config
    return fields


def _check_options(options: Options) -> None:
    """Raises UnsupportedParameter for an option that this wire format cannot express."""
    if options.temperature is not None and options.temperature > 1:
        raise unsupported("temperature")
    if options.seed is not None:
        raise unsupported("seed")
    for name in ("presence_penalty", "frequency_penalty"):
        if getattr(options, name):
            raise unsupported(name)
    if options.effort not in {None, "none", *EFFORTS}:
        raise unsupported("reasoning_effort")


def _write_system(chat_request: ChatRequest) -> str | list[dict[str, Any]]:
    contents = [message.content for message in chat_request.messages if message.role == "system"]
    if chat_request.options.json and chat_request.options.schema is None:
        contents.append(JSON_INSTRUCTION)
    if len(contents) == 1 and isinstance(contents[0], str):
        return contents[0]
    parts = [part for content in contents for part in ((content,) if isinstance(content, str) else content)]
    if not all(isinstance(part, str) for part in parts):
        raise unsupported("messages.content")
    return [{"type": "text", "text": part} for part in parts if part]


def _write_messages(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    for message in with_unique_word_ids(messages):
        content = message.content if isinstance(message.content, str) else _write_blocks(message.content)
        if message.role == "system" or (message.role == "assistant" and not content):
            continue
        if written and written[-1]["role"] == message.role:
            content = _as_blocks(written.pop()["content"]) + _as_blocks(content)
        if isinstance(content, list):
            content.sort(key=lambda block: block["type"] != "tool_result")
        written.append({"role": message.role, "content": content})
    return written


def _as_blocks(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return _write_blocks((content,)) if isinstance(content, str) else content


def _write_blocks(parts: tuple[Part, ...]) -> list[dict[str, Any]]:
    """The blocks of the parts, without empty texts: the API refuses those."""
    return [_write_block(part) for part in parts if part != ""]


def _write_block(part: Part) -> dict[str, Any]:
    match part:
        case str():
            return {"type": "text", "text": part}
        case Image():
            return {"type": "image", "source": _write_source(part.url)}
        case Reasoning(_, signature, redacted=True):
            return {"type": "redacted_thinking", "data": signature}
        case Reasoning(text, signature):
            return {"type": "thinking", "thinking": text, "signature": signature}
        case ToolCall(custom=True):
            raise unsupported("messages.tool_calls")
        case ToolCall():
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": arguments_object(part.arguments)}
        case ToolResult():
            content = _write_blocks((part.content, *part.images)) if part.images else part.content
            return {"type": "tool_result", "tool_use_id": part.call_id, "content": content}


def _write_source(url: str) -> dict[str, str]:
    if url.startswith("https://"):
        return {"type": "url", "url": url}
    prefix = _DATA_URL_PREFIX.match(url)
    if prefix is None:
        raise unsupported("messages.content")
    return {"type": "base64", "media_type": prefix[1], "data": url[prefix.end() :]}


def _write_tool(tool: Tool) -> dict[str, Any]:
    if tool.custom:
        raise unsupported("tools")
    written: dict[str, Any] = {"name": tool.name, "input_schema": tool.parameters or EMPTY_SCHEMA}
    if tool.description is not None:
        written["description"] = tool.description
    if tool.strict is not None:
        written["strict"] = tool.strict
    return written


def _write_tool_choice(options: Options) -> dict[str, Any] | None:
    choice = options.tool_choice
    if choice is None and options.parallel_tools is None:
        return None
    if not options.tools and choice in {None, "auto", "none"}:
        return None
    if choice is not None and choice.startswith(TOOL_CHOICE_PREFIX):
        written: dict[str, Any] = {"type": "tool", "name": choice.removeprefix(TOOL_CHOICE_PREFIX)}
    elif (choice or "auto") in TOOL_CHOICE_TYPES:
        written = {"type": TOOL_CHOICE_TYPES[choice or "auto"]}
    else:
        raise unsupported("tool_choice")
    if options.parallel_tools is not None and choice != "none":
        written["disable_parallel_tool_use"] = not options.parallel_tools
    return written


def _write_output_config(options: Options) -> dict[str, Any]:
    output_config: dict[str, Any] = {}
    if options.effort in EFFORTS:
        output_config["effort"] = EFFORTS[options.effort]
    if options.schema is not None:
        output_config["format"] = {"type": "json_schema", "schema": options.schema}
    return output_config
