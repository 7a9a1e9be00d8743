"""Requests: a caller's into our nouns, ours onto the wire."""

from typing import Any, cast

import msgspec

from tollkeeper.chat import (
    NAMED_TOOL,
    ChatRequest,
    Grammar,
    Image,
    Message,
    Options,
    Part,
    Role,
    Tool,
    ToolCall,
    ToolResult,
)
from tollkeeper.dialects.chat.answers import write_call
from tollkeeper.dialects.parameters import refusal
from tollkeeper.errors import InvalidRequest, UnsupportedParameter

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class _Url(msgspec.Struct):
    url: str
    detail: str | None = None


class _Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: _Url | None = None


class _Function(msgspec.Struct):
    name: str
    arguments: str = ""


class _Custom(msgspec.Struct):
    name: str
    input: str = ""


class _Call(msgspec.Struct):
    id: str
    function: _Function | None = None
    custom: _Custom | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None


class _Described(msgspec.Struct):
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


class _DescribedCustom(msgspec.Struct):
    name: str
    description: str | None = None
    format: _TextFormat | None = None


class _Tool(msgspec.Struct):
    type: str
    function: _Described | None = None
    custom: _DescribedCustom | None = None


class _Schema(msgspec.Struct):
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class _Format(msgspec.Struct):
    type: str
    json_schema: _Schema | None = None


class _Request(msgspec.Struct):
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
    response_format: _Format | None = None


UNSAYABLE = ("functions", "function_call", "logit_bias", "logprobs", "top_logprobs", "verbosity")
"""What our nouns have no word for. It passes where the provider speaks this wire, and is refused where none does."""


def read_request(document: dict[str, Any]) -> ChatRequest:
    """A caller's request in our nouns. Raises InvalidRequest, UnsupportedParameter."""
    for name in UNSAYABLE:
        if document.get(name) not in (None, False):
            raise refusal(name)
    try:
        request = msgspec.convert(document, _Request)
    except msgspec.ValidationError:
        raise InvalidRequest("The request is not a chat completion's.") from None
    wanted = request.response_format or _Format("text")
    described = (wanted.json_schema if wanted.type == "json_schema" else None) or _Schema()
    return ChatRequest(
        tuple(_message(message) for message in request.messages),
        Options(
            temperature=request.temperature,
            top_p=request.top_p,
            stop=(request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ()),
            seed=request.seed,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            effort=request.reasoning_effort,
            tools=tuple(_tool(tool) for tool in request.tools or ()),
            tool_choice=_tool_choice(request.tool_choice),
            parallel_tools=request.parallel_tool_calls,
            json=wanted.type == "json_object",
            schema=described.schema,
            schema_name=described.name,
            schema_description=described.description,
            schema_strict=described.strict,
        ),
    )


def _message(message: _Message) -> Message:
    if message.role == "tool":
        if message.tool_call_id is None:
            raise InvalidRequest("A tool message has no tool_call_id.", parameter="messages")
        text = "".join(part for part in _parts(message.content) if isinstance(part, str))
        return Message("user", (ToolResult(message.tool_call_id, text),))
    role = _ROLES.get(message.role)
    if role is None:
        raise InvalidRequest("A message has a role that is not known.", parameter="messages")
    calls = tuple(_call(call) for call in message.tool_calls or ())
    said = [*_parts(message.content), *([message.refusal] if message.refusal else [])]
    if not calls and all(isinstance(part, str) for part in said) and len(said) <= 1:
        return Message(role, cast(str, said[0]) if said else "")
    return Message(role, (*said, *calls))


def _parts(content: str | list[_Part] | None) -> list[Part]:
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


def _call(call: _Call) -> ToolCall:
    if call.custom is not None:
        return ToolCall(call.id, call.custom.name, call.custom.input, custom=True)
    if call.function is None:
        raise refusal("messages.tool_calls")
    return ToolCall(call.id, call.function.name, call.function.arguments)


def _tool(tool: _Tool) -> Tool:
    if tool.custom is not None:
        return Tool(tool.custom.name, tool.custom.description, None, custom=True, grammar=_grammar(tool.custom.format))
    if tool.function is None:
        raise refusal("tools")
    described = tool.function
    return Tool(described.name, described.description, described.parameters, described.strict)


def _grammar(wanted: _TextFormat | None) -> Grammar | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type != "grammar" or wanted.grammar is None:
        raise refusal("tools")
    return Grammar(wanted.grammar.syntax, wanted.grammar.definition)


def _tool_choice(choice: str | dict[str, Any] | None) -> str | None:
    if choice is None or isinstance(choice, str):
        if choice not in (None, "auto", "none", "required"):
            raise refusal("tool_choice")
        return choice
    named = choice.get("function", choice.get("custom"))
    name = named.get("name") if isinstance(named, dict) else None
    if not isinstance(name, str):
        raise UnsupportedParameter("This tool_choice is not supported.", parameter="tool_choice")
    return NAMED_TOOL + name


def write_request(request: ChatRequest, model: str) -> dict[str, Any]:
    """Our request as a chat completion's, without the output limit and the way of delivery."""
    options = request.options
    body: dict[str, Any] = {"model": model, "messages": [one for turn in request.messages for one in _written(turn)]}
    plain = {
        "temperature": options.temperature,
        "top_p": options.top_p,
        "stop": list(options.stop) or None,
        "seed": options.seed,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
        "reasoning_effort": options.effort,
        "parallel_tool_calls": options.parallel_tools if options.tools else None,
    }
    body |= {name: value for name, value in plain.items() if value is not None}
    if options.tools:
        body["tools"] = [_written_tool(tool) for tool in options.tools]
        if options.tool_choice is not None:
            body["tool_choice"] = _written_choice(options.tool_choice, options.tools)
    if options.schema is not None:
        named: dict[str, Any] = {"name": options.schema_name or "answer", "schema": options.schema}
        more = {"description": options.schema_description, "strict": options.schema_strict}
        named |= {name: value for name, value in more.items() if value is not None}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    elif options.json:
        body["response_format"] = {"type": "json_object"}
    return body


def _written(turn: Message) -> list[dict[str, Any]]:
    """One turn of ours can be several messages: each tool's result is one of its own."""
    if isinstance(turn.content, str):
        return [{"role": turn.role, "content": turn.content}]
    results = [part for part in turn.content if isinstance(part, ToolResult)]
    messages: list[dict[str, Any]] = [
        {"role": "tool", "tool_call_id": result.call_id, "content": result.content} for result in results
    ]
    calls = [part for part in turn.content if isinstance(part, ToolCall)]
    said = [part for part in turn.content if isinstance(part, str | Image)]
    if not said and not calls:
        return messages
    only_text = all(isinstance(part, str) for part in said)
    message: dict[str, Any] = {"role": turn.role}
    message["content"] = (turn.text or None) if only_text else [_written_part(part) for part in said]
    if calls:
        message["tool_calls"] = [write_call(call) for call in calls]
    return [*messages, message]


def _written_part(part: str | Image) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    detail = {"detail": part.detail} if part.detail else {}
    return {"type": "image_url", "image_url": {"url": part.url, **detail}}


def _written_tool(tool: Tool) -> dict[str, Any]:
    told: dict[str, Any] = {"description": tool.description, "parameters": tool.parameters, "strict": tool.strict}
    if tool.grammar is not None:
        told["format"] = {"type": "grammar", "grammar": tool.grammar._asdict()}
    described = {"name": tool.name} | {name: value for name, value in told.items() if value is not None}
    kind = "custom" if tool.custom else "function"
    return {"type": kind, kind: described}


def _written_choice(choice: str, tools: tuple[Tool, ...]) -> Any:
    if not choice.startswith(NAMED_TOOL):
        return choice
    name = choice.removeprefix(NAMED_TOOL)
    kind = "custom" if any(tool.custom and tool.name == name for tool in tools) else "function"
    return {"type": kind, kind: {"name": name}}
