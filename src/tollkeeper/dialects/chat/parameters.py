"""The parameters of a chat completion, each with its rule, and the size of the input."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from tollkeeper.dialects.images import inline_image_bytes
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.dialects.parameters import DROP, NULL, OURS, PASS, PRICE, REFUSE, KnownFields, Only, Rule, unsupported
from tollkeeper.errors import InvalidRequest

_NAME_ONLY = {"name": None}
_TOOL_CHOICE = {
    "type": None,
    "function": _NAME_ONLY,
    "custom": _NAME_ONLY,
    "allowed_tools": {"mode": None, "tools": None},
}

PARAMETERS: dict[str, Rule] = {
    "messages": PRICE,
    "model": OURS,
    "max_tokens": OURS,
    "max_completion_tokens": OURS,
    "n": PRICE,
    "stream": OURS,
    "stream_options": OURS,
    "store": Only((False,), DROP),
    "metadata": DROP,
    "tools": PRICE,
    "functions": PRICE,
    "tool_choice": KnownFields(_TOOL_CHOICE),
    "function_call": KnownFields(_NAME_ONLY),
    "parallel_tool_calls": PASS,
    "response_format": PRICE,
    "reasoning_effort": PASS,
    "verbosity": PASS,
    "temperature": PASS,
    "top_p": PASS,
    "stop": PASS,
    "seed": PASS,
    "presence_penalty": PASS,
    "frequency_penalty": PASS,
    "logit_bias": PASS,
    "logprobs": PASS,
    "top_logprobs": PASS,
    "user": PASS,
    "safety_identifier": PASS,
    "prompt_cache_key": PASS,
    "prompt_cache_retention": Only(("in_memory",)),
    "prompt_cache_options": REFUSE,
    "service_tier": Only(("auto", "default"), DROP),
    "modalities": Only((["text"],), DROP),
    "audio": REFUSE,
    "moderation": REFUSE,
    "prediction": REFUSE,
    "web_search_options": REFUSE,
}
"""`service_tier` is dropped, so that the provider's default applies: other tiers cost more. `metadata` applies only to
stored completions. `response_format` is priced as a whole: compatible servers accept more in it than OpenAI does, such
as grammars, and schemas in other places."""

SAMPLING = frozenset(
    {"temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs"}
)
"""The sampling parameters. The catalog can restrict which of them a model takes."""


class _ImageUrl(msgspec.Struct):
    url: str


class _Part(msgspec.Struct):
    type: str
    image_url: _ImageUrl | None = None
    prompt_cache_breakpoint: Any = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    audio: Any = None


class _Tool(msgspec.Struct):
    type: str


_HOUR_CACHE = re.compile(rb'"ttl"\s*:\s*"1h"')
_decode_messages = msgspec.json.Decoder(list[_Message]).decode
_decode_tools = msgspec.json.Decoder(list[_Tool]).decode


def input_size_of(fields: Mapping[str, msgspec.Raw]) -> InputSize:
    """The counts that bound the input's tokens.

    Raises UnsupportedParameter for content without a bound, InvalidRequest for malformed messages or tools.
    """
    if "messages" not in fields:
        raise InvalidRequest("messages is missing.", parameter="messages")
    try:
        messages = _decode_messages(fields["messages"])
    except msgspec.MsgspecError:
        raise InvalidRequest("messages must be a list of messages.", parameter="messages") from None
    if not messages:
        raise InvalidRequest("messages is empty.", parameter="messages")
    images = image_bytes = 0
    for message in messages:
        if message.audio is not None:
            raise unsupported("messages.audio")
        if not isinstance(message.content, list):
            continue
        for part in message.content:
            if part.type not in {"text", "refusal", "image_url"} or part.prompt_cache_breakpoint is not None:
                raise unsupported("messages.content")
            if part.image_url is not None:
                images += 1
                image_bytes += inline_image_bytes(part.image_url.url, "messages.content")
    hour_cache = any(_has_hour_cache(bytes(fields[name])) for name in ("messages", "tools") if name in fields)
    return InputSize(len(messages), images, image_bytes, tools=_has_tools(fields), hour_cache=hour_cache)


def _has_hour_cache(encoded: bytes) -> bool:
    """Whether it has a `cache_control` of an hour, as gateways to Anthropic's models take it. In text, quotes are
    escaped.
    """
    return b'"1h"' in encoded and _HOUR_CACHE.search(encoded) is not None


def _has_tools(fields: Mapping[str, msgspec.Raw]) -> bool:
    if "tools" in fields and bytes(fields["tools"]) != NULL:
        try:
            tools = _decode_tools(fields["tools"])
        except msgspec.MsgspecError:
            raise InvalidRequest("tools must be a list of tools.", parameter="tools") from None
        if any(tool.type not in {"function", "custom"} for tool in tools):
            raise unsupported("tools")
        return bool(tools)
    return "functions" in fields
