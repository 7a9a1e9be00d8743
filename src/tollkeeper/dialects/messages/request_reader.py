"""Reads the request of a caller."""

from typing import Any, Literal

import msgspec

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
    join_texts,
)
from tollkeeper.dialects.dropped import Dropped
from tollkeeper.dialects.messages import content
from tollkeeper.dialects.messages.content import (
    Base64Source,
    ContentBlock,
    ImageBlock,
    InputMessage,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    decode_field,
)
from tollkeeper.dialects.parameters import malformed, malformed_parameter, read_stop, unsupported
from tollkeeper.errors import InvalidRequest

TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
"""Our tool choice for each type of `tool_choice`, but for `tool`."""


class _ToolChoice(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str = ""
    disable_parallel_tool_use: bool | None = None


class _Parameters(msgspec.Struct):
    """The parameters that become Options. `content` decodes the system prompt, the messages and the tools."""

    temperature: float | None = None
    top_p: float | None = None
    stop_sequences: list[str] | None = None
    tool_choice: _ToolChoice | None = None
    output_config: content.OutputConfig | None = None


def read_request(request: dict[str, Any], dropped: Dropped | None = None) -> ChatRequest:
    """The ChatRequest of a decoded request. `dropped` receives the names of hints that it has no field for.

    Dropped are cache hints, `is_error` of a tool result (its text shows it), the thinking budget, and redacted
    thinking, which only the model that wrote it can read. Raises InvalidRequest if the request is malformed,
    UnsupportedParameter for what a ChatRequest has no field for.
    """
    if request.get("top_k") is not None:
        raise unsupported("top_k")
    try:
        parameters = msgspec.convert(request, _Parameters)
    except msgspec.ValidationError as error:
        raise malformed(malformed_parameter(error, "messages")) from None
    choice, output_config = parameters.tool_choice, parameters.output_config or content.OutputConfig()
    parallel_disabled = choice.disable_parallel_tool_use if choice is not None else None
    return ChatRequest(
        (*_read_system(request), *_read_messages(request)),
        Options(
            temperature=parameters.temperature,
            top_p=parameters.top_p,
            stop=read_stop(parameters.stop_sequences),
            effort=output_config.effort,
            tools=_read_tools(request, dropped),
            tool_choice=TOOL_CHOICES.get(choice.type, TOOL_CHOICE_PREFIX + choice.name) if choice is not None else None,
            parallel_tools=None if parallel_disabled is None else not parallel_disabled,
            schema=output_config.format.schema if output_config.format is not None else None,
        ),
    )


def _encode(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise InvalidRequest from None


def _read_system(request: dict[str, Any]) -> tuple[Message, ...]:
    if request.get("system") is None:
        return ()
    system = decode_field("system", _encode(request["system"]), content.SYSTEM)
    return (Message("system", system if isinstance(system, str) else tuple(block.text for block in system)),)


def _read_messages(request: dict[str, Any]) -> list[Message]:
    messages = decode_field("messages", _encode(request.get("messages")), content.MESSAGES)
    return [read for message in messages if (read := _read_message(message)) is not None]


def _read_message(message: InputMessage) -> Message | None:
    """The message; None if it contains only redacted thinking."""
    if isinstance(message.content, str):
        return Message(message.role, message.content)
    parts = tuple(part for block in message.content if (part := _read_block(block)) is not None)
    return Message(message.role, parts) if parts or not message.content else None


def _read_block(block: ContentBlock) -> Part | None:
    match block:
        case TextBlock():
            return block.text
        case ImageBlock():
            return _read_image(block)
        case content.ThinkingBlock():
            return Reasoning(block.thinking, block.signature)
        case ToolUseBlock():
            return ToolCall(block.id, block.name, bytes(block.input).decode())
        case ToolResultBlock():
            return _read_tool_result(block)
        case content.DocumentBlock():
            return _document_text(block)
        case content.SearchResultBlock():
            raise unsupported("messages.content")
        case _:
            return None


def _read_image(image: ImageBlock) -> Image:
    source = image.source
    if isinstance(source, Base64Source):
        return Image(f"data:{source.media_type};base64,{msgspec.json.decode(source.data)}")
    return Image(source.url)


def _read_tool_result(result: ToolResultBlock) -> ToolResult:
    if result.content is None or isinstance(result.content, str):
        return ToolResult(result.tool_use_id, result.content or "")
    content = Message("user", tuple(map(_read_result_block, result.content)))
    return ToolResult(result.tool_use_id, content.text, content.images)


def _read_result_block(block: object) -> str | Image:
    match block:
        case ImageBlock():
            return _read_image(block)
        case TextBlock():
            return block.text
        case content.ToolReferenceBlock():
            return f"The tool {block.tool_name} is available."
        case content.DocumentBlock():
            return _document_text(block)
        case _:
            raise unsupported("messages.content")


def _document_text(document: content.DocumentBlock) -> str:
    """The text of a document. Raises UnsupportedParameter for a PDF, and for pictures in a document."""
    match document.source:
        case content.PlainTextSource():
            text = document.source.data
        case content.ContentSource():
            text = _text_of_content(document.source.content)
        case _:
            raise unsupported("messages.content")
    return "\n".join(filter(None, (document.title, document.context, text)))


def _text_of_content(blocks: str | list[TextBlock | ImageBlock]) -> str:
    if isinstance(blocks, str):
        return blocks
    texts = [block.text for block in blocks if isinstance(block, TextBlock)]
    if len(texts) < len(blocks):
        raise unsupported("messages.content")
    return join_texts(texts)


def _read_tools(request: dict[str, Any], dropped: Dropped | None) -> tuple[Tool, ...]:
    """The tools. Those whose loading is deferred are loaded, if their schema is known."""
    if request.get("tools") is None:
        return ()
    tools = decode_field("tools", _encode(request["tools"]), content.TOOLS)
    if dropped is not None and any(tool.input_examples for tool in tools):
        dropped.add("input_examples")
    return tuple(
        Tool(tool.name, tool.description, tool.input_schema, tool.strict)
        for tool in tools
        if tool.input_schema is not None
    )
