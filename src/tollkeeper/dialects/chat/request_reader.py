"""Reads the request of a caller."""

from typing import Any, cast

import msgspec

from tollkeeper.chat import (
    TOOL_CHOICE_PREFIX,
    ChatRequest,
    Grammar,
    Image,
    Message,
    Options,
    Part,
    Reasoning,
    Role,
    Tool,
    ToolCall,
    ToolResult,
)
from tollkeeper.dialects.chat.content_lists import read_content
from tollkeeper.dialects.parameters import malformed, malformed_parameter, read_stop, unsupported
from tollkeeper.dialects.signatures import split_call_id
from tollkeeper.errors import InvalidRequest, UnsupportedParameter

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class _ImageUrl(msgspec.Struct):
    url: str
    detail: str | None = None


class _Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: _ImageUrl | None = None


class _FunctionCall(msgspec.Struct):
    name: str
    arguments: str = ""


class _CustomCall(msgspec.Struct):
    name: str
    input: str = ""


class _ToolCall(msgspec.Struct):
    id: str
    function: _FunctionCall | None = None
    custom: _CustomCall | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    refusal: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None


class _FunctionTool(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Grammar(msgspec.Struct):
    syntax: str
    definition: str


class _TextFormat(msgspec.Struct):
    type: str
    grammar: _Grammar | None = None


class _CustomTool(msgspec.Struct):
    name: str
    description: str | None = None
    format: _TextFormat | None = None


class _Tool(msgspec.Struct):
    type: str
    function: _FunctionTool | None = None
    custom: _CustomTool | None = None


class _JsonSchema(msgspec.Struct):
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class _ResponseFormat(msgspec.Struct):
    type: str
    json_schema: _JsonSchema | None = None


class _Parameters(msgspec.Struct):
    """The parameters that become a ChatRequest."""

    messages: list[_Message]
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    reasoning_effort: str | None = None
    parallel_tool_calls: bool | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: _ResponseFormat | None = None


UNTRANSLATABLE = ("functions", "function_call", "logit_bias", "logprobs", "top_logprobs", "verbosity")
"""Parameters that a ChatRequest has no field for. They reach only providers that use this wire format."""


def read_request(request: dict[str, Any]) -> ChatRequest:
    """The ChatRequest of a decoded request.

    Raises InvalidRequest if it is malformed, UnsupportedParameter for what a ChatRequest has no field for.
    """
    for name in UNTRANSLATABLE:
        if request.get(name) not in (None, False):
            raise unsupported(name)
    try:
        parameters = msgspec.convert(request, _Parameters)
    except msgspec.ValidationError as error:
        raise malformed(malformed_parameter(error, "messages")) from None
    response_format = parameters.response_format or _ResponseFormat("text")
    schema = (response_format.json_schema if response_format.type == "json_schema" else None) or _JsonSchema()
    return ChatRequest(
        tuple(_read_message(message) for message in parameters.messages),
        Options(
            temperature=parameters.temperature,
            top_p=parameters.top_p,
            stop=read_stop(parameters.stop),
            seed=parameters.seed,
            presence_penalty=parameters.presence_penalty,
            frequency_penalty=parameters.frequency_penalty,
            effort=parameters.reasoning_effort,
            tools=tuple(_read_tool(tool) for tool in parameters.tools or ()),
            tool_choice=_read_tool_choice(parameters.tool_choice),
            parallel_tools=parameters.parallel_tool_calls,
            json=response_format.type == "json_object",
            schema=schema.schema,
            schema_name=schema.name,
            schema_description=schema.description,
            schema_strict=schema.strict,
        ),
    )


def _read_message(message: _Message) -> Message:
    if message.role == "tool":
        if message.tool_call_id is None:
            raise InvalidRequest("A tool message has no tool_call_id.", parameter="messages")
        result = Message("user", tuple(_read_parts(message.content)))
        return Message("user", (ToolResult(message.tool_call_id, result.text, result.images),))
    role = _ROLES.get(message.role)
    if role is None:
        raise InvalidRequest("A message has an unknown role.", parameter="messages")
    calls = tuple(_read_tool_call(call) for call in message.tool_calls or ())
    reasoning = _read_reasoning(message, calls) if role == "assistant" else ()
    parts = [*_read_parts(message.content), *([message.refusal] if message.refusal else [])]
    if not calls and not reasoning and all(isinstance(part, str) for part in parts) and len(parts) <= 1:
        return Message(role, cast(str, parts[0]) if parts else "")
    return Message(role, (*reasoning, *parts, *calls))


def _read_reasoning(message: _Message, calls: tuple[ToolCall, ...]) -> tuple[Reasoning, ...]:
    """The reasoning of an earlier answer, which has two names. Its signature is at the end of the first call's id."""
    text = "".join(read_content(message.reasoning_content)) or "".join(read_content(message.reasoning))
    sealed = split_call_id(calls[0].id)[1] if calls else ""
    return (Reasoning(text, sealed),) if text or sealed else ()


def _read_parts(content: str | list[_Part] | None) -> list[Part]:
    if content is None:
        return []
    if isinstance(content, str):
        return [content]
    parts: list[Part] = []
    for part in content:
        if part.image_url is not None:
            parts.append(Image(part.image_url.url, part.image_url.detail))
        else:
            parts.append(part.text or part.refusal or "")
    return parts


def _read_tool_call(call: _ToolCall) -> ToolCall:
    if call.custom is not None:
        return ToolCall(call.id, call.custom.name, call.custom.input, custom=True)
    if call.function is None:
        raise unsupported("messages.tool_calls")
    return ToolCall(call.id, call.function.name, call.function.arguments)


def _read_tool(tool: _Tool) -> Tool:
    if (custom := tool.custom) is not None:
        return Tool(custom.name, custom.description, None, custom=True, grammar=_read_grammar(custom.format))
    if tool.function is None:
        raise unsupported("tools")
    function = tool.function
    return Tool(function.name, function.description, function.parameters, function.strict)


def _read_grammar(text_format: _TextFormat | None) -> Grammar | None:
    if text_format is None or text_format.type == "text":
        return None
    if text_format.type != "grammar" or text_format.grammar is None:
        raise unsupported("tools")
    return Grammar(text_format.grammar.syntax, text_format.grammar.definition)


def _read_tool_choice(choice: str | dict[str, Any] | None) -> str | None:
    if choice is None or isinstance(choice, str):
        if choice not in (None, "auto", "none", "required"):
            raise unsupported("tool_choice")
        return choice
    chosen = choice.get("function", choice.get("custom"))
    name = chosen.get("name") if isinstance(chosen, dict) else None
    if not isinstance(name, str):
        raise UnsupportedParameter("This tool_choice is not supported.", parameter="tool_choice")
    return TOOL_CHOICE_PREFIX + name
