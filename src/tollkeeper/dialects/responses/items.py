"""What a request is made of, as far as it is read; how much of it there is, and what must not be in it.

Only functions and custom tools pass: every hosted tool costs what no token limit bounds. Nothing passes that stands
for something kept at the provider.
"""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import msgspec

from tollkeeper.dialects.input_size import InputSize
from tollkeeper.dialects.parameters import refusal
from tollkeeper.dialects.pictures import bytes_sent
from tollkeeper.errors import InvalidRequest, UnsupportedParameter

MESSAGE_PARTS = frozenset({"input_text", "input_image", "output_text", "refusal"})
OUTPUT_PARTS = frozenset({"input_text", "input_image"})
PARTS = {
    "message": MESSAGE_PARTS,
    "function_call": frozenset[str](),
    "function_call_output": OUTPUT_PARTS,
    "custom_tool_call": frozenset[str](),
    "custom_tool_call_output": OUTPUT_PARTS,
    "reasoning": frozenset({"reasoning_text"}),
}
"""The items that pass, each with the parts that it may have."""

REFERENCE = "item_reference"
TOOLS = frozenset({"function", "custom"})
INCLUDABLE = frozenset({"reasoning.encrypted_content", "message.output_text.logprobs"})
DETAILS = frozenset({None, "auto", "low", "high"})
"""`original` is not among them: the price of a picture knows no bound for it."""
CACHE_LIFETIMES = frozenset({None, "30m"})

BAD_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
T = TypeVar("T")


class Breakpoint(msgspec.Struct):
    ttl: str | None = None


class Part(msgspec.Struct):
    """A part of a message, or of what a tool answered."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None
    file_id: str | None = None
    prompt_cache_breakpoint: Breakpoint | None = None


class Item(msgspec.Struct):
    """One item of the input, of any kind. Without a type it is a message, or a reference to something kept."""

    type: str | None = None
    role: str | None = None
    content: str | list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: str | list[Part] | None = None

    @property
    def kind(self) -> str:
        return "message" if self.type is None else self.type

    @property
    def parts(self) -> list[Part]:
        parts = self.content if isinstance(self.content, list) else []
        return parts + self.output if isinstance(self.output, list) else parts


class _Kind(msgspec.Struct):
    type: str | None = None


class TextFormat(msgspec.Struct):
    """What a custom tool takes."""

    type: str
    syntax: str | None = None
    definition: str | None = None


class ToolItem(msgspec.Struct):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    format: TextFormat | None = None


class Choice(msgspec.Struct):
    type: str
    name: str | None = None
    tools: list[_Kind] = []


class Reasoning(msgspec.Struct):
    effort: str | None = None
    mode: str | None = None


class _CacheOptions(msgspec.Struct, forbid_unknown_fields=True):
    mode: str | None = None
    ttl: str | None = None
    prewarm: bool | None = None


_items: Callable[[msgspec.Raw], str | list[Item] | None] = msgspec.json.Decoder(str | list[Item] | None).decode
_as_sent = msgspec.json.Decoder(str | list[dict[str, msgspec.Raw]]).decode
_kinds = msgspec.json.Decoder(list[_Kind]).decode
_tools = msgspec.json.Decoder(list[_Kind] | None).decode
_choice = msgspec.json.Decoder(str | Choice | None).decode
_text = msgspec.json.Decoder(str | None).decode
_include = msgspec.json.Decoder(list[str] | None).decode
_reasoning = msgspec.json.Decoder(Reasoning | None).decode
_cache_options = msgspec.json.Decoder(_CacheOptions | None).decode


def shape_of(fields: Mapping[str, msgspec.Raw]) -> InputSize:
    """How much is asked. Raises UnsupportedParameter for what is unbounded or kept elsewhere, and InvalidRequest."""
    asked = _read_input(fields.get("input"))
    if asked is None:
        raise bad_shape("input")
    items = asked if isinstance(asked, list) else []
    images, image_bytes = 0, 0
    for item in items:
        check_item(item)
        for part in item.parts:
            if part.image_url is not None:
                images += 1
                image_bytes += bytes_sent(part.image_url, "input")
    tools = _decoded(fields, "tools", _tools) or []
    if any(tool.type not in TOOLS for tool in tools):
        raise refusal("tools")
    check_choice(_decoded(fields, "tool_choice", _choice))
    check_include(_decoded(fields, "include", _include))
    check_reasoning(_decoded(fields, "reasoning", _reasoning))
    options = _decoded(fields, "prompt_cache_options", _cache_options)
    if options is not None and (options.ttl not in CACHE_LIFETIMES or options.prewarm):
        raise refusal("prompt_cache_options")
    instructions = _decoded(fields, "instructions", _text)
    messages = (len(items) or 1) + (instructions is not None)
    return InputSize(messages, images, image_bytes, bool(tools))


def check_item(item: Item) -> None:
    """Raises UnsupportedParameter for an item that must not go out, InvalidRequest for one that is none."""
    allowed = PARTS.get(item.kind)
    if item.kind == REFERENCE:
        raise UnsupportedParameter(
            "Nothing is kept at the provider: send the items themselves, not an item_reference. Where a client has an"
            " option `store`, false makes it do so.",
            parameter="input",
        )
    if allowed is None or (item.kind == "message" and item.content is None):
        raise refusal("input")
    for part in item.parts:
        if part.type not in allowed or part.file_id is not None or part.detail not in DETAILS:
            raise refusal("input")
        if part.prompt_cache_breakpoint is not None and part.prompt_cache_breakpoint.ttl not in CACHE_LIFETIMES:
            raise refusal("input")
        if part.type == "input_image" and part.image_url is None:
            raise bad_shape("input")


def detached(sent: bytes) -> bytes:
    """An input whose items all stand for themselves.

    Clients send back what they were answered. Nothing of that is kept at the provider, which looks for whatever has an
    id, and refuses what it does not find: reasoning is its own only with what is encrypted in it.
    """
    if b'"id"' not in sent and b'"reasoning"' not in sent:
        return sent
    items = _as_sent(sent)
    if isinstance(items, str):
        return sent
    kept = []
    for item in items:
        given = {name for name, value in item.items() if bytes(value) not in {b"null", b"[]", b'""'}}
        if bytes(item.get("type", b"")) != b'"reasoning"':
            item.pop("id", None)
        elif not given & {"encrypted_content", "content"}:
            continue
        kept.append(item)
    return msgspec.json.encode(kept)


def check_choice(choice: str | Choice | None) -> None:
    """Raises UnsupportedParameter for a choice among hosted tools."""
    if isinstance(choice, Choice):
        allowed = choice.type == "allowed_tools" and all(tool.type in TOOLS for tool in choice.tools)
        if not allowed and choice.type not in TOOLS:
            raise refusal("tool_choice")


def check_include(include: list[str] | None) -> None:
    """Raises UnsupportedParameter for what only hosted tools have, or what is not known."""
    if include is not None and not INCLUDABLE.issuperset(include):
        raise refusal("include")


def check_reasoning(reasoning: Reasoning | None) -> None:
    """Raises UnsupportedParameter for modes in which a call costs more than its tokens say."""
    if reasoning is not None and reasoning.mode not in {None, "standard"}:
        raise refusal("reasoning")


def refuse_unreadable(kinds: list[str | None]) -> NoReturn:
    """For an input that cannot be read: hosted tools have items of other shapes, and are refused as what they are."""
    if any(kind is not None and kind not in PARTS for kind in kinds):
        raise refusal("input")
    raise bad_shape("input")


def bad_shape(name: str) -> InvalidRequest:
    return InvalidRequest(f"{name} does not have the shape that this endpoint takes.", parameter=name)


def _read_input(raw: msgspec.Raw | None) -> str | list[Item] | None:
    if raw is None:
        return None
    try:
        return _items(raw)
    except BAD_JSON:
        refuse_unreadable(_kinds_of(raw))


def _kinds_of(raw: msgspec.Raw) -> list[str | None]:
    try:
        return [item.type for item in _kinds(raw)]
    except BAD_JSON:
        return []


def _decoded(fields: Mapping[str, msgspec.Raw], name: str, decode: Callable[[msgspec.Raw], T]) -> T | None:
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return decode(raw)
    except BAD_JSON:
        raise (refusal(name) if name == "prompt_cache_options" else bad_shape(name)) from None
