"""The parameters of a response, each with its rule, and the size of the input. `content` checks the values."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from tollkeeper.dialects.images import inline_image_bytes
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.dialects.parameters import (
    DROP,
    OMIT,
    OURS,
    PASS,
    PRICE,
    REFUSE,
    KnownFields,
    Only,
    Rule,
    Treatment,
    check_value,
    malformed,
    unsupported,
)
from tollkeeper.dialects.responses import content
from tollkeeper.dialects.responses.content import DECODE_ERRORS

T = TypeVar("T")

_REASONING = {"context": None, "effort": None, "generate_summary": None, "mode": None, "summary": None}
_FORMAT = {"type": None, "name": None, "description": None, "schema": None, "strict": None}

PARAMETERS: dict[str, Rule] = {
    "access_programs": REFUSE,  # the programs of the operator's account are not for callers to use
    "background": Only((False,), DROP),
    "client_metadata": OMIT,  # of Codex, for its own service
    "context_management": REFUSE,  # compaction writes tokens without a limit
    "conversation": REFUSE,
    "image": KnownFields({"context_compression": None}),
    "include": PASS,
    "input": PRICE,
    "instructions": PRICE,
    "max_output_tokens": OURS,
    "max_tool_calls": PASS,
    "metadata": PASS,
    "model": OURS,
    "moderation": REFUSE,  # calls a second model
    "parallel_tool_calls": PASS,
    "previous_response_id": REFUSE,
    "prompt": REFUSE,  # a template that is stored at the provider
    "prompt_cache_key": PASS,
    "prompt_cache_options": PASS,
    "prompt_cache_retention": Only(("in_memory",)),
    "reasoning": KnownFields(
        {"context": None, "effort": None, "generate_summary": None, "mode": None, "summary": None}
    ),
    "safety_identifier": PASS,
    "service_tier": Only(("auto", "default")),
    "store": Only((False,), OURS),
    "stream": OURS,
    "stream_options": KnownFields({"include_obfuscation": None}, OURS),
    "temperature": PASS,
    "text": KnownFields({"format": _FORMAT, "verbosity": None}),
    "tool_choice": KnownFields({"type": None, "name": None, "mode": None, "tools": None}),
    "tools": PRICE,
    "top_logprobs": PASS,
    "top_p": PASS,
    "truncation": Only(("auto", "disabled")),
    "user": PASS,
}


class _CacheOptions(msgspec.Struct, forbid_unknown_fields=True):
    mode: str | None = None
    ttl: str | None = None
    prewarm: bool | None = None


_decode_input: Callable[[msgspec.Raw], str | list[content.Item] | None] = msgspec.json.Decoder(
    str | list[content.Item] | None
).decode
_decode_types = msgspec.json.Decoder(list[content.TypeOnly]).decode
_decode_tools = msgspec.json.Decoder(list[content.DeclaredTool] | None).decode
_decode_tool_choice = msgspec.json.Decoder(str | content.ToolChoice | None).decode
_decode_text = msgspec.json.Decoder(str | None).decode
_decode_include = msgspec.json.Decoder(list[str] | None).decode
_decode_reasoning = msgspec.json.Decoder(content.Reasoning | None).decode
_decode_cache_options = msgspec.json.Decoder(_CacheOptions | None).decode


def check_parameters(request: Mapping[str, Any]) -> None:
    """Raises UnsupportedParameter for the first parameter, or field of a known object, that is refused or unknown."""
    for name, value in request.items():
        rule = PARAMETERS.get(name, REFUSE)
        if value is None:
            continue
        if rule is REFUSE:
            raise unsupported(name)
        if not isinstance(rule, Treatment):
            check_value(name, value, rule)


def input_size_of(fields: Mapping[str, msgspec.Raw]) -> InputSize:
    """The counts that bound the input's tokens.

    Raises UnsupportedParameter for what has no bound or is stored at the provider, InvalidRequest for a malformed
    field.
    """
    given = _read_input(fields.get("input"))
    if given is None:
        raise malformed("input")
    items = given if isinstance(given, list) else []
    images, image_bytes = 0, 0
    for item in items:
        content.check_item(item)
        for part in item.parts:
            if part.image_url is not None:
                images += 1
                image_bytes += inline_image_bytes(part.image_url, "input")
    tools = _read_field(fields, "tools", _decode_tools) or []
    content.check_tools(tools, "tools")
    content.check_tool_choice(_read_field(fields, "tool_choice", _decode_tool_choice))
    content.check_include(_read_field(fields, "include", _decode_include))
    content.check_reasoning(_read_field(fields, "reasoning", _decode_reasoning))
    cache_options = _read_field(fields, "prompt_cache_options", _decode_cache_options)
    if cache_options is not None and (cache_options.ttl not in content.CACHE_TTLS or cache_options.prewarm):
        raise unsupported("prompt_cache_options")
    instructions = _read_field(fields, "instructions", _decode_text)
    messages = (len(items) or 1) + (instructions is not None)
    has_tools = bool(tools) or any(item.tools for item in items)
    return InputSize(messages, images, image_bytes, has_tools)


def _read_input(raw: msgspec.Raw | None) -> str | list[content.Item] | None:
    if raw is None:
        return None
    try:
        return _decode_input(raw)
    except DECODE_ERRORS:
        content.raise_unreadable_input(_item_types(raw))


def _item_types(raw: msgspec.Raw) -> list[str | None]:
    try:
        return [item.type for item in _decode_types(raw)]
    except DECODE_ERRORS:
        return []


def _read_field(fields: Mapping[str, msgspec.Raw], name: str, decode: Callable[[msgspec.Raw], T]) -> T | None:
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return decode(raw)
    except DECODE_ERRORS:
        raise (unsupported(name) if name == "prompt_cache_options" else malformed(name)) from None
