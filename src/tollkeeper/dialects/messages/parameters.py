"""The parameters of a message request, each with its rule, and the size of the input."""

from collections.abc import Iterable, Mapping

import msgspec

from tollkeeper.dialects.input_size import InputSize
from tollkeeper.dialects.messages import content
from tollkeeper.dialects.messages.content import Base64Source, ImageBlock, InputMessage, ToolResultBlock, decode_field
from tollkeeper.dialects.parameters import DROP, NULL, OURS, PASS, PRICE, REFUSE, KnownFields, Only, Rule, unsupported
from tollkeeper.errors import InvalidRequest

PARAMETERS: dict[str, Rule] = {
    "model": OURS,
    "max_tokens": OURS,
    "stream": OURS,
    "messages": PRICE,
    "system": PRICE,
    "tools": PRICE,
    "output_config": PRICE,
    "tool_choice": KnownFields({"type": None, "name": None, "disable_parallel_tool_use": None}),
    "thinking": KnownFields({"type": None, "budget_tokens": None, "display": None, "block_binding": None}),
    "stop_sequences": PASS,
    "temperature": PASS,
    "top_p": PASS,
    "top_k": PASS,
    "metadata": PASS,
    "cache_control": Only(({"type": "ephemeral"}, {"type": "ephemeral", "ttl": "5m"})),
    "service_tier": Only(("auto", "standard_only")),
    "inference_geo": Only(("global",)),
    "speed": Only(("standard",), DROP),
    "betas": REFUSE,
    "billing_policy": REFUSE,
    "compaction": REFUSE,
    "container": REFUSE,
    "context_management": REFUSE,
    "diagnostics": REFUSE,
    "fallback_credit_token": REFUSE,
    "fallbacks": REFUSE,
    "mcp_servers": REFUSE,
    "output_format": REFUSE,
    "thread": REFUSE,
    "user_profile_id": REFUSE,
    "workspace_id": REFUSE,
}
"""Thinking is part of the output: its budget lies within `max_tokens`. The newest SDKs lack `temperature`, `top_p` and
`top_k`; older clients send them, and older models accept them. Other values of `speed`, `inference_geo` cost more."""

SAMPLING = frozenset({"temperature", "top_p", "top_k"})
"""The sampling parameters. The catalog can restrict which of them a model takes."""


_decode_raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


def move_output_format(fields: Mapping[str, msgspec.Raw]) -> Mapping[str, msgspec.Raw]:
    """The fields, with `output_format`, which older clients send, moved to `output_config.format`.

    If both are given, the fields are returned unchanged; filter_parameters refuses them. Raises InvalidRequest.
    """
    if not _is_given(fields, "output_format"):
        return fields
    config: dict[str, msgspec.Raw] = {}
    if _is_given(fields, "output_config"):
        config = decode_field("output_config", fields["output_config"], _decode_raw_fields)
    if "format" in config:
        return fields
    config["format"] = fields["output_format"]
    others = {name: value for name, value in fields.items() if name != "output_format"}
    return others | {"output_config": msgspec.Raw(msgspec.json.encode(config))}


def enables_thinking(thinking: bytes) -> bool:
    """Whether the `thinking` parameter enables thinking, which the answer need not show. Raises InvalidRequest."""
    return decode_field("thinking", thinking, content.THINKING).type != "disabled"


def input_size_of(fields: Mapping[str, msgspec.Raw]) -> InputSize:
    """The counts that bound the input's tokens.

    Raises UnsupportedParameter for content without a bound or a known price, InvalidRequest for malformed content.
    """
    if not _is_given(fields, "messages"):
        raise InvalidRequest("messages is missing.", parameter="messages")
    messages = decode_field("messages", fields["messages"], content.MESSAGES)
    if not messages:
        raise InvalidRequest("messages is empty.", parameter="messages")
    if _is_given(fields, "metadata"):
        decode_field("metadata", fields["metadata"], content.METADATA)
    if _is_given(fields, "output_config"):
        decode_field("output_config", fields["output_config"], content.OUTPUT_CONFIG)
    if _is_given(fields, "thinking"):
        enables_thinking(fields["thinking"])
    has_system = _is_given(fields, "system")
    if has_system:
        decode_field("system", fields["system"], content.SYSTEM)
    images = [image for message in messages for image in _images(message)]
    image_bytes = sum(image.source.size_bytes for image in images if isinstance(image.source, Base64Source))
    return InputSize(len(messages) + has_system, len(images), image_bytes, _has_tools(fields))


def _is_given(fields: Mapping[str, msgspec.Raw], name: str) -> bool:
    return name in fields and bytes(memoryview(fields[name])[:5]) != NULL


def _images(message: InputMessage) -> Iterable[ImageBlock]:
    """The images of a message, also those in tool results."""
    if isinstance(message.content, str):
        return
    for block in message.content:
        if isinstance(block, ImageBlock):
            yield block
        elif isinstance(block, ToolResultBlock) and isinstance(block.content, list):
            yield from (inner for inner in block.content if isinstance(inner, ImageBlock))


def _has_tools(fields: Mapping[str, msgspec.Raw]) -> bool:
    if not _is_given(fields, "tools"):
        return False
    tools = decode_field("tools", fields["tools"], content.TOOLS)
    if any(tool.defer_loading for tool in tools):
        raise unsupported("tools.defer_loading")
    return bool(tools)
