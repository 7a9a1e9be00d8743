"""A request from the wire, in our nouns."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

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
from tollkeeper.dialects.parameters import refusal
from tollkeeper.dialects.pictures import bytes_sent
from tollkeeper.dialects.responses import items as wire
from tollkeeper.dialects.responses.parameters import check

ROLES: dict[str | None, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_PLACE = re.compile(r"at `\$\.(\w+)")


class _Format(msgspec.Struct):
    type: str
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class _Text(msgspec.Struct):
    format: _Format | None = None
    verbosity: str | None = None


class _Request(msgspec.Struct):
    """What of a request has a noun. `include` and `top_logprobs` are read to see whether they ask for more."""

    input: str | list[wire.Item] | None = None
    instructions: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[wire.ToolItem] | None = None
    tool_choice: str | wire.Choice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: wire.Reasoning | None = None
    text: _Text | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None


def read_request(document: dict[str, Any]) -> ChatRequest:
    """Raises InvalidRequest for what is no request, UnsupportedParameter for what our nouns cannot say."""
    check(document)
    try:
        request = msgspec.convert(document, _Request)
    except msgspec.ValidationError as error:
        place = _PLACE.search(str(error))
        name = place[1] if place else "input"
        if name == "input" and isinstance(asked := document.get("input"), list):
            wire.refuse_unreadable([_type_of(item) for item in asked])
        raise wire.bad_shape(name) from None
    except RecursionError:
        raise wire.bad_shape("input") from None
    return ChatRequest(tuple(_messages(request)), _options(request))


def _type_of(item: Any) -> str | None:
    kind = item.get("type") if isinstance(item, dict) else None
    return kind if isinstance(kind, str) else None


@dataclass(slots=True)
class _Turn:
    """A message in the making: items that belong to one turn join it."""

    role: Role
    text: str | None = None
    parts: list[Part] = field(default_factory=list)
    calls: bool = False
    results: bool = False

    def takes(self, other: "_Turn") -> bool:
        """Tool calls belong to the turn that they were made in, and results that stand together are one answer."""
        if self.role != other.role:
            return False
        return self.calls or other.calls if self.role == "assistant" else self.results and other.results

    def add(self, other: "_Turn") -> None:
        self.parts = [*self._all()] if self.text is not None else self.parts
        self.text = None
        self.parts.extend(other._all())
        self.calls |= other.calls

    def message(self) -> Message:
        return Message(self.role, tuple(self.parts) if self.text is None else self.text)

    def _all(self) -> list[Part]:
        return self.parts if self.text is None else [self.text]


def _messages(request: _Request) -> Iterator[Message]:
    if request.instructions is not None:
        yield Message("system", request.instructions)
    if request.input is None:
        raise wire.bad_shape("input")
    if isinstance(request.input, str):
        yield Message("user", request.input)
        return
    current: _Turn | None = None
    for item in request.input:
        wire.check_item(item)
        if item.kind == "reasoning":
            continue
        turn = _turn(item)
        if current is not None and current.takes(turn):
            current.add(turn)
            continue
        if current is not None:
            yield current.message()
        current = turn
    if current is not None:
        yield current.message()


def _turn(item: wire.Item) -> _Turn:
    match item.kind:
        case "message":
            role = ROLES.get(item.role)
            if role is None:
                raise wire.bad_shape("input")
            if isinstance(item.content, str):
                return _Turn(role, item.content)
            return _Turn(role, parts=[_part(part) for part in item.content or []])
        case "function_call":
            if item.call_id is None or item.name is None or item.arguments is None:
                raise wire.bad_shape("input")
            return _Turn("assistant", parts=[ToolCall(item.call_id, item.name, item.arguments)], calls=True)
        case "custom_tool_call":
            if item.call_id is None or item.name is None or item.input is None:
                raise wire.bad_shape("input")
            call = ToolCall(item.call_id, item.name, item.input, custom=True)
            return _Turn("assistant", parts=[call], calls=True)
        case "function_call_output" | "custom_tool_call_output":
            if item.call_id is None or item.output is None:
                raise wire.bad_shape("input")
            return _Turn("user", parts=[ToolResult(item.call_id, _result(item.output))], results=True)
        case _:
            raise refusal("input")


def _part(part: wire.Part) -> Part:
    if part.type == "input_image":
        url = part.image_url or ""
        bytes_sent(url, "input")
        return Image(url, part.detail)
    text = part.refusal if part.type == "refusal" else part.text
    if text is None:
        raise wire.bad_shape("input")
    return text


def _result(output: str | list[wire.Part]) -> str:
    """Our nouns have only text for it."""
    if isinstance(output, str):
        return output
    texts = [_part(part) for part in output]
    if not all(isinstance(text, str) for text in texts):
        raise refusal("input")
    return "".join(text for text in texts if isinstance(text, str))


def _options(request: _Request) -> Options:
    wire.check_include(request.include)
    wire.check_reasoning(request.reasoning)
    if "message.output_text.logprobs" in (request.include or []):
        raise refusal("include")
    if request.top_logprobs:
        raise refusal("top_logprobs")
    options = Options(
        temperature=request.temperature,
        top_p=request.top_p,
        effort=request.reasoning.effort if request.reasoning is not None else None,
        tools=tuple(_tool(tool) for tool in request.tools or []),
        tool_choice=_choice(request.tool_choice),
        parallel_tools=request.parallel_tool_calls,
    )
    return options if request.text is None else _formatted(options, request.text)


def _tool(tool: wire.ToolItem) -> Tool:
    if tool.type not in wire.TOOLS:
        raise refusal("tools")
    if tool.name is None:
        raise wire.bad_shape("tools")
    if tool.type == "custom":
        return Tool(tool.name, tool.description, None, custom=True, grammar=_grammar(tool.format))
    return Tool(tool.name, tool.description, tool.parameters, tool.strict)


def _grammar(wanted: wire.TextFormat | None) -> Grammar | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type != "grammar" or wanted.syntax is None or wanted.definition is None:
        raise refusal("tools")
    return Grammar(wanted.syntax, wanted.definition)


def _choice(choice: str | wire.Choice | None) -> str | None:
    if choice is None:
        return None
    if isinstance(choice, str):
        if choice in {"auto", "none", "required"}:
            return choice
        raise wire.bad_shape("tool_choice")
    if choice.type not in wire.TOOLS:
        raise refusal("tool_choice")
    if choice.name is None:
        raise wire.bad_shape("tool_choice")
    return NAMED_TOOL + choice.name


def _formatted(options: Options, text: _Text) -> Options:
    if text.verbosity not in {None, "medium"}:
        raise refusal("text")
    match text.format:
        case None | _Format(type="text"):
            return options
        case _Format(type="json_object"):
            return options._replace(json=True)
        case _Format("json_schema", name, description, dict(schema), strict):
            return options._replace(
                schema=schema, schema_name=name, schema_description=description, schema_strict=strict
            )
        case _:
            raise wire.bad_shape("text")
