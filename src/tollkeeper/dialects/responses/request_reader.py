"""Reads the request of a caller."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tollkeeper.chat import (
    ChatRequest,
    Image,
    Message,
    Options,
    Part,
    Reasoning,
    Role,
    ToolCall,
    ToolResult,
)
from tollkeeper.dialects.dropped import Dropped
from tollkeeper.dialects.images import inline_image_bytes
from tollkeeper.dialects.parameters import malformed, malformed_parameter, unsupported
from tollkeeper.dialects.responses import content
from tollkeeper.dialects.responses.namespaces import flat_name
from tollkeeper.dialects.responses.parameters import check_parameters
from tollkeeper.dialects.responses.tool_reader import read_tool_choice, read_tools

ROLES: dict[str | None, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class _TextFormat(msgspec.Struct):
    type: str
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class _Text(msgspec.Struct):
    format: _TextFormat | None = None
    verbosity: str | None = None


class _Parameters(msgspec.Struct):
    """What becomes a ChatRequest; `include` and `top_logprobs` are read only to refuse log probabilities."""

    input: str | list[content.Item] | None = None
    instructions: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[content.ToolDefinition] | None = None
    tool_choice: str | content.ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: content.Reasoning | None = None
    text: _Text | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None


def read_request(request: dict[str, Any], dropped: Dropped | None = None) -> ChatRequest:
    """The ChatRequest of a decoded request. `dropped` receives the names of what it has no field for.

    Raises InvalidRequest if it is malformed, UnsupportedParameter for what a ChatRequest has no field for.
    """
    check_parameters(request)
    try:
        parameters = msgspec.convert(request, _Parameters)
    except msgspec.ValidationError as error:
        name = malformed_parameter(error, "input")
        if name == "input" and isinstance(items := request.get("input"), list):
            content.raise_unreadable_input([_type_of(item) for item in items])
        raise malformed(name) from None
    except RecursionError:
        raise malformed("input") from None
    dropped = Dropped() if dropped is None else dropped
    return ChatRequest(tuple(_read_messages(parameters, dropped)), _read_options(parameters, dropped))


def _type_of(item: Any) -> str | None:
    item_type = item.get("type") if isinstance(item, dict) else None
    return item_type if isinstance(item_type, str) else None


@dataclass(slots=True)
class _MessageBuilder:
    """A message that later items may extend."""

    role: Role
    text: str | None = None
    parts: list[Part] = field(default_factory=list)
    has_calls: bool = False
    has_results: bool = False
    only_reasoning: bool = False

    def accepts(self, other: "_MessageBuilder") -> bool:
        """Tool calls and reasoning join the assistant's message; consecutive tool results form one message."""
        if self.role != other.role:
            return False
        if self.role == "assistant":
            return self.has_calls or other.has_calls or self.only_reasoning
        return self.has_results and other.has_results

    def add(self, other: "_MessageBuilder") -> None:
        self.parts = [*self._all_parts()] if self.text is not None else self.parts
        self.text = None
        self.parts.extend(other._all_parts())
        self.has_calls |= other.has_calls
        self.only_reasoning &= other.only_reasoning

    def message(self) -> Message:
        return Message(self.role, tuple(self.parts) if self.text is None else self.text)

    def _all_parts(self) -> list[Part]:
        return self.parts if self.text is None else [self.text]


def _read_messages(parameters: _Parameters, dropped: Dropped) -> Iterator[Message]:
    if parameters.instructions is not None:
        yield Message("system", parameters.instructions)
    if parameters.input is None:
        raise malformed("input")
    if isinstance(parameters.input, str):
        yield Message("user", parameters.input)
        return
    current: _MessageBuilder | None = None
    for item in parameters.input:
        content.check_item(item)
        if item.kind in content.WITHOUT_MEANING or (item.kind == "agent_message" and not _texts(item)):
            dropped.add(item.kind)
            continue
        if item.kind == "additional_tools":
            continue
        following = _read_item(item)
        if following.only_reasoning and not following.parts:
            continue
        if current is not None and current.accepts(following):
            current.add(following)
            continue
        if current is not None:
            yield current.message()
        current = following
    if current is not None:
        yield current.message()


def _read_item(item: content.Item) -> _MessageBuilder:
    match item.kind:
        case "message":
            role = ROLES.get(item.role)
            if role is None:
                raise malformed("input")
            if isinstance(item.content, str):
                return _MessageBuilder(role, item.content)
            return _MessageBuilder(role, parts=[_read_part(part) for part in item.content or []])
        case "agent_message":
            return _MessageBuilder("user", parts=[*_texts(item)])
        case "function_call":
            if item.call_id is None or item.name is None or not isinstance(item.arguments, str):
                raise malformed("input")
            call = ToolCall(item.call_id, flat_name(item.namespace, item.name), item.arguments)
            return _MessageBuilder("assistant", parts=[call], has_calls=True)
        case "custom_tool_call":
            if item.call_id is None or item.name is None or item.input is None:
                raise malformed("input")
            call = ToolCall(item.call_id, flat_name(item.namespace, item.name), item.input, custom=True)
            return _MessageBuilder("assistant", parts=[call], has_calls=True)
        case "reasoning":
            return _MessageBuilder("assistant", parts=_read_reasoning(item), only_reasoning=True)
        case "function_call_output" | "custom_tool_call_output":
            if item.call_id is None or item.output is None:
                raise malformed("input")
            return _MessageBuilder("user", parts=[_read_tool_output(item.call_id, item.output)], has_results=True)
        case _:
            raise unsupported("input")


def _read_reasoning(item: content.Item) -> list[Part]:
    """The reasoning as one block: its whole text where that is given, else its summary."""
    summary = item.summary if isinstance(item.summary, list) else []
    texts = [part.text for part in item.parts if part.text] or [
        part["text"] for part in summary if isinstance(part, dict) and isinstance(part.get("text"), str)
    ]
    signature = item.encrypted_content if isinstance(item.encrypted_content, str) else ""
    return [Reasoning("".join(texts), signature)] if texts or signature else []


def _texts(item: content.Item) -> list[str]:
    return [item.content] if isinstance(item.content, str) else [part.text for part in item.parts if part.text]


def _read_part(part: content.Part) -> Part:
    if part.type == "input_image":
        url = part.image_url or ""
        inline_image_bytes(url, "input")
        return Image(url, part.detail)
    text = part.refusal if part.type == "refusal" else part.text
    if text is None:
        raise malformed("input")
    return text


def _read_tool_output(call_id: str, output: str | list[content.Part]) -> ToolResult:
    if isinstance(output, str):
        return ToolResult(call_id, output)
    message = Message("user", tuple(_read_part(part) for part in output))
    return ToolResult(call_id, message.text, message.images)


def _read_options(parameters: _Parameters, dropped: Dropped) -> Options:
    items = parameters.input if isinstance(parameters.input, list) else []
    content.check_include(parameters.include)
    content.check_reasoning(parameters.reasoning)
    if "message.output_text.logprobs" in (parameters.include or []):
        raise unsupported("include")
    if parameters.top_logprobs:
        raise unsupported("top_logprobs")
    options = Options(
        temperature=parameters.temperature,
        top_p=parameters.top_p,
        effort=parameters.reasoning.effort if parameters.reasoning is not None else None,
        tools=tuple(read_tools(parameters.tools or [], items, dropped)),
        tool_choice=read_tool_choice(parameters.tool_choice),
        parallel_tools=parameters.parallel_tool_calls,
    )
    return options if parameters.text is None else _with_text_format(options, parameters.text, dropped)


def _with_text_format(options: Options, text: _Text, dropped: Dropped) -> Options:
    if text.verbosity not in {None, "medium"}:
        dropped.add("text.verbosity")
    match text.format:
        case None | _TextFormat(type="text"):
            return options
        case _TextFormat(type="json_object"):
            return options._replace(json=True)
        case _TextFormat("json_schema", name, description, dict(schema), strict):
            return options._replace(
                schema=schema, schema_name=name, schema_description=description, schema_strict=strict
            )
        case _:
            raise malformed("text")
