"""The items, tools and options that a request may contain, as far as they are read, and the checks on them.

Refused is what costs more than a token limit bounds (hosted tools), and what refers to data stored at the provider.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

import msgspec

from tollkeeper.dialects.parameters import malformed, unsupported
from tollkeeper.errors import UnsupportedParameter

MESSAGE_PARTS = frozenset({"input_text", "input_image", "output_text", "refusal"})
OUTPUT_PARTS = frozenset({"input_text", "input_image", "output_text"})
ITEM_PARTS = {
    "message": MESSAGE_PARTS,
    "function_call": frozenset[str](),
    "function_call_output": OUTPUT_PARTS,
    "custom_tool_call": frozenset[str](),
    "custom_tool_call_output": OUTPUT_PARTS,
    "reasoning": frozenset({"reasoning_text"}),
    "agent_message": frozenset({"input_text", "output_text", "encrypted_content"}),
    "compaction": frozenset[str](),
    "web_search_call": frozenset[str](),
    "tool_search_call": frozenset[str](),
    "tool_search_output": frozenset[str](),
    "additional_tools": frozenset[str](),
}
"""The types of items that are accepted, each with the types of its parts."""
WITHOUT_MEANING = frozenset({"compaction", "web_search_call", "tool_search_call", "tool_search_output"})
"""The types of items that no other wire format can express."""

ITEM_REFERENCE = "item_reference"
TOOL_TYPES = frozenset({"function", "custom"})
NAMESPACE, TOOL_SEARCH = "namespace", "tool_search"
INCLUDES = frozenset({"reasoning.encrypted_content", "message.output_text.logprobs"})
IMAGE_DETAILS = frozenset({None, "auto", "low", "high"})
"""`original` is refused: the tokens of an image have no bound with it."""
CACHE_TTLS = frozenset({None, "30m"})

DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class CacheBreakpoint(msgspec.Struct):
    ttl: str | None = None


class Part(msgspec.Struct):
    """A part of a message or of a tool's output."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None
    file_id: str | None = None
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class Item(msgspec.Struct):
    """An input item of any type. One without a type is read as a message."""

    type: str | None = None
    role: str | None = None
    content: str | list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | dict[str, Any] | None = None
    input: str | None = None
    output: str | list[Part] | None = None
    tools: "list[ToolDefinition] | None" = None
    summary: Any = None
    encrypted_content: Any = None

    @property
    def kind(self) -> str:
        return "message" if self.type is None else self.type

    @property
    def parts(self) -> list[Part]:
        parts = self.content if isinstance(self.content, list) else []
        return parts + self.output if isinstance(self.output, list) else parts


class TypeOnly(msgspec.Struct):
    """An object of which only the type is read."""

    type: str | None = None


class DeclaredTool(msgspec.Struct):
    """A tool, or the tools of a namespace, of which only the types are read."""

    type: str | None = None
    execution: str | None = None
    tools: list[TypeOnly] | None = None


class ToolFormat(msgspec.Struct):
    """The format of a custom tool's input: text, or text of a grammar."""

    type: str
    syntax: str | None = None
    definition: str | None = None


class ToolDefinition(msgspec.Struct):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    format: ToolFormat | None = None
    execution: str | None = None
    tools: "list[ToolDefinition] | None" = None


class ToolChoice(msgspec.Struct):
    type: str
    name: str | None = None
    tools: list[TypeOnly] = []


class Reasoning(msgspec.Struct):
    effort: str | None = None
    mode: str | None = None


_decode_raw_items = msgspec.json.Decoder(str | list[dict[str, msgspec.Raw]]).decode


def strip_item_ids(raw_input: bytes) -> bytes:
    """The input without the ids of its items, and without reasoning items that have no content of their own.

    Clients send back the items of earlier answers. The provider looks up each id, and refuses the request if it does
    not find it; it has stored none of them. It accepts reasoning only with `encrypted_content` or `content`.
    """
    if b'"id"' not in raw_input and b'"reasoning"' not in raw_input:
        return raw_input
    items = _decode_raw_items(raw_input)
    if isinstance(items, str):
        return raw_input
    stripped = []
    for item in items:
        given = {name for name, value in item.items() if bytes(value) not in {b"null", b"[]", b'""'}}
        if bytes(item.get("type", b"")) != b'"reasoning"':
            item.pop("id", None)
        elif not given & {"encrypted_content", "content"}:
            continue
        stripped.append(item)
    return msgspec.json.encode(stripped)


def check_item(item: Item) -> None:
    """Raises UnsupportedParameter for an item that is not accepted, InvalidRequest for a malformed one."""
    allowed = ITEM_PARTS.get(item.kind)
    if item.kind == ITEM_REFERENCE:
        raise UnsupportedParameter(
            "No items are stored at the provider: send the items themselves, not an item_reference. If the client has"
            " an option `store`, set it to false.",
            parameter="input",
        )
    if allowed is None or (item.kind == "message" and item.content is None):
        raise unsupported("input")
    if item.kind == "function_call" and isinstance(item.arguments, dict):
        raise malformed("input")
    if item.tools is not None:
        check_tools(item.tools, "input")
    for part in item.parts:
        if part.type not in allowed or part.file_id is not None or part.detail not in IMAGE_DETAILS:
            raise unsupported("input")
        if part.prompt_cache_breakpoint is not None and part.prompt_cache_breakpoint.ttl not in CACHE_TTLS:
            raise unsupported("input")
        if part.type == "input_image" and part.image_url is None:
            raise malformed("input")


def check_tools(tools: Sequence[DeclaredTool | ToolDefinition], parameter: str) -> None:
    """Raises UnsupportedParameter, naming `parameter`, for a tool that the provider would run."""
    for tool in tools:
        in_namespace = tool.type == NAMESPACE and all(inner.type in TOOL_TYPES for inner in tool.tools or ())
        searched_by_caller = tool.type == TOOL_SEARCH and tool.execution == "client"
        if tool.type not in TOOL_TYPES and not in_namespace and not searched_by_caller:
            raise unsupported(parameter)


def check_tool_choice(choice: str | ToolChoice | None) -> None:
    """Raises UnsupportedParameter for the choice of a hosted tool."""
    if isinstance(choice, ToolChoice):
        allowed = choice.type == "allowed_tools" and all(tool.type in TOOL_TYPES for tool in choice.tools)
        if not allowed and choice.type not in TOOL_TYPES:
            raise unsupported("tool_choice")


def check_include(include: list[str] | None) -> None:
    """Raises UnsupportedParameter for a value that is unknown or belongs to a hosted tool."""
    if include is not None and not INCLUDES.issuperset(include):
        raise unsupported("include")


def check_reasoning(reasoning: Reasoning | None) -> None:
    """Raises UnsupportedParameter for a mode in which a call costs more than its tokens."""
    if reasoning is not None and reasoning.mode not in {None, "standard"}:
        raise unsupported("reasoning")


def raise_unreadable_input(item_types: list[str | None]) -> NoReturn:
    """Raise for an input that cannot be decoded.

    Raises UnsupportedParameter if an item's type is not accepted: such items have other fields. Otherwise
    InvalidRequest.
    """
    if any(item_type is not None and item_type not in ITEM_PARTS for item_type in item_types):
        raise unsupported("input")
    raise malformed("input")
