"""Every parameter of a chat completion, classed, and what of the messages bounds their tokens."""

from collections.abc import Mapping
from typing import Any

import msgspec

from tollkeeper.dialects.input_size import InputSize
from tollkeeper.dialects.parameters import DROP, OURS, PASS, PRICE, REFUSE, Known, Only, Rule, refusal
from tollkeeper.dialects.pictures import bytes_sent
from tollkeeper.errors import InvalidRequest

_NAMED = {"name": None}
_CHOICE = {"type": None, "function": _NAMED, "custom": _NAMED, "allowed_tools": {"mode": None, "tools": None}}

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
    "tool_choice": Known(_CHOICE),
    "function_call": Known(_NAMED),
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
"""`service_tier` is left out, so that the provider's default applies; the others cost more. `metadata` is only for what
is stored. In `response_format` compatible servers take more than OpenAI: grammars, and schemas in other places."""

SAMPLING = frozenset(
    {"temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs"}
)
"""What a model may not take, as the catalog says."""


class _Image(msgspec.Struct):
    url: str


class _Part(msgspec.Struct):
    type: str
    image_url: _Image | None = None
    prompt_cache_breakpoint: Any = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    audio: Any = None


class _Tool(msgspec.Struct):
    type: str


_read_messages = msgspec.json.Decoder(list[_Message]).decode
_read_tools = msgspec.json.Decoder(list[_Tool]).decode


def shape_of(fields: Mapping[str, msgspec.Raw]) -> InputSize:
    """What bounds the input. Raises InvalidRequest, and UnsupportedParameter for content that nobody can bound."""
    if "messages" not in fields:
        raise InvalidRequest("messages is missing.", parameter="messages")
    try:
        messages = _read_messages(fields["messages"])
    except msgspec.MsgspecError:
        raise InvalidRequest("messages is not a list of messages.", parameter="messages") from None
    if not messages:
        raise InvalidRequest("messages is empty.", parameter="messages")
    images = image_bytes = 0
    for message in messages:
        if message.audio is not None:
            raise refusal("messages.audio")
        if not isinstance(message.content, list):
            continue
        for part in message.content:
            if part.type not in {"text", "refusal", "image_url"} or part.prompt_cache_breakpoint is not None:
                raise refusal("messages.content")
            if part.image_url is not None:
                images += 1
                image_bytes += bytes_sent(part.image_url.url, "messages.content")
    return InputSize(len(messages), images, image_bytes, tools=_has_tools(fields))


def _has_tools(fields: Mapping[str, msgspec.Raw]) -> bool:
    if "tools" in fields and bytes(fields["tools"]) != b"null":
        try:
            tools = _read_tools(fields["tools"])
        except msgspec.MsgspecError:
            raise InvalidRequest("tools is not a list of tools.", parameter="tools") from None
        if any(tool.type not in {"function", "custom"} for tool in tools):
            raise refusal("tools")
        return bool(tools)
    return "functions" in fields
